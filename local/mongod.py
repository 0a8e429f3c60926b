"""A real mongod as a replica set of one member, with its data in the state folder."""

import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from local.errors import LocalError
from local.processes import Part, require_free_port

REPLICA_SET = "rs0"
READY_SECONDS = 60
STOP_SECONDS = 40

_NOT_YET_INITIALISED = 94
_INVALID_REPLICA_SET_CONFIG = 93


def find_mongod(envs: Path) -> Path:
    """Return the mongod to run: the installed wheel's, else the one on PATH.

    Raises:
        LocalError: there is none; says what to do instead.
    """
    for wheel in envs.glob("mongod/lib/python*/site-packages/fiftyone/db/bin/mongod"):
        if not os.access(wheel, os.X_OK):
            wheel.chmod(0o755)
        return wheel
    on_path = shutil.which("mongod")
    if on_path is not None:
        return Path(on_path)
    raise LocalError(
        f"there is no package with mongod for {platform.system()} on {platform.machine()}."
        " Install MongoDB Community, so that mongod is on PATH,"
        " or set MONGODB_URI to a MongoDB of your own (a replica set, as Atlas is)"
    )


@dataclass
class Mongod:
    """The mongod of one stack.

    Attributes:
        state: the stack's state folder.
        envs: the folder of the installed environments.
        port: on the loopback interface.
        cache_gb: most memory of WiredTiger's cache, in GiB.
        setting: the variable that sets the port, for messages.
    """

    state: Path
    envs: Path
    port: int
    cache_gb: float = 1.0
    setting: str = "MONGODB_PORT"

    def __post_init__(self) -> None:
        self.part = Part("mongod", self.state)

    @property
    def data(self) -> Path:
        """Folder of the database files."""
        return self.state / "mongodb"

    @property
    def uri(self) -> str:
        """Connection string; direct, since the set has this one member."""
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    def _command(self) -> list[str | Path]:
        return [
            find_mongod(self.envs),
            "--dbpath",
            self.data,
            "--port",
            str(self.port),
            "--bind_ip",
            "127.0.0.1",
            "--nounixsocket",
            "--replSet",
            REPLICA_SET,
            "--oplogSize",
            "1024",
            "--wiredTigerCacheSizeGB",
            f"{self.cache_gb:g}",
            # Nobody else is in this set to be waited for at the end; nobody reads diagnostics.
            "--setParameter",
            "shutdownTimeoutMillisForSignaledShutdown=100",
            "--setParameter",
            "diagnosticDataCollectionEnabled=false",
            # What has expired is gone within seconds here; by default it takes up to a minute.
            "--setParameter",
            "ttlMonitorSleepSecs=10",
        ]

    def start(self) -> bool:
        """Start it unless it runs already with the same settings; does not wait until it is ready.

        Returns whether this call started it.

        Raises:
            PortTakenError: something else has the port.
            NotReadyError: it cannot be executed.
            LocalError: there is no mongod for this platform.
        """
        command = self._command()
        fingerprint = hashlib.sha256("\0".join(map(str, command)).encode()).hexdigest()
        if self.part.process() is not None:
            if self.part.fingerprint == fingerprint:
                return False
            self.part.stop(STOP_SECONDS)
        require_free_port(self.port, part="mongod", setting=self.setting)
        self.data.mkdir(parents=True, exist_ok=True)
        self._require_runnable(Path(command[0]))
        self.part.start(command, env=dict(os.environ), cwd=self.state, fingerprint=fingerprint)
        return True

    def wait_until_ready(self) -> None:
        """Wait until it accepts writes; make or mend the replica set's configuration on the way.

        Raises:
            PartDiedError: it ended meanwhile.
            NotReadyError: it is not primary in time.
        """
        with self._client() as client:
            self.part.wait_until_ready(
                lambda: self._is_primary(client), READY_SECONDS, "primary of its replica set"
            )

    def stop(self) -> bool:
        """Shut it down cleanly. Returns whether it was running."""
        return self.part.stop(STOP_SECONDS)

    def healthy(self) -> bool:
        """Return whether it accepts writes at this moment."""
        with self._client() as client:
            return self._hello(client).get("isWritablePrimary", False) is True

    def _client(self) -> pymongo.MongoClient[dict[str, Any]]:
        return pymongo.MongoClient(
            self.uri, serverSelectionTimeoutMS=250, connectTimeoutMS=1000, socketTimeoutMS=20000
        )

    @staticmethod
    def _hello(client: pymongo.MongoClient[dict[str, Any]]) -> dict[str, Any]:
        try:
            return client.admin.command("hello")
        except PyMongoError:
            return {}

    def _is_primary(self, client: pymongo.MongoClient[dict[str, Any]]) -> bool:
        hello = self._hello(client)
        if hello.get("isWritablePrimary"):
            return True
        if hello and not hello.get("setName"):
            self._configure(client)
        return False

    def _configure(self, client: pymongo.MongoClient[dict[str, Any]]) -> None:
        """Initiate the set; with data from a time when the port was another, correct that."""
        member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
        try:
            try:
                old = client.admin.command("replSetGetConfig")["config"]
            except OperationFailure as error:
                if error.code != _NOT_YET_INITIALISED:
                    raise
                client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
            else:
                if old["members"][0]["host"] != member["host"]:
                    new = {**old, "version": old["version"] + 1}
                    new["members"] = [{**old["members"][0], **member}]
                    client.admin.command("replSetReconfig", new, force=True)
        except PyMongoError:
            return  # still starting; asked again at the next look

    def _require_runnable(self, mongod: Path) -> None:
        result = subprocess.run([mongod, "--version"], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise LocalError(
                f"{mongod} does not run on this machine: {result.stderr.strip()[-300:]}."
                " Install what is missing (such as libcurl4 and OpenSSL 3), or set MONGODB_URI"
            )
