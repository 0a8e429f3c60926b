"""The template that is deployed to LocalStack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from local.deploy import api_id, template_with_ids

TEMPLATE: dict[str, Any] = {
    "Resources": {
        "Api": {
            "Type": "AWS::Serverless::Api",
            "Properties": {"StageName": "local", "Tags": {"team": "data"}},
        },
        "Reader": {"Type": "AWS::Serverless::Function", "Properties": {"CodeUri": "Reader"}},
    }
}


@pytest.fixture
def build(tmp_path: Path) -> Path:
    (tmp_path / "template.yaml").write_text(yaml.safe_dump(TEMPLATE))
    return tmp_path


def test_an_api_has_an_id_of_the_stacks_name(build: Path) -> None:
    written = template_with_ids(build, "mine")
    assert written.parent == build
    resources = yaml.safe_load(written.read_text())["Resources"]
    assert resources["Api"]["Properties"] == {
        "StageName": "local",
        "Tags": {"team": "data", "_custom_id_": api_id("mine", "Api")},
        "PropagateTags": True,
    }
    assert resources["Reader"] == TEMPLATE["Resources"]["Reader"]


def test_the_build_stays_as_it_is_for_other_stacks(build: Path) -> None:
    before = (build / "template.yaml").read_text()
    assert template_with_ids(build, "mine") != template_with_ids(build, "yours")
    assert (build / "template.yaml").read_text() == before


def test_ids_of_apis_are_such_as_localstack_takes() -> None:
    ids = {api_id(stack, name) for stack in ("Mine", "yours") for name in ("Api", "Other")}
    assert len(ids) == 4
    assert all(one.isalnum() and one == one.lower() and len(one) == 10 for one in ids)
