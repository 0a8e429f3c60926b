"""How each source is at the moment."""

from __future__ import annotations

from marketdata.store.connection import Document, Store, store_errors
from marketdata.store.sources.limiter import (
    MARGIN_SECONDS,
    MOST_COUNTED,
    PACE,
    WINDOW_SECONDS,
    ms_since,
)


def get(store: Store, name: str) -> Document:
    """A source's document; empty if there is none yet."""
    with store_errors(f"reading source {name}"):
        return store.sources.find_one({"_id": name}) or {}


def overview(store: Store) -> list[Document]:
    """How each source is at the moment, by name, as of the server's clock.

    Returns:
        For each `name`; `throttling`, `{quota_per_minute, burst, rate_per_minute, tokens_left,
        events, last_event_at, blocked_until, retry_latency_seconds}`; `breaker`, `{state, until,
        failures}`; `failures`, as `alerts.failures` has it; `lease`, `{run_id, number}` of the run
        that had it last. The first two are None of what was never asked, as uploads; the last one
        of what no run ever held.
    """
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
    state = {"$ifNull": ["$breaker.state", "closed"]}
    until: Document = {
        "open": "$breaker.next_probe_at",
        "half_open": "$breaker.probe.until",
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
        return list(
            store.sources.aggregate(
                [
                    {
                        "$project": {
                            "_id": 0,
                            "name": "$_id",
                            "throttling": {"$cond": [asked, throttling, None]},
                            "breaker": {"$cond": [asked, breaker, None]},
                            "failures": {"$ifNull": ["$failures", {}]},
                            "watermark": {"$ifNull": ["$watermarks", None]},
                            "lease": {"$ifNull": ["$lease", None]},
                        }
                    },
                    {"$sort": {"name": 1}},
                ]
            )
        )
