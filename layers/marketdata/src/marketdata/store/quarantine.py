"""The collection `quarantine`: rows that could not be loaded, whole, with the reason.

A row is known by its raw batch and number. Several batches may have the same raw batch, as a
source answers the same content again; `batches` names those that count the row as quarantined,
so that their counts can follow when it is loaded after all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pymongo import ASCENDING, UpdateOne
from pymongo.client_session import ClientSession

from marketdata import clock
from marketdata.store.connection import Document, Store, store_errors

_IN_THE_ORDER_OF_HOW_MUCH_EACH_NARROWS = ("run_id", "reason", "source")
_INDEXES = {"run_id": "run", "reason": "reason", "source": "source"}
_PLACE = {"raw_id": 1, "row_number": 1, "batches": 1, "source": 1, "first_at": 1}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows; what is None selects nothing out."""

    source: str | None = None
    reason: str | None = None
    run_id: str | None = None
    ids: tuple[str, ...] | None = None

    def query(self) -> tuple[Document, str]:
        """The filter, and the index that answers it."""
        given = {name: getattr(self, name) for name in _IN_THE_ORDER_OF_HOW_MUCH_EACH_NARROWS}
        filter_: Document = {name: {"$eq": v} for name, v in given.items() if v is not None}
        if self.ids is not None:
            return {**filter_, "_id": {"$in": list(self.ids)}}, "_id_"
        return filter_, next((_INDEXES[name] for name in given if name in filter_), "_id_")


def put_quarantine(store: Store, documents: list[Document]) -> None:
    """Set rows aside, each for its `batch`.

    A row is known by its raw batch and number: setting it aside again, after a crash or in a
    later run over the same content, keeps one document.
    """
    if not documents:
        return
    with store_errors(f"setting {len(documents)} rows aside"):
        store.quarantine.bulk_write(
            [
                UpdateOne(
                    {"_id": document["_id"]},
                    {
                        "$set": {k: v for k, v in document.items() if k not in ("_id", "first_at")},
                        "$setOnInsert": {"first_at": document["first_at"]},
                        "$addToSet": {"batches": document["batch"]},
                    },
                    upsert=True,
                )
                for document in documents
            ],
            ordered=False,
        )


def put_again(store: Store, raw_id: str, batch: Document) -> None:
    """Set the rows of a raw batch aside again for another batch that brought the same content.

    Rows that have been loaded since then stay loaded.
    """
    with store_errors(f"setting the rows of raw batch {raw_id} aside again"):
        store.quarantine.update_many(
            {"_id": {"$gte": f"{raw_id}/", "$lt": f"{raw_id}0"}},
            {
                "$set": {
                    "run_id": batch["run_id"],
                    "batch": batch["_id"],
                    "received_at": batch["received_at"],
                    "last_at": clock.now(),
                }
            },
        )


def release(store: Store, batch_id: str, raw_id: str, kept: Iterable[str]) -> None:
    """Let go of rows that an earlier attempt at a batch had set aside and this one has loaded.

    Args:
        store: the database.
        batch_id: the batch.
        raw_id: its raw batch.
        kept: the ids of the rows that this attempt has set aside.
    """
    kept = set(kept)
    gone = [d["_id"] for d in of_raw(store, raw_id, batch_id) if d["_id"] not in kept]
    if not gone:
        return
    with store_errors(f"letting go of {len(gone)} rows of batch {batch_id}"):
        store.quarantine.update_many({"_id": {"$in": gone}}, {"$pull": {"batches": batch_id}})
        store.quarantine.delete_many({"_id": {"$in": gone}, "batches": []})


def select(store: Store, selection: Selection, *, after: str | None, limit: int) -> list[Document]:
    """Rows by raw batch and number, from after an id on: where they are, without their text."""
    filter_, hint = selection.query()
    with store_errors("selecting quarantined rows"):
        found = store.quarantine.find(_after(filter_, after), _PLACE).sort([("_id", ASCENDING)])
        return list(found.hint(hint).limit(limit))


def count(store: Store, selection: Selection, *, after: str | None, limit: int) -> int:
    """How many rows there are from after an id on; counts no further than a limit."""
    filter_, hint = selection.query()
    with store_errors("counting quarantined rows"):
        return store.quarantine.count_documents(_after(filter_, after), hint=hint, limit=limit)


def _after(filter_: Document, after: str | None) -> Document:
    if after is None:
        return filter_
    return {**filter_, "_id": {**filter_.get("_id", {}), "$gt": after}}


def of_raw(store: Store, raw_id: str, batch_id: str | None = None) -> list[Document]:
    """Where the rows of a raw batch are that are set aside, of all its batches or of one."""
    # Every id begins with the raw batch's and a slash, which "0" comes next to.
    filter_: Document = {"_id": {"$gt": f"{raw_id}/", "$lt": f"{raw_id}0"}}
    if batch_id is not None:
        filter_["batches"] = batch_id
    with store_errors(f"listing the quarantined rows of raw batch {raw_id}"):
        return list(store.quarantine.find(filter_, _PLACE).hint("_id_"))


def note_reasons(store: Store, reasons: Sequence[Document], now: datetime) -> None:
    """Note why rows that were tried again still can't be loaded.

    Args:
        store: the database.
        reasons: for each `_id`, `reason`, `field` and `message`.
        now: the time of the attempt.
    """
    if not reasons:
        return
    with store_errors(f"noting why {len(reasons)} rows stay in quarantine"):
        # No upsert: a row that somebody else has loaded meanwhile must not come back.
        store.quarantine.bulk_write(
            [
                UpdateOne(
                    {"_id": reason["_id"]},
                    {
                        "$set": {k: v for k, v in reason.items() if k != "_id"}
                        | {"last_at": now, "replayed_at": now}
                    },
                )
                for reason in reasons
            ],
            ordered=False,
        )


def take(store: Store, rows: Sequence[Document], session: ClientSession) -> bool:
    """Delete rows within a transaction, if each is there and counted by the same batches."""
    ids = [row["_id"] for row in rows]
    found = store.quarantine.find({"_id": {"$in": ids}}, {"batches": 1}, session=session)
    now = {document["_id"]: document.get("batches") for document in found}
    if now != {row["_id"]: row.get("batches") for row in rows}:
        return False
    store.quarantine.delete_many({"_id": {"$in": ids}}, session=session)
    return True
