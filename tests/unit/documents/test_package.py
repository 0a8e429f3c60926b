"""What all forms of documents have in common."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from enum import StrEnum
from pathlib import Path

import bson
import pytest

from marketdata import documents
from marketdata.documents.batches import BatchState
from marketdata.documents.objects import ObjectState
from marketdata.documents.rebuilds import RebuildPhase
from marketdata.documents.runs import InputStatus, ResultStatus, RunStatus
from marketdata.documents.sources import BreakerState

MODULES = [
    f"marketdata.documents.{module.name}" for module in pkgutil.iter_modules(documents.__path__)
]
ENUMS = [BatchState, BreakerState, InputStatus, ObjectState, RebuildPhase, ResultStatus, RunStatus]


def test_the_package_knows_nothing_of_the_rest_of_the_library() -> None:
    code = f"import json, sys, {', '.join(MODULES)}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(run.stdout))

    ours = {name for name in loaded if name.startswith("marketdata.")}
    assert ours - {"marketdata.documents", *MODULES} == {"marketdata.errors"}
    assert not loaded & {"pymongo", "bson", "pydantic", "aws_lambda_powertools", "boto3"}


@pytest.mark.parametrize("name", MODULES)
def test_every_key_and_attribute_says_what_it_means(name: str) -> None:
    path = Path(documents.__file__).parent / f"{name.rpartition('.')[2]}.py"
    undocumented = [
        f"{node.name}.{ast.unparse(field)}"
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not _repeats_another(node)
        for field, after in zip(node.body, [*node.body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign | ast.Assign) and not _is_text(after)
    ]

    assert undocumented == []


def _repeats_another(node: ast.ClassDef) -> bool:
    """Whether a form has keys of another one, to which its docstring refers."""
    return "; see `" in (ast.get_docstring(node) or "")


def _is_text(node: ast.stmt | None) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@pytest.mark.parametrize("member", [member for enum in ENUMS for member in enum], ids=repr)
def test_a_status_is_stored_as_its_text(member: StrEnum) -> None:
    stored = bson.decode(bson.encode({"status": member}))

    assert stored == {"status": member.value}
    assert type(stored["status"]) is str
    assert stored["status"] == member
