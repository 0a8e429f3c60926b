"""The collection `batches`: the checkpoint of every run, and the only source of totals.

    pending ──begin──► loading ──finish──► loaded
       ▲                │  ▲
       ├────pause───────┤  │ begin (the next attempt)
       │           fail │  │
       │                ▼  │
       └──reclaim_batches── failed ──dead_letter──► failed, dead-lettered

Every arrow is one atomic update whose filter is the state that it leaves. `attempts` counts
the beginnings and is the fencing token: an attempt that was overtaken can't finish. Whoever takes
a batch from an attempt (a later attempt, a later run, the end of its own run) raises it.

A batch keeps its `_id`, which tells where it was received: `first_run_id`, input and number.
`run_id` and `number` are of the run that owns it now. When a run has ended, a later one reclaims
what it left, so a batch is found by (run_id, input, number) and never by a computed `_id`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import batched
from typing import Any

from pymongo import DESCENDING, ReplaceOne, ReturnDocument
from pymongo.errors import BulkWriteError

from marketdata import clock
from marketdata.documents.batches import (
    Batch,
    BatchEnding,
    BatchState,
    Counts,
    LoadProgress,
    NewBatch,
)
from marketdata.errors import NotFound, StateConflict
from marketdata.store import leases, runs
from marketdata.store.batches.batch import (
    DUPLICATE_KEY,
    UNFINISHED,
    WRITTEN_TOGETHER,
    BatchKey,
    describe,
)
from marketdata.store.connection import Filter, Store, Update, store_errors


def put_batches(
    store: Store, input_id: str, run_id: str, batches: Sequence[NewBatch], token: int = 0
) -> None:
    """Write new batches as pending.

    A batch stays as it is that was written with a later token, that is not pending, or that a later
    run has reclaimed: a call that is made again, or twice at once, takes nothing back. A pending
    one of an earlier token is replaced: that token's numbers were never noted as the input's.

    Args:
        store: the database.
        input_id: the input.
        run_id: the run.
        batches: the batches.
        token: the fencing token that these numbers were taken with; see `run_inputs.take_numbers`.

    Raises:
        StateConflict: a number is that of another batch of this run.
    """
    now = clock.now()
    replaceable: Filter = {
        "run_id": run_id,
        "state": BatchState.PENDING,
        "attempts": 0,
        "claim": {"$not": {"$gt": token}},
    }
    changes: dict[str, ReplaceOne[Any]] = {
        id_: ReplaceOne(
            {"_id": id_, **replaceable},
            {
                "run_id": run_id,
                "first_run_id": run_id,
                "input": input_id,
                **batch,
                "claim": token,
                "state": BatchState.PENDING,
                "attempts": 0,
                "resumptions": 0,
                "created_at": now,
            },
            upsert=True,
        )
        for batch in batches
        for id_ in [BatchKey(run_id, input_id, batch["number"]).id]
    }
    with store_errors(f"saving {len(batches)} batches of {input_id} in run {run_id}"):
        for some in batched(changes, WRITTEN_TOGETHER, strict=False):
            left: Sequence[str] = some
            while left:
                met = _replace(store, left, [changes[id_] for id_ in left], input_id, run_id)
                # Of two that write a number for the first time at once, one meets what the other
                # has just written: that need not be what stays.
                stay = store.batches.distinct("_id", {"_id": {"$in": met}, "$nor": [replaceable]})
                left = [id_ for id_ in met if id_ not in stay]


def _replace(
    store: Store,
    ids: Sequence[str],
    changes: list[ReplaceOne[Any]],
    input_id: str,
    run_id: str,
) -> list[str]:
    """Replace or insert batches; the ids of those that met a batch which could not be replaced."""
    try:
        store.batches.bulk_write(changes, ordered=False)
    except BulkWriteError as error:
        details: Any = error.details
        for fault in details["writeErrors"]:
            if fault["code"] != DUPLICATE_KEY:
                raise
            if fault.get("keyPattern") != {"_id": 1}:
                raise StateConflict(
                    f"A number of new batches of {input_id} in run {run_id} is taken by a batch of "
                    f"an earlier run: {fault.get('keyValue')}. It was not written. Numbers go on "
                    f"after `inputs.{input_id}.batches` of the run."
                ) from error
        if details["writeConcernErrors"]:
            raise
        return [ids[fault["index"]] for fault in details["writeErrors"]]
    return []


def drop_pending_from(
    store: Store, input_id: str, run_id: str, number: int, *, before: int | None = None
) -> None:
    """Drop the pending batches of an input from a number on.

    Args:
        store: the database.
        input_id: the input.
        run_id: the run.
        number: the first one.
        before: only those that were written with an earlier token than this one: by a call that
            died or was overtaken, and had cut the same into more batches.
    """
    which: Filter = {} if before is None else {"claim": {"$lt": before}}
    with store_errors(f"dropping batches of {input_id} in run {run_id}"):
        store.batches.delete_many(
            {
                "run_id": run_id,
                "input": input_id,
                "number": {"$gte": number},
                "state": BatchState.PENDING,
                **which,
            }
        )


def drop_overtaken(store: Store, input_id: str, run_id: str, token: int) -> None:
    """Drop what was written with a fencing token that was overtaken before its batches counted.

    Batches that the run reclaimed have tokens of the run that cut them, and stay.
    """
    with store_errors(f"dropping batches of {input_id} in run {run_id}"):
        store.batches.delete_many(
            {
                "run_id": run_id,
                "first_run_id": run_id,
                "input": input_id,
                "claim": token,
                "state": BatchState.PENDING,
            }
        )


def begin(store: Store, key: BatchKey) -> Batch | None:
    """Start an attempt at loading a batch; None when it is loaded already.

    It is a heartbeat of the run.

    Raises:
        NotFound: there is no such batch.
        StateConflict: the run has ended, or a later one has reclaimed the batch, or it is
            dead-lettered.
    """
    with store_errors(f"beginning batch {key.id}"):
        batch = store.batches.find_one_and_update(
            {**key.filter(), "state": {"$in": list(UNFINISHED)}, "parked": {"$ne": True}},
            [
                {
                    "$set": {
                        "state": BatchState.LOADING,
                        "loading_since": "$$NOW",
                        "attempts": {"$add": ["$attempts", 1]},
                    }
                },
                {"$unset": ["error", "failed_at", "outdated"]},
            ],
            return_document=ReturnDocument.AFTER,
        )
        if batch is None:
            _explain(store, key)
            return None
        # In this order: either this sees that the run is being closed, or closing it sees that
        # the batch is being loaded, and takes it from this attempt.
        if runs.heartbeat(store, key.run_id) or runs.find(store, key.run_id) is None:
            return batch
        store.batches.update_one(
            {"_id": batch["_id"], "state": BatchState.LOADING, "attempts": batch["attempts"]},
            {"$set": {"state": BatchState.PENDING}},
        )
    raise StateConflict(
        f"Run {key.run_id} has ended; a later run reclaims batch {key.number} of {key.input}.",
        batch=key.id,
    )


def counts_of(store: Store, key: BatchKey) -> Counts:
    """The counts of a batch, zeros until it is closed."""
    with store_errors(f"reading batch {key.id}"):
        batch = store.batches.find_one(key.filter(), {"counts": 1})
    return Counts.of(batch["counts"]) if batch and "counts" in batch else Counts()


def _explain(store: Store, key: BatchKey) -> None:
    """Say why a batch can't be begun, unless it is loaded."""
    owned = store.batches.find_one(key.filter(), {"state": 1, "parked": 1})
    if owned is None:
        moved = store.batches.find_one({"_id": key.id}, {"run_id": 1, "number": 1})
        if moved is None:
            raise NotFound(f"There is no batch {key.id}.", batch=key.id)
        raise StateConflict(
            f"Run {moved['run_id']} has reclaimed batch {key.id}, as its number {moved['number']}, "
            "and loads it.",
            batch=key.id,
        )
    if owned.get("parked"):
        raise StateConflict(
            f"Batch {key.id} is dead-lettered, as loading it failed too often. Its rows are not "
            f"loaded. Remove the cause and ask for POST /runs/{key.run_id}/retry.",
            batch=key.id,
        )


def require_attempt(store: Store, batch_id: str, attempt: int) -> None:
    """Make sure that a batch is still being loaded by an attempt.

    Raises:
        StateConflict: it was taken from this attempt.
    """
    mine = {"_id": batch_id, "state": BatchState.LOADING, "attempts": attempt}
    with store_errors(f"reading batch {batch_id}"):
        found = store.batches.find_one(mine, {"_id": 1})
    if found is None:
        raise _overtaken(batch_id, attempt)


def note_progress(store: Store, batch_id: str, attempt: int, progress: LoadProgress) -> None:
    """Note how far an attempt has got, for the one that goes on from there.

    Raises:
        StateConflict: the batch was taken from this attempt.
    """
    _of_attempt(
        store, batch_id, attempt, {"progress": progress.document()}, "noting the progress of"
    )


def pause(store: Store, batch_id: str, attempt: int) -> None:
    """Give a batch back whose loading is to be gone on with; that is no failure.

    Raises:
        StateConflict: the batch was taken from this attempt.
    """
    _of_attempt(store, batch_id, attempt, {"state": BatchState.PENDING}, "pausing")


def _of_attempt(store: Store, batch_id: str, attempt: int, fields: Update, doing: str) -> None:
    with store_errors(f"{doing} batch {batch_id}"):
        result = store.batches.update_one(
            {"_id": batch_id, "state": BatchState.LOADING, "attempts": attempt}, {"$set": fields}
        )
    if result.matched_count == 0:
        raise _overtaken(batch_id, attempt)


def _overtaken(batch_id: str, attempt: int) -> StateConflict:
    return StateConflict(
        f"Attempt {attempt} at batch {batch_id} was overtaken: by a later attempt, by the end of "
        "its run or by a later run. Nothing is lost: whoever has the batch now loads it.",
        batch=batch_id,
    )


def finish(
    store: Store,
    key: BatchKey,
    attempt: int,
    counts: Counts,
    fields: BatchEnding | None = None,
) -> None:
    """Close a batch as loaded, with its counts, and with further fields.

    Raises:
        ConservationBroken: the counts don't add up; nothing is written.
        StateConflict: the batch was taken from this attempt, or the input from its run.
    """
    if not _close(store, key, {"attempts": attempt}, counts, fields or {}):
        raise _overtaken(key.id, attempt)


def finish_unread(
    store: Store, key: BatchKey, attempt: int, counts: Counts, fields: BatchEnding
) -> bool:
    """Close a batch whose rows need no loading, as `finish` does, if nobody has asked for them.

    Returns:
        False if somebody has: records that it covers have changed, and it is to be loaded.
    """
    unasked = {"attempts": attempt, "outdated": {"$ne": True}}
    if _close(store, key, unasked, counts, fields):
        return True
    mine = {**key.filter(), "state": BatchState.LOADING, "attempts": attempt}
    with store_errors(f"reading batch {key.id}"):
        if store.batches.find_one(mine, {"_id": 1}):
            return False
    raise _overtaken(key.id, attempt)


def _close(store: Store, key: BatchKey, which: Filter, counts: Counts, fields: BatchEnding) -> bool:
    counts.check(f"Batch {key.id}")
    leases.require(store, key.run_id, key.input)
    with store_errors(f"closing batch {key.id}"):
        result = store.batches.update_one(
            {**key.filter(), "state": BatchState.LOADING, **which},
            [
                {
                    "$set": {
                        "state": BatchState.LOADED,
                        "loaded_at": "$$NOW",
                        "counts": {"$literal": counts.document()},
                        **{name: {"$literal": value} for name, value in fields.items()},
                    }
                },
                {"$unset": ["progress", "moved", "updated"]},
            ],
        )
    return result.matched_count == 1


def fail(store: Store, key: BatchKey, attempt: int, error: Exception) -> None:
    """Mark an attempt as failed with its reason; a later attempt's state is left alone."""
    with store_errors(f"marking batch {key.id} as failed"):
        store.batches.update_one(
            {**key.filter(), "state": BatchState.LOADING, "attempts": attempt},
            {
                "$set": {
                    "state": BatchState.FAILED,
                    "failed_at": clock.now(),
                    "error": describe(error),
                }
            },
        )


def next_number(store: Store, run_id: str, input_id: str) -> int:
    """The lowest number that no batch of an input in a run has, nor any before it."""
    with store_errors(f"counting the batches of {input_id} in run {run_id}"):
        last = store.batches.find_one(
            {"run_id": run_id, "input": input_id}, {"number": 1}, sort=[("number", DESCENDING)]
        )
    return last["number"] + 1 if last else 0


def reclaimed(store: Store, run_id: str, input_id: str) -> list[int]:
    """The numbers of the batches that a run reclaimed and that it has not begun yet, ascending."""
    return _numbers(
        store,
        run_id,
        input_id,
        {"state": BatchState.PENDING, "resumed_from": {"$ne": None}},
    )


def numbers(store: Store, run_id: str, input_id: str, below: int) -> list[int]:
    """The numbers of the batches of an input that are to be loaded yet, ascending.

    Args:
        store: the database.
        run_id: the run.
        input_id: the input.
        below: the number of batches that are noted. From there on there is only what a call
            writes that was overtaken and does not know it yet; it drops that itself.
    """
    which = {
        "number": {"$lt": below},
        "state": {"$in": list(UNFINISHED)},
        "parked": {"$ne": True},
    }
    return _numbers(store, run_id, input_id, which)


def _numbers(store: Store, run_id: str, input_id: str, which: Filter) -> list[int]:
    with store_errors(f"listing the batches of {input_id} in run {run_id}"):
        found = store.batches.find(
            {"run_id": run_id, "input": input_id, **which}, {"number": 1}
        ).sort("number")
        return [document["number"] for document in found]
