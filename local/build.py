"""``sam build``, kept under a hash of everything that goes into it.

Stacks share the builds: a build is a folder of its own that never changes once it is complete, so
that one stack can deploy while another one builds something newer.
"""

import fcntl
import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from local.errors import LocalError
from local.settings import ROOT

ENVS = ROOT / ".local" / "envs"
BUILDS = ROOT / ".local" / "build"
BUILDS_KEPT = 3

type Runner = Callable[[list[str], dict[str, str]], None]
"""Runs a command with an environment, and raises if it fails."""

SOURCES = ("template.yaml", "functions", "layers", "statemachines", "requirements/sam.txt")
_IGNORED_FOLDERS = {"__pycache__", ".venv", ".ruff_cache", ".mypy_cache", ".pytest_cache"}


def architecture() -> str:
    """Return this machine's architecture as Lambda calls it."""
    return "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "x86_64"


def tool_environment(machine: str) -> dict[str, str]:
    """Return the environment for SAM: our interpreter and uv first on PATH, nothing in the home.

    Args:
        machine: the architecture that layers are built for.
    """
    return {
        **os.environ,
        "PATH": os.pathsep.join(
            [str(ROOT / ".venv" / "bin"), str(ENVS / "uv" / "bin"), os.environ.get("PATH", "")]
        ),
        "LAMBDA_ARCHITECTURE": machine,
        "SAM_CLI_TELEMETRY": "0",
        "__SAM_CLI_APP_DIR": str(ROOT / ".local" / "sam"),
    }


def sam() -> list[str]:
    """Return the command that runs SAM from its own environment."""
    return [str(ENVS / "sam" / "bin" / "python"), "-m", "samcli"]


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for folder, folders, files in source.walk():
        folders[:] = sorted(
            name
            for name in folders
            if name not in _IGNORED_FOLDERS and not name.endswith(".egg-info")
        )
        for name in sorted(files):
            if not name.endswith(".pyc"):
                yield folder / name


def source_hash(machine: str, root: Path = ROOT) -> str:
    """Return a hash over names and contents of all that a build is made from."""
    digest = hashlib.sha256(machine.encode())
    for source in SOURCES:
        for file in _files(root / source):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(root)}\0{content}\n".encode())
    return digest.hexdigest()[:16]


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock, which ends with this process at the latest; call ``waiting`` if it is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(run: Runner, machine: str | None = None) -> tuple[Path, bool]:
    """Build the template unless the same sources were built already.

    Args:
        run: runs a command with an environment, in the clone, and raises if it fails.
        machine: the architecture to build for; by default this machine's.

    Returns the folder of the build, with ``template.yaml`` in it, and whether it was made now.

    Raises:
        LocalError: there is no template.
        CommandError: the build failed.
    """
    if not (ROOT / "template.yaml").exists():
        raise LocalError(f"{ROOT / 'template.yaml'} is missing: run this inside a complete clone")
    machine = machine or architecture()
    with locked(BUILDS / ".lock"):
        target = BUILDS / source_hash(machine)
        if (target / "template.yaml").exists():
            target.touch()
            return target, False
        for scrap in BUILDS.glob("tmp-*"):
            shutil.rmtree(scrap)
        # Renamed when complete; both at the same depth, since SAM writes relative paths.
        scratch = BUILDS / f"tmp-{target.name}"
        command = [
            *sam(),
            "build",
            "--template-file",
            str(ROOT / "template.yaml"),
            "--build-dir",
            str(scratch),
            "--cached",
            "--cache-dir",
            str(ROOT / ".local" / "build-cache"),
            "--parallel",
        ]
        run(command, tool_environment(machine))
        scratch.rename(target)
        _remove_old_builds()
        return target, True


def _remove_old_builds() -> None:
    builds = [path for path in BUILDS.iterdir() if path.is_dir()]
    builds.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in builds[BUILDS_KEPT:]:
        shutil.rmtree(old)
