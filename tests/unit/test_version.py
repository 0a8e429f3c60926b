"""One version: everything that shows it shows the one of the library's pyproject.toml."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

from marketdata.logs import make_logger
from marketdata.sources.http import _USER_AGENT
from marketdata.version import VERSION
from marketdata.web import document
from marketdata.web.routes.docs import get_index

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "layers" / "marketdata"


def test_the_library_is_the_one_place_that_has_it() -> None:
    project = tomllib.loads((LIBRARY / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    assert "project" not in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_api_shows_it() -> None:
    assert document.document()["info"]["version"] == VERSION, "run: make openapi"
    assert get_index().version == VERSION


def test_sources_are_told_it() -> None:
    assert f"kasparro-etl/{VERSION}" == _USER_AGENT


def test_every_log_line_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    logger = make_logger("test_version")
    logger.append_keys(run_id="r")
    logger.info("with keys")
    logger.clear_state()
    logger.info("without")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["message"], line["version"]) for line in lines] == [
        ("with keys", VERSION),
        ("without", VERSION),
    ]


def test_no_module_makes_a_logger_without_it() -> None:
    for folder in (LIBRARY / "src", ROOT / "functions"):
        for path in folder.rglob("*.py"):
            if path.name == "logs.py":
                continue
            called = {
                node.func.id
                for node in ast.walk(ast.parse(path.read_text("utf-8")))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert "Logger" not in called, f"{path}: take make_logger()"


def test_the_newest_entry_of_the_changelog_is_it() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    found = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d|Unreleased))?$", text, re.MULTILINE)
    assert found[0][0] == VERSION
    assert all(date for _, date in found), "each version has a date, or is - Unreleased"
