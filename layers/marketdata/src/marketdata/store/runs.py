"""The collection `runs`."""

from __future__ import annotations

from datetime import datetime, timedelta

from pymongo.errors import DuplicateKeyError

from marketdata import clock
from marketdata.errors import NotFound
from marketdata.store.connection import Document, Store, store_errors

LEASE = timedelta(minutes=20)
"""How long a run lives without a sign of life: above the longest time of a function."""


def create(store: Store, document: Document) -> Document | None:
    """Create a run that holds its inputs, unless it exists or another run holds one of them.

    Returns:
        None when it was created, else the run that is in the way: the same one, or the
        running one that holds an input.
    """
    with store_errors(f"creating run {document['_id']}"):
        while True:
            try:
                store.runs.insert_one(document)
            except DuplicateKeyError:
                other = store.runs.find_one({"_id": document["_id"]}) or store.runs.find_one(
                    {"holds": {"$in": document["holds"]}}
                )
                if other is not None:
                    return other
                # It ended in between: the way is free now.
            else:
                return None


def get(store: Store, run_id: str) -> Document:
    """One run.

    Raises:
        NotFound: there is none of that id.
    """
    with store_errors(f"reading run {run_id}"):
        document = store.runs.find_one({"_id": run_id})
    if document is None:
        raise NotFound(f"There is no run {run_id!r}. GET /runs lists them.", run_id=run_id)
    return document


def adopt(store: Store, run_id: str, execution: str) -> bool:
    """Tie a run to the execution that carries it out; False if another one does, or it ended."""
    with store_errors(f"adopting run {run_id}"):
        result = store.runs.update_one(
            {"_id": run_id, "status": "running", "execution": {"$in": [None, execution]}},
            {"$set": {"execution": execution, "expires_at": clock.now() + LEASE}},
        )
    return result.matched_count == 1


def renew(store: Store, run_id: str, *, pause_seconds: float = 0) -> bool:
    """A sign of life; False if the run has ended meanwhile."""
    with store_errors(f"renewing run {run_id}"):
        result = store.runs.update_one(
            {"_id": run_id, "status": "running"},
            {"$set": {"expires_at": clock.now() + LEASE + timedelta(seconds=pause_seconds)}},
        )
    return result.matched_count == 1


def set_input(store: Store, run_id: str, input_id: str, fields: Document) -> None:
    """Update the run's note on one of its inputs; a run that has ended is left as it is."""
    with store_errors(f"noting progress of {input_id} in run {run_id}"):
        store.runs.update_one(
            {"_id": run_id, "status": "running"},
            {
                "$set": {
                    "expires_at": clock.now() + LEASE,
                    **{f"inputs.{input_id}.{name}": value for name, value in fields.items()},
                }
            },
        )


def end(store: Store, run_id: str, fields: Document) -> bool:
    """End a run and let its inputs go; False if it had ended already."""
    with store_errors(f"ending run {run_id}"):
        result = store.runs.update_one(
            {"_id": run_id, "status": "running"},
            {"$set": {**fields, "ended_at": clock.now()}, "$unset": {"holds": ""}},
        )
    return result.matched_count == 1


def expired(store: Store, now: datetime) -> list[Document]:
    """Running runs that gave no sign of life for longer than their lease."""
    with store_errors("looking for orphaned runs"):
        return list(store.runs.find({"status": "running", "expires_at": {"$lt": now}}))
