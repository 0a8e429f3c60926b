"""Watermarks: how far the data of a source reaches."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from marketdata.errors import StateConflict
from marketdata.store.connection import Store
from marketdata.store.sources import overview, watermarks
from tests.support.documents import Document
from tests.support.pipeline import Pipeline, coin, line
from tests.support.upstream import Reply
from tests.support.upstream import Upstream as Server

COINS = "/coins"


@pytest.fixture
def coingecko(store: Store, server: Server) -> Pipeline:
    environment = {"COINGECKO_API_URL": server.url + COINS, "COINGECKO_PAGES": "20"}
    return Pipeline(store, environment, ["coingecko"])


def test_a_watermark_is_moved_by_who_has_the_lease_and_never_back(
    server: Server, coingecko: Pipeline
) -> None:
    store = coingecko.store
    times = ["2025-05-09T06:00:00Z", "2025-05-09T07:00:00Z"]
    server.replies[COINS] = Reply([coin(f"c{n}", last_updated=t) for n, t in enumerate(times)])
    run = coingecko.run()
    lease = {"lease": {"run_id": run["_id"], "number": 3}}
    store.sources.update_one({"_id": "coingecko"}, {"$set": lease})
    mark = watermarks.move_watermark(store, "coingecko", run["_id"], 3)
    batch = store.batches.find_one({})
    assert batch is not None
    assert mark["timestamp"] == datetime(2025, 5, 9, 7, tzinfo=UTC)
    assert (mark["received_at"], mark["run_id"]) == (batch["received_at"], run["_id"])
    # A later run that has only what is older, or nothing at all, moves no time back.
    store.sources.update_one({"_id": "coingecko"}, {"$set": {"lease.run_id": "later"}})
    with pytest.raises(StateConflict, match=run["_id"]):
        watermarks.move_watermark(store, "coingecko", run["_id"], 3)
    with pytest.raises(StateConflict):
        watermarks.move_watermark(store, "coingecko", "later", 2)
    again = watermarks.move_watermark(store, "coingecko", "later", 3)
    assert (again["timestamp"], again["received_at"]) == (mark["timestamp"], mark["received_at"])
    assert again["run_id"] == "later"


def test_each_run_that_is_closed_moves_the_watermark_to_what_it_loaded(
    server: Server, coingecko: Pipeline
) -> None:
    def told(*rows: Document) -> tuple[Document, Document, datetime]:
        """The watermark after a run of these rows, the run, and when it received the last."""
        server.pages(COINS, list(rows))
        run = coingecko.run()
        assert run["status"] == "success"
        received = coingecko.store.batches.distinct("received_at", {"run_id": run["_id"]})
        return overview.get(coingecko.store, "coingecko")["watermarks"], run, max(received)

    def at(hour: int, asset_id: str = "a", **fields: Any) -> Document:
        return coin(asset_id, last_updated=f"2025-05-09T{hour:02}:00:00Z", **fields)

    # Two pages, of which the first has the newest, and the list's end. What is set aside is not
    # loaded.
    old = [at(6, f"c{n}") for n in range(250)]
    mark, run, received = told(at(7), at(8, "b"), *old, at(9, "d", current_price=-1))
    assert line(run, "coingecko")["batches"] == 3
    assert line(run, "coingecko")["quarantined"] == 1
    assert mark["timestamp"] == datetime(2025, 5, 9, 8, tzinfo=UTC)
    assert (mark["received_at"], mark["run_id"]) == (received, run["_id"])

    mark, run, received = told(at(10))
    assert mark["timestamp"] == datetime(2025, 5, 9, 10, tzinfo=UTC)
    assert (mark["received_at"], mark["run_id"]) == (received, run["_id"])

    former = mark
    mark, run, received = told(at(5))
    assert line(run, "coingecko")["inserted"] == 1
    assert mark["timestamp"] == datetime(2025, 5, 9, 10, tzinfo=UTC)
    assert mark["received_at"] == received > former["received_at"]
    assert mark["run_id"] == run["_id"]


def test_a_run_that_loaded_nothing_leaves_the_watermark(
    server: Server, coingecko: Pipeline
) -> None:
    server.replies[COINS] = Reply([coin("a")])
    coingecko.run()
    before = overview.get(coingecko.store, "coingecko")["watermarks"]
    server.replies[COINS] = Reply(status=403)
    assert coingecko.run()["status"] == "failed"
    assert overview.get(coingecko.store, "coingecko")["watermarks"] == before
