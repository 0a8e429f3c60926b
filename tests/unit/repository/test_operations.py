"""docs/operations.md has an entry for each warning that the code can give."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import marketdata

LIBRARY = Path(marketdata.__file__).parent
OPERATIONS = " ".join(
    (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text("utf-8").split()
)

TOLD_BY = {
    # What a call of `_warn` is given that is no text itself: where the text is made.
    "warning": (),
    "limited": (("sources/history.py", "limited"),),
    "describe_short": (("runs/extraction/paging.py", "describe_short"),),
    "describe_repeated": (("runs/extraction/paging.py", "describe_repeated"),),
    "describe_unpaged": (("runs/extraction/paging.py", "describe_unpaged"),),
    "shift": (("runs/extraction/paging.py", "describe"),),
    "unused": (
        ("runs/extraction/files.py", "_note_mapping"),
        ("csv_files/judging.py", "_unknown"),
        ("csv_files/asset_columns.py", "_is_no_id"),
        ("csv_files/amount_columns.py", "_volume_field"),
    ),
}
CALLS = {"_warn", "NothingToLoad", "NotAskedAgain", "skip", "doubt", "_revoke"}
"""Calls that are given the text of a warning, or of a part of one, or why a file is skipped."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(LIBRARY.rglob("*.py")):
        yield str(path.relative_to(LIBRARY)), ast.parse(path.read_text("utf-8"))


def called(node: ast.AST) -> str:
    """The name of what is called; empty of what is no call."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def texts(node: ast.AST) -> Iterator[str]:
    """The texts within a node, each with `{}` for what differs."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def names(node: ast.AST) -> set[str]:
    """The names that a node uses: of what may bring the text of a warning."""
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def function(tree: ast.Module, name: str) -> ast.FunctionDef:
    (found,) = (
        one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == name
    )
    return found


def words(text: str) -> list[str]:
    """The parts of a text that are always the same, where they are more than a word or two."""
    parts = (part.strip(" :;,.()'") for part in re.split(r"\{\}|\d+", text))
    return [part for part in parts if len(part.split()) >= 3]


def warnings() -> set[str]:
    found: set[str] = set()
    sources = dict(trees())
    for tree in sources.values():
        for node in ast.walk(tree):
            if called(node) in CALLS:
                found.update(texts(node))
            elif isinstance(node, ast.FunctionDef) and node.name == "_warn":
                found.update(text for one in node.body[1:] for text in texts(one))
    for places in TOLD_BY.values():
        for module, name in places:
            made = function(sources[module], name)
            found.update(text for one in made.body[1:] for text in texts(one))
    return {text for text in found if words(text)}


def test_what_a_warning_is_made_of_is_known() -> None:
    """A warning whose text comes from somewhere else needs an entry in `TOLD_BY`."""
    for module, tree in trees():
        for node in ast.walk(tree):
            if called(node) != "_warn":
                continue
            assert isinstance(node, ast.Call)
            for argument in node.args:
                if not isinstance(argument, ast.JoinedStr | ast.Constant):
                    assert names(argument) & TOLD_BY.keys(), (module, ast.unparse(argument))


def test_all_warnings_are_looked_at() -> None:
    found = warnings()
    assert len(found) >= 15
    assert "The file has a header and no rows." in found


@pytest.mark.parametrize("text", sorted(warnings()))
def test_a_warning_has_an_entry(text: str) -> None:
    longest = max(words(text), key=len)
    assert longest in OPERATIONS, f"docs/operations.md does not tell what to do: {text}"


def test_an_alert_has_an_entry() -> None:
    tree = dict(trees())["runs/alerts.py"]
    subjects = [
        text
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "subject"
        for text in texts(value)
    ]
    assert len(subjects) >= 5
    for subject in subjects:
        longest = max(re.split(r"\{\}|\d+", subject), key=len).strip()
        assert longest in OPERATIONS, subject
