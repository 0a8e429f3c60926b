"""The workflows call what a developer calls: targets of the Makefile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value


def _called(workflow: dict[Any, Any]) -> set[str]:
    """The targets that a workflow makes; `make "$TARGET"` is spelt out in a matrix or a choice."""
    texts = set(_texts(workflow["jobs"]))
    found = {name for text in texts for name in re.findall(r"\bmake ([a-z][a-z-]*)", text)}
    if any('make "$TARGET"' in text for text in texts):
        for job in workflow["jobs"].values():
            targets = job.get("strategy", {}).get("matrix", {}).get("target", [])
            found |= set(targets) if isinstance(targets, list) else set()
        for text in texts:
            for chosen in re.findall(r"targets='\[(.+)\]'", text):
                found |= set(re.findall(r'"([a-z-]+)"', chosen))
        # YAML takes the key `on` for a truth value.
        given = workflow[True].get("workflow_dispatch") or {}
        found |= set(given.get("inputs", {}).get("target", {}).get("options", []))
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_makes_targets_that_there_are(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    called = _called(yaml.safe_load(path.read_text("utf-8")))
    assert called
    assert called <= targets


def test_every_tier_is_called() -> None:
    called = {
        target for path in WORKFLOWS for target in _called(yaml.safe_load(path.read_text("utf-8")))
    }
    assert {
        "check",
        "test",
        "test-system",
        "compose-test",
        "sam-test",
        "crash",
        "chaos",
        "chaos-long",
    } <= called
