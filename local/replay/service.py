"""The replay server as a part of the stack."""

import hashlib
import json
import os
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from local.processes import Part, require_free_port
from local.replay.server import HEALTH_PATH
from local.settings import ROOT

READY_SECONDS = 20
STOP_SECONDS = 5


@dataclass
class Replay:
    """The replay server of one stack.

    Attributes:
        state: the stack's state folder.
        port: on the loopback interface.
        requests_per_minute: how many requests each API takes in a minute; 0 for any number.
    """

    state: Path
    port: int
    requests_per_minute: int = 0

    def __post_init__(self) -> None:
        self.part = Part("replay", self.state)

    def start(self) -> bool:
        """Start it unless it runs already with the same code, port and quota.

        Returns whether this call started it.

        Raises:
            PortTakenError: something else has the port.
        """
        code = hashlib.sha256(f"{self.port} {self.requests_per_minute}".encode())
        for file in sorted(Path(__file__).parent.glob("*.py")):
            code.update(file.read_bytes())
        fingerprint = code.hexdigest()
        if self.part.process() is not None:
            if self.part.fingerprint == fingerprint:
                return False
            self.stop()
        require_free_port(self.port, part="the replay server", setting="REPLAY_PORT")
        command = [sys.executable, "-m", "local.replay", "--port", str(self.port)]
        command += ["--requests-per-minute", str(self.requests_per_minute)]
        self.part.start(command, env=dict(os.environ), cwd=ROOT, fingerprint=fingerprint)
        return True

    def wait_until_ready(self) -> None:
        """Wait until it answers.

        Raises:
            PartDiedError: it ended meanwhile.
            NotReadyError: it does not answer in time.
        """
        self.part.wait_until_ready(self.healthy, READY_SECONDS, "answer to a health check")

    def stop(self) -> bool:
        """End it. Returns whether it was running."""
        return self.part.stop(STOP_SECONDS)

    def healthy(self) -> bool:
        """Return whether it answers."""
        url = f"http://127.0.0.1:{self.port}{HEALTH_PATH}"
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                answer = json.load(response)
        except (OSError, ValueError):
            return False
        return bool(answer.get("status") == "ok")
