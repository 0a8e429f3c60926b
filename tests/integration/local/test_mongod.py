"""The mongod of the local stack: started once, found again, its data kept, its end noticed."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pymongo
import pytest

from local.build import ENVS
from local.errors import NotReadyError, PartDiedError, PortTakenError
from local.mongod import Mongod
from local.processes import free_port
from tests.support.mongod import running_mongod

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def mongod() -> Iterator[Mongod]:
    with running_mongod() as mongod:
        yield mongod


def again(mongod: Mongod, port: int | None = None) -> Mongod:
    """Return what another command would use: the same folder, nothing remembered."""
    return Mongod(mongod.state, ENVS, port or mongod.port, cache_gb=mongod.cache_gb)


def count(mongod: Mongod) -> int:
    with pymongo.MongoClient[dict[str, int]](mongod.uri) as client:
        return client.test.things.count_documents({})


def insert(mongod: Mongod) -> None:
    with pymongo.MongoClient[dict[str, int]](mongod.uri) as client:
        client.test.get_collection(
            "things", write_concern=pymongo.WriteConcern(w="majority", j=True)
        ).insert_one({"a": 1})


def test_it_is_a_replica_set_with_transactions(mongod: Mongod) -> None:
    assert mongod.healthy()
    with (
        pymongo.MongoClient[dict[str, int]](mongod.uri) as client,
        client.start_session() as session,
        session.start_transaction(),
    ):
        client.test.things.insert_one({"a": 1}, session=session)
    assert count(mongod) == 1


def test_it_listens_on_loopback_only(mongod: Mongod) -> None:
    process = mongod.part.process()
    assert process is not None
    listening = [one.laddr.ip for one in process.net_connections("tcp") if one.status == "LISTEN"]
    assert listening == ["127.0.0.1"]


def test_a_second_start_finds_it_running(mongod: Mongod) -> None:
    other = again(mongod)
    assert other.start() is False
    other.wait_until_ready()
    assert other.part.identity == mongod.part.identity


def test_data_survives_a_restart_and_another_port(mongod: Mongod) -> None:
    insert(mongod)
    assert mongod.stop() is True
    assert mongod.stop() is False
    assert mongod.start() is True
    mongod.wait_until_ready()
    assert count(mongod) == 1
    moved = again(mongod, free_port())
    try:
        assert moved.start() is True  # other settings: ended and started anew
        moved.wait_until_ready()
        assert count(moved) == 1
    finally:
        moved.stop()


def test_an_acknowledged_write_survives_a_kill(mongod: Mongod) -> None:
    insert(mongod)
    process = mongod.part.process()
    assert process is not None
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert mongod.part.process() is None
    assert mongod.part.started_once
    assert mongod.start() is True
    mongod.wait_until_ready()
    assert count(mongod) == 1


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        mongod = Mongod(tmp_path, ENVS, port)
        with pytest.raises(PortTakenError, match=rf"port {port}, .*MONGODB_PORT="):
            mongod.start()
    assert not mongod.part.started_once


def test_an_end_while_starting_is_noticed_with_the_reason(tmp_path: Path) -> None:
    mongod = Mongod(tmp_path, ENVS, free_port())
    mongod.data.mkdir()
    (mongod.data / "WiredTiger").write_text("no database")
    (mongod.data / "storage.bson").write_text("neither")
    assert mongod.start() is True
    with pytest.raises(PartDiedError, match=r"mongod has ended unexpectedly.*\n.*storage"):
        mongod.wait_until_ready()
    assert mongod.stop() is False


def test_waiting_is_bounded(mongod: Mongod) -> None:
    with pytest.raises(NotReadyError, match=r"mongod: still no miracle after 0\.2 s"):
        mongod.part.wait_until_ready(lambda: False, 0.2, "miracle")
