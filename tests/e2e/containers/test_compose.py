"""What only the stack in containers has: functions without layers, addresses on loopback."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from typing import Any

import boto3
import pytest
import requests
from pymongo.database import Database

from local.stack import RUNS_IN
from tests.support.containers import StackInContainers
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("empty_bucket")]


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


def test_containers_of_functions_are_the_projects(stack: StackInContainers) -> None:
    # As those of `docker compose run`: `up` passes over them, `down --remove-orphans` does not.
    stack.get("/health")
    of_functions = f"{stack.project}-localstack-1-lambda-"
    labels = ("project", "service", "oneoff")
    shown = "\t".join(
        ["{{.Names}}", *(f'{{{{.Label "com.docker.compose.{one}"}}}}' for one in labels)]
    )
    listed = subprocess.run(
        ["docker", "ps", "--filter", f"name={of_functions}", "--format", shown],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert any(line.startswith(f"{of_functions}marketdata-test-api-") for line in listed)
    assert {tuple(line.split("\t")[1:]) for line in listed} == {
        (stack.project, "localstack", "True")
    }


def test_the_same_stack_again_changes_nothing(stack: StackInContainers) -> None:
    before = stack.description
    assert before["runs_in"] == RUNS_IN
    stack.up()
    assert stack.description == before


@pytest.mark.changes_the_stack
def test_the_address_stays_with_another_setting(stack: StackInContainers) -> None:
    before = stack.api_url
    stack.up(LOG_RETENTION_DAYS="7")
    assert stack.api_url == before
    assert stack.get("/health")["data"]["status"] == "ok"


def test_a_file_sent_with_a_form_is_loaded(
    stack: StackInContainers, database: Database[Any]
) -> None:
    # The form is for clients, who reach S3 elsewhere than functions do.
    form = requests.post(
        f"{stack.api_url}/uploads",
        json={"filename": "form.csv"},
        headers={"Authorization": f"Bearer {stack.token}"},
        timeout=60,
    ).json()
    assert form["url"].startswith(stack.description["aws_endpoint_url"])
    sent = requests.post(
        form["url"],
        data=form["fields"],
        files={"file": b"symbol,price_usd,timestamp\nFORM,1,2025-05-09\n"},
        timeout=60,
    )
    assert sent.ok, sent.text
    wait_for(
        lambda: database["runs"].find_one({"trigger": "upload", "ended_at": {"$ne": None}}),
        what="the run of the upload ends",
    )
    assert [one["price_usd"] for one in stack.get("/data?symbol=FORM")["data"]] == [1]
