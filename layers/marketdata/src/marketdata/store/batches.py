"""The collection `batches`: the checkpoint of every run, and the only source of totals.

    pending ──begin──► loading ──finish──► loaded
       ▲                │  ▲
       ├────pause───────┤  │ begin (the next attempt)
       │           fail │  │
       │                ▼  │
       └──take_over── failed ──park──► failed, parked

Every arrow is one atomic update whose filter is the state that it leaves. `attempts` counts
the beginnings and is the fence: an attempt that was overtaken can't finish. Whoever takes a
batch away from an attempt (a later attempt, a later run, the end of its own run) raises it.

A batch keeps its `_id`, which tells where it was received: `first_run_id`, input and number.
`run_id` and `number` are of the run that owns it now. When a run has ended, a later one takes
over what it left, so a batch is found by (run_id, input, number) and never by a computed `_id`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import batched
from typing import Any

from pymongo import ASCENDING, DESCENDING, ReplaceOne, ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError

from marketdata import clock
from marketdata.errors import ConservationBroken, NotFound, StateConflict, StoreUnavailable
from marketdata.store import leases, runs
from marketdata.store.connection import Document, Store, store_errors

COUNTS = ("inserted", "updated", "unchanged", "duplicate", "quarantined")
UNFINISHED = ("pending", "loading", "failed")
"""The states of batches that are not loaded; the index `unfinished` has exactly these."""
MAX_RESUMPTIONS = 3
"""How often a batch whose loading failed is taken over by a later run, unless a setting says."""

PATIENCE = 3
"""So many times as often is one tried again whose loading was interrupted, or met an outage."""

_PASSING = (
    "interrupted",
    "transient",
    "throttled",
    "upstream_unavailable",
    "store_unavailable",
    "store_full",
    "store_refused",
    "query_timeout",
)
"""Codes of errors that may have nothing to do with the batch."""
_PASSES = 10
"""How often what is left is looked for while it is taken over."""
_ERROR_CHARACTERS = 2_000
_RUNS_TOLD = 10
_DUPLICATE_KEY = 11000
_WRITTEN_TOGETHER = 1_000


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Which batch: the run that owns it, the input within that run, its number there."""

    run_id: str
    input: str
    number: int

    @property
    def id(self) -> str:
        """For messages; also the `_id` of a batch that no later run has taken over."""
        return f"{self.run_id}/{self.input}/{self.number}"

    def filter(self) -> Document:
        """Finds the batch while that run owns it."""
        return {"run_id": self.run_id, "input": self.input, "number": self.number}


@dataclass(frozen=True, slots=True)
class Parked:
    """The parked batches of one source, of all runs."""

    batches: int
    runs: list[str]
    """The runs that have them, the last ones; those that `unpark` is for."""


@dataclass(slots=True)
class Counts:
    """What became of the rows of a batch, a source or a run."""

    rows_in: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicate: int = 0
    quarantined: int = 0

    def check(self, what: str) -> None:
        """The law of conservation: rows in = what became of them.

        Raises:
            ConservationBroken: names all six numbers.
        """
        out = self.inserted + self.updated + self.unchanged + self.duplicate + self.quarantined
        if out != self.rows_in:
            raise ConservationBroken(
                f"{what}: {self.rows_in} rows came in, but {self.inserted} inserted + "
                f"{self.updated} updated + {self.unchanged} unchanged + {self.duplicate} duplicate "
                f"+ {self.quarantined} quarantined = {out}. This is a defect of the loader; the "
                "batch stays failed and its raw rows are kept.",
                **asdict(self),
            )


# --- received --------------------------------------------------------------------------------


def put_batches(
    store: Store, input_id: str, run_id: str, documents: Sequence[Document], claim: int = 0
) -> None:
    """Write new batches as pending.

    A batch stays as it is that was written by a later claim, that is not pending, or that a later
    run has taken over: a call that is made again, or twice at once, takes nothing back. A pending
    one of an earlier claim is replaced: that claim's numbers were never noted as the input's.

    Args:
        store: the database.
        input_id: the input.
        run_id: the run.
        documents: the batches, each with its `number`.
        claim: the caller's claim to these numbers; see `runs.claim_numbers`.

    Raises:
        StateConflict: a number is that of another batch of this run.
    """
    now = clock.now()
    replaceable: Document = {
        "run_id": run_id,
        "state": "pending",
        "attempts": 0,
        "claim": {"$not": {"$gt": claim}},
    }
    changes = {
        id_: ReplaceOne(
            {"_id": id_, **replaceable},
            {
                "run_id": run_id,
                "first_run_id": run_id,
                "input": input_id,
                **document,
                "claim": claim,
                "state": "pending",
                "attempts": 0,
                "resumptions": 0,
                "created_at": now,
            },
            upsert=True,
        )
        for document in documents
        for id_ in [BatchKey(run_id, input_id, document["number"]).id]
    }
    with store_errors(f"saving {len(documents)} batches of {input_id} in run {run_id}"):
        for some in batched(changes, _WRITTEN_TOGETHER, strict=False):
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
    changes: list[ReplaceOne[Document]],
    input_id: str,
    run_id: str,
) -> list[str]:
    """Replace or insert batches; the ids of those that met a batch which could not be replaced."""
    try:
        store.batches.bulk_write(changes, ordered=False)
    except BulkWriteError as error:
        details: Any = error.details
        for fault in details["writeErrors"]:
            if fault["code"] != _DUPLICATE_KEY:
                raise
            if fault.get("keyPattern") != {"_id": 1}:
                raise StateConflict(
                    f"A number of new batches of {input_id} in run {run_id} is taken by a batch of "
                    f"an earlier run: {fault.get('keyValue')}. Numbers go on after those in "
                    "`batches` of the run's note on the input."
                ) from error
        if details["writeConcernErrors"]:
            raise
        return [ids[fault["index"]] for fault in details["writeErrors"]]
    return []


def drop_pending_from(
    store: Store, input_id: str, run_id: str, number: int, *, before: int | None = None
) -> None:
    """Take back the pending batches of an input from a number on.

    Args:
        store: the database.
        input_id: the input.
        run_id: the run.
        number: the first one.
        before: only those that were written by an earlier claim than this one: by a call that
            died or was overtaken, and had cut the same into more batches.
    """
    which: Document = {} if before is None else {"claim": {"$lt": before}}
    with store_errors(f"clearing batches of {input_id} in run {run_id}"):
        store.batches.delete_many(
            {
                "run_id": run_id,
                "input": input_id,
                "number": {"$gte": number},
                "state": "pending",
                **which,
            }
        )


def drop_claimed(store: Store, input_id: str, run_id: str, claim: int) -> None:
    """Take back what was written by a claim that was overtaken before its batches were noted.

    Batches that the run took over have claims of the run that cut them, and stay.
    """
    with store_errors(f"taking back batches of {input_id} in run {run_id}"):
        store.batches.delete_many(
            {
                "run_id": run_id,
                "first_run_id": run_id,
                "input": input_id,
                "claim": claim,
                "state": "pending",
            }
        )


# --- loaded ----------------------------------------------------------------------------------


def begin(store: Store, key: BatchKey) -> Document | None:
    """Start an attempt at loading a batch; None when it is loaded already.

    It is a sign of life of the run.

    Raises:
        NotFound: there is no such batch.
        StateConflict: the run has ended, or a later one has taken the batch over, or it is
            parked.
    """
    with store_errors(f"beginning batch {key.id}"):
        document = store.batches.find_one_and_update(
            {**key.filter(), "state": {"$in": list(UNFINISHED)}, "parked": {"$ne": True}},
            [
                {
                    "$set": {
                        "state": "loading",
                        "loading_since": "$$NOW",
                        "attempts": {"$add": ["$attempts", 1]},
                    }
                },
                {"$unset": ["error", "failed_at", "outdated"]},
            ],
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            _explain(store, key)
            return None
        # In this order: either this sees that the run is being closed, or closing it sees that
        # the batch is being loaded, and takes it from this attempt.
        if runs.renew(store, key.run_id) or runs.find(store, key.run_id) is None:
            return document
        store.batches.update_one(
            {"_id": document["_id"], "state": "loading", "attempts": document["attempts"]},
            {"$set": {"state": "pending"}},
        )
    raise StateConflict(
        f"Run {key.run_id} has ended; batch {key.number} of {key.input} is left to a later run.",
        batch=key.id,
    )


def counts_of(store: Store, key: BatchKey) -> Counts:
    """The counts of a batch, zeros until it is closed."""
    with store_errors(f"reading batch {key.id}"):
        document = store.batches.find_one(key.filter(), {"counts": 1}) or {}
    return Counts(**document.get("counts", {}))


def _explain(store: Store, key: BatchKey) -> None:
    """Say why a batch can't be begun, unless it is loaded."""
    owned = store.batches.find_one(key.filter(), {"state": 1, "parked": 1})
    if owned is None:
        moved = store.batches.find_one({"_id": key.id}, {"run_id": 1, "number": 1})
        if moved is None:
            raise NotFound(f"There is no batch {key.id}.", batch=key.id)
        raise StateConflict(
            f"Batch {key.id} was taken over by run {moved['run_id']}, where it has the number "
            f"{moved['number']}.",
            batch=key.id,
        )
    if owned.get("parked"):
        raise StateConflict(
            f"Batch {key.id} is parked, as loading it failed too often. Remove the cause and ask "
            f"for POST /runs/{key.run_id}/retry.",
            batch=key.id,
        )


def note_cover(store: Store, key: BatchKey, first: bytes, last: bytes) -> None:
    """Note the lowest and the highest id of records of a batch, before any of them is looked up.

    From then on `received_later` finds the batch for whoever changes one of these records.

    Raises:
        StateConflict: a later run has taken the batch over.
    """
    _note(store, key, {"$min": {"covers.first": first}, "$max": {"covers.last": last}})


def note_changes(
    store: Store, key: BatchKey, moved: Iterable[bytes], updated: Iterable[bytes]
) -> None:
    """Note which records are about to be rewritten.

    Args:
        store: the database.
        key: the batch.
        moved: those of which a row only says what they said already, at an earlier time.
        updated: the others.

    Raises:
        StateConflict: a later run has taken the batch over.
    """
    added = {"moved": {"$each": list(moved)}, "updated": {"$each": list(updated)}}
    _note(store, key, {"$push": {k: v for k, v in added.items() if v["$each"]}})


def _note(store: Store, key: BatchKey, change: Document) -> None:
    with store_errors(f"noting what batch {key.id} is about"):
        result = store.batches.update_one(key.filter(), change)
    if result.matched_count == 0:
        raise StateConflict(
            f"Batch {key.id} was taken over by a later run, to which its loading is left.",
            batch=key.id,
        )


def noted_moved(store: Store, batch_id: str) -> set[bytes]:
    """Which records are noted as moved; see `note_changes`."""
    with store_errors(f"reading what batch {batch_id} moves"):
        found = store.batches.find_one({"_id": batch_id}, {"moved": 1}) or {}
    return {bytes(id_) for id_ in found.get("moved", ())}


def received_later(store: Store, batch: Document, ids: Iterable[bytes]) -> list[Document]:
    """Batches of the same source that were received later and may have rows of these records.

    Only those at whose loading was begun: others have seen nothing yet that could be wrong.
    Rows further down in the same file count as later.
    """
    ids = list(ids)
    query: Document = {
        "_id": {"$ne": batch["_id"]},
        "source": batch["source"],
        "received_at": {"$gte": batch["received_at"]},
        "covers.first": {"$lte": max(ids)},
        "covers.last": {"$gte": min(ids)},
    }
    if "object" in batch:
        # Every range of a file was received with it; those further up come before this one.
        query["$nor"] = [
            {
                "received_at": batch["received_at"],
                # Files without versions have the same one, all of them.
                **{f"object.{n}": batch["object"][n] for n in ("bucket", "key", "version_id")},
                "first_row": {"$lt": batch["first_row"]},
            }
        ]
    needed = (
        "run_id",
        "first_run_id",
        "raw_id",
        "received_at",
        "judged_at",
        "first_row",
        "object.version_id",
        "state",
    )
    with store_errors(f"looking for batches received after {batch['_id']}"):
        found = store.batches.find(query, dict.fromkeys(needed, 1))
        return list(found.hint("source_received"))


def note_outdated(store: Store, batch_id: str) -> str | None:
    """Tell whoever loads a batch that records which it covers may have changed.

    For who can't read the batch's raw rows as they are not kept yet. Whoever loads it keeps
    them first and then asks `is_outdated`; the one that notes this looks for the rows once
    more. In whatever order these come, one of the two sees what the other did.

    Returns:
        Where the rows are to be looked for: the id of the batch's raw batch, which is another's
        if the batch was skipped meanwhile; None if the batch is gone.
    """
    with store_errors(f"noting that records of batch {batch_id} have changed"):
        store.batches.update_one(
            {"_id": batch_id, "state": {"$ne": "loaded"}}, {"$set": {"outdated": True}}
        )
        found = store.batches.find_one({"_id": batch_id}, {"raw_id": 1})
    return None if found is None else str(found["raw_id"])


def is_outdated(store: Store, batch_id: str) -> bool:
    """Whether what was looked up for a batch may have changed before its raw rows were kept."""
    with store_errors(f"reading batch {batch_id}"):
        return store.batches.find_one({"_id": batch_id, "outdated": True}, {"_id": 1}) is not None


def require_attempt(store: Store, batch_id: str, attempt: int) -> None:
    """Make sure that a batch is still being loaded by an attempt.

    Raises:
        StateConflict: it was taken from this attempt.
    """
    mine = {"_id": batch_id, "state": "loading", "attempts": attempt}
    with store_errors(f"reading batch {batch_id}"):
        found = store.batches.find_one(mine, {"_id": 1})
    if found is None:
        raise _overtaken(batch_id, attempt)


def note_progress(store: Store, batch_id: str, attempt: int, progress: Document) -> None:
    """Note how far an attempt has got, for the one that goes on from there.

    Raises:
        StateConflict: the batch was taken from this attempt.
    """
    _of_attempt(store, batch_id, attempt, {"progress": progress}, "noting the progress of")


def pause(store: Store, batch_id: str, attempt: int) -> None:
    """Give a batch back whose loading is to be gone on with; that is no failure.

    Raises:
        StateConflict: the batch was taken from this attempt.
    """
    _of_attempt(store, batch_id, attempt, {"state": "pending"}, "pausing")


def _of_attempt(store: Store, batch_id: str, attempt: int, fields: Document, doing: str) -> None:
    with store_errors(f"{doing} batch {batch_id}"):
        result = store.batches.update_one(
            {"_id": batch_id, "state": "loading", "attempts": attempt}, {"$set": fields}
        )
    if result.matched_count == 0:
        raise _overtaken(batch_id, attempt)


def _overtaken(batch_id: str, attempt: int) -> StateConflict:
    return StateConflict(
        f"Batch {batch_id} was taken from attempt {attempt}: by a later attempt, by the end of "
        "its run or by a later run, to which its closing is left.",
        batch=batch_id,
    )


def finish(
    store: Store,
    key: BatchKey,
    attempt: int,
    counts: Counts,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Close a batch as loaded, with its counts, and with further fields.

    Raises:
        ConservationBroken: the counts don't add up; nothing is written.
        StateConflict: the batch was taken from this attempt, or the input from its run.
    """
    if not _close(store, key, {"attempts": attempt}, counts, fields or {}):
        raise _overtaken(key.id, attempt)


def finish_unread(
    store: Store, key: BatchKey, attempt: int, counts: Counts, fields: Mapping[str, Any]
) -> bool:
    """Close a batch whose rows need no loading, as `finish` does, if nobody has asked for them.

    Returns:
        False if somebody has: records that it covers have changed, and it is to be loaded.
    """
    unasked = {"attempts": attempt, "outdated": {"$ne": True}}
    if _close(store, key, unasked, counts, fields):
        return True
    mine = {**key.filter(), "state": "loading", "attempts": attempt}
    with store_errors(f"reading batch {key.id}"):
        if store.batches.find_one(mine, {"_id": 1}):
            return False
    raise _overtaken(key.id, attempt)


def _close(
    store: Store, key: BatchKey, which: Document, counts: Counts, fields: Mapping[str, Any]
) -> bool:
    counts.check(f"Batch {key.id}")
    leases.require(store, key.run_id, key.input)
    with store_errors(f"closing batch {key.id}"):
        result = store.batches.update_one(
            {**key.filter(), "state": "loading", **which},
            [
                {
                    "$set": {
                        "state": "loaded",
                        "loaded_at": "$$NOW",
                        "counts": {"$literal": asdict(counts)},
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
            {**key.filter(), "state": "loading", "attempts": attempt},
            {"$set": {"state": "failed", "failed_at": clock.now(), "error": describe(error)}},
        )


def describe(error: BaseException) -> Document:
    """An error as it is stored: its stable code, its class and its message."""
    return {
        "code": getattr(error, "code", "unexpected"),
        "type": type(error).__name__,
        "message": str(error)[:_ERROR_CHARACTERS],
    }


# --- left undone -----------------------------------------------------------------------------

_INTERRUPTED: Document = {
    "code": "interrupted",
    "type": None,
    "message": "The attempt at loading this batch did not come to its end: its function was killed "
    "or timed out, or its run was ended meanwhile. The next run goes on with it.",
}


def interrupt(store: Store, run_id: str) -> None:
    """Take the batches of a run that ends from whoever is still loading them."""
    with store_errors(f"ending the attempts at batches of run {run_id}"):
        store.batches.update_many(
            {"run_id": run_id, "state": "loading"},
            {
                "$set": {"state": "failed", "failed_at": clock.now(), "error": _INTERRUPTED},
                "$inc": {"attempts": 1},
            },
        )


def park(store: Store, run_id: str, most: int) -> None:
    """Park the batches of a run that failed too often: no run tries them again.

    That is in `most` further runs by an error of their own, or in `PATIENCE` times as many by one
    that may pass: a batch that kills its loader each time has to come to an end, too.
    """
    own = {"error.code": {"$nin": list(_PASSING)}, **_at_least("resumptions", most)}
    passing = {
        "error.code": {"$in": list(_PASSING)},
        **_at_least("interruptions", PATIENCE * most),
    }
    with store_errors(f"parking batches of run {run_id}"):
        store.batches.update_many(
            {"run_id": run_id, "state": "failed", "$or": [own, passing]},
            {"$set": {"parked": True}},
        )


def _at_least(counter: str, number: int) -> Document:
    """Of a counter that is not there until it counts something."""
    return {counter: {"$gte": number}} if number else {}


def unpark(store: Store, run_ids: Sequence[str], input_id: str) -> int:
    """Let the next run take over the failed batches of ended runs, as if they had never failed.

    Returns:
        How many there are.
    """
    with store_errors(f"releasing the parked batches of {input_id} in run {_named(run_ids)}"):
        result = store.batches.update_many(
            {"run_id": {"$in": list(run_ids)}, "input": input_id, "state": "failed"},
            {"$set": {"resumptions": 0}, "$unset": {"parked": "", "interruptions": ""}},
        )
    return result.matched_count


def parked(store: Store, run_ids: Sequence[str], input_id: str) -> int:
    """How many batches of an input are parked in these runs."""
    which = {"run_id": {"$in": list(run_ids)}, "input": input_id, "parked": True}
    with store_errors(f"counting the parked batches of {input_id} in run {_named(run_ids)}"):
        return store.batches.count_documents(which)


def _named(run_ids: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(run_ids))


def parked_by_source(store: Store) -> dict[str, Parked]:
    """What is parked of each source; `csv` stands for all uploads.

    It looks at batches that are not loaded, of which there are few however many there are in all.
    """
    with store_errors("counting the parked batches"):
        groups = list(
            store.batches.aggregate(
                [
                    {"$match": {"state": {"$in": list(UNFINISHED)}, "parked": True}},
                    {
                        "$group": {
                            "_id": {"input": "$input", "run_id": "$run_id"},
                            "batches": {"$sum": 1},
                        }
                    },
                ],
                hint="unfinished",
            )
        )
    found: dict[str, Counter[str]] = {}
    for group in groups:
        name = "csv" if leases.is_object(group["_id"]["input"]) else group["_id"]["input"]
        found.setdefault(name, Counter())[group["_id"]["run_id"]] += group["batches"]
    return {
        name: Parked(of_runs.total(), sorted(of_runs, reverse=True)[:_RUNS_TOLD])
        for name, of_runs in found.items()
    }


def take_over(store: Store, input_id: str, run_id: str) -> list[Document]:
    """Make what earlier, ended runs left of an input batches of a run, which holds the input.

    One atomic update for each batch, which takes it from the attempts of its former owner. One
    that changes in between, as a late loader begins it and is sent away, is found the next time.
    Doing it again, after a crash in its middle or whenever, goes on where it stopped.

    Returns:
        `{run_id, batches}` of each run that something was taken over from, by run id.

    Raises:
        StateConflict: the run has ended meanwhile: another may have the input by now.
        StoreUnavailable: batches kept changing; calling again helps.
    """
    for _ in range(_PASSES):
        # In this order: what a run that comes after this one has cut is not among them.
        some = _left_by_others(store, input_id, run_id)
        if not some:
            break
        if not runs.renew(store, run_id):
            raise StateConflict(f"Run {run_id} has ended; what is left is for a later run.")
        _take(store, input_id, run_id, some)
    else:
        raise StoreUnavailable(
            f"Batches of {input_id} that earlier runs have left are still being changed by their "
            "loaders. Try again."
        )
    with store_errors(f"counting what run {run_id} took over of {input_id}"):
        groups = store.batches.aggregate(
            [
                {"$match": {"run_id": run_id, "input": input_id, "resumed_from": {"$ne": None}}},
                {"$group": {"_id": "$resumed_from.run_id", "batches": {"$sum": 1}}},
                {"$sort": {"_id": 1}},
            ]
        )
        return [{"run_id": group["_id"], "batches": group["batches"]} for group in groups]


def _left_by_others(store: Store, input_id: str, run_id: str) -> list[Document]:
    with store_errors(f"looking for batches of {input_id} that earlier runs left"):
        return list(
            store.batches.find(
                {**_left(input_id), "run_id": {"$ne": run_id}},
                {"run_id": 1, "number": 1, "state": 1, "error.code": 1},
            ).sort([("run_id", ASCENDING), ("number", ASCENDING)])
        )


def _take(store: Store, input_id: str, run_id: str, left: Sequence[Document]) -> None:
    first = next_number(store, run_id, input_id)
    for some in batched(enumerate(left, first), _WRITTEN_TOGETHER, strict=False):
        changes = [
            UpdateOne(
                {
                    "_id": batch["_id"],
                    "state": batch["state"],
                    "run_id": batch["run_id"],
                    "number": batch["number"],
                },
                {
                    "$set": {
                        "run_id": run_id,
                        "number": number,
                        "state": "pending",
                        "resumed_from": {"run_id": batch["run_id"], "number": batch["number"]},
                    },
                    "$inc": {"attempts": 1, **_counted(batch)},
                },
            )
            for number, batch in some
        ]
        with store_errors(f"taking over batches of {input_id} for run {run_id}"):
            store.batches.bulk_write(changes, ordered=False)
        runs.renew(store, run_id)


def _counted(batch: Document) -> dict[str, int]:
    """What being taken over counts as; what nobody has tried yet has not failed either."""
    if batch["state"] == "pending":
        return {}
    own = batch["state"] == "failed" and batch.get("error", {}).get("code") not in _PASSING
    return {"resumptions" if own else "interruptions": 1}


def _left(input_id: str) -> Document:
    return {"input": input_id, "state": {"$in": list(UNFINISHED)}, "parked": {"$ne": True}}


def any_left(store: Store, input_id: str) -> bool:
    """Whether there are batches of an input that a later run would take over, of whatever run."""
    with store_errors(f"looking for batches of {input_id} that are not loaded"):
        return store.batches.find_one(_left(input_id), {"_id": 1}) is not None


def next_number(store: Store, run_id: str, input_id: str) -> int:
    """The lowest number that no batch of an input in a run has, nor any before it."""
    with store_errors(f"counting the batches of {input_id} in run {run_id}"):
        last = store.batches.find_one(
            {"run_id": run_id, "input": input_id}, {"number": 1}, sort=[("number", DESCENDING)]
        )
    return last["number"] + 1 if last else 0


def resumed(store: Store, run_id: str, input_id: str) -> list[int]:
    """The numbers of the batches that a run took over and that it has not begun yet, ascending."""
    return _numbers(
        store,
        run_id,
        input_id,
        {"state": "pending", "resumed_from": {"$ne": None}},
    )


def numbers(store: Store, run_id: str, input_id: str, below: int) -> list[int]:
    """The numbers of the batches of an input that are to be loaded yet, ascending.

    Args:
        store: the database.
        run_id: the run.
        input_id: the input.
        below: the number of batches that are noted. From there on there is only what a call
            writes that was overtaken and does not know it yet; it takes that back itself.
    """
    which = {
        "number": {"$lt": below},
        "state": {"$in": list(UNFINISHED)},
        "parked": {"$ne": True},
    }
    return _numbers(store, run_id, input_id, which)


def _numbers(store: Store, run_id: str, input_id: str, which: Document) -> list[int]:
    with store_errors(f"listing the batches of {input_id} in run {run_id}"):
        found = store.batches.find(
            {"run_id": run_id, "input": input_id, **which}, {"number": 1}
        ).sort("number")
        return [document["number"] for document in found]


def any_unfinished(store: Store, run_ids: Sequence[str], input_id: str) -> bool:
    """Whether runs have batches of an input that a later one would take over."""
    with store_errors(f"looking for batches of {input_id} that run {_named(run_ids)} left"):
        found = store.batches.find_one(
            {**_left(input_id), "run_id": {"$in": list(run_ids)}}, {"_id": 1}
        )
    return found is not None


# --- told ------------------------------------------------------------------------------------


def of_run(store: Store, run_id: str, *, limit: int = 0) -> Iterator[Document]:
    """The batches of a run, by input and number; `limit` 0 means all."""
    with store_errors(f"listing the batches of run {run_id}"):
        yield from (
            store.batches.find({"run_id": run_id}).sort([("input", 1), ("number", 1)]).limit(limit)
        )


def not_loaded(store: Store, run_id: str, *, limit: int) -> tuple[list[Document], int]:
    """The first batches that a run did not load, by input and number, and how many there are.

    Each as a run keeps it: `{batch_id, source, input, number, rows, attempts, parked, error}`.
    """
    query = {"run_id": run_id, "state": {"$in": list(UNFINISHED)}}
    with store_errors(f"listing the batches that run {run_id} did not load"):
        count = store.batches.count_documents(query)
        found = store.batches.find(query).sort([("input", 1), ("number", 1)]).limit(limit)
        return [failure(batch) for batch in found], count


def failure(batch: Document) -> Document:
    """What is told of a batch that was not loaded."""
    return {
        "batch_id": batch["_id"],
        **{name: batch[name] for name in ("source", "input", "number", "rows", "attempts")},
        "parked": batch.get("parked", False),
        "error": batch.get("error"),
    }


def owners(store: Store, batch_ids: Sequence[str]) -> dict[str, Document]:
    """Of some batches: the run that owns each now, and its state, by `_id`."""
    with store_errors(f"looking up {len(batch_ids)} batches"):
        found = store.batches.find(
            {"_id": {"$in": list(batch_ids)}}, {"run_id": 1, "state": 1, "parked": 1}
        )
        return {batch["_id"]: batch for batch in found}


def summarise(store: Store, run_ids: Iterable[str]) -> dict[tuple[str, str], Document]:
    """Totals of runs' batches by (run id, input).

    Returns:
        For each: `batches`, `rows` (received, of all batches), the counts of the loaded ones
        under their names, `skipped` (loaded ones whose content was known), `parked`, batches by
        state, `first` and `last` (times of work).
    """
    sums: dict[str, Any] = {
        name: {"$sum": {"$ifNull": [f"$counts.{name}", 0]}} for name in ("rows_in", *COUNTS)
    }
    states = {
        state: {"$sum": {"$cond": [{"$eq": ["$state", state]}, 1, 0]}}
        for state in ("pending", "loading", "loaded", "failed")
    }
    flags = {
        flag: {"$sum": {"$cond": [{"$eq": [f"${flag}", True]}, 1, 0]}}
        for flag in ("skipped", "parked")
    }
    with store_errors("adding up batches"):
        groups = store.batches.aggregate(
            [
                {"$match": {"run_id": {"$in": list(run_ids)}}},
                {
                    "$group": {
                        "_id": {"run_id": "$run_id", "input": "$input"},
                        "batches": {"$sum": 1},
                        "rows": {"$sum": "$rows"},
                        "first": {"$min": "$created_at"},
                        "last": {"$max": "$loaded_at"},
                        **sums,
                        **states,
                        **flags,
                    }
                },
            ]
        )
        return {(g["_id"]["run_id"], g["_id"]["input"]): g for g in groups}
