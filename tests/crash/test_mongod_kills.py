"""A mongod that is killed while rows are loaded loses nothing that it had acknowledged.

The one node of its replica set is killed and started again on the same files. A loader either goes
on trying, as the state machine makes it, or dies with the mongod and is run again.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from local.mongod import Mongod
from marketdata.store.connection import Store, connect
from marketdata.store.migrations import migrate
from tests.crash import cases
from tests.support.crash import MONGOD_KILLS, WRITES, Kill, Life, Loader, Scene, dice
from tests.support.mongod import running_mongod
from tests.support.waiting import wait_for

pytestmark = pytest.mark.timeout(300 + MONGOD_KILLS * 30)

PATIENCE_SECONDS = 60
"""How long a loader goes on trying."""


@pytest.fixture(scope="module")
def mongod() -> Iterator[Mongod]:
    """One of this module's own."""
    with running_mongod() as started:
        yield started


@pytest.fixture
def store(mongod: Mongod) -> Iterator[Store]:
    """A migrated database in it."""
    opened = connect(mongod.uri, "crash")
    migrate(opened)
    yield opened
    opened.client.drop_database(opened.database.name)
    opened.client.close()


def kill(mongod: Mongod) -> None:
    """As a machine's loss would: without a word, and nothing is flushed."""
    process = mongod.part.process()
    assert process is not None, "mongod runs"
    process.kill()
    process.wait(30)


def start_again(mongod: Mongod) -> None:
    assert mongod.start()
    # A client that came too early would look again only half a second later.
    wait_for(lambda: _listens(mongod.port), what="mongod listens", every=0.01)
    mongod.wait_until_ready()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def moments(scene: Scene) -> Iterator[Kill]:
    """By turns while some write is on its way, and at any time of a loader's life."""
    chance = dice("mongod", scene.usual.commands)
    writes = [n for n, name in enumerate(scene.usual.commands, 1) if name in WRITES]
    while True:
        yield Kill("during", chance.choice(writes), chance.uniform(0, 0.004))
        yield Kill("time", delay=chance.uniform(0, scene.usual.seconds))


def with_a_kill(mongod: Mongod, loader: Loader, *, survives: bool) -> Life:
    """A loader's life, in which the mongod is killed once."""

    def crash() -> None:
        kill(mongod)
        if not survives:
            loader.kill()
        start_again(mongod)

    with loader:
        return loader.end(crash)


@pytest.mark.parametrize("survives", [True, False], ids=["goes on", "is run again"])
@pytest.mark.parametrize(("case", "part"), [(cases.pages, 0.25), (cases.file, 0.25)])
def test_what_was_acknowledged_is_there_again(
    store: Store, mongod: Mongod, case: cases.Case, part: float, survives: bool
) -> None:
    scene = case(store, mongod.uri)
    moment = moments(scene)
    for _ in range(max(1, round(MONGOD_KILLS * part))):
        scene.restore()
        when = next(moment)
        life = with_a_kill(mongod, scene.loader(when, patience=PATIENCE_SECONDS), survives=survives)
        # Who had ended by then can't die; what it was told must be true all the same.
        assert not (life.killed and survives)
        closed = {
            batch["_id"]: batch["attempts"] for batch in store.batches.find({"state": "loaded"})
        }
        assert {key.id for key in life.loaded} <= closed.keys(), "a batch that was closed is open"
        scene.finish()
        scene.check(f"mongod was killed {when}")
        attempts = {batch["_id"]: batch["attempts"] for batch in store.batches.find({})}
        assert {id_: attempts[id_] for id_ in closed} == closed
