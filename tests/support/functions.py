"""The deployed functions without Lambda: each call of a handler is a process of its own.

The very handlers of `functions/` run in them, with their settings from environment variables, and
they can be killed at any moment. A server that has the library loaded forks them, so that a call
costs hundredths of a second.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

from local.settings import ROOT
from marketdata import clock
from tests.support.machine import FunctionFailed, Machine

_CONTEXT = multiprocessing.get_context("forkserver")
# Nearly all of the library, loaded by the server once for all calls.
_CONTEXT.set_forkserver_preload(
    [
        __name__,
        "marketdata.handlers.extractors",
        "marketdata.aws.s3_objects",
        "marketdata.load.loader",
        "marketdata.sources.coingecko",
        "marketdata.sources.coinpaprika",
    ]
)


@dataclass
class _Context:
    """What a handler is told of its invocation."""

    seconds: float
    function_name: str
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:000000000000:function:test"
    aws_request_id: str = field(default_factory=lambda: str(uuid4()))
    begun: float = field(default_factory=time.monotonic)

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * (self.seconds - (time.monotonic() - self.begun)))


def load_handler(name: str) -> Callable[[Any, Any], Any]:
    """The handler of a function, by its folder's name."""
    path = ROOT / "functions" / name / "app.py"
    spec = importlib.util.spec_from_file_location(f"app_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    handler: Callable[[Any, Any], Any] = app.handler
    return handler


@dataclass(frozen=True)
class _Call:
    """What a process is to do: one call of a function, or, with a name for it, an execution."""

    function: str
    event: Any
    environment: Mapping[str, str]
    log: str
    seconds: float
    clock_ahead: float = 0
    execution: str = ""

    def work(self) -> Any:
        if not self.execution:
            return load_handler(self.function)(self.event, _Context(self.seconds, self.function))
        handler, loading = cache(load_handler), threading.Lock()

        def invoke(name: str, event: Any) -> Any:
            with loading:
                function = handler(name)
            try:
                return function(event, _Context(self.seconds, name))
            except Exception as error:
                raise FunctionFailed(type(error).__name__, str(error)) from error

        return Machine(invoke).execute(self.event, execution=self.execution)


def _serve_one(answer: Connection, call: _Call) -> None:
    """What a process does from its beginning to its end."""
    output = os.open(call.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(call.environment)
    if call.clock_ahead:
        true_now, ahead = clock.now, timedelta(seconds=call.clock_ahead)
        clock.now = lambda: true_now() + ahead
    try:
        answer.send((True, call.work()))
    except BaseException as error:  # noqa: BLE001 - as the runtime does
        answer.send((False, (type(error).__name__, str(error))))
    sys.stdout.flush()
    # Lambda freezes a process after its answer; nothing that a clean end would do happens there.
    os._exit(0)


@dataclass
class Functions:
    """The functions with their settings.

    Attributes:
        environment: variables of all of them.
        log: file that their output goes to.
        seconds: the time that a call has.
        clocks: by how many seconds a function's clock is ahead, by its name.
        calls: how often each was called.
        kills: how often each was killed.
    """

    environment: Mapping[str, str]
    log: Path
    seconds: float = 60
    clocks: Mapping[str, float] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    _running: dict[ForkServerProcess, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def invoke(self, name: str, event: Any) -> Any:
        """Call a function and wait for its answer.

        Raises:
            FunctionFailed: it raised, was killed, or its time was up.
        """
        ahead = self.clocks.get(name, 0)
        call = _Call(name, event, self.environment, str(self.log), self.seconds, ahead)
        return self._do(name, call, self.seconds)

    def execute(self, event: Any, *, execution: str) -> Any:
        """Carry out a whole execution in one process: quicker, for what is not to be killed.

        Raises:
            FunctionFailed: it failed.
        """
        call = _Call("", event, self.environment, str(self.log), self.seconds, 0, execution)
        return self._do("execution", call, 10 * self.seconds)

    def _do(self, name: str, call: _Call, seconds: float) -> Any:
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_serve_one, args=(theirs, call), daemon=True)
        with self._lock:
            process.start()
            self.calls[name] += 1
            self._running[process] = name
        theirs.close()
        try:
            if not ours.poll(seconds):
                process.kill()
                raise FunctionFailed("Sandbox.Timedout", f"{name} took {seconds} s")
            worked, answer = ours.recv()
        except EOFError:
            self.kills[name] += 1
            raise FunctionFailed("Runtime.ExitError", f"{name} was killed") from None
        finally:
            ours.close()
            with self._lock:
                del self._running[process]
            process.join()
            process.close()
        if worked:
            return answer
        raise FunctionFailed(*answer)

    def kill_one(self, chance: random.Random) -> bool:
        """Kill -9 one of the calls under way; False if there is none."""
        with self._lock:
            running = [process for process in self._running if process.is_alive()]
            if running:
                chance.choice(running).kill()
            return bool(running)
