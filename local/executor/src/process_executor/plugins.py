"""What LocalStack finds by entry point. Nothing of it is imported before it is needed."""

import gc
import os
import sys
import threading
from typing import Any

from localstack.runtime import hooks
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
from localstack.services.plugins import Service, aws_provider

# An orderly stop takes about 3 s.
_STOP_SECONDS = 10.0


class ProcessRuntimeExecutorPlugin(RuntimeExecutorPlugin):  # type: ignore[misc]
    """``LAMBDA_RUNTIME_EXECUTOR=process``."""

    name = "process"

    def load(self, *_args: object, **_kwargs: object) -> Any:
        """The executor's class."""
        from .assignment import close_races  # noqa: PLC0415
        from .executor import ProcessRuntimeExecutor  # noqa: PLC0415

        close_races()
        return ProcessRuntimeExecutor


@hooks.on_infra_shutdown()  # type: ignore[untyped-decorator]
def end_lambda_processes() -> None:
    """End the functions' processes before LocalStack's services stop.

    It also sees to it that LocalStack does end: a service that is being started while the others
    stop, as by the first call's metrics, is never stopped, and LocalStack would wait for its
    threads for ever. Nothing is lost by then: all that is kept was written before each answer.
    """
    guard = threading.Timer(_STOP_SECONDS, os._exit, (0,))
    guard.daemon = True
    guard.start()
    # Python's last garbage collection would go over LocalStack's some million objects for several
    # seconds, to find memory to give back to a process that ends.
    gc.freeze()
    if executor := sys.modules.get(f"{__package__}.executor"):
        executor.stop_all()


@aws_provider(api="s3", name="durable")  # type: ignore[untyped-decorator]
def s3_durable() -> Any:
    """``PROVIDER_OVERRIDE_S3=durable``."""
    from .durable_s3 import DurableS3Provider  # noqa: PLC0415

    return Service.for_provider(DurableS3Provider())
