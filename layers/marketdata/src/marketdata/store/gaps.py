"""Where a series has holes, and which of them its source has as well.

A series is what one source says of one asset: with an interval, its past; without one, what it
said of the present, run by run. The points of the past lie on the interval's grid, or come
somewhat after it. Snapshots lie where runs were, so they are measured from one to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bson import Binary

from marketdata import clock
from marketdata.documents.asked_ranges import AskedRange
from marketdata.schema.identity import first_id, ms_of
from marketdata.sources.history import Interval, Window
from marketdata.store import asked_ranges, latest_prices, retention
from marketdata.store.connection import Filter, Store
from marketdata.store.reading import MAX_TIME_MS, reading
from marketdata.store.server_time import server_clock


@dataclass(frozen=True, slots=True)
class Series:
    """What one source says of one asset."""

    source: str
    asset_id: str
    symbol: str | None
    """The ticker of its records; None where there is no record yet."""
    interval: Interval | None
    """How far apart its points are; None for snapshots."""


@dataclass(frozen=True, slots=True)
class Hole:
    """A range of a series without points, where there should be some."""

    start: datetime
    """When its first point is missing."""
    end: datetime
    """The first time that is no part of it any more."""
    missing: int
    """How many points are missing."""
    asked: AskedRange | None
    """The range that its source was asked for and has nothing of; None if it was not asked."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """What a range of a series lacks."""

    found: int
    """How many points it has."""
    holes: Sequence[Hole]
    """In the order of time. One of which the source was asked for a part is several."""

    @property
    def missing(self) -> int:
        """How many points are missing."""
        return sum(hole.missing for hole in self.holes)

    @property
    def missing_at_source(self) -> int:
        """How many of these the source was asked for, and has none."""
        return sum(hole.missing for hole in self.holes if hole.asked)


def find_series(store: Store, source: str, asset: str, interval: Interval | None) -> list[Series]:
    """The series that an asset's id or ticker means; several if several assets have the ticker."""
    known = latest_prices.find_assets(store, source, [asset])[asset]
    if known or interval is None:
        return [Series(source, one.asset_id, one.symbol, interval) for one in known]
    # One of which there is no present price any more, or of which the source had nothing.
    query = {"source": source, "asset_id": asset, "interval": interval.value}
    with reading(f"the asset {asset} of {source}"):
        point = store.market_data.find_one(
            query, {"symbol": 1}, hint="series", max_time_ms=MAX_TIME_MS
        )
    if point is not None:
        return [Series(source, asset, point["symbol"], interval)]
    asked = asked_ranges.of(store, source, asset, interval)
    return [Series(source, asset, None, interval)] if asked else []


def find_gaps(store: Store, series: Series, window: Window, step: timedelta) -> Gaps:
    """What a range of a series lacks.

    Args:
        store: the database.
        series: of which source and asset.
        window: the range; of a series with an interval, on its grid.
        step: how far apart the points should be: the interval, or that of the runs.

    Raises:
        QueryTimeout: there is more to read than that is time for.
    """
    times = _times(store, series, window)
    holes = _holes(times, window, step, on_grid=series.interval is not None)
    asked: Sequence[AskedRange] = ()
    if series.interval is not None:
        asked = _asked(store, series, series.interval)
    told = [part for hole in holes for part in _by_asked(hole, asked, step)]
    return Gaps(len(times), told)


def _times(store: Store, series: Series, window: Window) -> list[int]:
    """When there are points, in milliseconds since 1970, told by an index."""
    ids = {"$gte": Binary(first_id(window.start)), "$lt": Binary(first_id(window.end))}
    query: Filter = {"source": series.source, "asset_id": series.asset_id, "_id": ids}
    if series.interval is None:
        query |= {"symbol": series.symbol, "interval": {"$exists": False}}
        index = "symbol_time"
    else:
        query |= {"interval": series.interval.value}
        index = "series"
    with reading(f"the points of {series.asset_id} of {series.source}"):
        found = store.market_data.find(query, {"_id": 1}).sort("_id").hint(index)
        return [ms_of(point["_id"]) for point in found.max_time_ms(MAX_TIME_MS)]


def _holes(times: Iterable[int], window: Window, step: timedelta, *, on_grid: bool) -> list[Hole]:
    """The holes between points, before the first and after the last."""
    start, end = clock.to_ms(window.start), clock.to_ms(window.end)
    each = step // timedelta(milliseconds=1)
    holes = []

    def note(begin: int, missing: int) -> None:
        if missing > 0:
            until = clock.from_ms(min(begin + missing * each, end))
            holes.append(Hole(clock.from_ms(begin), until, missing, None))

    last = None
    for time in times:
        if last is None:
            note(start, (time - start) // each)
        else:
            # To the nearest: points come a little later or earlier than the one before.
            note(_next(last, each, on_grid=on_grid), (time - last + each // 2) // each - 1)
        last = time
    if last is None:
        note(start, (end - start) // each)
    else:
        note(_next(last, each, on_grid=on_grid), (end - last + each // 2) // each - 1)
    return holes


def _next(time: int, each: int, *, on_grid: bool) -> int:
    """When the point after one is due."""
    return time - (time % each if on_grid else 0) + each


def _asked(store: Store, series: Series, interval: Interval) -> Sequence[AskedRange]:
    """The ranges that the source was asked for, of which what it gave is still kept."""
    asked = asked_ranges.of(store, series.source, series.asset_id, interval)
    days = retention.in_force(store)["snapshot_retention_days"]
    if days is None:
        return asked
    oldest = server_clock(store).now() - timedelta(days=days)
    return [one for one in asked if one["asked_at"] > oldest]


def _by_asked(hole: Hole, asked: Sequence[AskedRange], step: timedelta) -> Iterator[Hole]:
    """A hole in parts: those that the source has as well, and those it was not asked for."""
    if not asked:
        yield hole
        return
    at = hole.start
    for one in asked:
        begin, end = max(at, one["start"]), min(hole.end, one["end"])
        if begin < end:
            if at < begin:
                yield _part(at, begin, step, None)
            yield _part(begin, end, step, one)
            at = end
    if at < hole.end:
        yield _part(at, hole.end, step, None)


def _part(start: datetime, end: datetime, step: timedelta, asked: AskedRange | None) -> Hole:
    # Ranges that were asked lie on the grid, as holes of such a series do.
    return Hole(start, end, (end - start) // step, asked)
