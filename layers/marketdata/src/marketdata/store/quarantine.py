"""The collection `quarantine`: rows that could not be loaded, whole, with the reason."""

from __future__ import annotations

from pymongo import UpdateOne

from marketdata.store.connection import Document, Store, store_errors


def put_quarantine(store: Store, documents: list[Document]) -> None:
    """Set rows aside.

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
                    },
                    upsert=True,
                )
                for document in documents
            ],
            ordered=False,
        )
