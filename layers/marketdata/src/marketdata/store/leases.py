"""Leases: which run an input belongs to, with a number that grows with every change of hands.

That one run at a time has an input is the promise of the index over `runs.holds`. The lease
beside the input (`sources.<name>.lease`, `objects.<id>.lease`) is what everybody else can go by:
it tells a step of a run whether the run still has what it had when the step began. Its number
fences what is written beside it, such as a watermark. It lasts as long as the run: until that ends,
or has had no heartbeat until its `expires_at`, which `runs.heartbeat` sets by MongoDB's own
clock, so that the clocks of functions do not matter.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from marketdata.documents.runs import RunStatus
from marketdata.documents.sources import Lease
from marketdata.errors import StateConflict
from marketdata.store.connection import Store, store_errors

LEASE = timedelta(minutes=20)
"""How long a run lives without a heartbeat: above the longest time of a function."""

OBJECT = "csv-"
"""What the ids of inputs begin with that are uploaded objects; the others are of sources."""
_BACKFILL = "backfill:"
"""What the id of an input begins with that is a source's past; its present is another input."""


def milliseconds(time: timedelta) -> int:
    """As MongoDB adds them to a time."""
    return time // timedelta(milliseconds=1)


def is_object(input_id: str) -> bool:
    """Whether an input is an uploaded object; else it is a source, or its past."""
    return input_id.startswith(OBJECT)


def backfill_of(source: str) -> str:
    """The id of the input that is a source's past."""
    return f"{_BACKFILL}{source}"


def is_backfill(input_id: str) -> bool:
    """Whether an input is a source's past."""
    return input_id.startswith(_BACKFILL)


def source_of(input_id: str) -> str:
    """The source of an input; `csv` for an uploaded object."""
    return "csv" if is_object(input_id) else input_id.removeprefix(_BACKFILL)


def acquire(store: Store, run_id: str, input_id: str) -> int:
    """Make an input a run's own, which has it locked; returns the lease's fencing token.

    A run that has the lease already keeps it and its number. It is taken from where it was seen
    before the run was seen to be under way: whoever has the input locked after this run has taken
    it later, and keeps it.

    Raises:
        StateConflict: the run has ended, or is being ended, or does not have the input locked.
    """
    mine = {"$eq": ["$lease.run_id", {"$literal": run_id}]}
    number = {"$ifNull": ["$lease.number", 0]}
    lease = {
        "run_id": {"$literal": run_id},
        "number": {"$cond": [mine, number, {"$add": [number, 1]}]},
    }
    with store_errors(f"acquiring the lease of {input_id} for run {run_id}"):
        while True:
            seen = _collection(store, input_id).find_one({"_id": input_id}, {"lease.number": 1})
            before = (seen or {}).get("lease", {}).get("number")
            if not _has_locked(store, run_id, input_id):
                raise StateConflict(
                    f"Run {run_id} has ended, or never had {input_id}: it can't take its lease."
                )
            try:
                found = _collection(store, input_id).find_one_and_update(
                    {"_id": input_id, "lease.number": before},
                    [{"$set": {"lease": lease}}],
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
            except DuplicateKeyError:
                # Another run has taken it since, or two made the first note on it at once.
                continue
            if found is None:  # the driver's type allows for it; an upsert returns the document
                continue
            granted: int = found["lease"]["number"]
            return granted


def _has_locked(store: Store, run_id: str, input_id: str) -> bool:
    alive = {
        "_id": run_id,
        "status": RunStatus.RUNNING,
        "closing": {"$exists": False},
        "holds": input_id,
    }
    return store.runs.find_one(alive, {"_id": 1}) is not None


def require(store: Store, run_id: str, input_id: str, number: int | None = None) -> None:
    """Refuse what only the owner of an input may do. An input that never had one is free.

    Args:
        store: the database.
        run_id: the run that wants to do it.
        input_id: the input.
        number: the number that the run was given; without it, the run's name decides.

    Raises:
        StateConflict: another run has the lease, or it changed hands in between.
    """
    with store_errors(f"looking up the lease of {input_id}"):
        found = _collection(store, input_id).find_one({"_id": input_id}, {"lease": 1})
    lease: Lease | None = (found or {}).get("lease")
    if lease is None:
        return
    if lease["run_id"] != run_id or number not in (None, lease["number"]):
        raise StateConflict(
            f"Run {run_id} has lost the lease of {input_id}: number {lease['number']} is with run "
            f"{lease['run_id']}, which goes on from here.",
            input=input_id,
        )


def _collection(store: Store, input_id: str) -> Collection[Any]:
    return store.objects if is_object(input_id) else store.sources
