"""Unpacked and compiled code: one folder per archive, kept from one start to the next.

LocalStack unpacks an archive under a new name at every start. Here it is unpacked once for its
hash, and compiled then, so that the first call of a function waits for neither.
"""

import base64
import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Protocol

from .errors import SettingError, UnsupportedFunctionError
from .settings import PYTHON_VARIABLE, Settings

_UNUSED_SECONDS = 14 * 24 * 3600.0
_COMPILE_SECONDS = 300.0
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


class Archive(Protocol):
    """What LocalStack knows of a function's or layer's code."""

    code_sha256: str

    def is_hot_reloading(self) -> bool:
        """Whether it is a folder of the user's, not an archive."""
        ...

    def prepare_for_execution(self) -> None:
        """Unpack it."""
        ...

    def get_unzipped_code_location(self) -> Path:
        """Where that unpacks it to."""
        ...


def unpacked(archive: Archive, settings: Settings) -> Path:
    """The folder with an archive's content, unpacked now if it was not yet.

    Raises:
        OSError: if there is no room for it.
    """
    if archive.is_hot_reloading():
        return Path(archive.get_unzipped_code_location())
    store = settings.folder / "code"
    name = base64.b64decode(archive.code_sha256).hex()
    folder = store / name
    with _locks[name]:
        if not folder.is_dir():
            store.mkdir(parents=True, exist_ok=True)
            _unpack(archive, folder, settings.python)
        os.utime(folder)
    return folder


@cache
def interpreter_runtime(python: Path) -> str:
    """Lambda's name for the interpreter's version, as python3.13.

    Raises:
        SettingError: if it lacks awslambdaric.
    """
    program = "import sys, awslambdaric; print('python%d.%d' % sys.version_info[:2])"
    answer = subprocess.run(
        [python, "-I", "-c", program], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        reason = answer.stderr.strip().rpartition("\n")[2]
        raise SettingError(
            f"{PYTHON_VARIABLE}={python} cannot run functions ({reason}):"
            " install awslambdaric for that interpreter"
        )
    return answer.stdout.strip()


def check_runtime(function_name: str, runtime: str | None, python: Path) -> None:
    """Refuse what this interpreter cannot run.

    Raises:
        SettingError: if it lacks awslambdaric.
        UnsupportedFunctionError: for another runtime than the interpreter's, or an image.
    """
    available = interpreter_runtime(python)
    if runtime != available:
        raise UnsupportedFunctionError(
            f"function {function_name} needs the runtime {runtime or 'of a container image'}, but"
            f" {PYTHON_VARIABLE} is {available}: set the function's Runtime to {available} or the"
            " variable to a fitting interpreter"
        )


def remove_unused(settings: Settings) -> None:
    """Remove what no function has used for two weeks."""
    oldest = time.time() - _UNUSED_SECONDS
    for folder in (settings.folder / "code").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another LocalStack removes it too
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: Archive, folder: Path, python: Path) -> None:
    archive.prepare_for_execution()
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as temporary:
        fresh = Path(temporary) / "code"
        # Moved, not copied: LocalStack itself never runs it and unpacks again if it must.
        shutil.move(archive.get_unzipped_code_location(), fresh)
        # The hash in a compiled file is not compared when it is imported, so an archive's
        # meaningless file times do no harm. A file that cannot be compiled fails when imported.
        subprocess.run(
            [
                *(python, "-I", "-m", "compileall", "-qq"),
                *("--invalidation-mode", "unchecked-hash", fresh),
            ],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_COMPILE_SECONDS,
        )
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another LocalStack was faster
                raise
