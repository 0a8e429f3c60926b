"""Which records a batch rewrites, noted in the collection `batches` while the batch is loaded.

See `load.upserts.RewriteLog` for what that is good for.
"""

from __future__ import annotations

from collections.abc import Iterable

from marketdata.store.batches.batch import BatchKey, update_owned
from marketdata.store.connection import Store, store_errors


def note_rewrites(
    store: Store, key: BatchKey, backdated: Iterable[bytes], updated: Iterable[bytes]
) -> None:
    """Note which records are about to be rewritten.

    Args:
        store: the database.
        key: the batch.
        backdated: those that say the same afterwards, since an earlier time.
        updated: the others.

    Raises:
        StateConflict: a later run has reclaimed the batch.
    """
    added = {"moved": {"$each": list(backdated)}, "updated": {"$each": list(updated)}}
    update_owned(store, key, {"$push": {k: v for k, v in added.items() if v["$each"]}})


def noted_backdated(store: Store, batch_id: str) -> set[bytes]:
    """Which records are noted as backdated; see `note_rewrites`."""
    with store_errors(f"reading which records batch {batch_id} backdates"):
        found = store.batches.find_one({"_id": batch_id}, {"moved": 1})
    return {bytes(id_) for id_ in found.get("moved", ())} if found else set()
