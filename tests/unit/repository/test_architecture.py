"""Who may know whom: the table in docs/architecture.md, held against the imports of the library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LIBRARY = ROOT / "layers" / "marketdata" / "src" / "marketdata"
TABLE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
EVERYBODY = {"clock", "errors", "logs", "masking", "objects", "settings", "version"}
"""Modules that everybody may know. They know each other, and `documents`."""
FOREIGN = {
    "pymongo": {"store"},
    "bson": {"store"},
    "boto3": {"aws"},
    "botocore": {"aws"},
    "requests": {"sources"},
    "aws_lambda_powertools": {"aws", "handlers", "logs", "web"},
}
"""Packages that are an adapter's business, and the parts that may import them."""


def rows() -> dict[str, set[str]]:
    """The table: for each part, the parts that it may know."""
    section = TABLE.partition("## Parts and who may know whom")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, flags=re.MULTILINE)
    parts = [name for name, _ in found]
    known = {}
    for index, (name, cell) in enumerate(found):
        if "all of the above" in cell:
            known[name] = set(parts[:index])
        else:
            known[name] = set(re.findall(r"`(\w+)`", cell))
    return known


def modules() -> list[Path]:
    return sorted(LIBRARY.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The dotted names of the modules that a module imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)


def parts_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imported(path))
    return {name[1] for name in names if name[0] == "marketdata" and len(name) > 1}


def test_the_table_lists_every_part() -> None:
    there = {part_of(path) for path in modules()} - EVERYBODY - {"__init__"}
    assert rows().keys() == there


def test_imports_only_go_downward() -> None:
    """In the table's order: nobody knows a part that stands below it."""
    table = rows()
    order = list(table)
    for name, known in table.items():
        assert all(order.index(other) < order.index(name) for other in known), name


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_a_module_imports_what_its_part_may_know(path: Path) -> None:
    part = part_of(path)
    allowed = {"documents"} if part in EVERYBODY | {"__init__"} else rows()[part] | {part}
    over = parts_imported(path) - allowed - EVERYBODY - {"__init__"}
    assert not over, f"{part} may not know {sorted(over)}: see the table in docs/architecture.md"


@pytest.mark.parametrize("package", FOREIGN)
def test_a_package_is_one_part_s_business(package: str) -> None:
    found = {
        part_of(path)
        for path in modules()
        if any(name.split(".")[0] == package for name in imported(path))
    }
    assert found, f"nobody imports {package}: take it out of this test"
    assert found <= FOREIGN[package], f"{package} is imported by {sorted(found)}"
