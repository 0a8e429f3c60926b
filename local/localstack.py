"""LocalStack in host mode, with the executor plugin that runs Lambda environments as processes."""

import hashlib
import json
import os
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.deploy import ARTIFACTS_PREFIX
from local.errors import LocalError
from local.processes import Part, require_free_port

READY_SECONDS = 90
STOP_SECONDS = 15

# What of the user's environment LocalStack and the functions need to reach the outside.
_PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
)


@dataclass
class LocalStack:
    """The LocalStack of one stack.

    Attributes:
        state: the stack's state folder.
        envs: the folder of the installed environments.
        port: on the loopback interface.
        region: of AWS, that everything is in.
        setting: the variable that sets the port, for messages.
    """

    state: Path
    envs: Path
    port: int
    region: str = "us-east-1"
    setting: str = "LOCALSTACK_PORT"

    def __post_init__(self) -> None:
        self.part = Part("localstack", self.state)

    @property
    def address(self) -> str:
        """For ``AWS_ENDPOINT_URL``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def home(self) -> Path:
        """LocalStack's own folder: caches and scratch files, nothing worth keeping."""
        return self.state / "localstack"

    @property
    def buckets(self) -> Path:
        """Folder that what is in the buckets is mirrored to."""
        return self.state / "s3"

    @property
    def console_log(self) -> Path:
        """File that the functions' own log lines go to."""
        return self.state / "logs" / "lambda.log"

    def _environment(self) -> dict[str, str]:
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        scratch = self.home / "tmp"
        return {
            **passed_on,
            "HOME": str(self.home / "home"),
            "XDG_CACHE_HOME": str(self.home / "home" / ".cache"),
            "TMPDIR": str(scratch),
            "FILESYSTEM_ROOT": str(self.home / "filesystem"),
            "PYTHONUNBUFFERED": "1",
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
            "LOCALSTACK_HOST": f"127.0.0.1:{self.port}",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            # Else, on a machine that is a container itself, all LocalStacks share one file, and
            # each writes it as it starts: one that reads it at that moment does not start.
            "CUSTOM_SSL_CERT_PATH": str(self.home / "server.pem"),
            "DISABLE_EVENTS": "1",
            "DNS_ADDRESS": "0",
            # A resource type that it cannot make is an error, not a silent success.
            "CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES": "0",
            # How often it looks at a resource before it waits a second between two looks, and how
            # often in all: on a busy machine a function can take longer than the first ones.
            "CFN_NO_WAIT_ITERATIONS": "200",
            "CFN_PER_RESOURCE_TIMEOUT": "1000",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": self.region,
            "LAMBDA_RUNTIME_EXECUTOR": "process",
            "PROCESS_EXECUTOR_PYTHON": str(self.envs / "runtime" / "bin" / "python"),
            "PROCESS_EXECUTOR_DIR": str(self.state / "lambda"),
            "PROCESS_EXECUTOR_LOG": str(self.console_log),
            "PROVIDER_OVERRIDE_S3": "durable",
            "DURABLE_S3_DIR": str(self.buckets),
            "DURABLE_S3_EXCLUDE": f"{ARTIFACTS_PREFIX}*,awslambda-*",
        }

    def _fingerprint(self, environment: dict[str, str]) -> str:
        stamp = self.envs / "localstack" / ".stamp"
        installed = stamp.read_text("utf-8") if stamp.exists() else ""
        known = json.dumps([environment, installed], sort_keys=True)
        return hashlib.sha256(known.encode()).hexdigest()

    def start(self) -> bool:
        """Start it unless it runs already with the same settings and plugin; does not wait for it.

        Returns whether this call started it.

        Raises:
            PortTakenError: something else has the port.
            NotReadyError: it cannot be executed.
            LocalError: it is not installed.
        """
        python = self.envs / "localstack" / "bin" / "python"
        if not python.exists():
            raise LocalError("LocalStack is not installed; `make up` installs it")
        environment = self._environment()
        fingerprint = self._fingerprint(environment)
        if self.part.process() is not None:
            if self.part.fingerprint == fingerprint:
                return False
            self.stop()
        require_free_port(self.port, part="LocalStack", setting=self.setting)
        # Its caches go with it: one of them lists the plugins that were installed when it was made.
        shutil.rmtree(self.home, ignore_errors=True)
        for folder in (environment["HOME"], environment["TMPDIR"], str(self.buckets)):
            Path(folder).mkdir(parents=True, exist_ok=True)
        self.part.start(
            # -P: this folder must not hide the package localstack behind a module of the same name.
            [python, "-P", Path(__file__).with_name("localstack_main.py")],
            env=environment,
            cwd=self.home,
            fingerprint=fingerprint,
        )
        return True

    def wait_until_ready(self) -> None:
        """Wait until it answers and has done what it does at start.

        Raises:
            PartDiedError: it ended meanwhile.
            NotReadyError: it does not answer in time.
        """
        self.part.wait_until_ready(self.healthy, READY_SECONDS, "answer to a health check")

    def stop(self) -> bool:
        """End it with all Lambda environments. Returns whether it was running."""
        return self.part.stop(STOP_SECONDS)

    def healthy(self) -> bool:
        """Return whether it answers and its start is complete."""
        # Only the first of these can be asked again and again without filling the log.
        if not self._get("/_localstack/health"):
            return False
        return self._get("/_localstack/init/ready").get("completed") is True

    def _get(self, path: str) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(self.address + path, timeout=2) as response:  # noqa: S310
                answer = json.load(response)
        except (OSError, ValueError, urllib.error.URLError):
            return {}
        return answer if isinstance(answer, dict) else {}
