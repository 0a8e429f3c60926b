"""An execution environment: one call at a time, in a process that is replaced after a failure.

As on AWS a failure that the runtime does not survive (time limit, exit, failed start) ends the
process, not the environment: the next call starts a new process with the same log stream and the
same files in /tmp, and that start counts as part of the call.
https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html

Used in the event loop's thread only.
"""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import logs
from .errors import StoppingError
from .logs import Journal
from .memory import MEGABYTE
from .reaper import Reaper
from .runtime import Outcome, RuntimeProcess, fault
from .runtime_api import Call
from .settings import INIT_SECONDS


@dataclass(frozen=True)
class Limits:
    """A function's settings; timeout in seconds, memory in MB, response in bytes."""

    timeout: int
    memory: int
    response: int


@dataclass(frozen=True)
class Request:
    """A call as LocalStack hands it over."""

    request_id: str
    payload: bytes
    function_arn: str
    trace_id: str


@dataclass(frozen=True)
class Result:
    """A call's end: the answer or error as JSON, and all lines of its log."""

    body: bytes
    failed: bool
    log: str


class Environment:
    """The environment with its current process, if any."""

    def __init__(
        self,
        *,
        version: str,
        runtime: str,
        limits: Limits,
        temporary: Path,
        journal: Journal,
        reaper: Reaper,
    ) -> None:
        """Start nothing yet; the temporary folder is removed at the end."""
        self._version = version
        self._runtime_name = runtime
        self._limits = limits
        self._temporary = temporary
        self._journal = journal
        self._reaper = reaper
        self._command: Sequence[str] = ()
        self._variables: Mapping[str, str] = {}
        self._folder = Path()
        self._process: RuntimeProcess | None = None
        self._init_seconds: float | None = None
        self._busy = False
        self._ending = False

    async def start(
        self, command: Sequence[str], variables: Mapping[str, str], folder: Path
    ) -> None:
        """Start the first process and give its code outside the handler the time that AWS gives.

        An error there is not this method's: the first call answers with it.

        Raises:
            OSError: if the interpreter cannot be started.
            StoppingError: if the environment was ended meanwhile.
        """
        self._command, self._variables, self._folder = command, variables, folder
        process = await self._new_process()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.settled(), INIT_SECONDS)
        self._init_seconds = process.init_seconds

    async def call(self, request: Request) -> Result:
        """Run one call.

        Raises:
            OSError: if a new process was needed and cannot be started.
            StoppingError: if the environment is ended.
        """
        self._busy = True
        try:
            return await self._call(request)
        finally:
            self._busy = False
            if self._ending:
                await self._end()

    async def stop(self, *, at_once: bool) -> None:
        """End the environment.

        Args:
            at_once: also if a call is under way; else its end is the environment's.
        """
        self._ending = True
        if at_once or not self._busy:
            await self._end()

    async def _call(self, request: Request) -> Result:
        begun = time.perf_counter()
        limit = self._limits.timeout
        call = Call(
            request_id=request.request_id,
            payload=request.payload,
            deadline=int((time.time() + limit) * 1000),
            function_arn=request.function_arn,
            trace_id=request.trace_id,
        )
        self._journal.add(logs.start_line(request.request_id, self._version))
        process = self._process
        try:
            async with asyncio.timeout(limit):
                if process is None or await process.gone():
                    process = await self._new_process()
                outcome = await process.call(call)
        except TimeoutError:
            outcome = self._timed_out(request.request_id)
        duration = time.perf_counter() - begun
        if len(outcome.body) > self._limits.response:
            outcome = self._too_large()
        peak = 0
        if process is not None:
            process.flush()
            peak = process.peak
        if outcome.broken:
            if outcome.broken == "Sandbox.Timedout":
                self._journal.add(logs.timeout_line(request.request_id, limit))
            await self._kill()
        self._report(request.request_id, duration, peak, outcome.broken)
        return Result(outcome.body, outcome.failed, self._journal.take())

    async def _new_process(self) -> RuntimeProcess:
        if self._ending:
            raise StoppingError("the execution environment has been ended")
        self._journal.add(f"INIT_START Runtime Version: {self._runtime_name}")
        process = RuntimeProcess(self._journal, self._reaper)
        self._process = process
        self._init_seconds = None
        await process.start(self._command, self._variables, self._folder)
        return process

    async def _end(self) -> None:
        await self._kill()
        await asyncio.to_thread(shutil.rmtree, self._temporary, ignore_errors=True)

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.kill()

    def _timed_out(self, request_id: str) -> Outcome:
        kind = "Sandbox.Timedout"
        text = f"Task timed out after {self._limits.timeout:.2f} seconds"
        return Outcome(
            fault(kind, f"RequestId: {request_id} Error: {text}"), failed=True, broken=kind
        )

    def _too_large(self) -> Outcome:
        limit = self._limits.response
        text = f"Response payload size exceeded maximum allowed payload size ({limit} bytes)."
        return Outcome(fault("Function.ResponseSizeTooLarge", text), failed=True)

    def _report(self, request_id: str, duration: float, peak: int, broken: str) -> None:
        status = ""
        if broken == "Sandbox.Timedout":
            status = "Status: timeout"
        elif broken:
            status = f"Status: error\tError Type: {broken}"
        init, self._init_seconds = self._init_seconds, None
        self._journal.add(
            logs.end_line(request_id),
            logs.report_line(
                request_id,
                duration=duration,
                init=init,
                memory_size=self._limits.memory,
                peak=peak,
                status=status,
            ),
        )
        if peak > self._limits.memory * MEGABYTE:
            self._journal.note(
                f"used {peak // MEGABYTE} MB of {self._limits.memory} MB: AWS would have ended it;"
                " raise the function's MemorySize"
            )
