"""The collection `raw_batches`."""

from __future__ import annotations

from collections.abc import Sequence

from marketdata.documents.raw_batches import RawBatch
from marketdata.errors import NotFound
from marketdata.store.connection import Store, store_errors


def save_raw(store: Store, documents: Sequence[RawBatch]) -> None:
    """Keep raw batches; one that is there already stays as it is (its `_id` is its content).

    Its time of expiry begins anew, as a batch refers to it again.
    """
    if not documents:
        return
    with store_errors(f"saving {len(documents)} raw batches"):
        # One at a time: together they could pass the 48 MB limit of a message, and each is
        # large enough that the round trip does not count.
        for document in documents:
            fields = {k: v for k, v in document.items() if k != "_id"}
            store.raw_batches.update_one(
                {"_id": document["_id"]},
                {"$setOnInsert": fields, "$currentDate": {"seen_at": True}},
                upsert=True,
            )


def find_raw(store: Store, raw_id: str) -> RawBatch | None:
    """One raw batch with its payload, if it is there."""
    with store_errors(f"reading raw batch {raw_id}"):
        return store.raw_batches.find_one({"_id": raw_id})


def get_raw(store: Store, raw_id: str) -> RawBatch:
    """One raw batch with its payload.

    Raises:
        NotFound: it was deleted, or never was.
    """
    document = find_raw(store, raw_id)
    if document is None:
        raise NotFound(
            f"Raw batch {raw_id} is not in the database: it was "
            "deleted. Its rows can't be loaded; a new run asks the source again.",
            raw_id=raw_id,
        )
    return document


def note_seen(store: Store, raw_id: str) -> bool:
    """Note that another batch has the rows of a raw batch, whose time of expiry begins anew.

    Returns:
        False if it has expired already.
    """
    seen = {"$currentDate": {"seen_at": True}}
    with store_errors(f"noting that raw batch {raw_id} was received again"):
        return store.raw_batches.update_one({"_id": raw_id}, seen).matched_count == 1


def is_kept(store: Store, raw_id: str) -> bool:
    """Whether a raw batch is there."""
    with store_errors(f"looking for raw batch {raw_id}"):
        return store.raw_batches.find_one({"_id": raw_id}, {"_id": 1}) is not None


def raw_row_count(store: Store) -> int:
    """Rows in all raw batches; answered from the index on `rows` alone."""
    with store_errors("counting raw rows"):
        totals = store.raw_batches.aggregate(
            [
                {"$match": {"rows": {"$gte": 0}}},
                {"$group": {"_id": None, "rows": {"$sum": "$rows"}}},
            ],
            hint="rows",
        )
        return int(next(iter(totals), {"rows": 0})["rows"])
