"""Puts what the layers hold into each function, for what cannot mount layers.

LocalStack's free edition takes layers and never fills ``/opt`` of a function's container. This
makes of a build another one: each function a ZIP file with its handler and the content of its
layers beside it, and a template without layers.
"""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local.build import locked
from local.errors import LocalError
from local.settings import ROOT

# At the same depth as the builds, since the template names files outside by relative paths.
VENDORED = ROOT / ".local" / "build-vendored"
LAYERS = VENDORED / "layers"

FUNCTION = "AWS::Serverless::Function"
LAYER = "AWS::Serverless::LayerVersion"
STATE_MACHINE = "AWS::Serverless::StateMachine"
_PYTHON = "python"
_COMPRESSION = 1  # the quickest: nothing of this leaves the machine


@dataclass(frozen=True)
class Vendored:
    """A build without layers.

    Attributes:
        folder: with ``template.yaml`` in it.
        shape: a hash of the template and the files beside it; all but the functions' code.
        code: each function's ZIP file, by logical id.
    """

    folder: Path
    shape: str
    code: Mapping[str, Path]

    def code_hashes(self) -> dict[str, str]:
        """Return a hash of each function's code by logical id; the same code has the same."""
        return {
            name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in self.code.items()
        }


def read_built_template(build: Path) -> dict[str, Any]:
    """Return the template of a build; SAM has written it without CloudFormation's short forms."""
    template: dict[str, Any] = yaml.safe_load((build / "template.yaml").read_text("utf-8"))
    return template


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
        kept = {LAYERS, target}
        template = read_built_template(build)
        functions = of_type(template, FUNCTION)
        target.mkdir(exist_ok=True)
        LAYERS.mkdir(exist_ok=True)
        code = {}
        for name, function in functions.items():
            layers = [build / layer for layer in layers_of(template, function)]
            code[name] = target / f"{name}.zip"
            _add(build / name, _archive(layers, kept), code[name])
            properties = function["Properties"]
            properties.pop("Layers", None)
            properties["CodeUri"] = code[name].name
            variables = properties.setdefault("Environment", {}).setdefault("Variables", {})
            variables.update(environment.get(name, {}))
        template.get("Globals", {}).get("Function", {}).pop("Layers", None)
        for layer in of_type(template, LAYER):
            del template["Resources"][layer]
        text = yaml.safe_dump(template, sort_keys=False)
        (target / "template.yaml").write_text(text, "utf-8")
        shape = hashlib.sha256(text.encode())
        for machine in of_type(template, STATE_MACHINE).values():
            shape.update((target / machine["Properties"]["DefinitionUri"]).read_bytes())
        for old in (*VENDORED.glob("[!.]*"), *LAYERS.iterdir()):
            if old not in kept:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        return Vendored(target, shape.hexdigest(), code)


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Every file of a folder with its name in an archive, in a fixed order."""
    return sorted(
        (path.relative_to(folder).as_posix(), path)
        for parent, _, files in folder.walk()
        for path in (parent / name for name in files)
        if path.name != ".lock"
    )


def _content(folder: Path, digest: str = "") -> str:
    """Return a hash over names and contents of a folder, and over what went before."""
    hashed = hashlib.sha256(digest.encode())
    for name, path in _files(folder):
        hashed.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return hashed.hexdigest()


def _archive(layers: list[Path], kept: set[Path]) -> Path:
    """Return the archive of some layers' content, made anew only where a layer has changed."""
    archive, digest = None, ""
    for layer in layers:
        others = [path.name for path in layer.iterdir() if path.name != _PYTHON]
        if others:
            raise LocalError(
                f"{layer.name} holds {', '.join(others)} beside {_PYTHON}/, which a function's own"
                " folder has no place for"
            )
        digest = _content(layer / _PYTHON, digest)
        larger = LAYERS / f"{digest[:16]}.zip"
        if not larger.exists():
            _add(layer / _PYTHON, archive, larger)
        archive = larger
        kept.add(archive)
    if archive is None:
        raise LocalError("a function without layers: nothing to put into it")
    return archive


def _add(folder: Path, base: Path | None, archive: Path) -> None:
    """Make an archive of another one's content, if any, and that of a folder."""
    scratch = archive.with_suffix(".tmp")
    scratch.unlink(missing_ok=True)
    if base is not None:
        shutil.copyfile(base, scratch)
    with zipfile.ZipFile(scratch, "a") as file:
        taken = set(file.namelist())
        for name, path in _files(folder):
            if name in taken:
                raise LocalError(f"{folder.name} has {name}, which a layer has too")
            # Without the file's time, so that the same content gives the same archive.
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o755 << 16 if os.access(path, os.X_OK) else 0o644 << 16
            file.writestr(entry, path.read_bytes(), compresslevel=_COMPRESSION)
    scratch.rename(archive)
