"""Settings of the executor, from LocalStack's own environment variables."""

import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .errors import SettingError

PYTHON_VARIABLE = "PROCESS_EXECUTOR_PYTHON"
FOLDER_VARIABLE = "PROCESS_EXECUTOR_DIR"
LOG_VARIABLE = "PROCESS_EXECUTOR_LOG"

# AWS lets the code outside the handler run for 10 s before it counts as part of the first call.
INIT_SECONDS = 10.0


@dataclass(frozen=True)
class Settings:
    """Where the executor finds and puts things.

    Attributes:
        python: interpreter with awslambdaric that runs the functions.
        folder: unpacked code (kept) and the environments' own folders (removed at the end).
        log: file that every line of every function is appended to; None for no such file.
    """

    python: Path
    folder: Path
    log: Path | None


@cache
def settings() -> Settings:
    """Read the settings once.

    Raises:
        SettingError: if the interpreter is not given or cannot be run.
    """
    python = os.environ.get(PYTHON_VARIABLE, "").strip()
    if not python:
        raise SettingError(
            f"{PYTHON_VARIABLE} is not set: give LocalStack the path of a Python interpreter"
            " that has awslambdaric installed"
        )
    if not os.access(python, os.X_OK):
        raise SettingError(f"{PYTHON_VARIABLE}={python} is not a program that can be run")
    folder = os.environ.get(FOLDER_VARIABLE, "").strip()
    log = os.environ.get(LOG_VARIABLE, "").strip()
    return Settings(
        # Not resolved: an environment's interpreter is a link, and the link is what makes it one.
        python=Path(python).absolute(),
        folder=Path(folder or Path(tempfile.gettempdir()) / "process-executor").absolute(),
        log=Path(log).absolute() if log else None,
    )
