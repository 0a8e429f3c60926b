"""The collection `ignored_objects`: what is in the bucket for uploads, and no run takes.

Each is noted once, by its key. Nothing here says what becomes of an object: it is for people who
wonder where their file is.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import UpdateOne

from marketdata.documents.sources import ListingMarker
from marketdata.objects import CSV, Ignored, why_ignored
from marketdata.store.connection import Store, Update, store_errors

MOST = 10_000
"""Objects that are noted; beyond that the list says nothing new."""


def note(store: Store, ignored: Sequence[Ignored]) -> None:
    """Note objects that no run takes. Noting one twice is noting it once."""
    with store_errors("noting objects that no run takes"):
        known = store.ignored_objects.find(
            {"_id": {"$in": [one.id for one in ignored]}}, {"_id": 1}
        )
        there = {document["_id"] for document in known}
        new = [one for one in ignored if one.id not in there]
        if not new or store.ignored_objects.estimated_document_count() >= MOST:
            return
        # At once: a folder of thousands must not take a scheduled run's time.
        store.ignored_objects.bulk_write(
            [UpdateOne({"_id": one.id}, [{"$set": _made(one)}], upsert=True) for one in new],
            ordered=False,
        )


def _made(ignored: Ignored) -> Update:
    """The document of an object, with the time of an earlier note of it."""
    return {
        "bucket": {"$literal": ignored.bucket},
        "key": {"$literal": ignored.key},
        "reason": {"$literal": why_ignored(ignored.key) or ""},
        "noticed_at": {"$ifNull": ["$noticed_at", "$$NOW"]},
    }


def listing_marker(store: Store) -> ListingMarker | None:
    """Where the next look through the bucket begins; None for at its beginning."""
    with store_errors("looking where the list of uploads goes on"):
        found = store.sources.find_one({"_id": CSV}, {"listing": 1})
    return found.get("listing") if found else None


def set_listing_marker(store: Store, marker: ListingMarker | None) -> None:
    """Have the next look through the bucket begin here."""
    with store_errors("noting where the list of uploads goes on"):
        store.sources.update_one({"_id": CSV}, {"$set": {"listing": marker}}, upsert=True)
