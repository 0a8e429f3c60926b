"""Leases of sources: one run at a time, by the clock of the server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from marketdata import clock
from marketdata.documents.batches import Counts
from marketdata.errors import StateConflict
from marketdata.runs import closing, heartbeat, opening, starting
from marketdata.store import leases, runs
from marketdata.store.batches import queue, reclaiming
from marketdata.store.connection import Store
from tests.support.documents import Document
from tests.support.pipeline import coin, put_rows
from tests.support.runs import (
    SOURCES,
    WorkflowStarter,
    open_run,
)


def lease(store: Store, name: str = "coingecko") -> Document:
    found = store.sources.find_one({"_id": name})
    assert found is not None
    granted: Document = found["lease"]
    return granted


def test_a_lease_has_a_number_that_grows_and_a_time_that_is_renewed(store: Store) -> None:
    first = open_run(store)["run_id"]
    one = lease(store)
    assert (one["run_id"], runs.get(store, first)["inputs"]["coingecko"]["lease"]) == (
        first,
        one["number"],
    )
    soon = clock.now() + timedelta(minutes=1)
    store.runs.update_one({"_id": first}, {"$set": {"expires_at": soon}})
    heartbeat.require_running(store, first, "coingecko")
    assert runs.expiries(store, [first])[first] > clock.now() + timedelta(minutes=19)
    closing.close(store, first)
    assert runs.expiries(store, [first]) == {}
    second = open_run(store)["run_id"]
    assert (lease(store)["run_id"], lease(store)["number"]) == (second, one["number"] + 1)


def test_who_lost_a_lease_closes_no_batch_and_ends_no_run(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    key = put_rows(store, [coin("a")], run_id=run_id)
    begun = queue.begin(store, key)
    assert begun is not None
    stolen = {"$set": {"lease.run_id": "a thief"}, "$inc": {"lease.number": 1}}
    store.sources.update_one({"_id": "coingecko"}, stolen)
    attempts: list[Callable[[], object]] = [
        lambda: queue.finish(store, key, begun["attempts"], Counts(rows_in=1, inserted=1)),
        lambda: closing.close(store, run_id),
        lambda: heartbeat.require_running(store, run_id, "coingecko"),
    ]
    for refused in attempts:
        with pytest.raises(StateConflict, match="lost the lease of coingecko"):
            refused()
    assert runs.get(store, run_id)["status"] == "running"
    # What has no heartbeat is ended all the same, or it would keep its sources locked for ever.
    store.runs.update_one({"_id": run_id}, {"$set": {"expires_at": clock.EPOCH}})
    open_run(store)
    assert runs.get(store, run_id)["error"]["code"] == "expired"


@pytest.mark.parametrize("step", ["acquire", "reclaim_batches"])
def test_a_run_that_ended_while_it_was_opened_takes_nothing_from_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its execution is aborted, and its function goes on."""
    left = open_run(store)["run_id"]
    put_rows(store, [coin("a")], run_id=left)
    closing.close(store, left)
    engine = WorkflowStarter()
    late, _ = starting.request(store, engine, SOURCES)
    module: Any = leases if step == "acquire" else reclaiming
    real = getattr(module, step)
    following: list[str] = []

    def held_up(*args: Any) -> Any:
        monkeypatch.setattr(module, step, real)
        closing.close(store, late)
        following.append(open_run(store)["run_id"])
        return real(*args)

    monkeypatch.setattr(module, step, held_up)
    opened = opening.open_run(store, engine.started[0][1], f"arn:{late}", SOURCES)
    assert not opened["proceed"]
    (next_one,) = following
    assert lease(store)["run_id"] == next_one
    assert store.batches.distinct("run_id") == [next_one]
    assert closing.close(store, next_one)["status"] != "running"


@pytest.mark.parametrize("minutes", [-5, 5])
def test_the_clocks_of_functions_do_not_matter(
    store: Store, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    true_now = clock.now
    wrong = timedelta(minutes=minutes)
    monkeypatch.setattr(clock, "now", lambda: true_now() + wrong)
    run_id = open_run(store)["run_id"]
    run = runs.get(store, run_id)
    for time in (run["started_at"], run["expires_at"] - runs.LEASE):
        assert abs(time - true_now()) < timedelta(minutes=1)
    # Four minutes of life are left by the server's clock: to a fast one it would seem expired.
    soon = true_now() + timedelta(minutes=4)
    store.runs.update_one({"_id": run_id}, {"$set": {"expires_at": soon}})
    assert runs.expired(store) == []
    # And one that is over by that clock is over, however slow the function's is.
    store.runs.update_one(
        {"_id": run_id}, {"$set": {"expires_at": true_now() - timedelta(minutes=1)}}
    )
    assert [orphan["_id"] for orphan in runs.expired(store)] == [run_id]
    ended = closing.close(store, run_id)
    assert ended["ended_at"] is not None
    assert abs(ended["ended_at"] - true_now()) < timedelta(minutes=1)
