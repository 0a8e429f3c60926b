"""The complete local stack for end-to-end tests, with ports, data and a name of its own.

@pytest.fixture(scope="session")
def stack() -> Iterator[StackUnderTest]:
    with running_stack(COINGECKO_API_URL=upstream.url) as stack:
        yield stack
"""

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3

from local.parameters import read_parameters
from local.processes import free_port
from local.replay.server import ReplayServer
from local.settings import ROOT, setting_names
from tests.support.mongod import state_folder
from tests.support.network import known_as, listen_on, stack_kind
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

COMMAND_SECONDS = 240 * PATIENCE


@dataclass(frozen=True)
class Answer:
    """What the API answered; header names in lower case."""

    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass
class StackUnderTest:
    """A stack that is up.

    Attributes:
        settings: the variables that it was brought up with.
        description: what its stack.json says.
    """

    settings: dict[str, str]
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """Folder of its data and logs."""
        return ROOT / self.settings["LOCAL_STATE_DIR"]

    @property
    def api_url(self) -> str:
        return str(self.description["api_url"])

    @property
    def mongodb_uri(self) -> str:
        return str(self.description["mongodb_uri"])

    @property
    def database(self) -> str:
        return str(self.description["mongodb_database"])

    @property
    def token(self) -> str:
        """For ``POST /refresh`` and everything else that changes something."""
        return str(self.description["refresh_token"])

    def boto3_options(self) -> dict[str, str]:
        """Return what ``boto3.client`` needs to talk to this stack."""
        return {
            "endpoint_url": str(self.description["aws_endpoint_url"]),
            "region_name": str(self.description["region"]),
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }

    def empty_bucket(self) -> None:
        """Delete all versions of all uploads."""
        s3: S3Client = boto3.client("s3", **self.boto3_options())  # type: ignore[call-overload]
        bucket = self.description["bucket"]
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                s3.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the variables for ``python -m local``; ``settings`` come on top of its own."""
        # Neither the settings of who runs the tests nor a .env in the clone may change them.
        known = setting_names() | {"ENV_FILE"}
        clean = {name: value for name, value in os.environ.items() if name not in known}
        return {**clean, "ENV_FILE": os.devnull, **self.settings, **settings}

    def command(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m local`` for this stack; ``settings`` come on top of its own."""
        return subprocess.run(
            [sys.executable, "-m", "local", *words],
            cwd=ROOT,
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    def up(self, **settings: str) -> None:
        """Bring it up, or give it further settings."""
        self.settings.update(settings)
        result = self.command("up")
        if result.returncode != 0:
            raise AssertionError(f"the stack did not come up:\n{result.stdout}{result.stderr}")
        self.description = json.loads((self.state / "stack.json").read_text("utf-8"))

    def down(self) -> None:
        """End all its processes; its data stays."""
        result = self.command("down")
        if result.returncode != 0:
            raise AssertionError(f"the stack did not end:\n{result.stdout}{result.stderr}")

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Ask the API through the local gateway; an error status is an answer too."""
        request = urllib.request.Request(  # noqa: S310 - the local gateway
            self.api_url + path,
            data=body,
            method=method,
            headers={"Accept": "application/json", **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                status, raw, got = response.status, response.read(), response.headers
        except urllib.error.HTTPError as error:
            with error:
                status, raw, got = error.code, error.read(), error.headers
        is_json = got.get_content_type().endswith("json")
        body = json.loads(raw) if is_json and raw else raw.decode("utf-8", errors="replace")
        return Answer(status, body, {name.lower(): value for name, value in got.items()})

    def get(self, path: str) -> Any:
        """Return the body at a path, which must be there."""
        answer = self.request("GET", path)
        assert answer.status == HTTPStatus.OK, f"{path}: {answer.status} {answer.body}"
        return answer.body

    def refresh(self) -> dict[str, Any]:
        """Start a run and return it when it has ended."""
        runs = self.state / "last-run.json"
        runs.unlink(missing_ok=True)
        result = self.command("refresh")
        if not runs.exists():
            raise AssertionError(f"no run was made:\n{result.stdout}{result.stderr}")
        run: dict[str, Any] = json.loads(runs.read_text("utf-8"))
        return run


def isolated_settings() -> dict[str, str]:
    """Return the settings of a stack that shares nothing with another."""
    return {
        "LOCAL_STATE_DIR": str(state_folder().relative_to(ROOT)),
        "STACK_NAME": "marketdata-test",
        "MONGODB_PORT": str(free_port()),
        "LOCALSTACK_PORT": str(free_port()),
        "REPLAY_PORT": str(free_port()),
        "MONGODB_CACHE_GB": "0.25",
        "SCHEDULE": _far_off(),
    }


def _far_off() -> str:
    """A schedule that is half a day away.

    LocalStack fires a rule of every hour within the last minute before the hour, and a run that
    comes of itself holds the sources that a test wants.
    """
    return f"cron(30 {(datetime.now(UTC).hour + 12) % 24} * * ? *)"


@contextmanager
def running_stack(**settings: str) -> Iterator[StackUnderTest]:
    """Bring a stack up on free ports and always take it down; ``settings`` by variable name.

    Any parameter of the template can be set: ``running_stack(SCHEDULE="rate(1 minute)")``. Sources
    whose address is not set read sample data; nothing is asked for outside this machine.
    """
    with ExitStack() as cleanup:
        addresses = {name for name in setting_names() if name.endswith("_API_URL")}
        if addresses & settings.keys():
            samples = cleanup.enter_context(_samples())
            settings = {
                **{name: samples[name] for name in addresses},
                **settings,
            }
        else:
            settings = {"UPSTREAM": "replay", **settings}
        yield cleanup.enter_context(_up(settings))


@contextmanager
def _samples() -> Iterator[dict[str, str]]:
    """Serve the samples from this process. Yields their addresses by variable name."""
    defaults = {
        parameter.variable: parameter.default or ""
        for parameter in read_parameters(ROOT / "template.yaml").values()
    }
    with ReplayServer((listen_on(), 0)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        base = f"http://{known_as()}:{server.server_address[1]}"
        yield {name: base + urlsplit(url).path for name, url in defaults.items()}
        server.shutdown()
        thread.join()


def _kind() -> type[StackUnderTest]:
    """Return the class of TEST_STACK's stack."""
    if stack_kind() == "processes":
        return StackUnderTest
    # Only then: it is a subclass of what is defined here.
    from tests.support.containers import ApiUnderSam, StackInContainers  # noqa: PLC0415

    return {"containers": StackInContainers, "sam": ApiUnderSam}[stack_kind()]


@contextmanager
def _up(settings: Mapping[str, str]) -> Iterator[StackUnderTest]:
    stack = _kind()({**isolated_settings(), **settings})
    stack.down()  # what a killed session has left
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
