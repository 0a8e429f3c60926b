"""The circuit breaker of a source: whether it is asked at all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pymongo import ReturnDocument

from marketdata.documents.errors import StoredError
from marketdata.documents.sources import Breaker, BreakerState
from marketdata.sources.base import Upstream
from marketdata.store.connection import Expression, Store, store_errors
from marketdata.store.sources.expressions import after


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a source may be asked, by its circuit breaker."""

    allowed: bool
    probe: str | None = None
    """The caller's own token, if it is the one that probes."""
    failures: int = 0
    reason: StoredError | None = None
    """The error that opened the circuit, as `{code, message}`."""
    next_probe_at: datetime | None = None
    opened_by: str | None = None
    """The run whose failure opened it last."""


def close_circuit(store: Store, upstream: Upstream) -> None:
    """Close the circuit of a source that has answered for all the pages that it has."""
    with store_errors(f"closing the circuit of source {upstream.name}"):
        store.sources.update_one(
            {"_id": upstream.name, "bucket.identity": upstream.identity},
            [{"$set": {"breaker": closed(upstream)}}],
        )


def closed(upstream: Upstream) -> Expression:
    """A circuit breaker without failures, as an expression: a plain document would be merged."""
    closed = {
        "state": BreakerState.CLOSED,
        "failures": 0,
        "identity": {"$literal": upstream.identity},
        "closed_at": "$$NOW",
    }
    return {"$mergeObjects": [closed]}


def admit(
    store: Store, upstream: Upstream, known: Breaker | None, caller: str, seconds: float
) -> Admission:
    """Whether the circuit breaker lets a caller ask the source.

    Once an open circuit's cooldown is over, one caller may probe, whoever comes first. It has
    `seconds` for that; if it is not heard of by then, another one may.

    Args:
        store: the database.
        upstream: who is to be asked.
        known: the source's circuit breaker, as it was read a moment ago; None if it never failed.
        caller: an id of this very call.
        seconds: how long the caller may live.
    """
    if (
        known is None
        or known["state"] == BreakerState.CLOSED
        or known["identity"] != upstream.identity
    ):
        return Admission(allowed=True)
    due = {
        "$lte": [
            {
                "$cond": [
                    {"$eq": ["$breaker.state", BreakerState.OPEN]},
                    "$breaker.next_probe_at",
                    "$breaker.probe.until",
                ]
            },
            "$$NOW",
        ]
    }
    probe = {"id": {"$literal": caller}, "until": after(seconds)}
    with store_errors(f"asking the circuit breaker of source {upstream.name}"):
        document = store.sources.find_one_and_update(
            {
                "_id": upstream.name,
                "breaker.state": {"$ne": BreakerState.CLOSED},
                "breaker.identity": upstream.identity,
            },
            [
                {"$set": {"breaker.due": due}},
                {
                    "$set": {
                        "breaker.state": {
                            "$cond": ["$breaker.due", BreakerState.HALF_OPEN, "$breaker.state"]
                        },
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
    probing = breaker.get("probe")
    mine = probing is not None and probing["id"] == caller
    return Admission(
        allowed=mine,
        probe=caller if mine else None,
        failures=breaker["failures"],
        reason=breaker.get("reason"),
        next_probe_at=(
            breaker["probe"]["until"]
            if breaker["state"] == BreakerState.HALF_OPEN
            else breaker["next_probe_at"]
        ),
        opened_by=breaker.get("opened_by"),
    )


def note_failure(
    store: Store,
    upstream: Upstream,
    run_id: str,
    error: StoredError,
    *,
    most_failures: int,
    cooldown: timedelta,
    page: int = 1,
    probe: str | None = None,
) -> None:
    """Note that the source failed a run; after so many in a row the circuit opens.

    It is for a source that a permit was taken of, so that it has a document.

    However often a run asks in vain, it counts once: the state machine's retries are no news.

    Args:
        store: the database.
        upstream: who failed.
        run_id: the run.
        error: what happened, as `{code, message}`.
        most_failures: runs in a row that open the circuit.
        cooldown: how long it stays open before the next probe.
        page: the page that was asked for.
        probe: the caller's probe; its failure opens the circuit again at once.
    """
    this_run = {"$literal": run_id}
    same = {"$eq": ["$breaker.identity", upstream.identity]}
    before = {"$cond": [same, {"$ifNull": ["$breaker.failures", 0]}, 0]}
    furthest = {"$cond": [same, {"$ifNull": ["$breaker.page", 0]}, 0]}
    counted = {"$and": [same, {"$eq": ["$breaker.last_failed_run", this_run]}]}
    state = {
        "$cond": [same, {"$ifNull": ["$breaker.state", BreakerState.CLOSED]}, BreakerState.CLOSED]
    }
    probed = {
        "$and": [
            {"$eq": ["$breaker.state", BreakerState.HALF_OPEN]},
            {"$eq": ["$breaker.probe.id", {"$literal": probe}]},
        ]
    }
    opens = {
        "$or": [
            probed,
            {
                "$and": [
                    {"$eq": ["$breaker.state", BreakerState.CLOSED]},
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
                            "state": {
                                "$cond": ["$breaker.opens", BreakerState.OPEN, "$breaker.state"]
                            },
                            "next_probe_at": {
                                "$cond": [
                                    "$breaker.opens",
                                    after(cooldown.total_seconds()),
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
            {
                "_id": upstream.name,
                "breaker.state": BreakerState.HALF_OPEN,
                "breaker.probe.id": probe,
            },
            [
                {
                    "$set": {
                        "breaker": {
                            "state": BreakerState.OPEN,
                            "next_probe_at": "$$NOW",
                            "probe": "$$REMOVE",
                        }
                    }
                }
            ],
        )
