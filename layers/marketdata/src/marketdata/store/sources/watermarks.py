"""How far a source's data reaches."""

from __future__ import annotations

from datetime import datetime

from pymongo import ReturnDocument

from marketdata import clock
from marketdata.clock import EPOCH
from marketdata.documents.batches import BatchState
from marketdata.documents.sources import Watermark
from marketdata.errors import StateConflict
from marketdata.schema.identity import ms_of
from marketdata.store.connection import Store, aggregate, store_errors


def newest_loaded(
    store: Store, run_id: str, input_id: str
) -> tuple[datetime | None, datetime | None]:
    """The newest time of a record, and of receipt, among what a run has loaded of an input."""
    with store_errors(f"looking how far run {run_id} got with {input_id}"):
        found = list(
            aggregate(
                store.batches,
                [
                    {"$match": {"run_id": run_id, "input": input_id, "state": BatchState.LOADED}},
                    {
                        "$group": {
                            "_id": None,
                            "last": {"$max": "$covers.last"},
                            "received_at": {"$max": "$received_at"},
                        }
                    },
                ],
            )
        )
    if not found:
        return None, None
    last = found[0]["last"]
    newest = clock.from_ms(ms_of(bytes(last))) if last else None
    return newest, found[0]["received_at"]


def move_watermark(store: Store, name: str, run_id: str, lease: int) -> Watermark:
    """Move a source's watermark to what a run has loaded; it never goes back.

    It says how far the data reaches and skips none: what a source tells later about an earlier
    time is loaded like anything else.

    Args:
        store: the database.
        name: the source.
        run_id: the run, whose input of that name is being closed.
        lease: the number of the lease that the run has the source by.

    Returns:
        The watermark.

    Raises:
        StateConflict: the lease is another run's by now; nothing is moved.
    """
    timestamp, received_at = newest_loaded(store, run_id, name)
    advanced = {"$gt": [timestamp, {"$ifNull": ["$watermarks.timestamp", EPOCH]}]}
    since = {"$ifNull": ["$watermarks.advanced_at", "$watermarks.moved_at"]}
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
                            "advanced_at": {"$cond": [advanced, received_at, since]},
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
    return document["watermarks"]
