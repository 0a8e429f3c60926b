"""What only the stack in containers has: functions without layers, addresses on loopback."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from typing import Any

import boto3
import pytest

from local.containers import RUNS_IN
from tests.support.containers import StackInContainers

pytestmark = pytest.mark.timeout(300)


def test_functions_have_no_layers(stack: StackInContainers) -> None:
    client = boto3.client("lambda", **stack.boto3_options())  # type: ignore[call-overload]
    functions = client.list_functions()["Functions"]
    assert {one["FunctionName"].removeprefix("marketdata-test-") for one in functions} >= {
        "open_run",
        "normalize_load",
        "api",
        "control",
    }
    assert not [one["FunctionName"] for one in functions if one.get("Layers")]


def test_nothing_is_published_beyond_loopback(stack: StackInContainers) -> None:
    command = ["docker", "ps", "--quiet", "--filter", f"network={stack.project}_default"]
    containers = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert len(containers) >= 3  # mongodb, localstack, replay; and those of functions
    command = ["docker", "inspect", *containers]
    described: list[dict[str, Any]] = json.loads(
        subprocess.run(command, check=True, capture_output=True).stdout
    )
    published = {
        binding["HostIp"]
        for one in described
        for bindings in one["NetworkSettings"]["Ports"].values()
        for binding in bindings or ()
    }
    assert published
    assert all(ipaddress.ip_address(address).is_loopback for address in published)


def test_the_same_stack_again_changes_nothing(stack: StackInContainers) -> None:
    before = stack.description
    assert before["runs_in"] == RUNS_IN
    stack.up()
    assert stack.description == before


def test_uploads_go_to_an_address_that_clients_have(stack: StackInContainers) -> None:
    answer = stack.request(
        "POST",
        "/uploads",
        {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"},
    )
    assert answer.status in {200, 201, 400}, answer.body
