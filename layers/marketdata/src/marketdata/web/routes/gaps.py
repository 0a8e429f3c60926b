"""`/gaps`: where a series has holes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Query

from marketdata import clock
from marketdata.aws.schedule import Rule, between_firings, timetable
from marketdata.errors import MarketDataError, NotFound
from marketdata.sources.history import Interval, Window
from marketdata.store import gaps, run_queries
from marketdata.store.gaps import Hole, Series
from marketdata.store.server_time import server_clock
from marketdata.web.models.common import Part
from marketdata.web.models.gaps import Gaps
from marketdata.web.parameters import (
    DEFAULT_LIMIT,
    End,
    Limit,
    Start,
    malformed,
    read_text,
    read_time,
)
from marketdata.web.responses import responses
from marketdata.web.routing import new_router
from marketdata.web.services import services

router = new_router()

MOST_POINTS = 110_000
"""How many points are looked at; a year has 105,120 of 5 minutes."""
DEFAULT_RANGE = timedelta(days=30)
_UNKNOWN_SCHEDULE = timedelta(hours=1)
_MILLISECOND = timedelta(milliseconds=1)


@router.get(
    "/gaps",
    summary="Holes in a series",
    description="Where a source's series of an asset has no points although there should be some: "
    "with `interval`, a history; without it, the snapshots that runs have taken. A hole that the "
    "source has as well is told apart from one that nobody has asked it for.",
    responses=responses("What the series lacks; an empty list if nothing.", 400, 404),
    tags=["data"],
    operation_id="getGaps",
)
def get_gaps(
    request: Request,
    source: Annotated[
        str,
        Query(min_length=1, max_length=256, description="The source.", examples=["coingecko"]),
    ],
    asset: Annotated[
        str,
        Query(
            min_length=1,
            max_length=256,
            description="The source's own id of the asset, or its ticker if only one of the "
            "source's assets has it.",
            examples=["bitcoin"],
        ),
    ],
    start: Start = None,
    end: End = None,
    interval: Annotated[
        Literal["5m", "1h", "1d"] | None,
        Query(
            description="Which history. With `series=snapshots`, how far apart they should be; "
            "by default as far as the schedule's runs."
        ),
    ] = None,
    series: Annotated[
        Literal["history", "snapshots"] | None,
        Query(
            description="`history`: the points of an interval (by default 1d); `snapshots`: what "
            "runs have taken. By default a history if `interval` is given, else snapshots."
        ),
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Gaps:
    """The holes of a series, in the order of time."""
    given = Interval(interval) if interval else None
    past = series == "history" or (series is None and given is not None)
    store = services(request).store()
    now = server_clock(store).now()
    of = (given or Interval.DAY) if past else None
    step, measured_by = _step(of or given, services(request).rule(), now)
    window, left_off = _window(start, end, of, step, now)
    source, asset = read_text("source", source) or "", read_text("asset", asset) or ""
    found = _one(source, asset, gaps.find_series(store, source, asset, of))
    told = gaps.find_gaps(store, found, window, step)
    shown = told.holes[:limit]
    return Gaps.model_validate(
        {
            "source": found.source,
            "asset_id": found.asset_id,
            "symbol": found.symbol,
            "series": "history" if past else "snapshots",
            "interval": of and of.value,
            "measured_seconds": step.total_seconds(),
            "measured_by": measured_by,
            "start": clock.iso(window.start),
            "end": clock.iso(window.end),
            "left_off": left_off,
            "totals": {
                "expected": (window.end - window.start) // step,
                "found": told.found,
                "missing": told.missing,
                "missing_at_source": told.missing_at_source,
                "holes": len(told.holes),
                "holes_left_off": len(told.holes) - len(shown),
            },
            "data": [_hole(hole) for hole in shown],
            "run_id": run_queries.last_closed_run_id(store),
        }
    )


def _step(
    interval: Interval | None, rule: Rule | None, now: datetime
) -> tuple[timedelta, Literal["interval", "schedule", "default"]]:
    """How far apart points should be, and what says so."""
    if interval is not None:
        return interval.step, "interval"
    try:
        table = timetable(rule.state().expression) if rule is not None else None
    except MarketDataError:
        table = None
    step = between_firings(table, now)
    return (step, "schedule") if step else (_UNKNOWN_SCHEDULE, "default")


def _window(
    start: str | None, end: str | None, interval: Interval | None, step: timedelta, now: datetime
) -> tuple[Window, int]:
    """The range that is looked at, and how many points of what was asked for are not.

    Of a history only intervals that are over; it begins and ends on the grid.
    """
    last = read_time("end", end, end=True)
    until = now if last is None or last >= now else last + _MILLISECOND
    begin = min(read_time("start", start) or until - DEFAULT_RANGE, now)
    if interval is not None:
        begin, until = interval.ceil(begin), min(interval.ceil(until), interval.floor(now))
    points = max(0, (until - begin) // step)
    looked_at = min(points, MOST_POINTS)
    if looked_at < points or until < begin:
        until = begin + looked_at * step
    return Window(begin, until), points - looked_at


def _one(source: str, asset: str, found: list[Series]) -> Series:
    if not found:
        raise NotFound(
            f"There is no record of {asset[:80]!r} from {source[:80]!r}: GET /symbols lists the "
            "assets of a source.",
        )
    if len(found) > 1:
        ids = ", ".join(sorted(one.asset_id for one in found))
        malformed("asset", f"{len(found)} assets of {source} have this ticker: give one of {ids}")
    return found[0]


def _hole(hole: Hole) -> Part:
    asked = hole.asked
    return {
        "start": clock.iso(hole.start),
        "end": clock.iso(hole.end),
        "missing": hole.missing,
        "at_source": asked is not None,
        "asked_at": clock.iso(asked["asked_at"]) if asked else None,
        "run_id": asked["run_id"] if asked else None,
    }
