"""Which content is known so well that loading it again would change nothing.

A batch is skipped if the batch before it at the same place (an API's page, the n-th part of a
key's objects) had the same content in the same context and is loaded, and if it and everything
that was received between the two was *plain*: each of its rows either brought a record that was
not there, or said what the record said then. Of plain batches, any two agree in what they share,
whichever was loaded first, unless what came late has changed a record: so none of the records may
have become another one since. A, then B, then A again leaves A, whichever places they came from.
"""

from __future__ import annotations

from marketdata.documents.batches import Batch, BatchState
from marketdata.store import market_data
from marketdata.store.connection import Filter, Store, Update, store_errors
from marketdata.store.quarantine import root_of


def find(store: Store, batch: Batch, context: str) -> Batch | None:
    """The loaded batch whose outcome is this one's too; None if it has to be loaded.

    The batch takes over the other's cover first. Whoever loads, later on, what was received
    before this one then finds it, and asks its rows; and what is being loaded now has noted its
    own cover and is seen here. Rows that were never fetched nobody can read: whoever looks for
    them before the batch is closed marks it as outdated (`batches.mark_stale`), and then it
    has to be loaded as well.
    """
    with store_errors(f"looking for known content of batch {batch['_id']}"):
        before = _before(store, batch)
        if before is None or not _same(before, batch, context):
            return None
        # To have it said again keeps it from expiring.
        seen = {"$currentDate": {"seen_at": True}}
        if not store.raw_batches.update_one({"_id": before["raw_id"]}, seen).matched_count:
            return None
        if batch["attempts"] > 1 and _has_own_rows(store, before, batch):
            return None
        # Whose rows in quarantine a batch counts that is skipped, without a walk down the line.
        noted: Update = {"known_root": root_of(before)}
        if "covers" in before:
            noted["covers"] = before["covers"]
        # Without a cover it had no records at all, only rows that were set aside.
        store.batches.update_one({"_id": batch["_id"]}, {"$set": noted})
        if "covers" in before and (_disturbed(store, before, batch) or _revised(store, before)):
            return None
        return before


def former(store: Store, batch: Batch, context: str) -> Batch | None:
    """The batch before this one at the same place, if each of its rows has a record of its own.

    Then each of its rows that nobody has contradicted since says what is on record. Rows in
    quarantine have none; which those are, its counts and quarantine tell.
    """
    with store_errors(f"looking for what was at the place of batch {batch['_id']} before"):
        before = _before(store, batch)
    if before is None or not _comparable(before, batch, context):
        return None
    return before if "covers" in before and not before["counts"]["duplicate"] else None


def _before(store: Store, batch: Batch) -> Batch | None:
    return store.batches.find_one(
        {
            "place": batch["place"],
            "received_at": {"$lte": batch["received_at"]},
            "_id": {"$ne": batch["_id"]},
        },
        sort=[("received_at", -1), ("_id", -1)],
        hint="place_received",
    )


def _comparable(before: Batch, batch: Batch, context: str) -> bool:
    """Whether equal rows of the two are equal records."""
    return bool(
        before["state"] == BatchState.LOADED
        # Two versions of one second are told apart by their names only.
        and before["received_at"] < batch["received_at"]
        and before.get("context") == context
        and "judged_at" not in before
    )


def _same(before: Batch, batch: Batch, context: str) -> bool:
    return bool(
        _comparable(before, batch, context)
        and before.get("plain")
        and before.get("digest") == batch["digest"]
        and before["rows"] == batch["rows"]
        # A row's number is part of where its record came from.
        and before["first_row"] == batch["first_row"]
    )


def _has_own_rows(store: Store, before: Batch, batch: Batch) -> bool:
    """Whether an attempt that died had kept the batch's own rows, which somebody may have read."""
    own = {"_id": batch["raw_id"]}
    return before["raw_id"] != batch["raw_id"] and bool(store.raw_batches.find_one(own, {"_id": 1}))


def _disturbed(store: Store, before: Batch, batch: Batch) -> bool:
    """Whether anything received since then may have changed what the two batches share.

    What is not loaded yet has either not noted its cover, and will find this batch, or is
    taken for a disturbance.
    """
    covers = before["covers"]
    query: Filter = {
        "_id": {"$nin": [before["_id"], batch["_id"]]},
        "source": batch["source"],
        "received_at": {"$gte": before["received_at"], "$lte": batch["received_at"]},
        "covers.first": {"$lte": covers["last"]},
        "covers.last": {"$gte": covers["first"]},
        # Only a loaded batch is plain.
        "plain": {"$ne": True},
    }
    found = store.batches.find_one(query, {"_id": 1}, hint="source_received")
    return found is not None


def _revised(store: Store, before: Batch) -> bool:
    """Whether a record that a batch covers has become another one since.

    A batch may have been plain because it looked at a record before all that had been said of it
    was brought in: what it said then was known, and by now is a change.
    """
    first, last = bytes(before["covers"]["first"]), bytes(before["covers"]["last"])
    found = market_data.revised_after(
        store, first, last, before["received_at"], before["raw_id"], most=1
    )
    return bool(found)
