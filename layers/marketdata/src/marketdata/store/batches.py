"""The collection `batches`: the checkpoint of every run, and the only source of totals.

    pending ──begin──► loading ──finish──► loaded
                        │  ▲
                   fail │  │ begin (the next attempt)
                        ▼  │
                       failed

Every arrow is one atomic update whose filter is the state that it leaves. `attempts` counts
the beginnings and is the fence: an attempt that was overtaken by a later one can't finish.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from marketdata import clock
from marketdata.errors import ConservationBroken, NotFound, StateConflict
from marketdata.store.connection import Document, Store, store_errors

COUNTS = ("inserted", "updated", "unchanged", "duplicate", "quarantined")
_ERROR_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Which batch: the run, the input within it (a source, or one object), the number."""

    run_id: str
    input: str
    number: int

    @property
    def id(self) -> str:
        """The batch's `_id`."""
        return f"{self.run_id}/{self.input}/{self.number}"


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


def put_batches(store: Store, input_id: str, run_id: str, documents: list[Document]) -> None:
    """Write new batches as pending.

    A batch of the same number and content stays as it is, and so does a loaded one: a call
    that is made again, or twice at once, takes nothing back. A pending one of other content
    is replaced.
    """
    with store_errors(f"saving {len(documents)} batches of {input_id} in run {run_id}"):
        for document in documents:
            key = BatchKey(run_id, input_id, document["number"])
            # The upsert meets the `_id` of the batch that stays: there is nothing to do.
            with suppress(DuplicateKeyError):
                store.batches.replace_one(
                    {
                        "_id": key.id,
                        "state": {"$ne": "loaded"},
                        "raw_id": {"$ne": document.get("raw_id")},
                    },
                    {
                        "run_id": run_id,
                        "input": input_id,
                        **document,
                        "state": "pending",
                        "attempts": 0,
                        "created_at": clock.now(),
                    },
                    upsert=True,
                )


def drop_pending_from(store: Store, input_id: str, run_id: str, number: int) -> None:
    """Take back the pending batches of an input from a number on.

    They are of a page that a call which died had cut into more batches than it has now.
    """
    with store_errors(f"clearing batches of {input_id} in run {run_id}"):
        store.batches.delete_many(
            {"run_id": run_id, "input": input_id, "number": {"$gte": number}, "state": "pending"}
        )


def begin(store: Store, key: BatchKey) -> Document | None:
    """Start an attempt at loading a batch; None when it is loaded already.

    Raises:
        NotFound: there is no such batch.
    """
    with store_errors(f"beginning batch {key.id}"):
        document = store.batches.find_one_and_update(
            {"_id": key.id, "state": {"$in": ["pending", "loading", "failed"]}},
            {
                "$set": {"state": "loading", "loading_since": clock.now()},
                "$inc": {"attempts": 1},
                "$unset": {"error": ""},
            },
            return_document=ReturnDocument.AFTER,
        )
        if document is None and store.batches.find_one({"_id": key.id}, {"_id": 1}) is None:
            raise NotFound(f"There is no batch {key.id}.", batch=key.id)
        return document


def note_cover(store: Store, key: BatchKey, first: bytes, last: bytes) -> None:
    """Note the lowest and the highest id of a batch's records, before any of them is looked up.

    From then on `received_later` finds the batch for whoever changes one of these records.
    """
    with store_errors(f"noting what batch {key.id} covers"):
        store.batches.update_one(
            {"_id": key.id}, {"$set": {"covers": {"first": first, "last": last}}}
        )


def note_moved(store: Store, key: BatchKey, ids: Iterable[bytes]) -> None:
    """Note records to be rewritten because of a row that only says what they said already."""
    with store_errors(f"noting what batch {key.id} moves"):
        store.batches.update_one({"_id": key.id}, {"$addToSet": {"moved": {"$each": list(ids)}}})


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
                "object.version_id": batch["object"]["version_id"],
                "first_row": {"$lt": batch["first_row"]},
            }
        ]
    needed = dict.fromkeys(("run_id", "raw_id", "received_at", "first_row"), 1)
    with store_errors(f"looking for batches received after {batch['_id']}"):
        return list(store.batches.find(query, needed).hint("source_received"))


def finish(store: Store, key: BatchKey, attempt: int, counts: Counts) -> None:
    """Close a batch as loaded, with its counts.

    Raises:
        ConservationBroken: the counts don't add up; nothing is written.
        StateConflict: a later attempt has taken the batch over.
    """
    counts.check(f"Batch {key.id}")
    with store_errors(f"closing batch {key.id}"):
        result = store.batches.update_one(
            {"_id": key.id, "state": "loading", "attempts": attempt},
            {"$set": {"state": "loaded", "loaded_at": clock.now(), "counts": asdict(counts)}},
        )
    if result.matched_count == 0:
        raise StateConflict(
            f"Batch {key.id} was taken over by a later attempt; attempt {attempt} leaves the "
            "closing to it.",
            batch=key.id,
        )


def fail(store: Store, key: BatchKey, attempt: int, error: Exception) -> None:
    """Mark an attempt as failed with its reason; a later attempt's state is left alone."""
    with store_errors(f"marking batch {key.id} as failed"):
        store.batches.update_one(
            {"_id": key.id, "state": "loading", "attempts": attempt},
            {"$set": {"state": "failed", "failed_at": clock.now(), "error": describe(error)}},
        )


def describe(error: BaseException) -> Document:
    """An error as it is stored: its stable code, its class and its message."""
    return {
        "code": getattr(error, "code", "unexpected"),
        "type": type(error).__name__,
        "message": str(error)[:_ERROR_CHARACTERS],
    }


def numbers(store: Store, run_id: str, input_id: str) -> list[int]:
    """The numbers of the batches of an input that are not loaded yet, ascending."""
    with store_errors(f"listing the batches of {input_id} in run {run_id}"):
        found = store.batches.find(
            {"run_id": run_id, "input": input_id, "state": {"$ne": "loaded"}}, {"number": 1}
        ).sort("number")
        return [document["number"] for document in found]


def of_run(store: Store, run_id: str, *, limit: int = 0) -> Iterator[Document]:
    """The batches of a run, by input and number; `limit` 0 means all."""
    with store_errors(f"listing the batches of run {run_id}"):
        yield from (
            store.batches.find({"run_id": run_id}).sort([("input", 1), ("number", 1)]).limit(limit)
        )


def summarise(store: Store, run_ids: Iterable[str]) -> dict[tuple[str, str], Document]:
    """Totals of runs' batches by (run id, input).

    Returns:
        For each: `batches`, `rows` (received, of all batches), the counts of the loaded ones
        under their names, `states` ({state: batches}), `first` and `last` (times of work).
    """
    sums: dict[str, Any] = {
        name: {"$sum": {"$ifNull": [f"$counts.{name}", 0]}} for name in ("rows_in", *COUNTS)
    }
    states = {
        state: {"$sum": {"$cond": [{"$eq": ["$state", state]}, 1, 0]}}
        for state in ("pending", "loading", "loaded", "failed")
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
                    }
                },
            ]
        )
        return {(g["_id"]["run_id"], g["_id"]["input"]): g for g in groups}
