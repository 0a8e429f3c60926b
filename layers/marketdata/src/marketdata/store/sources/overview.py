"""How each source is at the moment."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from marketdata.documents.sources import BreakerState, Failures, Lease, Source, Watermark
from marketdata.store.connection import Expression, Store, aggregate, store_errors
from marketdata.store.leases import backfill_of
from marketdata.store.sources.limiter import (
    MARGIN_SECONDS,
    MOST_COUNTED,
    PACE,
    WINDOW_SECONDS,
    ms_since,
)


class ThrottlingNow(TypedDict):
    """How a source's quota is used at the moment."""

    quota_per_minute: float
    """Requests a minute by the settings."""
    burst: float
    """Requests that may go out at once after a pause, by the settings."""
    rate_per_minute: float
    """Requests a minute at most; lower after refusals."""
    last_event_at: NotRequired[datetime]
    """When the source refused last."""
    tokens_left: float
    """Requests that may go out now."""
    events: int
    """Refusals in all."""
    retry_latency_seconds: float | None
    """Seconds from being rate-limited to the answer, when that happened last."""
    blocked_until: datetime | None
    """The end of the cooldown that is under way; None if there is none."""


class BreakerNow(TypedDict):
    """How a source's circuit is at the moment."""

    state: str
    """A `BreakerState`."""
    until: NotRequired[datetime | None]
    """Until when it is so, if it is not closed."""
    failures: int
    """Runs in a row that the source failed."""


class SourceNow(TypedDict):
    """How a source is at the moment, by the database's clock."""

    name: str
    """The source's name; `csv` stands for uploads."""
    throttling: ThrottlingNow | None
    """How its quota is used; None of what was never asked, as uploads."""
    breaker: BreakerNow | None
    """How its circuit is; None of what was never asked."""
    failures: Failures | None
    """How often it has failed in a row; None if no run of it has ended."""
    watermark: Watermark | None
    """How far its data reaches; None as long as nothing was loaded."""
    lease: Lease | None
    """The run that had it last; None if no run ever had."""


def get(store: Store, name: str) -> Source:
    """A source's document; with nothing but its name if there is none yet."""
    with store_errors(f"reading source {name}"):
        return store.sources.find_one({"_id": name}) or {"_id": name}


def overview(store: Store) -> list[SourceNow]:
    """How each source is at the moment, by name."""
    rate = {"$multiply": ["$bucket.rate_per_minute", PACE / 60_000]}
    full = {
        "$max": [
            1,
            {
                "$subtract": [
                    "$bucket.burst",
                    {"$multiply": ["$bucket.quota_per_minute", MARGIN_SECONDS / 60]},
                ]
            },
        ]
    }
    refilled = {"$add": ["$bucket.tokens", {"$multiply": [ms_since("$bucket.at"), rate]}]}
    since = {"$subtract": ["$$NOW", int(WINDOW_SECONDS * 1000)]}
    recent = {
        "$size": {
            "$filter": {
                "input": {"$ifNull": ["$bucket.recent", []]},
                "cond": {"$gt": ["$$this", since]},
            }
        }
    }
    most = {"$trunc": {"$max": ["$bucket.quota_per_minute", "$bucket.burst", 1]}}
    of_window = {"$cond": [{"$gt": [most, MOST_COUNTED]}, full, {"$subtract": [most, recent]}]}
    blocked = {"$gt": ["$bucket.blocked_until", "$$NOW"]}
    throttling = {
        **{
            name: f"$bucket.{name}"
            for name in ("quota_per_minute", "burst", "rate_per_minute", "last_event_at")
        },
        "tokens_left": {
            "$cond": [
                blocked,
                0,
                {"$round": [{"$max": [0, {"$min": [full, refilled, of_window]}]}, 2]},
            ]
        },
        "events": {"$ifNull": ["$bucket.events", 0]},
        "retry_latency_seconds": {"$ifNull": ["$bucket.retry_latency_seconds", None]},
        "blocked_until": {"$cond": [blocked, "$bucket.blocked_until", None]},
    }
    state = {"$ifNull": ["$breaker.state", BreakerState.CLOSED]}
    until: Expression = {
        BreakerState.OPEN: "$breaker.next_probe_at",
        BreakerState.HALF_OPEN: "$breaker.probe.until",
    }
    breaker = {
        "state": state,
        "until": {
            "$switch": {
                "branches": [
                    {"case": {"$eq": [state, name]}, "then": time} for name, time in until.items()
                ],
                "default": None,
            }
        },
        "failures": {"$ifNull": ["$breaker.failures", 0]},
    }
    asked = {"$eq": [{"$type": "$bucket"}, "object"]}
    with store_errors("reading how the sources are"):
        found: Iterator[Any] = aggregate(
            store.sources,
            [
                # The lease of its past has a document of its own.
                {"$match": {"_id": {"$not": {"$regex": f"^{backfill_of('')}"}}}},
                {
                    "$project": {
                        "_id": 0,
                        "name": "$_id",
                        "throttling": {"$cond": [asked, throttling, None]},
                        "breaker": {"$cond": [asked, breaker, None]},
                        "failures": {"$ifNull": ["$failures", None]},
                        "watermark": {"$ifNull": ["$watermarks", None]},
                        "lease": {"$ifNull": ["$lease", None]},
                    }
                },
                {"$sort": {"name": 1}},
            ],
        )
        return list(found)
