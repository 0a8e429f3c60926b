"""Which batch came from the same place before another one, and what was received since.

Queries and notes of the two strategies that skip rows: `load.known_content` and
`load.previous_version`, which say why skipping is safe.
"""

from __future__ import annotations

from marketdata.documents.batches import Batch, BatchState
from marketdata.store.connection import Filter, Store, Update, store_errors
from marketdata.store.quarantine import root_of


def find_comparable(store: Store, batch: Batch, context: str) -> Batch | None:
    """The previous version of a batch, if equal rows of the two are equal records.

    The previous version is the last batch that was received before from the same place: the same
    page of an API and part of that page, or the same part of an object of the same key. It has to
    be loaded, in the same context, and each of its rows validated at its receipt.

    Args:
        store: the database.
        batch: the batch; it has a place.
        context: its context, see `load.context`.
    """
    with store_errors(f"looking for the previous version of batch {batch['_id']}"):
        previous = store.batches.find_one(
            {
                "place": batch["place"],
                "received_at": {"$lte": batch["received_at"]},
                "_id": {"$ne": batch["_id"]},
            },
            sort=[("received_at", -1), ("_id", -1)],
            hint="place_received",
        )
    comparable = (
        previous is not None
        and previous["state"] == BatchState.LOADED
        # Two versions of one second can't be put in order.
        and previous["received_at"] < batch["received_at"]
        and previous.get("context") == context
        and "judged_at" not in previous
    )
    return previous if comparable else None


def note_known_content(store: Store, batch_id: str, previous: Batch) -> None:
    """Note with a batch what it has from its previous version, whose content it has.

    That is the key range, by which `late_arrivals.received_later` finds the batch from then on, and
    the batch that has quarantined what both count.
    """
    noted: Update = {"known_root": root_of(previous)}
    if "covers" in previous:
        noted["covers"] = previous["covers"]
    with store_errors(f"noting that the content of batch {batch_id} is known"):
        store.batches.update_one({"_id": batch_id}, {"$set": noted})


def any_conflict_between(store: Store, previous: Batch, batch: Batch) -> bool:
    """Whether a batch that is not known to be conflict-free was received between two others.

    Args:
        store: the database.
        previous: the earlier one; only batches that overlap its key range are looked at.
        batch: the later one. Batches received at the same moment as either count.
    """
    key_range = previous["covers"]
    query: Filter = {
        "_id": {"$nin": [previous["_id"], batch["_id"]]},
        "source": batch["source"],
        "received_at": {"$gte": previous["received_at"], "$lte": batch["received_at"]},
        "covers.first": {"$lte": key_range["last"]},
        "covers.last": {"$gte": key_range["first"]},
        # Only of a loaded batch it is noted.
        "plain": {"$ne": True},
    }
    with store_errors(f"looking for conflicts since batch {previous['_id']}"):
        return store.batches.find_one(query, {"_id": 1}, hint="source_received") is not None
