"""Deploys to AWS, for ``make deploy``: build, ``sam deploy``, the secret, the migrations."""

import hashlib
import json
import os
import sys
import tomllib
from collections.abc import Mapping
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from local.build import build, sam, tool_environment
from local.console import Screen
from local.deploy import key_values, quoted
from local.errors import LocalError, SettingError
from local.settings import ROOT, Settings
from local.stack import run_in_foreground


def deploy_to_aws(settings: Settings, screen: Screen, environment: str) -> None:
    """Deploy to the account that AWS's usual variables and files name.

    Args:
        settings: template parameters set in the environment go before those of samconfig.toml;
            MONGODB_URI and API keys, where set, get into the stack's secret.
        screen: to tell about it on.
        environment: a table of samconfig.toml, such as ``dev`` or ``prod``.

    Raises:
        SettingError: there is no such environment, or MONGODB_URI is not set.
        LocalError: AWS refused.
    """
    table = _table(environment)
    if settings.mongodb_uri is None:
        raise SettingError("MONGODB_URI is not set: the functions and the migrations need it")
    values = {"mongodb_uri": settings.mongodb_uri, **key_values(settings)}
    version = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    parameters = {
        **dict(pair.split("=", 1) for pair in table["deploy"]["parameter_overrides"].split()),
        **settings.overrides,
        "SettingsVersion": version,
    }
    machine = parameters.get("Architecture", "arm64")
    screen.heading(f"Building for {machine}")
    built, _ = build(run_in_foreground, machine)
    # First the database: the new code never meets collections that it does not know.
    screen.heading("Making collections and indexes")
    _migrate(settings)
    screen.heading(f"Deploying {table['global']['stack_name']}")
    command = [
        *sam(),
        "deploy",
        "--config-file",
        str(ROOT / "samconfig.toml"),
        "--config-env",
        environment,
        "--template-file",
        str(built / "template.yaml"),
        "--parameter-overrides",
        *(f"{name}={quoted(value)}" for name, value in sorted(parameters.items())),
    ]
    run_in_foreground(command, tool_environment(machine))
    outputs = _put_secret(table["global"], values)
    for name, value in outputs.items():
        screen.say(f"  {name:<18} {value}")


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


def _put_secret(stack: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Put what is set into the stack's secret, and keep the rest. Returns the stack's outputs."""
    session = boto3.Session(region_name=stack["region"])
    try:
        answer = session.client("cloudformation").describe_stacks(StackName=stack["stack_name"])
        outputs = {
            one["OutputKey"]: one["OutputValue"] for one in answer["Stacks"][0].get("Outputs", [])
        }
        client = session.client("secretsmanager")
        old = json.loads(client.get_secret_value(SecretId=outputs["SecretArn"])["SecretString"])
        new = {**old, **{name: value for name, value in values.items() if value}}
        if new != old:
            client.put_secret_value(SecretId=outputs["SecretArn"], SecretString=json.dumps(new))
    except (ClientError, BotoCoreError) as error:
        raise LocalError(f"the stack's secret could not be written: {error}") from error
    return outputs
