"""Functions that bring their layers' content along."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from local import vendoring
from local.errors import LocalError
from local.vendoring import Vendored, vendor

TEMPLATE: dict[str, Any] = {
    "Transform": "AWS::Serverless-2016-10-31",
    "Globals": {"Function": {"Runtime": "python3.13", "Layers": [{"Ref": "First"}]}},
    "Resources": {
        "First": {"Type": "AWS::Serverless::LayerVersion", "Properties": {"ContentUri": "First"}},
        "Second": {"Type": "AWS::Serverless::LayerVersion", "Properties": {"ContentUri": "Second"}},
        "Reader": {
            "Type": "AWS::Serverless::Function",
            "Properties": {"CodeUri": "Reader", "Environment": {"Variables": {"A": "1"}}},
        },
        "Writer": {
            "Type": "AWS::Serverless::Function",
            "Properties": {"CodeUri": "Writer", "Layers": [{"Ref": "Second"}]},
        },
        "Steps": {
            "Type": "AWS::Serverless::StateMachine",
            "Properties": {"DefinitionUri": "../../steps.json"},
        },
    },
}


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(vendoring, "VENDORED", tmp_path / "vendored")
    (tmp_path / "steps.json").write_text("{}")
    make(tmp_path / "builds" / "one")
    return tmp_path / "builds"


def make(build: Path) -> None:
    for name, content in {
        "First/python/package/__init__.py": "first",
        "Second/python/other.py": "second",
        "Reader/app.py": "reader",
        "Writer/app.py": "writer",
    }.items():
        file = build / name
        file.parent.mkdir(parents=True)
        file.write_text(content)
    (build / "template.yaml").write_text(yaml.safe_dump(TEMPLATE))


def names(vendored: Vendored, function: str) -> list[str]:
    with zipfile.ZipFile(vendored.code[function]) as file:
        return file.namelist()


def test_a_function_has_the_content_of_its_layers(builds: Path) -> None:
    vendored = vendor(builds / "one", {"Writer": {"B": "2"}})
    assert names(vendored, "Reader") == ["package/__init__.py", "app.py"]
    assert names(vendored, "Writer") == ["package/__init__.py", "other.py", "app.py"]

    template = yaml.safe_load((vendored.folder / "template.yaml").read_text())
    assert template["Globals"]["Function"] == {"Runtime": "python3.13"}
    assert template["Resources"].keys() == {"Reader", "Writer", "Steps"}
    assert template["Resources"]["Writer"]["Properties"] == {
        "CodeUri": f"../archives/{vendored.code['Writer'].name}",
        "Environment": {"Variables": {"B": "2"}},
    }
    assert template["Resources"]["Reader"]["Properties"]["Environment"]["Variables"] == {"A": "1"}


def test_changed_code_is_all_that_differs(builds: Path) -> None:
    first = vendor(builds / "one", {})
    make(builds / "two")
    (builds / "two" / "Writer" / "app.py").write_text("another")
    second = vendor(builds / "two", {})
    assert second.shape == first.shape
    assert second.code["Reader"] == first.code["Reader"]
    assert second.code["Writer"] != first.code["Writer"]
    assert not first.folder.exists()
    assert not first.code["Writer"].exists()


def test_the_definition_of_a_state_machine_is_part_of_the_shape(builds: Path) -> None:
    before = vendor(builds / "one", {}).shape
    (builds.parent / "steps.json").write_text('{"StartAt": "Elsewhere"}')
    assert vendor(builds / "one", {}).shape != before


def test_a_layer_with_more_than_packages_is_refused(builds: Path) -> None:
    (builds / "one" / "First" / "bin").mkdir()
    with pytest.raises(LocalError, match="First holds bin beside python/"):
        vendor(builds / "one", {})


def test_a_file_that_is_in_a_layer_too_is_refused(builds: Path) -> None:
    (builds / "one" / "Writer" / "other.py").write_text("mine")
    with pytest.raises(LocalError, match=r"Writer has other\.py"):
        vendor(builds / "one", {})
