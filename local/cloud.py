"""Deploys to AWS, for ``make deploy``: build, ``sam deploy``, the secret, the migrations."""

import hashlib
import json
import os
import sys
import tomllib
from collections.abc import Mapping
from typing import Any, Protocol

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from local.build import build, sam, tool_environment
from local.console import Screen
from local.deploy import key_values, quoted
from local.errors import LocalError, SettingError
from local.settings import ROOT, Settings
from local.stack import run_in_foreground

FIRST_VERSION = "0"
"""The version of the settings while the secret has only what the template puts in."""


def deploy_to_aws(settings: Settings, screen: Screen, environment: str) -> None:
    """Deploy to the account that AWS's usual variables and files name.

    Args:
        settings: from the environment alone. Template parameters in it go before those of
            samconfig.toml; MONGODB_URI and API keys, where set, get into the stack's secret.
        screen: to tell about it on.
        environment: a table of samconfig.toml, such as ``dev`` or ``prod``.

    Raises:
        SettingError: there is no such environment, or MONGODB_URI is not set.
        LocalError: AWS refused.
    """
    table = _table(environment)
    if settings.mongodb_uri is None:
        raise SettingError(
            "MONGODB_URI is not set in the environment, and the functions and migrations need it."
            " (`make deploy` does not read .env, which is for the local stack.)"
        )
    values = {"mongodb_uri": settings.mongodb_uri, **key_values(settings)}
    parameters = {
        **dict(pair.split("=", 1) for pair in table["deploy"]["parameter_overrides"].split()),
        **settings.overrides,
    }
    machine = parameters.get("Architecture", "arm64")
    screen.heading(f"Building for {machine}")
    built, _ = build(run_in_foreground, machine)
    # First the database: the new code never meets collections that it does not know.
    screen.heading("Making collections and indexes")
    _migrate(settings)

    def deploy(version: str, *options: str) -> None:
        wanted = {**parameters, "SettingsVersion": version}
        command = [
            *sam(),
            "deploy",
            "--config-file",
            str(ROOT / "samconfig.toml"),
            "--config-env",
            environment,
            "--template-file",
            str(built / "template.yaml"),
            *options,
            "--parameter-overrides",
            *(f"{name}={quoted(value)}" for name, value in sorted(wanted.items())),
        ]
        run_in_foreground(command, tool_environment(machine))

    screen.heading(f"Deploying {table['global']['stack_name']}")
    outputs = deploy_around_the_secret(AwsStack(table["global"]), values, deploy)
    for name, value in outputs.items():
        screen.say(f"  {name:<18} {value}")


class Deploy(Protocol):
    """Deploys the stack."""

    def __call__(self, version: str, *options: str) -> None:
        """Deploy with this version of the settings, and further options of ``sam deploy``."""


class AwsStack:
    """A stack in the account that AWS's usual variables and files name.

    Every method raises a LocalError when AWS refuses.
    """

    def __init__(self, stack: Mapping[str, str]) -> None:
        """Keep its ``stack_name`` and ``region``."""
        self._name = stack["stack_name"]
        self._session = boto3.Session(region_name=stack["region"])

    def outputs(self) -> dict[str, str]:
        """Return the stack's outputs; empty when it does not exist yet."""
        try:
            answer = self._session.client("cloudformation").describe_stacks(StackName=self._name)
        except ClientError as error:
            fault = error.response.get("Error", {})
            # There is no code of its own for it.
            if fault.get("Code") == "ValidationError" and "not exist" in fault.get("Message", ""):
                return {}
            raise LocalError(f"the stack {self._name} could not be read: {error}") from error
        except BotoCoreError as error:
            raise LocalError(f"the stack {self._name} could not be read: {error}") from error
        outputs = answer["Stacks"][0].get("Outputs", [])
        return {one["OutputKey"]: one["OutputValue"] for one in outputs}

    def put_secret(self, arn: str, values: Mapping[str, str]) -> str:
        """Put what is set into the secret, and keep the rest. Returns a hash of all it has then."""
        try:
            client = self._session.client("secretsmanager")
            old = json.loads(client.get_secret_value(SecretId=arn)["SecretString"])
            new = {**old, **{name: value for name, value in values.items() if value}}
            if new != old:
                client.put_secret_value(SecretId=arn, SecretString=json.dumps(new))
        except (ClientError, BotoCoreError) as error:
            raise LocalError(f"the stack's secret could not be written: {error}") from error
        return hashlib.sha256(json.dumps(new, sort_keys=True).encode()).hexdigest()[:12]


def deploy_around_the_secret(
    stack: AwsStack, values: Mapping[str, str], deploy: Deploy
) -> dict[str, str]:
    """Deploy so that no function that has the new version of the settings reads an old secret.

    The version is a hash of the secret. It reaches the functions, which then start afresh, only
    when the secret has been written. A stack that does not exist yet makes its secret itself; it
    is deployed a second time, with nothing but the version changed.

    Returns the stack's outputs.

    Raises:
        LocalError: AWS refused.
    """
    outputs = stack.outputs()
    if "SecretArn" in outputs:
        deploy(stack.put_secret(outputs["SecretArn"], values))
        return stack.outputs()
    deploy(FIRST_VERSION)
    outputs = stack.outputs()
    deploy(stack.put_secret(outputs["SecretArn"], values), "--no-confirm-changeset")
    return outputs


def _table(environment: str) -> dict[str, Any]:
    config = tomllib.loads((ROOT / "samconfig.toml").read_text("utf-8"))
    tables = {
        name: {command: body["parameters"] for command, body in commands.items()}
        for name, commands in config.items()
        if isinstance(commands, dict) and name not in {"default", "local"}
    }
    if environment not in tables:
        known = " or ".join(f"ENV={name}" for name in tables)
        raise SettingError(f"name the environment to deploy to: make deploy {known}")
    return tables[environment]


def _migrate(settings: Settings) -> None:
    database = {"MONGODB_URI": settings.mongodb_uri or "", "MONGODB_DATABASE": settings.database}
    command = [sys.executable, "-m", "marketdata.store.migrate"]
    run_in_foreground(command, {**os.environ, **database})
