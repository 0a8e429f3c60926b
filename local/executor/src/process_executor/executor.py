"""LocalStack's RuntimeExecutor: one object per execution environment."""

import logging
import threading
from functools import cache
from pathlib import Path
from typing import Any

from localstack.config import GATEWAY_LISTEN, LAMBDA_LIMITS_MAX_FUNCTION_PAYLOAD_SIZE_BYTES
from localstack.services.lambda_.invocation.lambda_models import InvocationResult
from localstack.services.lambda_.invocation.runtime_executor import RuntimeExecutor

from . import code_store, loop
from .environment import Environment, Limits, Request
from .errors import StoppingError
from .logs import Journal
from .reaper import Reaper
from .settings import settings
from .variables import function_variables

LOG = logging.getLogger(__name__)
_LAUNCHER = Path(__file__).with_name("launcher.py")
_STOP_SECONDS = 5.0

_lock = threading.Lock()
_running: set["ProcessRuntimeExecutor"] = set()
_stopping = threading.Event()


@cache
def _reaper() -> Reaper:
    return Reaper(settings().folder)


class ProcessRuntimeExecutor(RuntimeExecutor):  # type: ignore[misc] # LocalStack is untyped here
    """Runs an execution environment as a process group on this machine."""

    def __init__(self, id: str, function_version: Any) -> None:  # noqa: A002 - LocalStack's name
        super().__init__(id=id, function_version=function_version)
        self._environment: Environment | None = None

    def start(self, env_vars: dict[str, str]) -> None:
        """Start the environment's first process and wait for the code outside its handler.

        Raises:
            ExecutorError: if a setting is missing, or LocalStack is being stopped.
            OSError: if the process or its folder cannot be made.
        """
        function = self.function_version
        with _lock:
            if _stopping.is_set():
                raise StoppingError("LocalStack is being stopped")
            _running.add(self)
            reaper = _reaper()
        task_root = code_store.unpacked(function.config.code, settings())
        layers = [code_store.unpacked(layer.code, settings()) for layer in function.config.layers]
        temporary = reaper.folder / self.id
        temporary.mkdir()
        variables = function_variables(
            env_vars,
            function.config.environment or {},
            runtime=function.config.runtime,
            python=settings().python,
            task_root=task_root,
            layers=layers,
            temporary=temporary,
        )
        if function.config.code.is_hot_reloading():
            variables.setdefault("PYTHONDONTWRITEBYTECODE", "1")  # the folder is the user's own
        self._environment = Environment(
            version=function.id.qualifier,
            runtime=function.config.runtime,
            limits=Limits(
                timeout=function.config.timeout,
                memory=function.config.memory_size,
                response=LAMBDA_LIMITS_MAX_FUNCTION_PAYLOAD_SIZE_BYTES,
            ),
            temporary=temporary,
            journal=Journal(function.id.function_name, self.id, settings().log),
            reaper=reaper,
        )
        # -P: nothing but PYTHONPATH and the interpreter's own folders is searched for modules.
        command = [str(settings().python), "-P", str(_LAUNCHER), function.config.handler]
        loop.run(self._environment.start(command, variables, task_root))

    def stop(self) -> None:
        """End the environment; a call under way is let finish unless LocalStack is stopped too."""
        if self._environment is not None:
            loop.run(self._environment.stop(at_once=_stopping.is_set()), _STOP_SECONDS)
        with _lock:
            _running.discard(self)

    def invoke(self, payload: dict[str, str]) -> Any:
        """Run one call; an error of the function is a result too.

        Raises:
            StoppingError: if the environment was ended.
        """
        if self._environment is None:
            raise StoppingError(f"environment {self.id} was never started")
        result = loop.run(
            self._environment.call(
                Request(
                    request_id=payload["invoke-id"],
                    payload=payload["payload"].encode(),
                    function_arn=payload["invoked-function-arn"],
                    trace_id=payload["trace-id"],
                )
            )
        )
        return InvocationResult(
            request_id=payload["invoke-id"],
            payload=result.body,
            is_error=result.failed,
            logs=result.log,
        )

    def get_address(self) -> str:
        """The host that the environment runs on."""
        return "127.0.0.1"

    def get_endpoint_from_executor(self) -> str:
        """The host at which the environment reaches LocalStack."""
        return "127.0.0.1"

    def get_runtime_endpoint(self) -> str:
        """The address for a runtime that reports over LocalStack's gateway; none does here."""
        return f"http://127.0.0.1:{GATEWAY_LISTEN[0].port}/_localstack_lambda/{self.id}"

    def get_logs(self) -> str:
        """The lines that no call has taken; each call returns its own."""
        return ""

    @classmethod
    def prepare_version(cls, function_version: Any) -> None:
        """Unpack and compile a function's code and layers.

        Raises:
            ExecutorError: if the function cannot run here; its state says so.
            OSError: if there is no room for its code.
        """
        function = function_version.config
        code_store.check_runtime(
            function_version.id.function_name, function.runtime, settings().python
        )
        for code in (function.code, *(layer.code for layer in function.layers)):
            code_store.unpacked(code, settings())

    @classmethod
    def cleanup_version(cls, function_version: Any) -> None:
        """Nothing: another version may have the same code."""

    @classmethod
    def validate_environment(cls) -> bool:
        """Look at the settings when Lambda is first used, and say what is missing."""
        try:
            code_store.interpreter_runtime(settings().python)
            code_store.remove_unused(settings())
        except Exception as error:  # noqa: BLE001 - LocalStack goes on; functions report it again
            LOG.error("Lambda functions cannot run: %s", error)  # noqa: TRY400 - no stack is needed
            return False
        return True


def stop_all() -> None:
    """End every environment and everything they have left, at once."""
    with _lock:
        _stopping.set()
        running = list(_running)
    for executor in running:
        try:
            executor.stop()
        except Exception as error:  # noqa: BLE001 - the others must end all the same
            LOG.warning("environment %s: %s", executor.id, error)
    if _reaper.cache_info().currsize:
        # In the event loop: a process is either started and in the reaper's account before this,
        # or not at all.
        loop.run(_reaper().release())
        _reaper().wait()
