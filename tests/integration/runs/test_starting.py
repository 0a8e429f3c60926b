"""A run is requested: it exists before its execution, and requests share the sources."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from marketdata.errors import TransientError
from marketdata.runs import closing, opening, starting
from marketdata.runs.triggers import RunRequest
from marketdata.store import runs
from marketdata.store.connection import Store
from tests.support.runs import (
    RULE,
    SOURCES,
    WorkflowStarter,
    open_rule,
)


def test_a_run_exists_before_its_execution(store: Store) -> None:
    engine = WorkflowStarter(store)
    run_id, started = starting.request(store, engine, SOURCES)
    assert started
    assert [i for i, _ in engine.started] == [run_id]
    assert engine.found[0]["status"] == "running"
    assert runs.get(store, run_id)["trigger"] == "refresh"


def test_the_execution_finds_the_run_that_was_requested(store: Store) -> None:
    engine = WorkflowStarter(store)
    run_id, _ = starting.request(store, engine, SOURCES)
    opened = opening.open_run(store, engine.started[0][1], "execution", SOURCES)
    assert opened == {
        "run_id": run_id,
        "proceed": True,
        "inputs": [{"run_id": run_id, "input": name, "source": name} for name in SOURCES],
    }
    assert store.runs.count_documents({}) == 1


def test_a_second_request_gets_the_id_of_the_run_under_way(store: Store) -> None:
    engine = WorkflowStarter(store)
    first, _ = starting.request(store, engine, SOURCES)
    assert starting.request(store, engine, SOURCES) == (first, False)
    # One that wants just one of its sources, too.
    assert starting.request(store, engine, SOURCES[1:]) == (first, False)
    assert len(engine.started) == store.runs.count_documents({}) == 1


def test_a_source_that_is_let_go_meanwhile_is_taken(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, _ = starting.request(
        store, WorkflowStarter(store), SOURCES, asked=RunRequest(("coingecko",))
    )
    real = runs.lock_holders

    def late(*args: Any) -> dict[str, str]:
        closing.close(store, busy)
        return real(*args)

    monkeypatch.setattr(runs, "lock_holders", late)
    run = runs.get(store, open_rule(store)["run_id"])
    assert (list(run["inputs"]), run["under_way"]) == (SOURCES, {})


def test_requests_at_once_share_the_sources(store: Store) -> None:
    """Whoever comes first: each source has one run, and nobody takes what another has."""
    starting.request(store, WorkflowStarter(store), SOURCES, asked=RunRequest(("coingecko",)))
    names, start = [*SOURCES, "third"], threading.Barrier(4)
    opened: list[opening.OpenedRun] = []

    def one(number: int) -> None:
        start.wait()
        envelope = RULE | {"id": f"event {number % 2}"}
        opened.append(opening.open_run(store, envelope, f"execution {number}", names))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [item["input"] for one in opened for item in one["inputs"]]
    assert sorted(taken) == ["coinpaprika", "third"]
    held = [name for run in store.runs.find({"status": "running"}) for name in run["holds"]]
    assert sorted(held) == sorted(names)


def test_requests_at_once_start_one_run(store: Store) -> None:
    engine, start = WorkflowStarter(store), threading.Barrier(4)
    answers: list[tuple[str, bool]] = []

    def one() -> None:
        start.wait()
        answers.append(starting.request(store, engine, SOURCES))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run_id for run_id, _ in answers}) == 1
    assert sorted(started for _, started in answers) == [False, False, False, True]


def test_a_run_whose_execution_can_not_start_is_closed(store: Store) -> None:
    with pytest.raises(TransientError):
        starting.request(store, WorkflowStarter(store, broken=True), SOURCES)
    run = store.runs.find_one({})
    assert run is not None
    assert run["status"] == "failed"
    assert "does not answer" in run["error"]["message"]
    assert starting.request(store, WorkflowStarter(store), SOURCES)[1]
