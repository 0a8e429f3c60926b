"""The API's reads of all collections: none scans one, and all say why they failed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from marketdata.errors import QueryTimeout, StoreUnavailable
from marketdata.sources.history import Interval, Window
from marketdata.store import (
    asked_ranges,
    counts,
    gaps,
    latest_prices,
    quarantine,
    reading,
    record_queries,
    run_queries,
)
from marketdata.store.batches import reclaiming, reports
from marketdata.store.connection import Store, connect
from marketdata.store.gaps import Series
from marketdata.store.latest_prices import LatestPosition
from marketdata.store.record_queries import RecordQuery
from marketdata.store.run_queries import RunPosition
from tests.support.profiling import profiled
from tests.support.records import (
    NOW,
    make_quarantined,
    put_records,
    some_records,
)

READS: dict[str, tuple[Callable[[Store], object], list[str]]] = {
    "records": (
        lambda s: record_queries.find_records(s, RecordQuery(), limit=5),
        ["IXSCAN { _id: 1 }"],
    ),
    "totals": (
        reports.total_counts,
        ["IXSCAN { state: 1, counts.rows_in: 1,", "IXSCAN { resolves.run_id: 1 }"],
    ),
    "resolved rows of runs": (
        lambda store: reports.resolved_counts(store, ["run0", "run1"]),
        ["IXSCAN { resolves.run_id: 1 }"],
    ),
    "the last closed run": (
        run_queries.last_closed_run_id,
        ["IXSCAN { started_at: -1, _id: -1 }"],
    ),
    "the last run": (run_queries.last_run, ["IXSCAN { started_at: -1, _id: -1 }"]),
    "the last telling run": (
        lambda s: run_queries.last_telling_run(s, ended=True),
        ["IXSCAN { started_at: -1, _id: -1 }"],
    ),
    "the last successful run": (
        lambda s: run_queries.last_run(s, status="success"),
        ["IXSCAN { status: 1, started_at: -1, _id: -1 }"],
    ),
    "ended runs": (
        lambda s: run_queries.ended_runs(s, limit=100),
        ["IXSCAN { started_at: -1, _id: -1 }"],
    ),
    "runs": (lambda s: run_queries.find_runs(s, limit=5), ["IXSCAN { started_at: -1, _id: -1 }"]),
    "runs of a source": (
        lambda s: run_queries.find_runs(
            s, limit=5, source="coingecko", trigger="schedule", after=RunPosition(NOW, "x")
        ),
        ["IXSCAN { trigger: 1, started_at: -1, _id: -1 }"],
    ),
    "the last run of a trigger": (
        lambda s: run_queries.last_run(s, trigger="schedule"),
        ["IXSCAN { trigger: 1, started_at: -1, _id: -1 }"],
    ),
    "runs under way": (
        lambda s: run_queries.run_under_way(s, begin=NOW, end=NOW, longest=timedelta(days=1)),
        ["IXSCAN { started_at: -1, _id: -1 }"],
    ),
    "runs with a status": (
        lambda s: run_queries.find_runs(
            s, limit=5, status="success", after=RunPosition(NOW + timedelta(hours=9), "x")
        ),
        ["IXSCAN { status: 1, started_at: -1, _id: -1 }"],
    ),
    "batch states": (
        lambda s: reports.batch_states(s, "x"),
        ["IXSCAN { run_id: 1, input: 1, number: 1 }"],
    ),
    "failed batches": (
        lambda s: reports.batches_not_loaded(s, "x", unfinished=True, limit=5),
        ["IXSCAN { run_id: 1, input: 1, number: 1 }"],
    ),
    "parked batches": (
        reclaiming.dead_lettered_by_source,
        ["IXSCAN { input: 1, run_id: 1, number: 1 }"],
    ),
    "latest prices": (
        lambda s: latest_prices.find_latest(s, limit=5),
        ["IXSCAN { symbol: 1, _id: 1 }"],
    ),
    "latest prices further on": (
        lambda s: latest_prices.find_latest(
            s, limit=5, source="coingecko", after=LatestPosition("S1", bytes(12))
        ),
        ["IXSCAN { symbol: 1, _id: 1 }"],
    ),
    "latest prices of symbols": (
        lambda s: latest_prices.find_latest(s, limit=5, symbols=("S1", "S2")),
        ["IXSCAN { symbol: 1, _id: 1 }"],
    ),
    "symbols": (
        lambda s: latest_prices.find_symbols(s, limit=5, after="S1"),
        ["IXSCAN { symbol: 1, _id: 1 }"],
    ),
    "an asset by its id or ticker": (
        lambda s: gaps.find_series(s, "coingecko", "nobody", Interval.HOUR),
        [
            "IXSCAN { _id: 1 }",
            "IXSCAN { symbol: 1, _id: 1 }",
            "IXSCAN { source: 1, asset_id: 1, interval: 1, _id: 1 }",
            "IDHACK",
        ],
    ),
    "the points of a history": (
        lambda s: gaps.find_gaps(
            s,
            Series("coingecko", "bitcoin", "BTC", Interval.HOUR),
            Window(NOW - timedelta(days=1), NOW),
            timedelta(hours=1),
        ),
        ["IXSCAN { source: 1, asset_id: 1, interval: 1, _id: 1 }", "IDHACK"],
    ),
    "the snapshots of an asset": (
        lambda s: gaps.find_gaps(
            s,
            Series("coingecko", "bitcoin", "BTC", None),
            Window(NOW - timedelta(days=1), NOW),
            timedelta(hours=1),
        ),
        ["IXSCAN { symbol: 1, _id: 1 }"],
    ),
    "what a source was asked": (
        lambda s: asked_ranges.of(s, "coingecko", "bitcoin", "1h"),
        ["IDHACK"],
    ),
    "quarantine": (lambda s: quarantine.find_quarantined(s, limit=5), ["IXSCAN { _id: 1 }"]),
    "quarantine of a run": (
        lambda s: quarantine.find_quarantined(s, limit=5, run_id="x", source="y", after="a"),
        ["IXSCAN { run_id: 1, input: 1, number: 1 }"],
    ),
    "quarantine with a reason": (
        lambda s: quarantine.find_quarantined(s, limit=5, reason="x", source="y"),
        ["IXSCAN { reason: 1, _id: 1 }"],
    ),
    "quarantine of a source": (
        lambda s: quarantine.find_quarantined(s, limit=5, source="y"),
        ["IXSCAN { source: 1, _id: 1 }"],
    ),
    "counts": (counts.row_counts, ["RECORD_STORE_FAST_COUNT", "IXSCAN { rows: 1 }"]),
}


@pytest.mark.parametrize("name", READS)
def test_no_read_scans_a_collection(filled: Store, name: str) -> None:
    action, indexes = READS[name]
    entries = profiled(filled, lambda: action(filled))
    assert len(entries) >= len(indexes)
    for entry in entries:
        assert entry["planSummary"].startswith(tuple(indexes))
        assert not entry.get("hasSortStage")


def test_sums_come_from_the_index_alone(filled: Store) -> None:
    for entry in profiled(filled, lambda: reports.total_counts(filled)):
        assert entry["docsExamined"] == 0
    assert reports.total_counts(filled) == {
        "rows_in": 220,
        "inserted": 220,
        "updated": 0,
        "unchanged": 0,
        "duplicate": 0,
        "quarantined": 0,
        "resolved": 0,
    }


def test_counting_what_is_parked_looks_at_nothing_that_is_loaded(filled: Store) -> None:
    left = filled.batches.count_documents({"state": {"$ne": "loaded"}})
    assert 0 < left < filled.batches.count_documents({})
    (entry,) = profiled(filled, lambda: reclaiming.dead_lettered_by_source(filled))
    assert entry["docsExamined"] == left


def test_a_read_that_takes_too_long_says_so(store: Store) -> None:
    put_records(store, *some_records(20))
    slow = {"$where": "sleep(200) || true"}
    with pytest.raises(QueryTimeout, match="did not end within"), reading.reading("slowly"):
        list(store.market_data.find(slow).max_time_ms(50))


def test_a_dead_database_is_unavailable() -> None:
    store = connect("mongodb://127.0.0.1:1/?directConnection=true", "x", server_selection_ms=50)
    for read in (
        lambda: record_queries.find_records(store, RecordQuery(), limit=1),
        lambda: counts.row_counts(store),
        lambda: reading.ping(store, seconds=0.2),
        lambda: run_queries.last_run(store),
    ):
        with pytest.raises(StoreUnavailable):
            read()
    store.client.close()


def test_counts_are_exact(store: Store) -> None:
    put_records(store, *some_records(30))
    store.database["raw_batches"].insert_many([{"_id": "a", "rows": 20}, {"_id": "b", "rows": 12}])
    store.quarantine.insert_one(make_quarantined(1))
    assert counts.row_counts(store) == {"raw": 32, "normalized": 30}
    assert counts.quarantined_count(store) == 1
