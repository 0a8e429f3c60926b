"""CONTRIBUTING names the tests of every part."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_map_of_tests_is_complete() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    section = text.partition("### Which tests belong to a change")[2].partition("\n## ")[0]
    rows = [
        [re.findall(r"`([^`]+)`", cell) for cell in cells]
        for cells in re.findall(r"^\| (`.+?) \| (.+) \|$", section, re.MULTILINE)
    ]
    changed = {name for row in rows for name in row[0]}
    tests = {name for row in rows for name in row[1]}
    for name in changed | tests:
        assert (ROOT / name).exists(), f"{name}: no such file or folder"
        assert name.endswith("/") == (ROOT / name).is_dir(), f"{name}: folders end with a slash"
    library = "layers/marketdata/src/marketdata/"
    packages = [path.parent.name for path in (ROOT / library).glob("*/__init__.py")]
    assert {f"{library}{package}/" for package in packages} <= changed
    for folder in ("unit", "integration"):
        for path in (ROOT / "tests" / folder).iterdir():
            if any(path.rglob("test_*.py")):
                start = f"tests/{folder}/{path.name}/"
                assert any(name.startswith(start) for name in tests), f"the map lacks {start}"
