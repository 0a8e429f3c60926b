"""What is known of a source's pages: what the next request for one can refer to."""

from __future__ import annotations

from collections.abc import Sequence

from marketdata.documents.batches import Batch, BatchState
from marketdata.documents.sources import KnownPage
from marketdata.store.connection import Store, Update, store_errors


def remember_page(store: Store, name: str, page: int, known: KnownPage | None) -> None:
    """Keep what a page's next request can refer to, or nothing.

    It is to be called before the page's batches are written: a validator must never outlive the
    content that it stands for.
    """
    place = f"pages.{page}"
    update: Update = {"$unset": {place: ""}} if known is None else {"$set": {place: known}}
    with store_errors(f"remembering page {page} of source {name}"):
        store.sources.update_one({"_id": name}, update)


def loaded_batches(store: Store, ids: Sequence[str]) -> list[Batch] | None:
    """The batches of a page in order; None unless all are there, loaded, and have their raw rows.

    One that could end otherwise today does not count as loaded: a row of it was set aside as too
    far ahead, or was replayed since.
    """
    with store_errors("looking whether a page was loaded"):
        found = {
            batch["_id"]: batch
            for batch in store.batches.find({"_id": {"$in": list(ids)}, "state": BatchState.LOADED})
        }
        if len(found) != len(ids) or any(
            not {"depends_on_time", "judged_at", "replayed_at"}.isdisjoint(batch)
            for batch in found.values()
        ):
            return None
        raw_ids = {batch["raw_id"] for batch in found.values()}
        kept = store.raw_batches.count_documents({"_id": {"$in": list(raw_ids)}})
    return [found[id_] for id_ in ids] if kept == len(raw_ids) else None
