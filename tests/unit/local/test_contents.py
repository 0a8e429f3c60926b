"""The parts of a build: which have changed, and their archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from local.contents import Contents, contents_of

TEMPLATE = """
Resources:
  Api: {Type: "AWS::Serverless::Function", Properties: {CodeUri: Api}}
  Library: {Type: "AWS::Serverless::LayerVersion", Properties: {ContentUri: Library}}
  Steps: {Type: "AWS::Serverless::StateMachine", Properties: {DefinitionUri: ../steps.json}}
"""


@pytest.fixture
def build(tmp_path: Path) -> Path:
    (tmp_path / "steps.json").write_text("{}")
    for name in ("Api/app.py", "Library/python/library.py"):
        file = tmp_path / "build" / name
        file.parent.mkdir(parents=True)
        file.write_text("first")
    (tmp_path / "build" / "template.yaml").write_text(TEMPLATE)
    return tmp_path / "build"


def contents(build: Path) -> Contents:
    return contents_of(build, build.parent / "scratch")


def test_other_code_is_another_hash_and_the_same_shape(build: Path) -> None:
    before = contents(build)
    (build / "Library" / "python" / "library.py").write_text("another")
    after = contents(build)
    assert after.shape == before.shape
    assert after.code["Api"] == before.code["Api"]
    assert after.code["Library"] != before.code["Library"]


@pytest.mark.parametrize("name", ["build/template.yaml", "steps.json"])
def test_all_else_is_the_shape(build: Path, name: str) -> None:
    before = contents(build)
    file = build.parent / name
    file.write_text(file.read_text().replace("{", "{Added: {}, ", 1))
    assert contents(build).shape != before.shape


def test_an_archive_is_as_aws_takes_it(build: Path) -> None:
    found = contents(build)
    for _ in range(2):
        with zipfile.ZipFile(found.archive("Library")) as file:
            assert file.namelist() == ["python/library.py"]
