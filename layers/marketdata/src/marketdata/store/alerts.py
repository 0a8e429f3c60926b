"""How often sources failed in a row (`sources.<name>.failures`), and the collection `alerts`.

An alert is written down before it is sent, under an id that follows from what it is about, so
that finding the same thing twice makes one alert. Sending is claimed for a minute first: of two
that would send it, one does. Who dies between sending and noting so leaves an alert that is sent
again: at least once is what a standard topic can promise, and its messages carry the alert's id.
"""

from __future__ import annotations

from datetime import timedelta

from pymongo import ReturnDocument

from marketdata.clock import EPOCH
from marketdata.documents.alerts import Alert, NewAlert
from marketdata.documents.errors import FailedInput, StoredError
from marketdata.documents.sources import Failures, Frozen, Source
from marketdata.store.connection import Expression, Store, Update, store_errors
from marketdata.store.leases import milliseconds

_CLAIM = timedelta(minutes=1)
_RUNS_REMEMBERED = 50
"""Runs of a source whose end is known to have been counted."""


def count_outcome(store: Store, source: str, run_id: str, error: FailedInput | None) -> None:
    """Count the end of a run for one of its sources, once, however often it is told.

    Args:
        store: the database.
        source: the source's name.
        run_id: the run.
        error: why it failed; None when it did not.
    """
    failed = error is not None
    before = {"$ifNull": ["$failures.consecutive", 0]}
    first = {"$cond": [{"$eq": [before, 0]}, {"$literal": run_id}, "$failures.first_run_id"]}
    counted = {"$concatArrays": [{"$ifNull": ["$failures.counted", []]}, [{"$literal": run_id}]]}
    changes: Update = {
        "failures.consecutive": {"$add": [before, 1]} if failed else 0,
        "failures.counted": {"$slice": [counted, -_RUNS_REMEMBERED]},
        "failures.last_run_id": {"$literal": run_id},
    }
    if failed:
        changes["failures.first_run_id"] = first
        changes["failures.last_error"] = {"$literal": error}
        changes["failures.last_failure_at"] = "$$NOW"
    else:
        changes["failures.last_success_at"] = "$$NOW"
    with store_errors(f"counting the outcome of {source} in run {run_id}"):
        store.sources.update_one({"_id": source}, {"$setOnInsert": {}}, upsert=True)
        store.sources.update_one(
            {"_id": source, "failures.counted": {"$ne": run_id}}, [{"$set": changes}]
        )


def failures(store: Store) -> list[tuple[str, Failures]]:
    """Each source's count of failures, by name."""
    with store_errors("reading how often sources failed"):
        found = store.sources.find({"failures": {"$exists": True}}, {"failures": 1}).sort("_id")
        return [(document["_id"], document["failures"]) for document in found]


def set_alerted(store: Store, source: str, was: str | None, alert_id: str | None) -> None:
    """Note which alert says that a source fails; None that none does."""
    with store_errors(f"noting the alert about {source}"):
        store.sources.update_one(
            {"_id": source, "failures.alerted": was}, {"$set": {"failures.alerted": alert_id}}
        )


def answered(store: Store) -> list[Source]:
    """The sources that have brought something, by name: their watermark, and if they are frozen."""
    with store_errors("reading how far the data of sources reaches"):
        found = store.sources.find(
            {"watermarks.received_at": {"$exists": True}}, {"watermarks": 1, "frozen": 1}
        )
        return list(found.sort("_id"))


def set_frozen(store: Store, source: str, was: Frozen | None, frozen: Frozen | None) -> None:
    """Note since when a source is frozen; None that it is not."""
    with store_errors(f"noting whether {source} is frozen"):
        store.sources.update_one({"_id": source, "frozen": was}, {"$set": {"frozen": frozen}})


def put(store: Store, alert_id: str, alert: NewAlert) -> None:
    """Write an alert down to be sent; one of that id is left as it is."""
    made = {"$mergeObjects": [{"$literal": alert}, {"made_at": "$$NOW", "sent_at": None}]}
    with store_errors(f"writing alert {alert_id}"):
        store.alerts.update_one(
            {"_id": alert_id},
            [
                {
                    "$replaceWith": {
                        "$cond": ["$made_at", "$$ROOT", {"$mergeObjects": ["$$ROOT", made]}]
                    }
                }
            ],
            upsert=True,
        )


def claim(store: Store) -> Alert | None:
    """The oldest alert that is to be sent, for a minute this caller's; None if there is none."""
    with store_errors("looking for alerts to send"):
        return store.alerts.find_one_and_update(
            {
                "sent_at": None,
                "set_aside": None,
                "$expr": {"$lt": [{"$ifNull": ["$claimed_until", EPOCH]}, "$$NOW"]},
            },
            [
                {
                    "$set": {
                        "claimed_until": _after(_CLAIM),
                        "tries": {"$add": [{"$ifNull": ["$tries", 0]}, 1]},
                    }
                }
            ],
            sort=[("made_at", 1)],
            return_document=ReturnDocument.AFTER,
        )


def note_sent(store: Store, alert_id: str, message_id: str | None) -> None:
    """Note that an alert was sent, under which id of the topic."""
    with store_errors(f"noting that alert {alert_id} was sent"):
        store.alerts.update_one(
            {"_id": alert_id},
            [{"$set": {"sent_at": "$$NOW", "message_id": {"$literal": message_id}}}],
        )


def set_aside(store: Store, alert_id: str, error: StoredError) -> None:
    """Keep an alert that can't be sent as it is, with the reason; nobody tries it again."""
    with store_errors(f"setting alert {alert_id} aside"):
        store.alerts.update_one(
            {"_id": alert_id},
            [{"$set": {"set_aside": {"at": "$$NOW", "error": {"$literal": error}}}}],
        )


def unclaim(store: Store, alert_id: str) -> None:
    """Give an alert back that could not be sent."""
    with store_errors(f"giving alert {alert_id} back"):
        store.alerts.update_one({"_id": alert_id}, {"$unset": {"claimed_until": ""}})


def _after(time: timedelta) -> Expression:
    return {"$add": ["$$NOW", milliseconds(time)]}
