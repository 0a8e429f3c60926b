"""The collection `sources`: what all execution environments share about an upstream API.

Each part of a source's document is changed by single updates on the server's clock (`$$NOW`), so
it makes no difference how many functions there are, how their clocks go, or which of them dies:

    bucket      the token bucket: how many requests may still go out, and until when none may
    breaker     the circuit breaker: whether it is asked at all
    pages       validators of the pages as they were fetched last
    watermarks  how far its data reaches
    lease       which run has it (see `runs`)

The bucket holds `burst` permits less a margin and is refilled at `rate_per_minute`, which is the
quota, or less after a refusal. Besides, no more than max(quota, burst) permits are granted within
a minute and a margin. Why there is a margin: a permit is taken here, and its request arrives there
somewhat later, the one sooner, the other later. Requests that were permitted apart can thus arrive
together. `MARGIN_SECONDS` is the most that this can be: a permit that took longer to come than
`STALE_SECONDS` is not used, and a connection must be made within seconds. Counting the requests of
a span and of that time before it covers all that can arrive in the span.
"""

from __future__ import annotations

from dataclasses import dataclass

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from marketdata.documents.sources import Bucket
from marketdata.sources.base import Quota, Upstream
from marketdata.store.connection import Expression, Store, Update, store_errors
from marketdata.store.sources.breaker import closed
from marketdata.store.sources.expressions import after

MARGIN_SECONDS = 5.0
STALE_SECONDS = 2.0
"""A permit that was longer on its way than this is not used; see above."""

WINDOW_SECONDS = 60.0 + MARGIN_SECONDS
MOST_COUNTED = 1_000
"""Above so many requests a minute only the bucket counts: their times would fill the document."""
PACE = 0.99
"""Of the rate: the upstream's clock may go slower than ours, and a lead would add up."""
_SLOWER = 0.5
_FLOOR = 0.1
"""Of the quota: what refusals can lower the rate to."""
_RECOVERY = 0.05
"""Of the quota: what each answer gives back of the rate."""
_COOLDOWN_SECONDS = 60.0
"""Where a refusal names no cooldown; doubled with every further one."""
_LONGEST_OWN_COOLDOWN_SECONDS = 3_600.0
_LONGEST_ADDED_COOLDOWN_SECONDS = 60.0
_MOST_DOUBLINGS = 12


@dataclass(frozen=True, slots=True)
class Permit:
    """What came of asking for a permit."""

    granted: bool
    wait_seconds: float
    """Until there may be one; 0 if this one was granted."""
    blocked: bool
    """Whether it is the source's own refusal that is being waited out."""
    asked_seconds: float
    """Of the wait, what the source itself asked for."""
    permits_left: float
    rate_per_minute: float
    strikes: int
    """Refusals by the source since its last answer."""


def ms_since(time: Expression) -> Expression:
    """Milliseconds since a time, none for one to come."""
    return {"$max": [0, {"$subtract": ["$$NOW", time]}]}


def capacity(quota: Quota) -> float:
    """The permits that a full bucket holds: the burst without the margin, but at least one."""
    return max(1.0, quota.burst - quota.per_minute * MARGIN_SECONDS / 60)


def spare_rate(quota: Quota, reserve: int) -> float:
    """Requests a minute at most for somebody who leaves a reserve; see `take`."""
    most = int(max(quota.per_minute, quota.burst, 1))
    by_bucket = quota.per_minute * PACE
    if most > MOST_COUNTED:
        return by_bucket
    return min(by_bucket, _most_of(most, reserve) * 60 / WINDOW_SECONDS)


def _most_of(most: int, reserve: int) -> int:
    """Permits in the window of a minute, if so many are left to others; at least one."""
    return max(1, most - reserve)


def take(store: Store, upstream: Upstream, quota: Quota, *, reserve: int = 0) -> Permit:
    """Take a permit, or be told how long to wait: one atomic update.

    A quota that differs from the one the bucket knows takes effect right here; so does another
    upstream, whose refusals are not those of the last one.

    Args:
        store: the database.
        upstream: who is asked.
        quota: by the settings.
        reserve: so many permits must be left for others afterwards, who then need not wait. If
            the bucket never holds as many, it has to be full. Whoever leaves a reserve and gets
            no permit is told to wait until the bucket is full: the quota is used as well so, with
            fewer waits.
    """
    same = {"$eq": ["$bucket.identity", upstream.identity]}
    known = {
        "$and": [
            same,
            {"$eq": ["$bucket.quota_per_minute", quota.per_minute]},
            {"$eq": ["$bucket.burst", quota.burst]},
        ]
    }
    full = capacity(quota)
    needed, refill = (min(1.0 + reserve, full), full) if reserve else (1, 1)
    most = int(max(quota.per_minute, quota.burst, 1))
    allowed = _most_of(most, reserve)
    per_ms = {"$multiply": ["$bucket.rate_per_minute", PACE / 60_000]}
    refilled = {
        "$add": [
            {"$ifNull": ["$bucket.tokens", full]},
            {"$multiply": [ms_since({"$ifNull": ["$bucket.at", "$$NOW"]}), per_ms]},
        ]
    }
    since = {"$subtract": ["$$NOW", int(WINDOW_SECONDS * 1000)]}
    recent: Expression = {
        "$filter": {
            "input": {"$ifNull": ["$bucket.recent", []]},
            "cond": {"$gt": ["$$this", since]},
        }
    }
    blocked_ms = {"$max": [0, {"$subtract": ["$bucket.blocked_until", "$$NOW"]}]}
    empty_ms = {
        "$cond": [
            {"$gte": ["$bucket.tokens", needed]},
            0,
            {"$divide": [{"$subtract": [refill, "$bucket.tokens"]}, per_ms]},
        ]
    }
    oldest = {"$arrayElemAt": ["$bucket.recent", -allowed]}
    full_ms: Expression = {
        "$cond": [
            {"$gte": [{"$size": "$bucket.recent"}, allowed]},
            {"$max": [0, {"$subtract": [oldest, since]}]},
            0,
        ]
    }
    if most > MOST_COUNTED:
        recent, full_ms = {"$literal": []}, {"$literal": 0}
    granted = {"$lte": ["$bucket.wait_ms", 0]}
    steps: list[Update] = [
        {
            "identity": {"$literal": upstream.identity},
            "host": {"$literal": upstream.host},
            "quota_per_minute": quota.per_minute,
            "burst": quota.burst,
            "rate_per_minute": {
                "$cond": [
                    known,
                    {"$ifNull": ["$bucket.rate_per_minute", quota.per_minute]},
                    quota.per_minute,
                ]
            },
            "blocked_until": {"$cond": [same, "$bucket.blocked_until", None]},
            "asked_until": {"$cond": [same, {"$ifNull": ["$bucket.asked_until", None]}, None]},
            "strikes": {"$cond": [same, {"$ifNull": ["$bucket.strikes", 0]}, 0]},
        },
        {
            "tokens": {"$min": [full, refilled]},
            # During a cooldown nothing is refilled.
            "at": {"$max": ["$$NOW", "$bucket.blocked_until"]},
            "recent": recent,
        },
        {
            "blocked": {"$gt": [blocked_ms, 0]},
            "asked_ms": _ASKED_MS,
            "wait_ms": {"$max": [blocked_ms, empty_ms, full_ms]},
        },
        {
            "tokens": {"$cond": [granted, {"$subtract": ["$bucket.tokens", 1]}, "$bucket.tokens"]},
            "recent": (
                recent
                if most > MOST_COUNTED
                else {
                    "$cond": [
                        granted,
                        {"$concatArrays": ["$bucket.recent", ["$$NOW"]]},
                        "$bucket.recent",
                    ]
                }
            ),
            "taken": {"$add": [{"$ifNull": ["$bucket.taken", 0]}, {"$cond": [granted, 1, 0]}]},
        },
    ]
    return _permit(_change_bucket(store, upstream, steps, "taking a permit of"))


def note_refusal(
    store: Store, upstream: Upstream, quota: Quota, retry_after: float | None
) -> Permit:
    """Note that the source refused a request (429 or 402): slow down, after a cooldown.

    The cooldown is what the source asks for, but longer where it keeps refusing; then one request
    may go out at once, and those after it at half the rate. Refusals that come in during the
    cooldown, to requests that were under way, change nothing more.

    Args:
        store: the database.
        upstream: who refused.
        quota: by the settings.
        retry_after: seconds from now, if it named a cooldown.

    Returns:
        How long to wait now, as `take` would say it.
    """
    strikes = {"$min": [{"$add": [{"$ifNull": ["$bucket.strikes", 0]}, 1]}, _MOST_DOUBLINGS]}
    doubled = {"$pow": [2, {"$subtract": ["$bucket.strikes", 1]}]}
    cooldown: Expression = {
        "$max": [retry_after, {"$min": [_LONGEST_ADDED_COOLDOWN_SECONDS, doubled]}]
    }
    if retry_after is None:
        cooldown = {
            "$min": [_LONGEST_OWN_COOLDOWN_SECONDS, {"$multiply": [_COOLDOWN_SECONDS, doubled]}]
        }
    known = {"$gt": ["$bucket.blocked_until", "$$NOW"]}
    lowered = {
        "$max": [
            quota.per_minute * _FLOOR,
            {
                "$multiply": [
                    {"$ifNull": ["$bucket.rate_per_minute", quota.per_minute]},
                    _SLOWER,
                ]
            },
        ]
    }
    steps: list[Update] = [
        {
            "known": known,
            "strikes": {"$cond": [known, "$bucket.strikes", strikes]},
            "rate_per_minute": {"$cond": [known, "$bucket.rate_per_minute", lowered]},
            "events": {"$add": [{"$ifNull": ["$bucket.events", 0]}, 1]},
            "last_event_at": "$$NOW",
        },
        {
            "blocked_until": {
                "$max": [
                    "$bucket.blocked_until",
                    {"$cond": ["$bucket.known", after(retry_after or 0), after(cooldown)]},
                ]
            },
            "asked_until": {
                "$max": ["$bucket.asked_until", None if retry_after is None else after(retry_after)]
            },
        },
        {
            "tokens": 1,
            "at": "$bucket.blocked_until",
            "blocked": True,
            "known": "$$REMOVE",
            "asked_ms": _ASKED_MS,
            "wait_ms": {"$max": [0, {"$subtract": ["$bucket.blocked_until", "$$NOW"]}]},
        },
    ]
    return _permit(_change_bucket(store, upstream, steps, "noting a refusal of"))


_ASKED_MS: Expression = {"$max": [0, {"$subtract": ["$bucket.asked_until", "$$NOW"]}]}


def _change_bucket(store: Store, upstream: Upstream, steps: list[Update], doing: str) -> Bucket:
    update = [{"$set": {"bucket": step}} for step in steps]
    with store_errors(f"{doing} source {upstream.name}"):
        while True:
            try:
                document = store.sources.find_one_and_update(
                    {"_id": upstream.name},
                    update,
                    upsert=True,
                    projection={"bucket.recent": 0},
                    return_document=ReturnDocument.AFTER,
                )
            except DuplicateKeyError:
                # Two made the source's document at once; this one finds the other's.
                continue
            if document is not None:
                return document["bucket"]


def _permit(bucket: Bucket) -> Permit:
    wait = bucket["wait_ms"] / 1000
    return Permit(
        granted=wait <= 0,
        wait_seconds=wait,
        blocked=bucket["blocked"],
        asked_seconds=bucket.get("asked_ms", 0) / 1000,
        # The one that is kept for the end of a cooldown can't be used before.
        permits_left=0.0 if bucket["blocked"] else round(bucket["tokens"], 2),
        rate_per_minute=round(bucket["rate_per_minute"], 3),
        strikes=bucket["strikes"],
    )


def note_answer(
    store: Store, upstream: Upstream, page: int = 1, *, retry_latency: float | None = None
) -> None:
    """Note that the source answered: the rate rises towards the quota, the circuit closes.

    That of an earlier page than the one that failed says nothing of the failure.

    Args:
        store: the database.
        upstream: who answered.
        page: which page it was.
        retry_latency: seconds since the request was first rate-limited, if it was.
    """
    bucket: Update = {
        "strikes": 0,
        "rate_per_minute": {
            "$min": [
                "$bucket.quota_per_minute",
                {
                    "$add": [
                        "$bucket.rate_per_minute",
                        {"$multiply": ["$bucket.quota_per_minute", _RECOVERY]},
                    ]
                },
            ]
        },
    }
    if retry_latency is not None:
        bucket["retry_latency_seconds"] = round(retry_latency, 3)
    same = {"$eq": ["$breaker.identity", {"$literal": upstream.identity}]}
    earlier = {"$gt": [{"$ifNull": ["$breaker.page", 0]}, page]}
    breaker = {"$cond": [{"$and": [same, earlier]}, "$breaker", closed(upstream)]}
    with store_errors(f"noting an answer of source {upstream.name}"):
        store.sources.update_one(
            {"_id": upstream.name, "bucket.identity": upstream.identity},
            [{"$set": {"bucket": bucket, "breaker": breaker}}],
        )
