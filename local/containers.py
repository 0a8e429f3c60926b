"""The stack in the containers of ``docker-compose.yml``, seen from the service ``deploy``.

Building, migrating, deploying and describing are those of the stack without Docker. Different are
what starts and ends the parts, which is Docker's business, and some addresses: the functions reach
MongoDB and the replay server by the names of their services.
"""

import contextlib
import json
import os
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from local.build import build
from local.client import ApiError, Client
from local.commands import show_addresses
from local.console import Screen
from local.contents import Contents, contents_of_vendored
from local.errors import LocalError, NotReadyError
from local.processes import write_atomically
from local.settings import ROOT, Settings
from local.stack import RUNS_IN, Stack
from local.upstream import Choice, choose
from local.vendoring import vendor
from marketdata.masking import masked

CLONE = Path("/clone")
"""Where ``docker-compose.yml`` mounts the clone."""

MONGODB = "mongodb://mongodb:27017/?directConnection=true"
"""The database as functions reach it."""

REPLAY = "http://replay:8099"
"""The replay server as functions reach it."""

SIGNS_UPLOADS = "ControlFunction"
"""The function whose URLs of S3 go to clients, who reach LocalStack where this machine does."""

RESTART_SECONDS = 90
POLL_SECONDS = 0.2


class ContainerStack(Stack):
    """The stack of one compose project."""

    def __init__(self, settings: Settings, screen: Screen) -> None:
        self.published = settings.mongodb_uri or (
            f"mongodb://127.0.0.1:{settings.mongodb_port}/?directConnection=true"
        )
        super().__init__(
            settings.model_copy(update={"mongodb_uri": settings.mongodb_uri or MONGODB}), screen
        )

    @property
    def shared_file(self) -> Path:
        """``stack.json`` in the clone."""
        return CLONE / self.file.relative_to(ROOT)

    def up(self) -> dict[str, Any]:
        """Build and deploy what has changed. Returns what ``stack.json`` says.

        Raises:
            LocalError: it could not be done.
        """
        with self.alone():
            self._check_that_no_other_stack_is_up()
            with self.screen.step("building the template (sam build)") as step:
                built, anew = build(self.runner("build", step))
                step.done("built the template" if anew else "the template has not changed")
            with self.screen.step("packing the layers into the functions") as step:
                signing = {SIGNS_UPLOADS: {"AWS_ENDPOINT_URL_S3": self.localstack.address}}
                self._vendored = vendor(built, signing)
                step.done(f"{len(self._vendored.code)} functions packed")
            self._await_mongodb()
            self._migrate()
            choices = {name: _by_service(one) for name, one in choose(self.settings).items()}
            self._say_what_is_replayed(choices)
            outputs = self._deploy(self._vendored.folder, choices)
            description = self._describe(outputs, choices)
            self._publish(description)
            return description

    def _check_that_no_other_stack_is_up(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            other = json.loads(self.shared_file.read_text("utf-8"))
            if isinstance(other, dict) and other.get("runs_in") != RUNS_IN:
                raise LocalError(
                    f"{self.file.relative_to(ROOT)} belongs to a stack without Docker; stop that"
                    " with `make down`, or use another folder: LOCAL_STATE_DIR=.local/containers"
                )

    def _say_what_is_replayed(self, choices: Mapping[str, Choice]) -> None:
        for choice in choices.values():
            if choice.kind == "replay":
                why = choice.reason or "UPSTREAM=replay is set"
                self.screen.say(
                    f"  {masked(choice.instead_of)}: {why}; sample data takes its place"
                )

    # --- deploy -------------------------------------------------------------------------------

    def _contents(self, built: Path) -> Contents:  # noqa: ARG002 - its copy without layers
        return contents_of_vendored(self._vendored)

    def _restart_localstack(self) -> None:
        """Begin with an empty LocalStack, in the same container.

        What was in its buckets is gone: its free edition keeps nothing.
        """
        before = self._session()
        request = urllib.request.Request(  # noqa: S310 - LocalStack's own address
            f"{self.localstack.address}/_localstack/health",
            data=b'{"action": "restart"}',
            headers={"Content-Type": "application/json"},
        )
        # It may end before it has answered.
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10):  # noqa: S310
            pass
        self._deployed.unlink(missing_ok=True)
        deadline = time.monotonic() + RESTART_SECONDS
        while self._session() in {before, None} or not self.localstack.healthy():
            if time.monotonic() > deadline:
                raise NotReadyError(
                    f"LocalStack did not restart within {RESTART_SECONDS} s;"
                    " see `docker compose logs localstack`"
                )
            time.sleep(POLL_SECONDS)

    def _session(self) -> str | None:
        """Return what tells one start of LocalStack from another; None while it is down."""
        url = f"{self.localstack.address}/_localstack/info"
        try:
            with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310
                return str(json.load(response)["session_id"])
        except (OSError, ValueError, KeyError):
            return None

    # --- stack.json ---------------------------------------------------------------------------

    def _describe(
        self, outputs: Mapping[str, str], choices: Mapping[str, Choice]
    ) -> dict[str, Any]:
        return {
            **super()._describe(outputs, choices),
            "mongodb_uri": self.published,
            "runs_in": RUNS_IN,
            "logs": "`docker compose logs`",
        }

    def _publish(self, description: Mapping[str, Any]) -> None:
        """Write ``stack.json`` into the clone, as its owner's."""
        owner = CLONE.stat()
        folder = self.shared_file.parent
        made = [one for one in (folder.parent, folder) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.shared_file, json.dumps(description, indent=2) + "\n", mode=0o600)
        for path in (*made, self.shared_file):
            os.chown(path, owner.st_uid, owner.st_gid)


def _by_service(choice: Choice) -> Choice:
    if choice.kind != "replay":
        return choice
    return replace(choice, url=REPLAY + urlsplit(choice.url).path)


def compose_deploy(settings: Settings, screen: Screen) -> None:
    """Deploy to LocalStack in a container; the service `deploy` of docker-compose.yml does it.

    Raises:
        LocalError: it could not be done, or the API does not answer.
    """
    stack = ContainerStack(settings, screen)
    description = stack.up()
    with screen.step("checking that the API answers") as step:
        try:
            health = Client(description["api_url"], description["refresh_token"]).get("/health")
        except ApiError as error:
            raise LocalError(
                f"the API does not answer: {error}. See `docker compose logs localstack`"
            ) from error
        step.done(f"the API answers: {health.get('status')}")
    show_addresses(screen, description, stack.file)
