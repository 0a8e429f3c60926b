"""Loaders as processes of their own that die by SIGKILL, and what they must leave behind.

A fork server that has imported everything starts them, so that a death costs milliseconds and
not the start of an interpreter.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import inf
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any, Literal, Self

from pymongo import WriteConcern, monitoring

from marketdata.errors import TransientError
from marketdata.load.loader import Loading, load_batch, load_within
from marketdata.objects import ObjectReader
from marketdata.store.batches.batch import COUNTS, BatchKey
from marketdata.store.connection import Store, connect
from marketdata.store.quarantine import root_of
from tests.support.documents import Document
from tests.support.waiting import PATIENCE, wait_for

KILLS = int(os.environ.get("CRASH_KILLS", "180"))
"""How many times a loader is killed in all."""
MONGOD_KILLS = int(os.environ.get("CRASH_MONGOD_KILLS", "20"))
SEED = int(os.environ.get("CRASH_SEED", "20250509"))
"""What decides about every moment that is left to chance."""

WRITES = frozenset({"insert", "update", "delete", "findAndModify"})
_LONGEST_LIFE = 120 * PATIENCE
"""Seconds after which a loader hangs."""

type Work = tuple[BatchKey, ObjectReader | None]


def dice(*about: object) -> random.Random:
    """Chance that is the same for the same seed and the same use."""
    return random.Random(f"{SEED} {about}")


def share(part: float) -> int:
    """So many of all kills."""
    return max(1, round(KILLS * part))


@dataclass(frozen=True)
class Kill:
    """When a loader dies.

    `before` and `after` a command it kills itself, so that not a byte of the next one leaves it.
    `during` one, and at a `time`, it is killed from outside. When it has `paused`, it kills itself
    after the last command of a call and before the first one of the next.
    """

    moment: Literal["before", "after", "during", "time", "paused"]
    command: int = 0
    """Which of its commands to the database, or of its pauses, from 1."""
    delay: float = 0.0
    """Seconds since the command was begun, or since the loader began."""


class _Watch(monitoring.CommandListener):
    """Counts a loader's commands, and ends the loader when its moment has come."""

    def __init__(self, kill: Kill | None, tell: Callable[..., None]) -> None:
        self.commands: list[str] = []
        self._kill = kill
        self._tell = tell
        self._lock = threading.Lock()
        self._numbers: dict[int, int] = {}
        self._pauses = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        with self._lock:
            self.commands.append(event.command_name)
            number = self._numbers[event.request_id] = len(self.commands)
        if self._is("before", number):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._is("during", number):
            self._tell("now")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        self._ended(event.request_id)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._ended(event.request_id)

    def _ended(self, request: int) -> None:
        with self._lock:
            number = self._numbers.pop(request)
        if self._is("after", number):
            os.kill(os.getpid(), signal.SIGKILL)

    def paused(self) -> None:
        """A call was at the end of its time, and another one is to go on."""
        self._pauses += 1
        if self._is("paused", self._pauses):
            os.kill(os.getpid(), signal.SIGKILL)
        self._tell("paused", len(self.commands))

    def _is(self, moment: str, number: int) -> bool:
        kill = self._kill
        return kill is not None and (kill.moment, kill.command) == (moment, number)


def _live(
    uri: str,
    database: str,
    work: Sequence[Work],
    kill: Kill | None,
    patience: float,
    seconds: float,
    pipe: Connection,
) -> None:
    """The life of a loader's process."""
    lock = threading.Lock()

    def tell(what: str, detail: Any = None) -> None:
        with lock:
            pipe.send((what, detail))

    watch = _Watch(kill, tell)
    monitoring.register(watch)
    store = connect(uri, database)
    tell("begun")
    try:
        for key, objects in work:
            while _load(store, key, objects, patience, seconds).again:
                watch.paused()
            tell("loaded", key)
    except BaseException:
        tell("error", traceback.format_exc())
        raise
    tell("done", list(watch.commands))
    # The process is at its end; nothing is left that has to be closed.
    os._exit(0)


def _load(
    store: Store, key: BatchKey, objects: ObjectReader | None, patience: float, seconds: float
) -> Loading:
    """Load a batch in a call of so many seconds.

    It goes on trying for as long as it has patience, as the state machine does.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return load_within(store, key, objects, remaining_seconds=lambda: seconds)
        except TransientError:
            if time.monotonic() > deadline:
                raise


@dataclass
class Life:
    """What a loader has told of itself."""

    killed: bool = False
    seconds: float = 0.0
    loaded: list[BatchKey] = field(default_factory=list)
    """The batches that it saw loaded."""
    commands: list[str] = field(default_factory=list)
    """All its commands, if it came to its end."""
    pauses: list[int] = field(default_factory=list)
    """How many commands it had sent whenever the time of a call was up."""


@cache
def _warm() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "marketdata.sources.coingecko", "tests.bench.files"])
    return context


class Loader:
    """A process that loads batches one after the other; with the block it ends in any case."""

    def __init__(
        self,
        uri: str,
        database: str,
        work: Sequence[Work],
        kill: Kill | None = None,
        *,
        patience: float = 0.0,
        seconds: float = inf,
    ) -> None:
        self._kill = kill
        self._pipe, theirs = _warm().Pipe(duplex=False)
        self._process = _warm().Process(
            target=_live,
            args=(uri, database, list(work), kill, patience, seconds, theirs),
            daemon=True,
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()

    def kill(self) -> None:
        """Kill it now."""
        self._process.kill()

    def end(self, at_moment: Callable[[], None] | None = None) -> Life:
        """Wait for its end, and see to it that it comes when it should.

        Args:
            at_moment: what is done at the loader's moment, by default killing it.
        """
        life = Life()
        begun = time.monotonic()
        try:
            while self._pipe.poll(_LONGEST_LIFE):
                what, detail = self._pipe.recv()
                if what == "begun":
                    begun = time.monotonic()
                if self._is_moment(what):
                    self._process.join(self._kill.delay if self._kill else 0)
                    (at_moment or self.kill)()
                if what == "paused":
                    life.pauses.append(detail)
                if what == "loaded":
                    life.loaded.append(detail)
                if what == "done":
                    life.commands = detail
                    life.seconds = time.monotonic() - begun
                if what == "error":
                    raise AssertionError(f"A loader ended with an error ({self._kill}):\n{detail}")
            raise AssertionError(f"A loader hangs ({self._kill})")
        except EOFError:
            self._process.join()
            life.killed = self._process.exitcode == -signal.SIGKILL
            assert life.killed or life.commands, f"A loader just ended: {self._process.exitcode}"
            return life

    def _is_moment(self, what: str) -> bool:
        moment = self._kill.moment if self._kill else ""
        return (moment, what) in (("during", "now"), ("time", "begun"))


_TIMES = ("first_at", "last_at")
_OF_A_BATCH = ("state", "counts", "rows", "error")

type State = dict[str, dict[Any, Document]]


@dataclass
class Scene:
    """A database with batches to load, that can be set back and looked at.

    Attributes:
        store: the database.
        uri: where it is, for loaders.
        work: the batches, in the order of loading.
        before: what is in the database before any of them is loaded.
        expected: what must be in it once all are loaded.
        usual: the life of a loader that nothing disturbs.
    """

    store: Store
    uri: str
    work: list[Work]
    before: dict[str, list[Document]] = field(default_factory=dict)
    expected: State = field(default_factory=dict)
    usual: Life = field(default_factory=Life)

    def __post_init__(self) -> None:
        self.before = {
            name: list(self.store.database[name].find({}))
            for name in self.store.database.list_collection_names()
            if name != self.store.migrations.name
        }
        self.live()
        self.expected = self.state()
        assert self.expected != self._as_state(self.before)
        self.restore()
        # Only now is everything warm that is warm for the others.
        self.usual = self.live()
        self.check("Nothing had happened")
        self.restore()

    def loader(
        self, kill: Kill | None = None, *, patience: float = 0.0, seconds: float = inf
    ) -> Loader:
        """A process that loads all batches, each in calls of so many seconds."""
        name = self.store.database.name
        return Loader(self.uri, name, self.work, kill, patience=patience, seconds=seconds)

    def live(self, kill: Kill | None = None, *, seconds: float = inf) -> Life:
        """The life of a loader on its own."""
        with self.loader(kill, seconds=seconds) as loader:
            return loader.end()

    def restore(self) -> None:
        """Set the database back to what it was before."""
        self._wait_until_quiet()
        quick = WriteConcern(w=1)
        for name in self.store.database.list_collection_names():
            if name != self.store.migrations.name:
                collection = self.store.database[name].with_options(write_concern=quick)
                collection.delete_many({})
                if documents := self.before.get(name):
                    collection.insert_many(documents)
        # Majority: whoever reads from now on sees all of the above.
        self.store.database["crash"].delete_many({})

    def _wait_until_quiet(self) -> None:
        """Wait for the end of commands of processes that are dead already."""
        running: list[Document] = [
            {"$currentOp": {"allUsers": True}},
            {"$match": {"ns": {"$regex": f"^{self.store.database.name}\\."}}},
            {"$match": {"op": {"$nin": ["none", "getmore"]}}},
            {"$limit": 1},
        ]
        admin = self.store.client.admin
        wait_for(lambda: not list(admin.aggregate(running)), what="nothing runs", every=0.005)

    def finish(self) -> None:
        """Load what is not loaded, as a re-run does."""
        for key, objects in self.work:
            load_batch(self.store, key, objects)

    def state(self) -> State:
        """Everything that loading leaves, but for when and in how many attempts."""
        names = self.store.database.list_collection_names()
        return self._as_state({name: list(self.store.database[name].find({})) for name in names})

    def _as_state(self, found: dict[str, list[Document]]) -> State:
        kept = ("market_data", "latest_prices")
        state = {name: _by_id(found.get(name, [])) for name in kept}
        state["raw_batches"] = _by_id(_without(found.get("raw_batches", []), "seen_at"))
        state["quarantine"] = _by_id(_without(found.get("quarantine", []), *_TIMES))
        state["batches"] = _by_id(
            {f: d[f] for f in ("_id", *_OF_A_BATCH) if f in d} for d in found.get("batches", [])
        )
        return state

    def check(self, what: str, *, leave_out: Sequence[str] = ()) -> None:
        """The database is as if nothing had happened.

        Args:
            what: what had happened, for the message.
            leave_out: fields of documents that may differ.
        """
        found, expected = self.state(), self.expected
        for name, documents in expected.items():
            fields = [*leave_out, *(_COUNTING if name == "quarantine" else ())]
            wanted = _by_id(_without(documents.values(), *fields))
            got = _by_id(_without(found[name].values(), *fields))
            differing = [id_ for id_ in wanted | got if wanted.get(id_) != got.get(id_)]
            assert not differing, (
                f"{what} (CRASH_SEED={SEED}): {len(differing)} of {len(wanted)} documents of "
                f"{name} differ, the first of them: "
                + _difference(wanted.get(differing[0]), got.get(differing[0]))
            )
        for id_, batch in found["batches"].items():
            counts = batch["counts"]
            assert batch["state"] == "loaded", f"{what}: batch {id_} is {batch['state']}"
            assert counts["rows_in"] == batch["rows"] == sum(counts[c] for c in COUNTS), id_
        for batch in self.store.batches.find({}):
            mine: Document = {"raw_id": batch["raw_id"], "batches": root_of(batch)}
            aside = self.store.quarantine.count_documents(mine)
            assert aside == batch["counts"]["quarantined"], f"{what}: {batch['_id']}"


_COUNTING = ("batches",)
"""Fields of a quarantined row that depend on which batches were skipped as known: one that was
begun and has to be loaded again is not. That each counts what is there is checked by itself."""


def _by_id(documents: Any) -> dict[Any, Document]:
    return {document["_id"]: document for document in documents}


def _without(documents: Any, *fields: str) -> Iterator[Document]:
    for document in documents:
        yield {name: value for name, value in document.items() if name not in fields}


def _difference(expected: Document | None, found: Document | None) -> str:
    """Two documents, but for what is the same in both."""
    if expected is None or found is None:
        return f"expected {expected}, found {found}"
    fields = [f for f in expected | found if expected.get(f) != found.get(f)]
    wanted, got = ({f: d.get(f) for f in fields} for d in (expected, found))
    return f"{expected['_id']} expected {wanted}, found {got}"
