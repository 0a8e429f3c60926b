"""Runs that are requested, opened and brought further by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marketdata.errors import TransientError
from marketdata.load.loader import load_batch
from marketdata.runs import opening, starting
from marketdata.runs.opening import OpenedRun
from marketdata.runs.triggers import RunRequest
from marketdata.store import run_inputs, runs
from marketdata.store.batches import queue
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from tests.support.documents import Document
from tests.support.pipeline import put_rows

SOURCES = ["coingecko", "coinpaprika"]
RULE = {
    "version": "0",
    "id": "5c4e0c2a-0000-4000-8000-000000000000",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "time": "2025-05-09T06:00:00Z",
    "resources": [],
    "detail": {},
}


class WorkflowStarter:
    """Starts executions by writing them down; raises what Step Functions would."""

    def __init__(self, store: Store | None = None, *, broken: bool = False) -> None:
        self.started: list[tuple[str, Mapping[str, Any]]] = []
        self.found: list[Document] = []
        self._store = store
        self._broken = broken

    def start(self, run_id: str, execution_input: Mapping[str, Any]) -> str:
        if self._store is not None:
            self.found.append(runs.get(self._store, run_id))
        if self._broken:
            raise TransientError("Step Functions does not answer.")
        self.started.append((run_id, execution_input))
        return f"arn of {run_id}"


def numbers(store: Store, run_id: str, input_id: str) -> list[int]:
    """The numbers of all batches of an input that are to be loaded yet."""
    return queue.numbers(store, run_id, input_id, 1_000)


def request_run(
    store: Store, asked: RunRequest | None = None, names: Sequence[str] = SOURCES
) -> Mapping[str, Any]:
    """Request a run on demand; what its execution is started with."""
    engine = WorkflowStarter()
    _, started = starting.request(store, engine, names, asked=asked)
    assert started
    return engine.started[0][1]


def open_run(store: Store, asked: RunRequest | None = None, *names: str) -> OpenedRun:
    """A run on demand, opened by its execution."""
    requested = request_run(store, asked, names or SOURCES)
    return opening.open_run(store, requested, f"arn:{requested['run_id']}", names or SOURCES)


def open_rule(
    store: Store,
    event_id: str = RULE["id"],  # type: ignore[assignment]
    execution: str = "first",
) -> OpenedRun:
    return opening.open_run(store, RULE | {"id": event_id}, execution, SOURCES)


def fail_all(store: Store, run_id: str, name: str) -> None:
    """Every batch of an input fails."""
    for number in numbers(store, run_id, name):
        key = BatchKey(run_id, name, number)
        begun = queue.begin(store, key)
        assert begun is not None
        queue.fail(store, key, begun["attempts"], ValueError("no luck"))


def extracted(store: Store, run_id: str, *names: str, **fields: Any) -> None:
    for name in names:
        changes: Document = {"status": "extracted", **fields}
        run_inputs.set_input(store, run_id, name, changes)


def loaded(store: Store, run_id: str, name: str, rows: list[Any], number: int = 0) -> None:
    load_batch(store, put_rows(store, rows, run_id=run_id, number=number, source=name))
