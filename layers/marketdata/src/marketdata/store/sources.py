"""The collection `sources`: what all execution environments share about an upstream API.

Each part of a source's document is changed by single updates on the server's clock (`$$NOW`), so
it makes no difference how many functions there are, how their clocks go, or which of them dies:

    bucket      the token bucket: how many requests may still go out, and until when none may
    breaker     the circuit breaker: whether it is asked at all
    pages       validators of the pages as they were fetched last
    watermarks  how far its data reaches
    lease       which run has it (see `runs`)

The bucket holds `burst` tokens less a margin and is refilled at `rate_per_minute`, which is the
quota, or less after a refusal. Besides, no more than max(quota, burst) tokens are given out within
a minute and a margin. Why there is a margin: a token is taken here, and its request arrives there
somewhat later, the one sooner, the other later. Requests that were taken apart can thus arrive
together. `MARGIN_SECONDS` is the most that this can be: a token that took longer to come than
`STALE_SECONDS` is not used, and a connection must be made within seconds. Counting the requests of
a span and of that time before it covers all that can arrive in the span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from marketdata import clock
from marketdata.errors import StateConflict
from marketdata.sources.base import Quota, Upstream
from marketdata.store.connection import Document, Store, store_errors

MARGIN_SECONDS = 5.0
STALE_SECONDS = 2.0
"""A token that was longer on its way than this is let go; see above."""

_WINDOW_SECONDS = 60.0 + MARGIN_SECONDS
_MOST_COUNTED = 1_000
"""Above so many requests a minute only the bucket counts: their times would fill the document."""
_PACE = 0.99
"""Of the rate: the upstream's clock may go slower than ours, and a lead would add up."""
_SLOWER = 0.5
_FLOOR = 0.1
"""Of the quota: what refusals can lower the rate to."""
_RECOVERY = 0.05
"""Of the quota: what each answer gives back of the rate."""
_PAUSE_SECONDS = 60.0
"""Where a refusal names no pause; doubled with every further one."""
_LONGEST_OWN_PAUSE_SECONDS = 3_600.0
_LONGEST_ADDED_PAUSE_SECONDS = 60.0
_MOST_DOUBLINGS = 12
_TIME_BYTES = 8
_SIGN = 1 << 63

type Expression = Any


@dataclass(frozen=True, slots=True)
class Grant:
    """What came of asking for a token."""

    granted: bool
    wait_seconds: float
    """Until there may be one; 0 if this one was granted."""
    blocked: bool
    """Whether it is the source's own refusal that is being waited out."""
    tokens_left: float
    rate_per_minute: float
    strikes: int
    """Refusals by the source since its last answer."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a source may be asked, by its circuit breaker."""

    allowed: bool
    probe: str | None = None
    """The caller's own token, if it is the one that probes."""
    failures: int = 0
    reason: Document | None = None
    """The error that opened the circuit, as `{code, message}`."""
    next_probe_at: datetime | None = None
    opened_by: str | None = None
    """The run whose failure opened it last."""


def get(store: Store, name: str) -> Document:
    """A source's document; empty if there is none yet."""
    with store_errors(f"reading source {name}"):
        return store.sources.find_one({"_id": name}) or {}


# --- the token bucket ---------------------------------------------------------------------


def _ms_since(time: Expression) -> Expression:
    """Milliseconds since a time, none for one to come."""
    return {"$max": [0, {"$subtract": ["$$NOW", time]}]}


def _after(seconds: Expression) -> Expression:
    """The server's time so many seconds from now."""
    return {"$add": ["$$NOW", {"$multiply": [seconds, 1000]}]}


def capacity(quota: Quota) -> float:
    """The tokens that a full bucket holds: the burst without the margin, but at least one."""
    return max(1.0, quota.burst - quota.per_minute * MARGIN_SECONDS / 60)


def take(store: Store, upstream: Upstream, quota: Quota) -> Grant:
    """Take a token, or be told how long to wait: one atomic update.

    A quota that differs from the one the bucket knows takes effect right here; so does another
    upstream, whose refusals are not those of the last one.
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
    most = int(max(quota.per_minute, quota.burst, 1))
    per_ms = {"$multiply": ["$bucket.rate_per_minute", _PACE / 60_000]}
    refilled = {
        "$add": [
            {"$ifNull": ["$bucket.tokens", full]},
            {"$multiply": [_ms_since({"$ifNull": ["$bucket.at", "$$NOW"]}), per_ms]},
        ]
    }
    since = {"$subtract": ["$$NOW", int(_WINDOW_SECONDS * 1000)]}
    recent: Expression = {
        "$filter": {
            "input": {"$ifNull": ["$bucket.recent", []]},
            "cond": {"$gt": ["$$this", since]},
        }
    }
    blocked_ms = {"$max": [0, {"$subtract": ["$bucket.blocked_until", "$$NOW"]}]}
    empty_ms = {
        "$cond": [
            {"$gte": ["$bucket.tokens", 1]},
            0,
            {"$divide": [{"$subtract": [1, "$bucket.tokens"]}, per_ms]},
        ]
    }
    oldest = {"$arrayElemAt": ["$bucket.recent", -most]}
    full_ms: Expression = {
        "$cond": [
            {"$gte": [{"$size": "$bucket.recent"}, most]},
            {"$max": [0, {"$subtract": [oldest, since]}]},
            0,
        ]
    }
    if most > _MOST_COUNTED:
        recent, full_ms = {"$literal": []}, {"$literal": 0}
    granted = {"$lte": ["$bucket.wait_ms", 0]}
    steps: list[Document] = [
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
            "strikes": {"$cond": [same, {"$ifNull": ["$bucket.strikes", 0]}, 0]},
        },
        {
            "tokens": {"$min": [full, refilled]},
            # While the source has asked for a pause nothing is refilled.
            "at": {"$max": ["$$NOW", "$bucket.blocked_until"]},
            "recent": recent,
        },
        {
            "blocked": {"$gt": [blocked_ms, 0]},
            "wait_ms": {"$max": [blocked_ms, empty_ms, full_ms]},
        },
        {
            "tokens": {"$cond": [granted, {"$subtract": ["$bucket.tokens", 1]}, "$bucket.tokens"]},
            "recent": (
                recent
                if most > _MOST_COUNTED
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
    return _grant(_change_bucket(store, upstream, steps, "taking a token of"))


def refused(store: Store, upstream: Upstream, quota: Quota, retry_after: float | None) -> Grant:
    """Note that the source refused a request (429 or 402): slow down, and pause.

    The pause is what the source asks for, but longer where it keeps refusing; then one request
    may go out at once, and those after it at half the rate. Refusals that come in while the
    pause is under way, to requests that were under way, change nothing more.

    Args:
        store: the database.
        upstream: who refused.
        quota: by the settings.
        retry_after: seconds from now, if it named a pause.

    Returns:
        How long to wait now, as `take` would say it.
    """
    strikes = {"$min": [{"$add": [{"$ifNull": ["$bucket.strikes", 0]}, 1]}, _MOST_DOUBLINGS]}
    doubled = {"$pow": [2, {"$subtract": ["$bucket.strikes", 1]}]}
    pause: Expression = {"$max": [retry_after, {"$min": [_LONGEST_ADDED_PAUSE_SECONDS, doubled]}]}
    if retry_after is None:
        pause = {"$min": [_LONGEST_OWN_PAUSE_SECONDS, {"$multiply": [_PAUSE_SECONDS, doubled]}]}
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
    steps: list[Document] = [
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
                    {"$cond": ["$bucket.known", _after(retry_after or 0), _after(pause)]},
                ]
            },
        },
        {
            "tokens": 1,
            "at": "$bucket.blocked_until",
            "blocked": True,
            "known": "$$REMOVE",
            "wait_ms": {"$max": [0, {"$subtract": ["$bucket.blocked_until", "$$NOW"]}]},
        },
    ]
    return _grant(_change_bucket(store, upstream, steps, "noting a refusal of"))


def _change_bucket(store: Store, upstream: Upstream, steps: list[Document], doing: str) -> Document:
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
                bucket: Document = document["bucket"]
                return bucket


def _grant(bucket: Document) -> Grant:
    wait = bucket["wait_ms"] / 1000
    return Grant(
        granted=wait <= 0,
        wait_seconds=wait,
        blocked=bucket["blocked"],
        # The one that is kept for the end of a pause can't be used before.
        tokens_left=0.0 if bucket["blocked"] else round(bucket["tokens"], 2),
        rate_per_minute=round(bucket["rate_per_minute"], 3),
        strikes=bucket["strikes"],
    )


def answered(
    store: Store, upstream: Upstream, page: int = 1, *, retry_latency: float | None = None
) -> None:
    """Note that the source answered: the rate rises towards the quota, the circuit closes.

    That of an earlier page than the one that failed says nothing of the failure.

    Args:
        store: the database.
        upstream: who answered.
        page: which page it was.
        retry_latency: seconds since the request was first held back, if it was.
    """
    bucket: Document = {
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
    breaker = {"$cond": [{"$and": [same, earlier]}, "$breaker", _closed(upstream)]}
    with store_errors(f"noting an answer of source {upstream.name}"):
        store.sources.update_one(
            {"_id": upstream.name, "bucket.identity": upstream.identity},
            [{"$set": {"bucket": bucket, "breaker": breaker}}],
        )


# --- the circuit breaker ------------------------------------------------------------------


def close_circuit(store: Store, upstream: Upstream) -> None:
    """Close the circuit of a source that has answered for all the pages that it has."""
    with store_errors(f"closing the circuit of source {upstream.name}"):
        store.sources.update_one(
            {"_id": upstream.name, "bucket.identity": upstream.identity},
            [{"$set": {"breaker": _closed(upstream)}}],
        )


def _closed(upstream: Upstream) -> Document:
    """A circuit breaker without failures, as an expression: a plain document would be merged."""
    closed = {
        "state": "closed",
        "failures": 0,
        "identity": {"$literal": upstream.identity},
        "closed_at": "$$NOW",
    }
    return {"$mergeObjects": [closed]}


def admit(
    store: Store, upstream: Upstream, known: Mapping[str, Any], caller: str, seconds: float
) -> Admission:
    """Whether the circuit breaker lets a caller ask the source.

    Once an open circuit's rest is over, one caller may probe, whoever comes first. It has
    `seconds` for that; if it is not heard of by then, another one may.

    Args:
        store: the database.
        upstream: who is to be asked.
        known: the source's document, as it was read a moment ago.
        caller: an id of this very call.
        seconds: how long the caller may live.
    """
    breaker = known.get("breaker", {})
    if breaker.get("state", "closed") == "closed" or breaker.get("identity") != upstream.identity:
        return Admission(allowed=True)
    due = {
        "$lte": [
            {
                "$cond": [
                    {"$eq": ["$breaker.state", "open"]},
                    "$breaker.next_probe_at",
                    "$breaker.probe.until",
                ]
            },
            "$$NOW",
        ]
    }
    probe = {"id": {"$literal": caller}, "until": _after(seconds)}
    with store_errors(f"asking the circuit breaker of source {upstream.name}"):
        document = store.sources.find_one_and_update(
            {
                "_id": upstream.name,
                "breaker.state": {"$ne": "closed"},
                "breaker.identity": upstream.identity,
            },
            [
                {"$set": {"breaker.due": due}},
                {
                    "$set": {
                        "breaker.state": {"$cond": ["$breaker.due", "half_open", "$breaker.state"]},
                        "breaker.probe": {"$cond": ["$breaker.due", probe, "$breaker.probe"]},
                        "breaker.due": "$$REMOVE",
                    }
                },
            ],
            return_document=ReturnDocument.AFTER,
        )
    if document is None:
        # Somebody's probe has closed it in between.
        return Admission(allowed=True)
    breaker = document["breaker"]
    mine = breaker.get("probe", {}).get("id") == caller
    return Admission(
        allowed=mine,
        probe=caller if mine else None,
        failures=breaker["failures"],
        reason=breaker.get("reason"),
        next_probe_at=(
            breaker["probe"]["until"]
            if breaker["state"] == "half_open"
            else breaker["next_probe_at"]
        ),
        opened_by=breaker.get("opened_by"),
    )


def failed(
    store: Store,
    upstream: Upstream,
    run_id: str,
    error: Document,
    *,
    most_failures: int,
    rest: timedelta,
    page: int = 1,
    probe: str | None = None,
) -> None:
    """Note that the source failed a run; after so many in a row the circuit opens.

    It is for a source that a token was taken of, so that it has a document.

    However often a run asks in vain, it counts once: the state machine's retries are no news.

    Args:
        store: the database.
        upstream: who failed.
        run_id: the run.
        error: what happened, as `{code, message}`.
        most_failures: runs in a row that open the circuit.
        rest: how long it stays open before the next probe.
        page: the page that was asked for.
        probe: the caller's probe; its failure opens the circuit again at once.
    """
    this_run = {"$literal": run_id}
    same = {"$eq": ["$breaker.identity", upstream.identity]}
    before = {"$cond": [same, {"$ifNull": ["$breaker.failures", 0]}, 0]}
    furthest = {"$cond": [same, {"$ifNull": ["$breaker.page", 0]}, 0]}
    counted = {"$and": [same, {"$eq": ["$breaker.last_failed_run", this_run]}]}
    state = {"$cond": [same, {"$ifNull": ["$breaker.state", "closed"]}, "closed"]}
    probed = {
        "$and": [
            {"$eq": ["$breaker.state", "half_open"]},
            {"$eq": ["$breaker.probe.id", {"$literal": probe}]},
        ]
    }
    opens = {
        "$or": [
            probed,
            {
                "$and": [
                    {"$eq": ["$breaker.state", "closed"]},
                    {"$gte": ["$breaker.failures", most_failures]},
                ]
            },
        ]
    }
    with store_errors(f"noting a failure of source {upstream.name}"):
        store.sources.update_one(
            {"_id": upstream.name},
            [
                {
                    "$set": {
                        "breaker": {
                            "state": state,
                            "failures": {"$add": [before, {"$cond": [counted, 0, 1]}]},
                            "identity": {"$literal": upstream.identity},
                            "last_failed_run": this_run,
                            # The furthest one: an earlier page's failure says nothing of it.
                            "page": {"$max": [furthest, page]},
                            "reason": {"$literal": error},
                        }
                    }
                },
                {"$set": {"breaker.opens": opens}},
                {
                    "$set": {
                        "breaker": {
                            "state": {"$cond": ["$breaker.opens", "open", "$breaker.state"]},
                            "next_probe_at": {
                                "$cond": [
                                    "$breaker.opens",
                                    _after(rest.total_seconds()),
                                    "$breaker.next_probe_at",
                                ]
                            },
                            "opened_at": {
                                "$cond": ["$breaker.opens", "$$NOW", "$breaker.opened_at"]
                            },
                            "opened_by": {
                                "$cond": ["$breaker.opens", this_run, "$breaker.opened_by"]
                            },
                            "probe": {"$cond": ["$breaker.opens", "$$REMOVE", "$breaker.probe"]},
                            "opens": "$$REMOVE",
                        }
                    }
                },
            ],
        )


def release_probe(store: Store, upstream: Upstream, probe: str) -> None:
    """Give a probe back that came to no result; anybody may probe now."""
    with store_errors(f"giving back the probe of source {upstream.name}"):
        store.sources.update_one(
            {"_id": upstream.name, "breaker.state": "half_open", "breaker.probe.id": probe},
            [
                {
                    "$set": {
                        "breaker": {
                            "state": "open",
                            "next_probe_at": "$$NOW",
                            "probe": "$$REMOVE",
                        }
                    }
                }
            ],
        )


# --- what is told of it -------------------------------------------------------------------


def overview(store: Store) -> list[Document]:
    """How each source is at the moment, by name, as of the server's clock.

    Returns:
        For each `name`; `throttling`, `{quota_per_minute, burst, rate_per_minute, tokens_left,
        events, last_event_at, blocked_until, retry_latency_seconds}`; `breaker`, `{state, until,
        failures}`; `failures`, as `alerts.failures` has it; `lease`, `{run_id, number}` of the run
        that had it last. The first two are None of what was never asked, as uploads; the last one
        of what no run ever held.
    """
    rate = {"$multiply": ["$bucket.rate_per_minute", _PACE / 60_000]}
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
    refilled = {"$add": ["$bucket.tokens", {"$multiply": [_ms_since("$bucket.at"), rate]}]}
    since = {"$subtract": ["$$NOW", int(_WINDOW_SECONDS * 1000)]}
    recent = {
        "$size": {
            "$filter": {
                "input": {"$ifNull": ["$bucket.recent", []]},
                "cond": {"$gt": ["$$this", since]},
            }
        }
    }
    most = {"$trunc": {"$max": ["$bucket.quota_per_minute", "$bucket.burst", 1]}}
    of_window = {"$cond": [{"$gt": [most, _MOST_COUNTED]}, full, {"$subtract": [most, recent]}]}
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


# --- what is known of its pages -----------------------------------------------------------


def remember_page(store: Store, name: str, page: int, known: Document | None) -> None:
    """Keep what a page's next request can refer to, or nothing.

    It is to be called before the page's batches are written: a validator must never outlive the
    content that it stands for.
    """
    place = f"pages.{page}"
    update: Document = {"$unset": {place: ""}} if known is None else {"$set": {place: known}}
    with store_errors(f"remembering page {page} of source {name}"):
        store.sources.update_one({"_id": name}, update)


def loaded_batches(store: Store, ids: Sequence[str]) -> list[Document] | None:
    """The batches of a page in order; None unless all are there, loaded, and have their raw rows.

    One that could end otherwise today does not count as loaded: a row of it was set aside as too
    far ahead.
    """
    with store_errors("looking whether a page was loaded"):
        found = {
            batch["_id"]: batch
            for batch in store.batches.find({"_id": {"$in": list(ids)}, "state": "loaded"})
        }
        if len(found) != len(ids) or any(
            "depends_on_time" in batch or "judged_at" in batch for batch in found.values()
        ):
            return None
        raw_ids = {batch["raw_id"] for batch in found.values()}
        kept = store.raw_batches.count_documents({"_id": {"$in": list(raw_ids)}})
    return [found[id_] for id_ in ids] if kept == len(raw_ids) else None


# --- watermarks ---------------------------------------------------------------------------


def newest_loaded(
    store: Store, run_id: str, input_id: str
) -> tuple[datetime | None, datetime | None]:
    """The newest time of a record, and of receipt, among what a run has loaded of an input."""
    with store_errors(f"looking how far run {run_id} got with {input_id}"):
        found = list(
            store.batches.aggregate(
                [
                    {"$match": {"run_id": run_id, "input": input_id, "state": "loaded"}},
                    {
                        "$group": {
                            "_id": None,
                            "last": {"$max": "$covers.last"},
                            "received_at": {"$max": "$received_at"},
                        }
                    },
                ]
            )
        )
    if not found:
        return None, None
    last = found[0]["last"]
    # A record's id leads with its time; see schema.identity.
    newest = clock.from_ms(int.from_bytes(last[:_TIME_BYTES]) - _SIGN) if last else None
    return newest, found[0]["received_at"]


def move_watermark(store: Store, name: str, run_id: str, lease: int) -> Document:
    """Move a source's watermark to what a run has loaded; it never goes back.

    It says how far the data reaches and skips none: what a source tells later about an earlier
    time is loaded like anything else.

    Args:
        store: the database.
        name: the source.
        run_id: the run, whose input of that name is being closed.
        lease: the number of the lease that the run has the source by.

    Returns:
        The watermark: `{timestamp, received_at, run_id, moved_at}`.

    Raises:
        StateConflict: the lease is another run's by now; nothing is moved.
    """
    timestamp, received_at = newest_loaded(store, run_id, name)
    with store_errors(f"moving the watermark of source {name} for run {run_id}"):
        document = store.sources.find_one_and_update(
            {"_id": name, "lease.run_id": run_id, "lease.number": lease},
            [
                {
                    "$set": {
                        "watermarks": {
                            "timestamp": {"$max": ["$watermarks.timestamp", timestamp]},
                            "received_at": {"$max": ["$watermarks.received_at", received_at]},
                            "run_id": {"$literal": run_id},
                            "moved_at": "$$NOW",
                        }
                    }
                }
            ],
            projection={"watermarks": 1},
            return_document=ReturnDocument.AFTER,
        )
    if document is None:
        raise StateConflict(
            f"Run {run_id} does not have source {name} any more (its lease was number {lease}), so "
            "its watermark is left to the run that has it.",
            run_id=run_id,
        )
    watermarks: Document = document["watermarks"]
    return watermarks
