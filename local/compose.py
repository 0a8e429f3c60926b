"""The containers of ``docker-compose.yml``, seen from this machine."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from local.console import Screen
from local.errors import CommandError, LocalError
from local.settings import ROOT, Settings, read_dotenv, setting_names
from local.stack import Stack

_LABELS = "com.docker.compose"
REMOVE_SECONDS = 90
POLL_SECONDS = 0.5

# Docker itself needs these from what Settings reads, the service `deploy` all others.
_NOT_FOR_DEPLOY = {"LOCAL_STATE_DIR", "LOCALSTACK_PORT", "MONGODB_PORT", "REPLAY_PORT"}


class Compose:
    """One compose project: by default it has the name of the clone's folder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        file = ROOT / (os.environ.get("ENV_FILE") or ".env")
        self._file = str(file if file.is_file() else os.devnull)
        known = setting_names()
        self._values = {
            name: value
            for values in (read_dotenv(file), os.environ)
            for name, value in values.items()
            if name in known and value.strip()
        }

    def run(self, *words: str) -> None:
        """Run ``docker compose`` on the terminal.

        Raises:
            CommandError: it failed; what is on the terminal says why.
        """
        status = subprocess.run(
            self._command(*words), cwd=ROOT, env=self._environment(), check=False
        ).returncode
        if status != 0:
            raise CommandError(
                f"docker compose {words[0]} failed (exit status {status}), see above"
            )

    def ask(self, *words: str) -> str:
        """Run ``docker compose`` and return what it printed.

        Raises:
            CommandError: it failed; with what it said.
        """
        result = subprocess.run(
            self._command(*words),
            cwd=ROOT,
            env=self._environment(),
            check=False,
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            raise CommandError(f"docker compose {words[0]} failed: {result.stderr.strip()}")
        return result.stdout

    def deploy(self) -> None:
        """Run the service that builds and deploys, with all settings of this process.

        Raises:
            CommandError: it failed.
        """
        # By name only: a value in the arguments could be read by everybody on this machine.
        names = sorted(self._values.keys() - _NOT_FOR_DEPLOY)
        given = [word for name in names for word in ("--env", name)]
        self.run("run", "--rm", "--no-deps", "--env", "ENV_FILE=/dev/null", *given, "deploy")

    def end_functions(self) -> None:
        """End LocalStack, which removes the containers of its functions, and those that it leaves.

        It leaves those that it is not given the time for. Some of them may be on their way out
        still, which `docker compose down` takes for an error.

        Raises:
            CommandError: LocalStack could not be ended, or a container stays.
        """
        self.run("stop", "localstack")
        project = self._configuration()["name"]
        labels = (f"project={project}", "service=localstack", "oneoff=True")
        filters = [word for one in labels for word in ("--filter", f"label={_LABELS}.{one}")]
        deadline = time.monotonic() + REMOVE_SECONDS
        while left := _docker("ps", "--all", "--quiet", *filters).stdout.split():
            removed = _docker("rm", "--force", *left, check=False)
            if time.monotonic() > deadline:
                raise CommandError(
                    f"containers of functions could not be removed: {removed.stderr.strip()}"
                )
            time.sleep(POLL_SECONDS)

    def network(self) -> str:
        """Return the name of the network that the containers are in."""
        name: str = self._configuration()["networks"]["default"]["name"]
        return name

    def _configuration(self) -> dict[str, Any]:
        configuration: dict[str, Any] = json.loads(self.ask("config", "--format", "json"))
        return configuration

    def _command(self, *words: str) -> list[str]:
        # Compose would read .env by itself, also where another file was named.
        return ["docker", "compose", "--env-file", self._file, *words]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self._values}


def _docker(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(["docker", *words], check=False, capture_output=True, text=True)
    if check and result.returncode != 0:
        raise CommandError(f"docker {words[0]} failed: {result.stderr.strip()}")
    return result


def require_docker() -> None:
    """Check that the Docker engine answers and Compose is there.

    Raises:
        LocalError: says what is missing.
    """
    if shutil.which("docker") is None:
        raise LocalError(
            "there is no `docker` here; install Docker, or use the stack without it: `make run`"
        )
    for command, missing in (
        (["docker", "info"], "the Docker engine does not answer"),
        (["docker", "compose", "version"], "Docker Compose v2 is missing (a plugin of docker)"),
    ):
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode != 0:
            raise LocalError(f"{missing}: {result.stderr.strip() or result.stdout.strip()}")


def require_stack(settings: Settings, screen: Screen) -> Mapping[str, Any]:
    """Return what ``stack.json`` of the stack in containers says.

    Raises:
        LocalError: it is not up, or another one is.
    """
    stack = Stack(settings, screen)
    description = stack.description()
    if description is None or not stack.in_containers:
        raise LocalError("the stack in containers is not running; start it with `make compose-up`")
    return description


def compose_up(settings: Settings, screen: Screen) -> None:
    """Start the stack in containers, or deploy to it what has changed."""
    require_docker()
    compose = Compose(settings)
    screen.heading("Starting the containers")
    compose.run("up", "--detach", "--wait", "mongodb", "localstack")
    screen.heading("Deploying")
    compose.deploy()
    compose.run("up", "--detach", "--wait", "--no-deps", "replay")


def compose_down(settings: Settings, screen: Screen) -> None:
    """End the containers; the database's volume stays."""
    _end(settings, screen)


def compose_clean(settings: Settings, screen: Screen) -> None:
    """End the containers and remove their volumes: the database, builds and tools."""
    _end(settings, screen, "--volumes")


def _end(settings: Settings, screen: Screen, *options: str) -> None:
    require_docker()
    compose = Compose(settings)
    compose.end_functions()
    compose.run("down", "--remove-orphans", *options)
    stack = Stack(settings, screen)
    if stack.in_containers:
        stack.file.unlink(missing_ok=True)
