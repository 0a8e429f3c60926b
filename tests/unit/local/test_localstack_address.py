"""The id in an API's address, which stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from local import localstack_address
from local.localstack_address import api_id
from local.settings import ROOT


@pytest.mark.parametrize(
    ("stack", "known"),
    [
        ("marketdata-local", "marketdata-local"),
        ("Marketdata-Dev2", "marketdata-dev2"),
        ("a_b", "a-b"),
    ],
)
def test_it_follows_from_the_name_of_the_stack(stack: str, known: str) -> None:
    assert api_id(stack) == known


def test_containers_have_it_as_well() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    script = Path(localstack_address.__file__).relative_to(ROOT)
    place = "/etc/localstack/init/start.d/address.py"
    assert f"./{script}:{place}:ro" in compose["services"]["localstack"]["volumes"]
