"""What functions print, and the lines that Lambda adds to it."""

import asyncio
import contextlib
import datetime as dt
import logging
import math
import os
from pathlib import Path

from .memory import MEGABYTE

LOG = logging.getLogger(__name__)
_CHUNK = 65536


class Journal:
    """The lines of one environment: kept for the current call, and written to the console log."""

    def __init__(self, function_name: str, environment_id: str, path: Path | None) -> None:
        """Open nothing yet.

        Args:
            function_name: stands before each line of the console log.
            environment_id: its first 8 characters do too.
            path: the console log; None for none.
        """
        self._prefix = f"[{function_name} {environment_id[:8]}] "
        self._path = path
        self._lines: list[str] = []

    def add(self, *lines: str) -> None:
        """Take lines without their ends."""
        self._lines += lines
        self.note(*lines)

    def note(self, *lines: str) -> None:
        """Write lines to the console log alone."""
        if self._path is None or not lines:
            return
        # awslambdaric puts carriage returns into an error's report to keep it one event.
        text = "".join(
            f"{self._prefix}{part}\n"
            for line in lines
            for part in line.replace("\r", "\n").split("\n")
        )
        try:
            # Opened each time: whoever moves or removes the file gets a new one, and one write to
            # a file opened for appending is never mixed with another process's.
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)
        except OSError as error:
            LOG.warning("cannot write to the functions' log %s: %s", self._path, error)

    def take(self) -> str:
        """All lines since the last time, each with its end."""
        lines, self._lines = self._lines, []
        return "".join(f"{line}\n" for line in lines)


class Output:
    """The read end of a process's standard output and error."""

    def __init__(self, file: int, journal: Journal) -> None:
        """Follow this file descriptor, which is closed at the end."""
        os.set_blocking(file, False)
        self._file: int | None = file
        self._journal = journal
        self._rest = b""
        asyncio.get_running_loop().add_reader(file, self.drain)

    def drain(self) -> None:
        """Read all that was written so far.

        Whatever a process printed before it answered is in the pipe when the answer arrives.
        """
        if self._file is None:
            return
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._file, _CHUNK):
                *lines, self._rest = (self._rest + data).split(b"\n")
                self._journal.add(*(line.decode(errors="replace") for line in lines))
            self.close()

    def flush(self) -> None:
        """Read all, and count an unfinished line as one."""
        self.drain()
        if self._rest:
            rest, self._rest = self._rest, b""
            self._journal.add(rest.decode(errors="replace"))

    def close(self) -> None:
        """Stop following."""
        if self._file is not None:
            asyncio.get_running_loop().remove_reader(self._file)
            os.close(self._file)
            self._file = None


def start_line(request_id: str, version: str) -> str:
    """CloudWatch's first line of a call."""
    return f"START RequestId: {request_id} Version: {version}"


def end_line(request_id: str) -> str:
    """CloudWatch's line after the last one of a call."""
    return f"END RequestId: {request_id}"


def timeout_line(request_id: str, seconds: float) -> str:
    """CloudWatch's line for a call that took too long."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    return f"{now.replace('+00:00', 'Z')} {request_id} Task timed out after {seconds:.2f} seconds"


def report_line(
    request_id: str,
    *,
    duration: float,
    init: float | None,
    memory_size: int,
    peak: int,
    status: str,
) -> str:
    """CloudWatch's summary of a call.

    Args:
        request_id: the call's.
        duration: seconds that the handler took.
        init: seconds that the start of the environment took, on its first call; billed, as AWS
            has done since August 2025.
        memory_size: the function's setting in MB.
        peak: bytes that the process used at most.
        status: text for a call that did not end by itself, else empty.
    """
    milliseconds = duration * 1000
    billed = math.ceil(milliseconds + (init or 0) * 1000)
    parts = [
        f"REPORT RequestId: {request_id}",
        f"Duration: {milliseconds:.2f} ms",
        f"Billed Duration: {billed} ms",
        f"Memory Size: {memory_size} MB",
        f"Max Memory Used: {math.ceil(peak / MEGABYTE)} MB",
    ]
    if init is not None:
        parts.append(f"Init Duration: {init * 1000:.2f} ms")
    if status:
        parts.append(status)
    return "\t".join(parts)
