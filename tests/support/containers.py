"""The stack of docker-compose.yml for end-to-end tests, and the same with its API under SAM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from local.errors import PartDiedError
from local.processes import free_port, tail
from local.settings import ROOT
from tests.support.stack import StackUnderTest
from tests.support.waiting import PATIENCE, wait_for

# What of the local tool does for containers what it does for processes under the other name.
COMMANDS = {"up": "compose-up", "down": "compose-down"}


@dataclass
class StackInContainers(StackUnderTest):
    """A compose project of its own, with its own ports; its tools and builds are kept."""

    def __post_init__(self) -> None:
        self.settings["COMPOSE_PROJECT_NAME"] = self.project

    @property
    def project(self) -> str:
        return os.environ.get("COMPOSE_PROJECT_NAME", "marketdata-test")

    def command(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        first, *others = words
        return super().command(COMMANDS.get(first, first), *others, **settings)

    def down(self) -> None:
        super().down()
        command = ["docker", "ps", "--all", "--quiet", "--filter", f"name=^/?{self.project}-"]
        left = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert not left, f"containers of {self.project} are left behind: {left}"
        # The next session begins with an empty database; tools and builds stay.
        subprocess.run(
            ["docker", "volume", "rm", "--force", f"{self.project}_mongodb"],
            check=True,
            capture_output=True,
        )


@dataclass
class ApiUnderSam(StackInContainers):
    """The same, but its API is asked under ``sam local start-api``."""

    process: subprocess.Popen[bytes] | None = None

    def up(self, **settings: str) -> None:
        self._end()
        super().up(**settings)
        port = self.settings.setdefault("SAM_PORT", str(free_port()))
        log = self.state / "sam-api.log"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "local", "sam-api"],
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.description = {**self.description, "api_url": f"http://127.0.0.1:{port}"}
        wait_for(lambda: self._answers(log), what=f"sam local start-api answers, see {log}")

    def down(self) -> None:
        self._end()
        super().down()

    def _answers(self, log: Path) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise PartDiedError(f"sam local start-api has ended:\n{tail(log, 30)}")
        try:
            return self.request("GET", "/health").status == 200
        except OSError:
            return False

    def _end(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60 * PATIENCE)
        self.process = None
