"""The collections `market_data` and `latest_prices`: writing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from pymongo import ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError

from marketdata.schema.record import VALUE_FIELDS
from marketdata.store.connection import Document, Store, store_errors

_DUPLICATE_KEY = 11000
_VALUES = dict.fromkeys(VALUE_FIELDS, 1)
_CURRENT = ("run_id", "raw_id", "row")
"""Which sighting is current. With the history this tells any two states of a record apart; with
the number of revisions instead, a sighting that took another's place in it would be lost."""
_LOOKUP = 5_000
"""Ids per look-up: below MongoDB's message limit by far, and large enough to hide the trip."""


def find_existing(store: Store, ids: Sequence[bytes]) -> dict[bytes, Document]:
    """The records with these ids, by id."""
    found: dict[bytes, Document] = {}
    with store_errors(f"looking up {len(ids)} records"):
        for start in range(0, len(ids), _LOOKUP):
            part = list(ids[start : start + _LOOKUP])
            for document in store.market_data.find({"_id": {"$in": part}}):
                found[bytes(document["_id"])] = document
    return found


def any_exists(store: Store, ids: Sequence[bytes]) -> bool:
    """Whether any of these records exists."""
    with store_errors("probing for records"):
        return store.market_data.find_one({"_id": {"$in": list(ids)}}, {"_id": 1}) is not None


def earlier_values(
    store: Store, ids: Sequence[bytes], received_at: datetime
) -> dict[bytes, Document]:
    """What those of the records say by id whose current sighting was received before a time."""
    query = {"_id": {"$in": list(ids)}, "received_at": {"$lt": received_at}}
    with store_errors(f"looking up {len(ids)} records"):
        # All in one answer: by default the first one has a hundred.
        found = store.market_data.find(query, _VALUES).batch_size(len(ids) + 1)
        return {document.pop("_id"): document for document in found}


def insert_new(store: Store, documents: Sequence[Document]) -> set[bytes]:
    """Insert records, in any order.

    Returns:
        The ids that somebody else had inserted by then: a signal, not a failure.
    """
    if not documents:
        return set()
    try:
        with store_errors(f"inserting {len(documents)} records"):
            store.market_data.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        return {bytes(documents[f["index"]]["_id"]) for f in _duplicates_or_raise(error)}
    return set()


def _duplicates_or_raise(error: BulkWriteError) -> list[Document]:
    """The duplicate-key errors of a bulk write; any other error in it is raised."""
    details = cast("Document", error.details or {})
    faults = [dict(f) for f in details.get("writeErrors", [])]
    if details.get("writeConcernErrors") or any(f["code"] != _DUPLICATE_KEY for f in faults):
        raise error
    return faults


def replace_if_unchanged(
    store: Store, replacements: Sequence[tuple[Document, Document]]
) -> list[bytes]:
    """Replace records, each only if it still is what was read (optimistic concurrency).

    Args:
        store: the database.
        replacements: (the document as read, the new document) pairs.

    Returns:
        The ids whose document had changed meanwhile; they were not replaced.
    """
    if not replacements:
        return []
    operations = [
        ReplaceOne(
            {
                "_id": old["_id"],
                "history": old.get("history", {"$exists": False}),
                **{f: old[f] for f in _CURRENT},
            },
            new,
        )
        for old, new in replacements
    ]
    with store_errors(f"updating {len(replacements)} records"):
        if store.market_data.bulk_write(operations, ordered=False).matched_count == len(operations):
            return []
        # Which ones it were, the answer does not say.
        now = find_existing(store, [old["_id"] for old, _ in replacements])
    return [id_ for _, new in replacements if now[id_ := bytes(new["_id"])] != new]


def raise_latest(store: Store, documents: Sequence[Document]) -> None:
    """Bring `latest_prices` up to these records where they are newer than what it has.

    A record id ends with the hash of its asset and begins with its time, so the tail is the
    key here and comparing ids compares times. Written as a condition inside the update: two
    loaders at once leave the newer one, whatever their order.
    """
    newest: dict[bytes, Document] = {}
    for document in documents:
        key = document["_id"][8:]
        held = newest.get(key)
        # An identity that is there twice was changed twice; the last state counts.
        if held is None or document["_id"] >= held["_id"]:
            newest[key] = document
    if not newest:
        return
    with store_errors(f"updating {len(newest)} latest prices"):
        known = {
            bytes(d["_id"]): (bytes(d["record_id"]), *_sighting(d))
            for d in store.latest_prices.find(
                {"_id": {"$in": list(newest)}},
                {"record_id": 1, "received_at": 1, "version": 1, "row": 1, "raw_id": 1},
            )
        }
        updates = [
            _raise(key, document)
            for key, document in newest.items()
            if key not in known or _rank(document) > known[key]
        ]
        # Two loaders that both upsert a new key can meet: the one that lost simply asks again,
        # now that the key is there.
        while updates:
            try:
                store.latest_prices.bulk_write(updates, ordered=False)
                break
            except BulkWriteError as error:
                updates = [updates[f["index"]] for f in _duplicates_or_raise(error)]


def _rank(document: Document) -> tuple[bytes, Any, str, int, str]:
    return bytes(document["_id"]), *_sighting(document)


def _sighting(document: Document) -> tuple[Any, str, int, str]:
    """What orders sightings of one record; the same order as in `load.merge.precedence`."""
    version = document.get("version") or ""
    return document["received_at"], version, document["row"], document["raw_id"]


def _raise(key: bytes, document: Document) -> UpdateOne:
    new = {k: v for k, v in document.items() if k not in ("_id", "history")}
    new |= {"_id": key, "record_id": document["_id"]}
    newer = {
        "$or": [
            {"$gt": [new["record_id"], "$record_id"]},
            {
                "$and": [
                    {"$eq": [new["record_id"], "$record_id"]},
                    {
                        "$gte": [
                            [{"$literal": part} for part in _sighting(new)],
                            ["$received_at", {"$ifNull": ["$version", ""]}, "$row", "$raw_id"],
                        ]
                    },
                ]
            },
        ]
    }
    # `$literal`: a name such as "$NOMAD" is a value here, never a field path.
    return UpdateOne(
        {"_id": new["_id"]},
        [{"$replaceWith": {"$cond": [newer, {"$literal": new}, "$$ROOT"]}}],
        upsert=True,
    )
