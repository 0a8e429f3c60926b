"""What a function finds in ``os.environ``: what AWS sets, the function's own, nothing else."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Of LocalStack's own runtime, or of addresses that nothing listens to.
_NOT_AWS = ("LOCALSTACK_", "EDGE_PORT", "_AWS_XRAY_", "AWS_XRAY_DAEMON_ADDRESS")
_NOT_AWS_NAMES = frozenset({"AWS_LAMBDA_FUNCTION_TIMEOUT"})


def function_variables(
    prepared: Mapping[str, object],
    own: Mapping[str, str],
    *,
    runtime: str,
    python: Path,
    task_root: Path,
    layers: Sequence[Path],
    temporary: Path,
) -> dict[str, str]:
    """The whole environment of a function's process, less the Runtime API's address.

    Args:
        prepared: LocalStack's variables for it, the function's own included.
        own: the function's own.
        runtime: AWS's name, as python3.13.
        python: the interpreter.
        task_root: the function's unpacked code.
        layers: unpacked layers in the function's order.
        temporary: its folder for temporary files, and its home.
    """
    variables = {
        name: str(value)
        for name, value in prepared.items()
        if not name.startswith(_NOT_AWS) and name not in _NOT_AWS_NAMES
    }
    if level := variables.get("AWS_LAMBDA_LOG_LEVEL"):
        variables["AWS_LAMBDA_LOG_LEVEL"] = level.upper()
    # On AWS a later layer's files overwrite an earlier one's in /opt, so it is searched first.
    searched = [
        folder
        for layer in reversed(layers)
        for folder in (layer / "python" / "lib" / runtime / "site-packages", layer / "python")
        if folder.is_dir()
    ]
    libraries = [
        folder
        for folder in (task_root / "lib", *(layer / "lib" for layer in reversed(layers)))
        if folder.is_dir()
    ]
    programs = [layer / "bin" for layer in reversed(layers) if (layer / "bin").is_dir()]
    variables |= {
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{runtime}",
        "LAMBDA_TASK_ROOT": str(task_root),
        "LAMBDA_RUNTIME_DIR": str(python.parent.parent),
        "LANG": "C.UTF-8",
        "PATH": _joined([python.parent, *map(Path, os.defpath.split(os.pathsep)), *programs]),
        "PYTHONPATH": _joined([task_root, *searched]),
        "TMPDIR": str(temporary),
        # Else boto3 would read the settings of whoever runs LocalStack.
        "HOME": str(temporary),
    }
    if libraries:
        name = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
        variables[name] = _joined(libraries)
    variables |= own
    if "PYTHONPATH" in own:
        variables["PYTHONPATH"] = _joined([task_root, *searched, Path(own["PYTHONPATH"])])
    return variables


def _joined(folders: Sequence[Path]) -> str:
    return os.pathsep.join(str(folder) for folder in folders)
