"""What batches tell each other, so that the order of loading does not decide.

See `load.late_arrivals` for the invariant. Here are its notes in the collection `batches`.
"""

from __future__ import annotations

from collections.abc import Iterable

from marketdata.documents.batches import Batch, BatchState
from marketdata.store.batches.batch import BatchKey, update_owned
from marketdata.store.connection import Filter, Store, store_errors


def note_key_range(store: Store, key: BatchKey, first: bytes, last: bytes) -> None:
    """Note the lowest and the highest id of records of a batch, before any of them is looked up.

    From then on `received_later` finds the batch for whoever changes one of these records.

    Raises:
        StateConflict: a later run has reclaimed the batch.
    """
    update_owned(store, key, {"$min": {"covers.first": first}, "$max": {"covers.last": last}})


def received_later(store: Store, batch: Batch, ids: Iterable[bytes]) -> list[Batch]:
    """Batches of the same source that were received later and may have rows of these records.

    Only those at whose loading was begun: others have seen nothing yet that could be wrong.
    Rows further down in the same file count as later.
    """
    ids = list(ids)
    own = [batch["_id"]]
    if "resolves" in batch:
        # A replay batch reads by itself what else that batch has of these records.
        own.append(batch["resolves"]["batch"])
    query: Filter = {
        "_id": {"$nin": own},
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
        "resolves",
        "unresolved",
        "first_row",
        "object.version_id",
        "state",
    )
    with store_errors(f"looking for batches received after {batch['_id']}"):
        found = store.batches.find(query, dict.fromkeys(needed, 1))
        return list(found.hint("source_received"))


def mark_stale(store: Store, batch_id: str) -> str | None:
    """Tell whoever loads a batch that records which it covers may have changed.

    For who can't read the batch's raw rows as they are not kept yet. Whoever loads it keeps
    them first and then asks `is_stale`; the one that notes this looks for the rows once
    more. In whatever order these come, one of the two sees what the other did.

    Returns:
        Where the rows are to be looked for: the id of the batch's raw batch, which is another's
        if the batch was skipped meanwhile; None if the batch is gone.
    """
    with store_errors(f"noting that records of batch {batch_id} have changed"):
        store.batches.update_one(
            {"_id": batch_id, "state": {"$ne": BatchState.LOADED}}, {"$set": {"outdated": True}}
        )
        found = store.batches.find_one({"_id": batch_id}, {"raw_id": 1})
    return None if found is None else str(found["raw_id"])


def is_stale(store: Store, batch_id: str) -> bool:
    """Whether what was looked up for a batch may have changed before its raw rows were kept."""
    with store_errors(f"reading batch {batch_id}"):
        return store.batches.find_one({"_id": batch_id, "outdated": True}, {"_id": 1}) is not None
