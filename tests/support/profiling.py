"""What MongoDB did, by its own account."""

from __future__ import annotations

from collections.abc import Callable

from marketdata.store.connection import Store
from tests.support.documents import Document


def profiled(store: Store, action: Callable[[], object]) -> list[Document]:
    """The reads that an action made, as MongoDB's profiler tells of them."""
    store.database.drop_collection("system.profile")
    store.database.command("profile", 2)
    try:
        action()
    finally:
        store.database.command("profile", 0)
    entries = store.database["system.profile"].find({"planSummary": {"$exists": True}})
    found = list(entries.sort("$natural", 1))
    # Nobody can delete a document in it, as tests do with what others have left.
    store.database.drop_collection("system.profile")
    return found
