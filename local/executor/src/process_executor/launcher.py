"""Start of an execution environment's process; run by the functions' interpreter.

    python launcher.py HANDLER

Waits for LocalStack's word on standard input, so that a process of which nobody keeps account
never runs, then becomes ``python -m awslambdaric HANDLER``.
"""

import importlib.util
import os
import runpy
import sys
from pathlib import Path


def _wait_for_start() -> None:
    if not os.read(0, 1):  # LocalStack has died between fork and here
        os._exit(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _provide_runtime_client() -> None:
    """On systems other than Linux awslambdaric comes without its compiled HTTP client."""
    if importlib.util.find_spec("runtime_client") is not None:
        return
    path = Path(__file__).with_name("runtime_client_fallback.py")
    spec = importlib.util.spec_from_file_location("runtime_client", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["runtime_client"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    _wait_for_start()
    _provide_runtime_client()
    runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
