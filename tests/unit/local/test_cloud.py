"""Deploying to AWS: what gets there, and in which order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from local import __main__ as entrance
from local.cloud import FIRST_VERSION, AwsStack, deploy_around_the_secret, deploy_to_aws
from local.console import Screen
from local.errors import LocalError, SettingError
from local.settings import ROOT, Settings

STACK = {"stack_name": "marketdata-dev", "region": "us-east-1"}
VALUES = {"mongodb_uri": "mongodb://new", "coingecko_api_key": ""}
NAME = "the-secret"


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


class Stack(AwsStack):
    """The stack exists when its secret does."""

    def outputs(self) -> dict[str, str]:
        client = boto3.client("secretsmanager", region_name=STACK["region"])
        found = client.list_secrets()["SecretList"]
        return {"SecretArn": found[0]["ARN"]} if found else {}


class Deployments:
    """Stands in for ``sam deploy``: makes the stack, and notes what the functions would read."""

    def __init__(self) -> None:
        self.made: list[tuple[str, tuple[str, ...], Mapping[str, str]]] = []

    def __call__(self, version: str, *options: str) -> None:
        if not Stack(STACK).outputs():
            boto3.client("secretsmanager", region_name=STACK["region"]).create_secret(
                Name=NAME, SecretString='{"mongodb_uri": "", "refresh_token": "generated"}'
            )
        self.made.append((version, options, secret()))


def secret() -> dict[str, str]:
    client = boto3.client("secretsmanager", region_name=STACK["region"])
    content: dict[str, str] = json.loads(client.get_secret_value(SecretId=NAME)["SecretString"])
    return content


def test_a_new_stack_gets_its_version_once_the_secret_is_written() -> None:
    deploy = Deployments()
    outputs = deploy_around_the_secret(Stack(STACK), VALUES, deploy)
    (first, _, before), (second, options, after) = deploy.made
    assert (first, before["mongodb_uri"]) == (FIRST_VERSION, "")
    assert second != first
    assert after == {"mongodb_uri": "mongodb://new", "refresh_token": "generated"}
    assert options == ("--no-confirm-changeset",)
    assert set(outputs) == {"SecretArn"}


def test_the_secret_of_a_stack_that_exists_is_written_first() -> None:
    Deployments()(FIRST_VERSION)
    deploy = Deployments()
    deploy_around_the_secret(Stack(STACK), VALUES, deploy)
    deploy_around_the_secret(Stack(STACK), VALUES, deploy)
    deploy_around_the_secret(Stack(STACK), {"mongodb_uri": "mongodb://newer"}, deploy)
    assert [read["mongodb_uri"] for _, _, read in deploy.made] == [
        "mongodb://new",
        "mongodb://new",
        "mongodb://newer",
    ]
    versions = [version for version, _, _ in deploy.made]
    assert versions[0] == versions[1] != versions[2]
    assert secret()["refresh_token"] == "generated"


def test_a_stack_that_does_not_exist_has_no_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = AwsStack(STACK)
    client = boto3.client("cloudformation", region_name=STACK["region"])
    monkeypatch.setattr(stack, "_session", SimpleNamespace(client=lambda _: client))
    with Stubber(client) as answers:
        answers.add_client_error(
            "describe_stacks", "ValidationError", "Stack with id marketdata-dev does not exist"
        )
        assert stack.outputs() == {}
        answers.add_client_error("describe_stacks", "AccessDenied", "not authorized")
        with pytest.raises(LocalError, match=r"marketdata-dev could not be read.*authorized"):
            stack.outputs()


def test_the_file_of_the_local_stack_is_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text("MONGODB_URI=mongodb://local\nSCHEDULE=rate(1 minute)\n")
    monkeypatch.setenv("ENV_FILE", str(file))
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    monkeypatch.delenv("MONGODB_URI", raising=False)
    given: list[Settings] = []
    monkeypatch.setattr(entrance, "deploy_to_aws", lambda settings, *_: given.append(settings))
    monkeypatch.setattr("sys.argv", ["local", "deploy", "dev"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert entrance.main() == 0
    assert given[0].mongodb_uri is None
    assert given[0].overrides["LogLevel"] == "DEBUG"
    assert "Schedule" not in given[0].overrides


def test_a_missing_uri_is_named_before_anything_is_done() -> None:
    settings = Settings.load({}, dotenv=ROOT / "no.env")
    with pytest.raises(SettingError, match="MONGODB_URI is not set in the environment"):
        deploy_to_aws(settings, Screen(), "dev")
