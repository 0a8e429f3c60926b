"""Deploys the built template to LocalStack and puts into the secret what the functions need."""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from local.build import Runner, architecture, sam, tool_environment
from local.errors import CommandError, LocalError
from local.processes import write_atomically
from local.settings import ROOT, Settings
from local.upstream import Choice, of_samples
from local.vendoring import of_type, read_built_template

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""LocalStack takes any; real ones never reach it."""

ARTIFACTS_PREFIX = "artifacts-"
"""Buckets with code, which nobody needs after the deployment; their names begin so."""

# SAM puts it behind the logical id of a layer.
_LAYER_HASH = re.compile(r"[0-9a-f]{10}$")
_COMPLETE = {"CREATE_COMPLETE", "UPDATE_COMPLETE"}

API = "AWS::Serverless::Api"

# LocalStack takes the value of this tag as the id of what it creates.
_ID_TAG = "_custom_id_"
_ID_LENGTH = 10  # as AWS's own


class Deployment:
    """The project's CloudFormation stack in one LocalStack."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    # --- what is there ------------------------------------------------------------------------

    def _session(self) -> boto3.Session:
        return boto3.Session(
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106 - LocalStack takes any
            region_name=self.settings.aws_region,
        )

    def _config(self) -> Config:
        return Config(connect_timeout=2, read_timeout=60, retries={"total_max_attempts": 2})

    def _cloudformation(self) -> "CloudFormationClient":
        return self._session().client(
            "cloudformation", endpoint_url=self.settings.address, config=self._config()
        )

    def _secretsmanager(self) -> "SecretsManagerClient":
        return self._session().client(
            "secretsmanager", endpoint_url=self.settings.address, config=self._config()
        )

    def outputs(self) -> dict[str, str] | None:
        """Return the stack's outputs, or None when it is not there or not complete."""
        try:
            answer = self._cloudformation().describe_stacks(StackName=self.settings.stack_name)
        except (ClientError, BotoCoreError):
            return None
        stack = answer["Stacks"][0]
        if stack["StackStatus"] not in _COMPLETE:
            return None
        return {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", [])}

    # --- what is wanted -----------------------------------------------------------------------

    def refresh_token(self) -> str:
        """Return the token that ``POST /refresh`` asks for; made once per state folder."""
        file = self.settings.local_state_dir / "refresh-token"
        try:
            return file.read_text("utf-8").strip()
        except FileNotFoundError:
            token = secrets.token_urlsafe(24)
            write_atomically(file, token + "\n", mode=0o600)
            return token

    def secret(self, mongodb_uri: str) -> dict[str, str]:
        """Return what the stack's secret holds."""
        return {
            "mongodb_uri": mongodb_uri,
            "refresh_token": self.refresh_token(),
            **key_values(self.settings),
        }

    def parameters(
        self, choices: Mapping[str, Choice], secret: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the template parameters to deploy with.

        The version of the settings is a hash of the secret: when a value in it changes, the
        functions get another environment, start afresh and read it again.
        """
        version = hashlib.sha256(json.dumps(secret, sort_keys=True).encode()).hexdigest()[:12]
        wanted = {
            **self.settings.overrides,
            "Environment": "local",
            "Architecture": architecture(),
            "SettingsVersion": version,
            **{name: choice.url for name, choice in choices.items()},
            **of_samples(self.settings, choices),
        }
        return {name: value for name, value in wanted.items() if name in self.settings.parameters}

    # --- deploy -------------------------------------------------------------------------------

    def deploy(self, build: Path, parameters: Mapping[str, str], run: Runner) -> None:
        """Create or update the stack from a build.

        Raises:
            CommandError: SAM could not deploy; the message has its output.
        """
        bucket = self._artifacts_bucket()
        template = template_with_ids(build, self.settings.stack_name)
        command = [
            *sam(),
            "deploy",
            "--config-file",
            str(ROOT / "samconfig.toml"),
            "--config-env",
            "local",
            "--template-file",
            str(template),
            "--stack-name",
            self.settings.stack_name,
            "--region",
            self.settings.aws_region,
            "--no-resolve-s3",
            "--s3-bucket",
            bucket,
            "--capabilities",
            "CAPABILITY_IAM",
            "--no-confirm-changeset",
            "--no-fail-on-empty-changeset",
            "--no-progressbar",
            "--parameter-overrides",
            *(f"{name}={quoted(value)}" for name, value in sorted(parameters.items())),
        ]
        inherited = tool_environment(architecture())
        environment = {
            **{name: one for name, one in inherited.items() if not name.startswith("AWS_")},
            **CREDENTIALS,
            "AWS_DEFAULT_REGION": self.settings.aws_region,
            "AWS_ENDPOINT_URL": self.settings.address,
            # Seconds between two looks at the deployment; LocalStack has no limit of requests.
            "SAM_CLI_POLL_DELAY": "0.3",
            # Whatever profile the user has, this never talks to a real account.
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        run(command, environment)

    def _artifacts_bucket(self) -> str:
        """Make the bucket that SAM uploads code to, which takes SAM itself fifteen seconds."""
        name = f"{ARTIFACTS_PREFIX}{self.settings.stack_name.lower()}"
        client = self._session().client(
            "s3", endpoint_url=self.settings.address, config=self._config()
        )
        try:
            client.create_bucket(Bucket=name)
        except client.exceptions.BucketAlreadyOwnedByYou:
            pass
        except (ClientError, BotoCoreError) as error:
            raise LocalError(f"the bucket {name} could not be created: {error}") from error
        return name

    def put_secret(self, arn: str, secret: Mapping[str, str]) -> None:
        """Put the values into the stack's secret.

        Raises:
            LocalError: LocalStack refused.
        """
        try:
            self._secretsmanager().put_secret_value(
                SecretId=arn, SecretString=json.dumps(dict(secret))
            )
        except (ClientError, BotoCoreError) as error:
            raise LocalError(f"the stack's secret could not be written: {error}") from error

    def update_code(self, code: Mapping[str, Path]) -> None:
        """Give functions and layers of the stack other code, without a deployment.

        Args:
            code: a ZIP file for each logical id.

        Raises:
            LocalError: LocalStack refused.
        """
        try:
            answer = self._cloudformation().describe_stack_resources(
                StackName=self.settings.stack_name
            )
            functions, layers = {}, {}
            for one in answer["StackResources"]:
                name, there = one["LogicalResourceId"], one["PhysicalResourceId"]
                if one["ResourceType"] == "AWS::Lambda::Function":
                    functions[name] = there
                elif one["ResourceType"] == "AWS::Lambda::LayerVersion":
                    layers[_LAYER_HASH.sub("", name)] = there.rpartition(":")[0]
            client = self._session().client(
                "lambda", endpoint_url=self.settings.address, config=self._config()
            )
            versions = {}
            for name in code.keys() & layers.keys():
                published = client.publish_layer_version(
                    LayerName=layers[name].rpartition(":")[2],
                    Content={"ZipFile": code[name].read_bytes()},
                )
                versions[layers[name]] = published["LayerVersionArn"]
            changed = {name: file for name, file in code.items() if name not in layers}
            for name, file in changed.items():
                client.update_function_code(FunctionName=functions[name], ZipFile=file.read_bytes())
            _await_update(client, [functions[name] for name in changed])
            if versions:
                _use_layers(client, list(functions.values()), versions)
        except (ClientError, BotoCoreError, WaiterError, KeyError) as error:
            raise LocalError(f"the functions' code could not be updated: {error}") from error

    def require_outputs(self) -> dict[str, str]:
        """Return the stack's outputs.

        Raises:
            CommandError: the stack is not complete although SAM said that it deployed it.
        """
        outputs = self.outputs()
        if outputs is None:
            raise CommandError(
                f"stack {self.settings.stack_name} is not complete after its deployment"
            )
        return outputs


def template_with_ids(build: Path, stack_name: str) -> Path:
    """Write a build's template once more, with a fixed id for each API; returns the file.

    LocalStack forgets a stack when it ends, and begins empty where settings have changed. With an
    id of chance the API would have another address each time. This one follows from the stack's
    name. The file is in the build's folder, since the template names others relative to it.
    """
    template = read_built_template(build)
    for name, api in of_type(template, API).items():
        properties = api["Properties"]
        properties["Tags"] = {**properties.get("Tags", {}), _ID_TAG: api_id(stack_name, name)}
        # Else SAM gives tags to the stage alone.
        properties["PropagateTags"] = True
    file = build / f"template-{stack_name}.yaml"
    write_atomically(file, yaml.safe_dump(template, sort_keys=False))
    return file


def api_id(stack_name: str, logical_id: str) -> str:
    """Return the id of an API in LocalStack, which is a part of its address."""
    return hashlib.sha256(f"{stack_name}/{logical_id}".encode()).hexdigest()[:_ID_LENGTH]


def _await_update(client: "LambdaClient", functions: Iterable[str]) -> None:
    for name in functions:
        client.get_waiter("function_updated_v2").wait(
            FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )


def _use_layers(
    client: "LambdaClient", functions: Iterable[str], versions: Mapping[str, str]
) -> None:
    """Give functions other versions of the layers that they have, by the layers' ARNs."""
    changed = []
    for name in functions:
        answer = client.get_function_configuration(FunctionName=name)
        before = [layer["Arn"] for layer in answer.get("Layers", [])]
        after = [versions.get(arn.rpartition(":")[0], arn) for arn in before]
        if after != before:
            client.update_function_configuration(FunctionName=name, Layers=after)
            changed.append(name)
    _await_update(client, changed)


def key_values(settings: Settings) -> dict[str, str]:
    """Return the sources' API keys as they stand in a secret; empty where none is set."""
    keys = {
        "coingecko_api_key": settings.coingecko_api_key,
        "coinpaprika_api_key": settings.coinpaprika_api_key,
    }
    return {name: key.get_secret_value() if key else "" for name, key in keys.items()}


def quoted(value: str) -> str:
    """Quote a parameter's value for SAM's ``Name=Value`` notation, which splits at spaces."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
