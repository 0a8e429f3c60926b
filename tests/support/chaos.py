"""What must hold after any fault: the final state of a run that nothing disturbed.

A state is everything that the pipeline has loaded, less what tells when and by which run it came:
two systems that were asked the same have the same state, whatever happened to one of them.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from local.background import beside
from local.mongod import Mongod
from marketdata.store.batches.batch import COUNTS
from marketdata.store.connection import Store, connect
from marketdata.store.migrations import migrate
from tests.support.documents import Document, assert_declared
from tests.support.events import hourly_event
from tests.support.functions import Functions
from tests.support.machine import Aborted, FunctionFailed, Machine
from tests.support.pipeline import without_quota
from tests.support.simulator import Simulator
from tests.support.waiting import wait_for

_LEFT_OUT = frozenset(
    {"run_id", "inserted_by", "received_at", "batch", "batches", "first_at", "last_at"}
)
"""What tells when something came, and by which run."""

type State = dict[str, dict[str, Document]]


def _plain(value: Any, content: Mapping[str, str]) -> Any:
    """A document without what is left out, and with contents in the place of raw batches."""
    if isinstance(value, Mapping):
        plain = {name: _plain(v, content) for name, v in value.items() if name not in _LEFT_OUT}
        if "raw_id" in plain:
            plain["raw_id"] = content.get(plain["raw_id"], plain["raw_id"])
        return plain
    if isinstance(value, list):
        return [_plain(each, content) for each in value]
    return value


def state_of(store: Store, *, sources: Iterable[str] | None = None) -> State:
    """Records with histories, newest prices, quarantine, watermarks, and which raw rows are kept.

    The raw rows behind a sighting are told by their content: whether rows that come again are
    kept again, or are the former ones, depends on what else is being loaded at that moment.

    Args:
        store: the database.
        sources: only what came from these; None for everything.
    """
    query: Document = {} if sources is None else {"source": {"$in": list(sources)}}
    raw: list[Document] = list(
        store.raw_batches.find(query, {"digest": 1, "rows": 1, "first_row": 1, "source": 1})
    )
    content = {str(document["_id"]): f"content {document['digest']}" for document in raw}
    state: State = {}
    for collection in (store.market_data, store.latest_prices):
        found = (_plain(document, content) for document in collection.find(query))
        state[collection.name] = {_key(document): document for document in found}
    found = (_plain(document, {}) for document in store.quarantine.find(query))
    state["quarantine"] = {_key(document): document for document in found}
    kept = ({name: document[name] for name in document if name != "_id"} for document in raw)
    # Two sources may have said the same, as that they had nothing.
    state["raw_batches"] = {f"{d['source']} {d['digest']} {d['first_row']}": d for d in kept}
    named = {"_id": query["source"]} if query else {}
    state["watermarks"] = {
        document["_id"]: {"timestamp": document["watermarks"]["timestamp"]}
        for document in store.sources.find({**named, "watermarks": {"$exists": True}})
    }
    return state


def _key(document: Document) -> str:
    id_ = document["_id"]
    return id_.hex() if isinstance(id_, bytes) else str(id_)


def assert_same(state: State, expected: State) -> None:
    """Two states are equal, document by document; says of the first ones that are not."""
    for name, documents in expected.items():
        found = state[name]
        lost, more = documents.keys() - found.keys(), found.keys() - documents.keys()
        assert not lost, f"{len(lost)} of {name} are lost, such as {documents[min(lost)]}"
        assert not more, f"{len(more)} of {name} are too many, such as {found[min(more)]}"
        other = sorted(key for key in documents if found[key] != documents[key])
        assert not other, (
            f"{len(other)} of {name} are other than they should be: {found[other[0]]}\n"
            f"instead of {documents[other[0]]}"
        )


def assert_conserved(store: Store) -> Counter[str]:
    """The law of conservation holds for every closed batch and every ended run.

    A record is inserted once: all insertions together are as many as there are records.

    Returns:
        The totals over all loaded batches.
    """
    totals: Counter[str] = Counter()
    by_run: dict[str, Counter[str]] = {}
    for batch in store.batches.find({"state": "loaded"}):
        counts: Document = batch["counts"]
        out = sum(counts[name] for name in COUNTS)
        assert counts["rows_in"] == out == batch["rows"], (batch["_id"], batch["rows"], counts)
        totals.update(counts)
        by_run.setdefault(batch["run_id"], Counter()).update(counts)
    for run in store.runs.find({"status": {"$ne": "running"}}):
        told = {name: run.get("totals", {}).get(name, 0) for name in ("rows_in", *COUNTS)}
        sums = by_run.get(run["_id"], Counter())
        assert told == {name: sums[name] for name in told}, (run["_id"], told, sums)
    records = store.market_data.count_documents({})
    assert totals["inserted"] == records, (totals["inserted"], records)
    return totals


def assert_settled(store: Store) -> None:
    """Nothing is under way, held, or left to be loaded; and every stored document is declared."""
    assert_declared(store)
    assert list(store.runs.find({"status": "running"}, {"_id": 1})) == []
    assert list(store.runs.find({"holds": {"$exists": True}}, {"holds": 1})) == []
    unfinished = store.batches.find({"state": {"$ne": "loaded"}}, {"state": 1, "error": 1})
    assert list(unfinished) == []


@dataclass
class World:
    """A database and what works on it: functions as processes, and the state machine.

    Attributes:
        store: the database, past any proxy that is between it and the functions.
        functions: the functions.
        machine: carries out executions.
    """

    store: Store
    functions: Functions
    machine: Machine
    executions: int = 0
    faults: list[BaseException] = field(default_factory=list)
    """Of executions in the background that failed."""

    def run(self, envelope: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """One execution, of a new event if none is given; its output."""
        self.executions += 1
        execution = f"arn:aws:states:us-east-1:000000000000:execution:test:{self.executions}"
        given = dict(envelope or hourly_event())
        return self.machine.execute(given, execution=execution, **options)

    def run_undisturbed(self) -> None:
        """One execution in a single process, which must succeed."""
        self.executions += 1
        execution = f"arn:aws:states:us-east-1:000000000000:execution:test:{self.executions}"
        self.functions.execute(hourly_event(), execution=execution)
        assert self.statuses().keys() == {"success"}, self.statuses()

    def start(self, envelope: Mapping[str, Any] | None = None, **options: Any) -> threading.Thread:
        """As `run`, in the background."""

        def work() -> None:
            try:
                self.run(envelope, **options)
            except BaseException as error:  # noqa: BLE001 - for the test to judge
                self.faults.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def statuses(self) -> Counter[str]:
        """How runs have ended so far."""
        return Counter(run["status"] for run in self.store.runs.find({}, {"status": 1}))

    def attempt(self, **options: Any) -> Any:
        """As `run`, for an execution that may fail or is aborted; None if it did."""
        try:
            return self.run(**options)
        except (FunctionFailed, Aborted):
            return None

    def expire(self) -> None:
        """Let the leases of all running runs be over."""
        expire(self.store)

    def recover(self) -> None:
        """What the next hour brings: a run that nothing disturbs.

        Runs whose execution has died without a word are orphans by then.
        """
        self.expire()
        assert self.run()["status"] == "success"


def expire(store: Store) -> None:
    """Let the leases of all running runs be over."""
    past = {"$dateSubtract": {"startDate": "$$NOW", "unit": "minute", "amount": 1}}
    for run in store.runs.find({"status": "running"}, {"_id": 1}):
        store.runs.update_one({"_id": run["_id"]}, [{"$set": {"expires_at": past}}])


@contextmanager
def disturbing(
    disturb: Callable[[random.Random], bool],
    *,
    seed: int,
    between: tuple[float, float],
    at_most: int | None = None,
) -> Iterator[None]:
    """Disturb at random moments for a while; the last disturbance is over at the end.

    Args:
        disturb: does it; its answer is whether there was anything to disturb.
        seed: of the moments and the victims.
        between: the shortest and the longest time from one to the next, in seconds.
        at_most: so often. On a machine with other work everything takes longer than the time
            between two kills, and what is killed for ever never ends.
    """
    chance = random.Random(seed)
    faults: list[BaseException] = []

    def work(ended: threading.Event) -> None:
        try:
            pause, left = chance.uniform(*between), inf if at_most is None else at_most
            while left and not ended.wait(pause):
                disturbed = disturb(chance)
                left -= disturbed
                pause = chance.uniform(*between) if disturbed else 0.05
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's thread
            faults.append(error)

    with beside(work):
        yield
    if faults:
        raise faults[0]


def crash_mongod(mongod: Mongod) -> None:
    """Kill -9 a mongod, start it again with its data, and wait until it takes writes."""
    process = mongod.part.process()
    assert process is not None, "mongod does not run"
    process.kill()
    wait_for(lambda: mongod.part.process() is None, what="mongod is gone")
    mongod.start()
    mongod.wait_until_ready()


@contextmanager
def new_world(
    uri: str,
    environment: Mapping[str, str],
    log: Path,
    *,
    past: str | None = None,
    **options: Any,
) -> Iterator[World]:
    """A world with a database of its own, which is dropped at the end.

    Args:
        uri: of MongoDB, for the functions.
        environment: the functions' variables, such as the addresses of sources.
        log: file for what the functions write.
        past: the same MongoDB for the test itself, past a proxy; None for `uri`.
        **options: of `Machine`.
    """
    store = connect(past or uri, f"chaos_{uuid.uuid4().hex[:16]}")
    functions = Functions(
        {"MONGODB_URI": uri, "MONGODB_DATABASE": store.database.name, **environment}, log
    )
    try:
        migrate(store)
        yield World(store, functions, Machine(functions.invoke, **options))
        store.client.drop_database(store.database.name)
    finally:
        store.client.close()


HOURS = 2
ROUTES = "/coins", "/tickers"
"""Of the simulator, for the short form of the suite: CoinGecko's and CoinPaprika's."""

UNLIMITED = without_quota("coingecko", "coinpaprika") | {"CIRCUIT_BREAKER_FAILURES": "1000"}
"""Chaos asks for hours of data within seconds, and fails more often than any source may.

With the limits that users have, a suite would be over after days, of which it waits nearly all.
"""


def two_sources(simulator: Simulator) -> dict[str, str]:
    """Variables of functions for both sources, cut into many batches."""
    return {
        "SOURCES": "coingecko,coinpaprika",
        "COINGECKO_API_URL": simulator.url + ROUTES[0],
        "COINPAPRIKA_API_URL": simulator.url + ROUTES[1],
        "COINGECKO_PAGES": "3",
        "BATCH_ROWS": "125",
        **UNLIMITED,
    }


def set_hour(simulator: Simulator, hour: int) -> None:
    """Let both sources answer as of an hour, and well."""
    for route in ROUTES:
        simulator.set(route, hour=hour, delay=0, faults=[], often=0)


def assert_undisturbed(store: Store, expected: State) -> None:
    """The state is one that nothing has disturbed, and all of it is accounted for."""
    assert_settled(store)
    assert_same(state_of(store), expected)
    assert_conserved(store)


def states_by_hour(world: World, simulator: Simulator) -> list[State]:
    """The state after each hour of a world that nothing disturbs."""
    states = []
    for hour in range(HOURS):
        set_hour(simulator, hour)
        world.run_undisturbed()
        states.append(state_of(world.store))
    return states
