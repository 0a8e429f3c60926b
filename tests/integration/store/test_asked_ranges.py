"""For which ranges of a series its source has answered."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from marketdata.documents.asked_ranges import AskedRange
from marketdata.load.loader import load_batch
from marketdata.store import asked_ranges
from marketdata.store.connection import Store, connect
from tests.support.documents import assert_declared
from tests.support.pipeline import coin, put_rows
from tests.support.records import make_run

BEGIN = datetime(2025, 5, 1, tzinfo=UTC)


def asked(start: int, end: int, run: str = "run") -> AskedRange:
    return {
        "start": BEGIN + timedelta(hours=start),
        "end": BEGIN + timedelta(hours=end),
        "run_id": run,
        "asked_at": BEGIN,
    }


def note(store: Store, start: int, end: int, run: str = "run", asset: str = "bitcoin") -> None:
    asked_ranges.note(store, "coingecko", asset, "1h", asked(start, end, run))


def of(store: Store, asset: str = "bitcoin", interval: str = "1h") -> list[AskedRange]:
    return asked_ranges.of(store, "coingecko", asset, interval)


def test_ranges_of_a_series_are_kept_by_themselves(store: Store) -> None:
    note(store, 0, 2)
    note(store, 5, 6)
    note(store, 0, 2, asset="ethereum")
    assert of(store) == [asked(0, 2), asked(5, 6)]
    assert of(store, "ethereum") == [asked(0, 2)]
    assert of(store, interval="1d") == of(store, "cardano") == []
    assert_declared(store)


def test_noting_it_twice_is_noting_it_once(store: Store) -> None:
    note(store, 0, 2)
    before = store.asked_ranges.find_one({})
    note(store, 0, 2)
    note(store, 1, 2)
    assert store.asked_ranges.find_one({}) == before


def test_of_many_at_once_all_are_kept(store: Store, mongodb_uri: str) -> None:
    start = threading.Barrier(4)

    def some(first: int) -> None:
        own = connect(mongodb_uri, store.database.name)
        try:
            start.wait()
            for number in range(first, 40, 4):
                note(own, number, number + 1)
        finally:
            own.client.close()

    threads = [threading.Thread(target=some, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert of(store) == [asked(0, 40)]


def test_a_run_that_is_still_loading_has_not_said_what_the_source_lacks(store: Store) -> None:
    note(store, 0, 2, run="done")
    note(store, 2, 4, run="loading")
    load_batch(store, put_rows(store, [coin()], run_id="done"))
    key = put_rows(store, [coin("ethereum")], run_id="loading")
    assert of(store) == [asked(0, 2, "done")]
    load_batch(store, key)
    assert of(store) == [asked(0, 2, "done"), asked(2, 4, "loading")]


def test_a_run_that_is_under_way_has_not_said_either(store: Store) -> None:
    """It notes a range before it writes the batches."""
    run = make_run(1, status="running")
    store.runs.insert_one(run)
    note(store, 0, 2, run=run["_id"])
    assert of(store) == []
    store.runs.update_one({"_id": run["_id"]}, {"$set": {"status": "success"}})
    assert of(store) == [asked(0, 2, run["_id"])]
