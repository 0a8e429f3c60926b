"""Where a series has holes, and which of them its source has as well."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

import pytest

from marketdata import clock
from marketdata.sources.history import Interval, Window
from marketdata.store import asked_ranges, retention
from marketdata.store.connection import Store
from marketdata.store.gaps import Gaps, Hole, Series, find_gaps, find_series
from marketdata.store.migrations import migrate
from marketdata.store.retention import RetentionSettings
from tests.support.profiling import profiled
from tests.support.records import NOW, make_record, put_records

BEGIN = datetime(2025, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
BITCOIN = Series("coingecko", "bitcoin", "BTC", Interval.HOUR)
SNAPSHOTS = Series("coingecko", "bitcoin", "BTC", None)


def minutes(time: datetime) -> int:
    return (time - NOW) // timedelta(minutes=1)


def hours(*numbers: float) -> list[datetime]:
    return [BEGIN + number * HOUR for number in numbers]


def put_points(store: Store, times: Iterable[datetime], interval: str = "1h") -> None:
    records = [make_record(minutes=minutes(time), interval=interval) for time in times]
    put_records(store, *records)


def gaps(store: Store, hours_: float, series: Series = BITCOIN, begin: datetime = BEGIN) -> Gaps:
    return find_gaps(store, series, Window(begin, begin + hours_ * HOUR), HOUR)


def told(found: Gaps) -> list[tuple[float, float, int, bool]]:
    """Begin, end, in hours; how many are missing; whether the source has them."""
    return [
        ((h.start - BEGIN) / HOUR, (h.end - BEGIN) / HOUR, h.missing, h.asked is not None)
        for h in found.holes
    ]


def note(store: Store, start: float, end: float, at: datetime | None = None) -> None:
    begin, until = hours(start, end)
    asked_ranges.note(
        store,
        "coingecko",
        "bitcoin",
        "1h",
        {"start": begin, "end": until, "run_id": "run", "asked_at": at or clock.now()},
    )


@pytest.mark.parametrize(
    ("there", "holes"),
    [
        ((), [(0, 10, 10)]),
        (range(10), []),
        ((0, 1, 2, 5, 6, 9), [(3, 5, 2), (7, 9, 2)]),
        ((3,), [(0, 3, 3), (4, 10, 6)]),
        ((0, 9), [(1, 9, 8)]),
        ((1, 2, 3, 4, 5, 6, 7, 8), [(0, 1, 1), (9, 10, 1)]),
    ],
)
def test_holes_are_where_points_are_missing(
    store: Store, there: Collection[int], holes: list[tuple[int, int, int]]
) -> None:
    if there:
        put_points(store, hours(*there))
    found = gaps(store, 10)
    assert told(found) == [(*hole, False) for hole in holes]
    assert found.found == len(there)
    assert found.found + found.missing == 10


def test_points_that_come_somewhat_late_are_points(store: Store) -> None:
    """As CoinGecko's do: some minutes after the full hour, more or less."""
    put_points(store, hours(0.02, 1.1, 2.0, 3.09, 6.05, 7.01, 9.1))
    assert told(gaps(store, 10)) == [(4, 6, 2, False), (8, 9, 1, False)]


def test_each_series_is_looked_at_by_itself(store: Store) -> None:
    put_points(store, hours(0, 1))
    put_points(store, hours(2), "1d")
    put_records(store, make_record(minutes=minutes(BEGIN + 2 * HOUR)))
    put_records(store, make_record("ethereum", minutes=minutes(BEGIN + 2 * HOUR), interval="1h"))
    assert told(gaps(store, 3)) == [(2, 3, 1, False)]
    assert told(gaps(store, 3, SNAPSHOTS)) == [(0, 2, 2, False)]


def test_what_the_source_was_asked_for_is_told_apart(store: Store) -> None:
    put_points(store, hours(0, 5))
    note(store, 2, 4)
    note(store, 5, 8)
    found = gaps(store, 10)
    assert told(found) == [
        (1, 2, 1, False),
        (2, 4, 2, True),
        (4, 5, 1, False),
        (6, 8, 2, True),
        (8, 10, 2, False),
    ]
    assert (found.missing, found.missing_at_source) == (8, 4)
    asked = found.holes[1].asked
    assert asked is not None
    assert asked["run_id"] == "run"


def test_what_has_expired_is_no_hole_of_the_source(empty_store: Store) -> None:
    """With a retention, what was asked for long ago is gone here, whatever the source has."""
    store = empty_store
    migrate(store)
    note(store, 0, 4, clock.now() - timedelta(days=8))
    note(store, 5, 6, clock.now() - timedelta(days=1))
    assert told(gaps(store, 10))[0] == (0, 4, 4, True)
    retention.apply(store, RetentionSettings(snapshot_retention_days=7))
    assert told(gaps(store, 10)) == [(0, 5, 5, False), (5, 6, 1, True), (6, 10, 4, False)]


def test_snapshots_are_measured_from_one_to_the_next(store: Store) -> None:
    """Runs are not at full hours, and not exactly an hour apart."""
    times = hours(0.2, 1.3, 2.1, 2.9, 4.0, 7.2, 8.3, 9.1)
    put_records(store, *[make_record(minutes=minutes(time)) for time in times])
    found = gaps(store, 10, SNAPSHOTS)
    assert [hole.missing for hole in found.holes] == [2]
    assert found.holes[0].start == BEGIN + 5 * HOUR
    # A source was asked of a history, and not of what it said of the present then.
    note(store, 0, 10)
    assert told(gaps(store, 10, SNAPSHOTS)) == told(found)


def test_a_run_that_is_missing_last_is_a_hole_up_to_the_end(store: Store) -> None:
    put_records(store, make_record(minutes=minutes(BEGIN + 0.5 * HOUR)))
    (hole,) = gaps(store, 2.4, SNAPSHOTS).holes
    begin, end = hours(1.5, 2.4)
    assert (hole.start, hole.end, hole.missing) == (begin, end, 1)


def test_an_empty_range_lacks_nothing(store: Store) -> None:
    assert gaps(store, 0) == Gaps(0, [])


def test_an_index_alone_tells_the_points_of_a_history(store: Store) -> None:
    put_points(store, hours(*range(100)))
    entries = profiled(store, lambda: gaps(store, 100))
    (points,) = [e for e in entries if e["ns"].endswith(".market_data")]
    assert (points["docsExamined"], points["keysExamined"]) == (0, 100)


def test_an_asset_is_found_by_its_id_or_its_ticker(store: Store) -> None:
    put_records(store, make_record(), make_record("batcat", symbol="BTC", source="coinpaprika"))
    assert find_series(store, "coingecko", "bitcoin", None) == [SNAPSHOTS]
    assert find_series(store, "coingecko", "btc", Interval.HOUR) == [BITCOIN]
    assert find_series(store, "coingecko", "batcat", None) == []
    put_records(store, make_record("batcat", symbol="BTC"))
    found = find_series(store, "coingecko", "BTC", None)
    assert sorted(one.asset_id for one in found) == ["batcat", "bitcoin"]


def test_an_asset_that_has_a_past_only_is_found_by_its_id(store: Store) -> None:
    put_points(store, hours(0))
    assert find_series(store, "coingecko", "bitcoin", Interval.HOUR) == [BITCOIN]
    assert find_series(store, "coingecko", "bitcoin", Interval.DAY) == []
    assert find_series(store, "coingecko", "bitcoin", None) == []


def test_an_asset_of_which_the_source_had_nothing_is_found(store: Store) -> None:
    note(store, 0, 4)
    (found,) = find_series(store, "coingecko", "bitcoin", Interval.HOUR)
    assert found.symbol is None
    holes = find_gaps(store, found, Window(BEGIN, BEGIN + 4 * HOUR), HOUR).holes
    assert [(type(hole), hole.missing) for hole in holes] == [(Hole, 4)]
