"""One process of an execution environment, from its start to its end.

Used in the event loop's thread only.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import StoppingError
from .logs import Journal, Output
from .memory import peak_memory
from .reaper import Reaper
from .runtime_api import Call, RuntimeApi


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        body: the handler's answer or error, JSON.
        failed: whether it is an error.
        broken: error type if the process cannot take another call, else empty.
    """

    body: bytes
    failed: bool = False
    broken: str = ""


def fault(kind: str, message: str) -> bytes:
    """An error of the platform, in the form in which handlers' errors come."""
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()


class RuntimeProcess:
    """A process group with its Runtime API."""

    def __init__(self, journal: Journal, reaper: Reaper) -> None:
        """Start nothing yet."""
        self._journal = journal
        self._reaper = reaper
        self._api = RuntimeApi(self)
        self._calls: asyncio.Queue[Call] = asyncio.Queue()
        self._current: tuple[str, asyncio.Future[Outcome]] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._output: Output | None = None
        self._start_error: bytes | None = None
        self._begun = 0.0
        self._peak = 0
        # Set once the start has succeeded, failed or ended the process.
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()
        self.init_seconds: float | None = None

    async def start(
        self, command: Sequence[str], variables: Mapping[str, str], folder: Path
    ) -> None:
        """Start the process.

        Args:
            command: program and arguments; it starts when it can read a byte from standard input.
            variables: its whole environment, to which the Runtime API's address is added.
            folder: its working folder.

        Raises:
            OSError: if it cannot be started.
            StoppingError: if LocalStack is being stopped.
        """
        self._begun = time.perf_counter()
        address = await self._api.open()
        if self._reaper.released:
            self._api.close()
            raise StoppingError("LocalStack is being stopped")
        read_end, write_end = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - returns once the program is loaded
                command,
                stdin=subprocess.PIPE,
                stdout=write_end,
                stderr=write_end,
                cwd=folder,
                env={**variables, "AWS_LAMBDA_RUNTIME_API": address},
                start_new_session=True,
                bufsize=0,
            )
        except OSError:
            os.close(read_end)
            self._api.close()
            raise
        finally:
            os.close(write_end)
        self._process = process
        self._output = Output(read_end, self._journal)
        self._reaper.add(process.pid)
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(b"\n")
            process.stdin.close()
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=_wait, args=(process, loop, self._on_end), name="lambda-wait", daemon=True
        ).start()

    async def gone(self) -> bool:
        """Whether it ended while it had nothing to do; a failed start is for a call to tell."""
        if self.init_seconds is None or self._process is None:
            return False
        if not self._ended.is_set() and _has_ended(self._process.pid):
            await self._ended.wait()
        return self._ended.is_set()

    @property
    def peak(self) -> int:
        """Bytes of memory that it has used at most, as far as seen."""
        if self._process is not None and not self._ended.is_set():
            self._peak = max(self._peak, peak_memory(self._process.pid))
        return self._peak

    async def settled(self) -> None:
        """Wait until its start has succeeded or failed."""
        await self._settled.wait()

    async def call(self, call: Call) -> Outcome:
        """Hand over a call and wait for its end."""
        await self._settled.wait()
        if self._start_error is not None:
            return Outcome(self._start_error, failed=True, broken=_error_type(self._start_error))
        if self._ended.is_set():
            return self._exit_outcome(call.request_id)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        # Not before: an end during the start is told above, and would be told twice.
        self._current = (call.request_id, future)
        try:
            self._calls.put_nowait(call)
            return await future
        finally:
            self._current = None

    def flush(self) -> None:
        """Take all that was printed so far into the journal."""
        if self._output is not None:
            self._output.flush()

    async def kill(self) -> None:
        """End the whole process group and wait for its end."""
        if self._process is None:
            return
        # Every wait for the end happens after the last look at the process's memory.
        self._peak = self.peak
        if not self._ended.is_set():
            self._kill_group()
        await self._ended.wait()

    # What the Runtime API tells and asks.

    async def next_call(self) -> Call:
        """Wait for a call."""
        if self.init_seconds is None:
            self.init_seconds = time.perf_counter() - self._begun
            self._settled.set()
        return await self._calls.get()

    def answer(self, request_id: str, body: bytes, *, failed: bool) -> bool:
        """Take a call's result."""
        if self._current is None or self._current[0] != request_id:
            return False
        self.flush()
        future = self._current[1]
        if not future.done():
            future.set_result(Outcome(body, failed=failed))
        return True

    def start_failed(self, body: bytes) -> None:
        """Take the error that kept the runtime from starting."""
        self.flush()
        self._start_error = body
        self._settled.set()

    def _on_end(self) -> None:
        """The process has ended; its group may have more."""
        if self._process is None:
            return
        # Before its id is given free by waiting for it, and could become another group's.
        self._kill_group()
        self._process.wait()
        self._reaper.remove(self._process.pid)
        self.flush()
        if self._output is not None:
            self._output.close()
        self._api.close()
        self._ended.set()
        self._settled.set()
        if self._current is not None and not self._current[1].done():
            self._current[1].set_result(self._exit_outcome(self._current[0]))

    def _kill_group(self) -> None:
        if self._process is not None:
            # macOS answers "not permitted" for a group of which only an ended process is left.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _exit_outcome(self, request_id: str) -> Outcome:
        code = self._process.returncode if self._process is not None else 0
        if code == 0:
            text = "Runtime exited without providing a reason"
        elif code > 0:
            text = f"Runtime exited with error: exit status {code}"
        else:
            name = (signal.strsignal(-code) or str(-code)).lower()
            text = f"Runtime exited with error: signal: {name}"
        kind = "Runtime.ExitError"
        message = f"RequestId: {request_id} Error: {text}"
        self._journal.add(message, kind)
        return Outcome(fault(kind, message), failed=True, broken=kind)


def _error_type(body: bytes) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(body).get("errorType") or "Runtime.Unknown")
    return "Runtime.Unknown"


def _has_ended(pid: int) -> bool:
    """Whether a child process has ended or is about to, which leaves it to be waited for."""
    try:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return True
    except (AttributeError, OSError):  # an old macOS; or waited for just now
        return False
    # Killed, its first thread can be gone while others are still ending: it won't answer any more,
    # but can't be waited for yet.
    try:
        # pid (name) state ...: the name may hold anything, also brackets.
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2]
    except OSError:
        return False
    return state.split()[0] in {"Z", "X"}


def _wait(
    process: subprocess.Popen[bytes],
    loop: asyncio.AbstractEventLoop,
    ended: Callable[[], None],
) -> None:
    """Wait for a process in a thread of its own, which every system can do at once."""
    try:
        # Leaves it to be waited for, which keeps its id from being used again.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except (AttributeError, OSError):
        process.wait()
    with contextlib.suppress(RuntimeError):  # the loop has ended with LocalStack
        loop.call_soon_threadsafe(ended)
