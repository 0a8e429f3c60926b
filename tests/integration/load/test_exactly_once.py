"""What must hold always: whatever comes, in whatever chunks and order, ends in the same records.

The reference is a loader simple enough to be read at a glance: it has all rows in memory, sorts
them by receipt, and keeps what changed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata.documents.batches import Counts
from marketdata.load import raw_rows
from marketdata.load.loader import load_batch
from marketdata.store import market_data
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from marketdata.store.raw_batches import save_raw
from tests.bench.files import Upload
from tests.support.documents import Document
from tests.support.pipeline import coin, put_rows
from tests.support.reference import Lines, reference_lines

TIMES = ("2025-05-09T06:00:00.000Z", "2025-05-09T07:00:00.000Z")
ROWS = st.tuples(
    st.sampled_from(["bitcoin", "ethereum"]),
    st.sampled_from(TIMES),
    st.sampled_from([1.0, 2.0, 3.0, -1.0]),  # the last one is no price
)
type Row = tuple[str, str, float]


@dataclass(frozen=True)
class Batch:
    """Rows that arrived together, as the n-th."""

    received: int
    rows: Sequence[Row]
    page: int = 1
    """Where they came from; what comes from one page again may be known."""


def batches_of(chunks: Sequence[tuple[Sequence[Row], int]]) -> list[Batch]:
    return [Batch(number, rows, page) for number, (rows, page) in enumerate(chunks)]


def reference(batches: Sequence[Batch]) -> Lines:
    return reference_lines({batch.received: batch.rows for batch in batches})


def put(store: Store, batch: Batch, *, first_row: int = 0, number: int = 0) -> BatchKey:
    rows = [coin(asset, last_updated=time, current_price=p) for asset, time, p in batch.rows]
    return put_rows(
        store,
        rows,
        run_id=f"run{batch.received}",
        minute=batch.received,
        page=batch.page,
        first_row=first_row,
        number=number,
    )


def lines_of(store: Store) -> Lines:
    """The records as the reference tells them."""
    lines = {}
    for document in store.market_data.find({}):
        line = [*document.get("history", []), document]
        assert document["revision"] == len(line)
        key = (document["asset_id"], document["timestamp"].strftime("%Y-%m-%dT%H:%M:%S.000Z"))
        lines[key] = [(s["price_usd"], int(s["run_id"][3:]), s["row"]) for s in line]
    return lines


def latest_of(store: Store) -> dict[str, tuple[str, float]]:
    return {
        d["asset_id"]: (d["timestamp"].strftime("%Y-%m-%dT%H:%M:%S.000Z"), d["price_usd"])
        for d in store.latest_prices.find({})
    }


def assert_latest_are_copies(store: Store) -> None:
    """Each latest price is its record as it is now, with where that came from."""
    latest: Document
    for latest in store.latest_prices.find({}):
        record: Document = store.market_data.find_one({"_id": latest["record_id"]})
        assert record is not None
        for field in latest.keys() - {"_id", "record_id"}:
            assert latest[field] == record[field]


def expected_latest(
    lines: Lines,
) -> dict[str, tuple[str, float]]:
    newest: dict[str, tuple[str, float]] = {}
    for (asset, time), line in sorted(lines.items()):
        newest[asset] = (time, line[-1][0])
    return newest


def clear(store: Store) -> None:
    for name in ("market_data", "latest_prices", "raw_batches", "batches", "quarantine"):
        store.database[name].delete_many({})


CONTENT = st.one_of(
    st.lists(ROWS, max_size=6),
    # A few that come again and again.
    st.sampled_from([[("bitcoin", TIMES[0], 1.0)], [("bitcoin", TIMES[0], 2.0)]]),
)
PAGES = st.sampled_from([1, 1, 2])
ANY_BATCHES = st.lists(st.tuples(CONTENT, PAGES), min_size=1, max_size=6).map(batches_of)
MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@MANY
@given(data=st.data())
def test_any_order_of_any_batches_ends_in_the_same_records(
    store: Store, data: st.DataObject
) -> None:
    clear(store)
    batches = data.draw(ANY_BATCHES)
    for batch in data.draw(st.permutations(batches)):
        counts = load_batch(store, put(store, batch))
        assert counts.rows_in == len(batch.rows)
        assert counts.quarantined == sum(price <= 0 for _, _, price in batch.rows)
    lines = reference(batches)
    assert lines_of(store) == lines
    assert latest_of(store) == expected_latest(lines)
    assert_latest_are_copies(store)


@MANY
@given(rows=st.lists(ROWS, max_size=8), data=st.data())
def test_any_split_of_what_arrived_together_ends_in_the_same_records(
    store: Store, rows: list[Row], data: st.DataObject
) -> None:
    clear(store)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(rows)), max_size=4)))
    keys = [
        put(store, Batch(0, rows[start:stop], page=number), first_row=start, number=number)
        for number, (start, stop) in enumerate(pairwise([0, *cuts, len(rows)]))
    ]
    for key in data.draw(st.permutations(keys)):
        load_batch(store, key)
    lines = reference([Batch(0, rows)])
    assert lines_of(store) == lines
    assert latest_of(store) == expected_latest(lines)
    assert_latest_are_copies(store)


@MANY
@given(batches=ANY_BATCHES)
def test_loading_everything_again_changes_nothing(store: Store, batches: list[Batch]) -> None:
    clear(store)
    keys = [put(store, batch) for batch in batches]
    first = [load_batch(store, key) for key in keys]
    before = list(store.market_data.find({}).sort("_id"))
    # As a function would that was started again after it had closed its batch, or just before.
    store.batches.update_many({}, {"$set": {"state": "loading"}})
    assert [load_batch(store, key) for key in keys] == first
    assert list(store.market_data.find({}).sort("_id")) == before


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=ANY_BATCHES)
def test_loaders_side_by_side_end_in_the_same_records(store: Store, batches: list[Batch]) -> None:
    clear(store)
    keys = [put(store, batch) for batch in batches]
    faults: list[Exception] = []
    results: dict[str, Counts] = {}
    start = threading.Barrier(len(keys))

    def work(key: BatchKey) -> None:
        try:
            start.wait()
            results[key.id] = load_batch(store, key)
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            faults.append(error)

    threads = [threading.Thread(target=work, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    lines = reference(batches)
    assert lines_of(store) == lines
    assert latest_of(store) == expected_latest(lines)
    assert_latest_are_copies(store)
    inserted = sum(counts.inserted for counts in results.values())
    assert inserted == len(lines)


def test_a_value_that_was_said_again_wins_over_one_that_comes_late(store: Store) -> None:
    """A, then A again, then the B that had been received between the two."""
    documents: list[Document] = []
    for received, price in ((1, 1.0), (3, 1.0), (2, 2.0)):
        load_batch(store, put(store, Batch(received, [("bitcoin", TIMES[0], price)])))
        documents = list(store.market_data.find({}))
    (document,) = documents
    values: list[Any] = [s["price_usd"] for s in (*document["history"], document)]
    assert values == [1.0, 2.0, 1.0]


def test_a_value_that_comes_in_between_before_the_raw_rows_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A. Then A again, looked up and not kept yet, when the B is loaded that came before it."""
    uploads = [
        Upload(
            store,
            f"symbol,price_usd,timestamp\nBTC,{price},2025-05-09\n".encode(),
            name=f"file-{minute}",
            received=datetime(2025, 5, 10, 6, minute, tzinfo=UTC),
        )
        for minute, price in ((1, 1.0), (3, 1.0), (2, 2.0))
    ]
    first, again, between = uploads
    first.load()
    looked_up = threading.Event()
    known = market_data.known

    def looking_up(*args: Any) -> market_data.Known:
        found = known(*args)
        looked_up.set()
        return found

    def keeping(opened: Store, documents: list[Document]) -> None:
        if not looked_up.is_set():
            assert looked_up.wait(30)
            # The raw rows of neither batch are there when the other one asks for them.
            between.load()
        save_raw(opened, documents)

    monkeypatch.setattr(market_data, "known", looking_up)
    monkeypatch.setattr(raw_rows, "save_raw", keeping)
    again.load()
    (document,) = store.market_data.find({})
    values = [s["price_usd"] for s in (*document["history"], document)]
    assert values == [1.0, 2.0, 1.0]
