"""What a build is made of, in parts that can be compared and replaced one by one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from local.vendoring import (
    FUNCTION,
    LAYER,
    Vendored,
    hash_of,
    of_type,
    pack,
    read_built_template,
    shape_of,
)


@dataclass(frozen=True)
class Contents:
    """The parts of a build.

    Attributes:
        shape: a hash of all but the code; with another one the stack has to be deployed.
        code: a hash of the code of each function and layer, by logical id.
        archive: makes the ZIP file of one of them.
    """

    shape: str
    code: Mapping[str, str]
    archive: Callable[[str], Path]


def contents_of(build: Path, scratch: Path) -> Contents:
    """Return the contents of a build.

    Args:
        build: what ``sam build`` made.
        scratch: folder for ZIP files.
    """
    template = read_built_template(build)
    names = [*of_type(template, FUNCTION), *of_type(template, LAYER)]

    def archive(name: str) -> Path:
        scratch.mkdir(parents=True, exist_ok=True)
        file = scratch / f"{name}.zip"
        pack(build / name, None, file)
        return file

    return Contents(
        shape_of(template, build), {name: hash_of(build / name) for name in names}, archive
    )


def contents_of_vendored(vendored: Vendored) -> Contents:
    """Return the contents of a build without layers."""
    return Contents(
        vendored.shape,
        {name: file.name for name, file in vendored.code.items()},
        vendored.code.__getitem__,
    )
