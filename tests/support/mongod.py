"""A real mongod for tests: a replica set of its own, ready in about a second."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymongo

from local.build import ENVS
from local.mongod import Mongod
from local.processes import free_port
from local.settings import ROOT


def state_folder() -> Path:
    """Return the folder for the state of everything that tests start."""
    return ROOT / os.environ.get("LOCAL_STATE_DIR", ".local/test")


@contextmanager
def running_mongod(*, quick: bool = False) -> Iterator[Mongod]:
    """Start a mongod with no data on a free port; end it and remove its data afterwards.

    Use it as a fixture of session or module scope and give each test a database of its own:

        @pytest.fixture(scope="session")
        def mongod() -> Iterator[Mongod]:
            with running_mongod() as mongod:
                yield mongod

    Args:
        quick: for a mongod that many tests use and none kills. It acknowledges before the journal
            is on disk, for which tests would wait a third of their time, looks every second for
            what has expired, and is killed at the end.
    """
    state = state_folder() / f"mongod-{uuid.uuid4().hex[:8]}"
    mongod = Mongod(state, ENVS, free_port(), cache_gb=0.25)
    try:
        mongod.start()
        mongod.wait_until_ready()
        if quick:
            _quicken(mongod)
        yield mongod
    finally:
        if quick and (process := mongod.part.process()) is not None:
            process.kill()  # an orderly end would write all that is removed below
        mongod.stop()
        shutil.rmtree(state, ignore_errors=True)


def _quicken(mongod: Mongod) -> None:
    with pymongo.MongoClient[dict[str, Any]](mongod.uri) as client:
        config = client.admin.command("replSetGetConfig")["config"]
        config["version"] += 1
        config["writeConcernMajorityJournalDefault"] = False
        client.admin.command("replSetReconfig", config)
        # Else the first reads of what a majority has wait for the server's next write of itself.
        client.admin.command({"appendOplogNote": 1, "data": {"for": "tests"}})
        client.admin.command({"setParameter": 1, "ttlMonitorSleepSecs": 1})
