"""Puts what the layers hold into each function, for what cannot mount layers.

LocalStack's free edition takes layers and never fills ``/opt`` of a function's container. This
makes of a build another one: each function a ZIP file with its handler and the content of its
layers beside it, and a template without layers.
"""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local.build import locked
from local.errors import LocalError
from local.settings import ROOT

# At the same depth as the builds, since the template names files outside by relative paths.
VENDORED = ROOT / ".local" / "build-vendored"

FUNCTION = "AWS::Serverless::Function"
LAYER = "AWS::Serverless::LayerVersion"
STATE_MACHINE = "AWS::Serverless::StateMachine"
_COMPRESSION = 1  # the quickest: nothing of this leaves the machine


@dataclass(frozen=True)
class Vendored:
    """A build without layers.

    Attributes:
        folder: with ``template.yaml`` in it.
        shape: a hash of the template and the files beside it; all but the functions' code.
        code: each function's ZIP file, by logical id; the same code has the same file name.
    """

    folder: Path
    shape: str
    code: Mapping[str, Path]


def read_built_template(build: Path) -> dict[str, Any]:
    """Return the template of a build; SAM has written it without CloudFormation's short forms."""
    template: dict[str, Any] = yaml.safe_load((build / "template.yaml").read_text("utf-8"))
    return template


def shape_of(template: Mapping[str, Any], build: Path) -> str:
    """Return a hash of a template and of the files beside it that it names, but for the code."""
    hashed = hashlib.sha256(yaml.safe_dump(template).encode())
    for machine in of_type(template, STATE_MACHINE).values():
        hashed.update((build / machine["Properties"]["DefinitionUri"]).read_bytes())
    return hashed.hexdigest()


def layers_of(template: Mapping[str, Any], function: Mapping[str, Any]) -> list[str]:
    """Return the logical ids of a function's layers, the template's global ones first."""
    everywhere = template.get("Globals", {}).get("Function", {}).get("Layers", [])
    return [layer["Ref"] for layer in [*everywhere, *function["Properties"].get("Layers", [])]]


def of_type(template: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the template's resources of one type, by logical id."""
    return {name: one for name, one in template["Resources"].items() if one["Type"] == kind}


def vendor(build: Path, environment: Mapping[str, Mapping[str, str]]) -> Vendored:
    """Make a build without layers from one with them.

    Args:
        build: what ``sam build`` made.
        environment: further environment variables of functions, by logical id.

    Raises:
        LocalError: a layer holds something else than Python packages, or a function a file of the
            same name as one of a layer.
    """
    with locked(VENDORED / ".lock"):
        target = VENDORED / build.name
        target.mkdir(exist_ok=True)
        archives = _Archives(VENDORED / "archives")
        template = read_built_template(build)
        functions = of_type(template, FUNCTION)
        code = {}
        for name, function in functions.items():
            packages = [_packages(build / layer) for layer in layers_of(template, function)]
            code[name] = archives.of([*packages, build / name])
            properties = function["Properties"]
            properties.pop("Layers", None)
            variables = properties.setdefault("Environment", {}).setdefault("Variables", {})
            variables.update(environment.get(name, {}))
        template.get("Globals", {}).get("Function", {}).pop("Layers", None)
        for layer in of_type(template, LAYER):
            del template["Resources"][layer]
        shape = shape_of(template, target)
        for name, function in functions.items():
            function["Properties"]["CodeUri"] = os.path.relpath(code[name], target)
        (target / "template.yaml").write_text(yaml.safe_dump(template, sort_keys=False), "utf-8")
        archives.remove_others()
        for old in VENDORED.glob("[!.]*"):
            if old not in {target, archives.folder}:
                shutil.rmtree(old)
        return Vendored(target, shape, code)


def _packages(layer: Path) -> Path:
    others = [path.name for path in layer.iterdir() if path.name != "python"]
    if others:
        raise LocalError(
            f"{layer.name} holds {', '.join(others)} beside python/; only python/ can be"
            " packed into a function"
        )
    return layer / "python"


class _Archives:
    """ZIP files of several folders' content, each under a hash of it and so made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(exist_ok=True)
        self._known: dict[tuple[Path, ...], Path] = {}

    def of(self, folders: Sequence[Path]) -> Path:
        """Return the archive of some folders' content.

        Raises:
            LocalError: two of them have a file of the same name.
        """
        key = tuple(folders)
        if key not in self._known:
            *before, last = folders
            # The layers' are the same for many functions, and large.
            base = self.of(before) if before else None
            archive = self.folder / f"{hash_of(last, base.stem if base else '')}.zip"
            if not archive.exists():
                pack(last, base, archive)
            self._known[key] = archive
        return self._known[key]

    def remove_others(self) -> None:
        """Remove what was not asked for."""
        for old in self.folder.iterdir():
            if old not in self._known.values():
                old.unlink()


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Every file of a folder with its name in an archive, in a fixed order."""
    return sorted(
        (path.relative_to(folder).as_posix(), path)
        for parent, _, files in folder.walk()
        for path in (parent / name for name in files)
        if path.name != ".lock"
    )


def hash_of(folder: Path, base: str = "") -> str:
    """Return a hash over names and contents of a folder, and over what goes before it."""
    hashed = hashlib.sha256(base.encode())
    for name, path in _files(folder):
        hashed.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return hashed.hexdigest()[:32]


def pack(folder: Path, base: Path | None, archive: Path) -> None:
    """Make an archive of another one's content, if any, and that of a folder."""
    scratch = archive.with_suffix(".tmp")
    scratch.unlink(missing_ok=True)
    if base is not None:
        shutil.copyfile(base, scratch)
    with zipfile.ZipFile(scratch, "a") as file:
        taken = set(file.namelist())
        for name, path in _files(folder):
            if name in taken:
                raise LocalError(
                    f"{folder.name} has {name}, which a layer has, too; rename one of them"
                )
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o755 << 16 if os.access(path, os.X_OK) else 0o644 << 16
            file.writestr(entry, path.read_bytes(), compresslevel=_COMPRESSION)
    scratch.rename(archive)
