"""The collections `market_data` and `latest_prices`: writing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError

from marketdata.schema.identity import DIGEST_BYTES, ID_BYTES
from marketdata.store.connection import Document, Store, store_errors

_DUPLICATE_KEY = 11000
_CURRENT = ("run_id", "raw_id", "row")
"""Which sighting is current. With the history this tells any two states of a record apart; with
the number of revisions instead, a sighting that took another's place in it would be lost."""
_ANSWER_HEAD = (
    bytes((4 + (1 + 4 + 5 + ID_BYTES) + (1 + 7 + 5 + DIGEST_BYTES) + 1, 0, 0, 0))
    + b"\x05_id\0"
    + bytes((ID_BYTES, 0, 0, 0, 0))
)
_ANSWER_MIDDLE = b"\x05digest\0" + bytes((DIGEST_BYTES, 0, 0, 0, 0))
"""The document `{_id: 20 bytes, digest: 12 bytes}` in BSON: its length, two binary elements (type
5, name, length, subtype 0, bytes) and a zero. Format: the BSON specification, version 1.1."""
_UNDECODED: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
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


@dataclass(frozen=True, slots=True)
class Known:
    """Of some records those that the database has from before, by id."""

    same: AbstractSet[bytes]
    """They say the same."""
    other: AbstractSet[bytes]
    """They may say something else."""


def known(
    store: Store, ids: Sequence[bytes], digests: Sequence[bytes], received_at: datetime
) -> Known:
    """Which records exist whose current sighting was received before a time.

    The answer's documents are all alike but for id and digest. So they are compared as the
    bytes that they arrive in, which costs a fraction of decoding them. What does not look like
    that is taken for unknown; inserting it meets a duplicate key, and it is merged.

    Args:
        store: the database.
        ids: the records.
        digests: what each says; see `schema.identity.digest`.
        received_at: the time.
    """
    query = {"_id": {"$in": list(ids)}, "received_at": {"$lt": received_at}}
    with store_errors(f"looking up {len(ids)} records"):
        # All in one answer: by default the first one has a hundred.
        answer = store.database.command(
            {
                "find": store.market_data.name,
                "filter": query,
                "projection": {"_id": 1, "digest": 1},
                "batchSize": len(ids) + 1,
                "singleBatch": True,
                "readConcern": store.database.read_concern.document,
            },
            codec_options=_UNDECODED,
        ).raw
    size = ID_BYTES + len(_ANSWER_MIDDLE) + DIGEST_BYTES
    found = {document[:size] for document in bytes(answer).split(_ANSWER_HEAD)[1:]}
    same = found.intersection(
        [id_ + _ANSWER_MIDDLE + digest for id_, digest in zip(ids, digests, strict=True)]
    )
    others = found - same if len(same) < len(found) else frozenset[bytes]()
    return Known(
        {document[:ID_BYTES] for document in same}, {document[:ID_BYTES] for document in others}
    )


def inserted_by(store: Store, ids: Sequence[bytes], batch_id: str) -> set[bytes]:
    """Which of some records a batch inserted."""
    query = {"_id": {"$in": list(ids)}, "inserted_by": batch_id}
    with store_errors(f"looking up what batch {batch_id} inserted"):
        return {bytes(d["_id"]) for d in store.market_data.find(query, {"_id": 1})}


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
    return [id_ for _, new in replacements if now.get(id_ := bytes(new["_id"])) != new]


def newest_of(documents: Iterable[Document], newest: dict[bytes, Document]) -> None:
    """Keep of records the newest of each asset, in `newest` by the tail of their ids."""
    for document in documents:
        key = document["_id"][8:]
        held = newest.get(key)
        # An identity that is there twice was changed twice; the last state counts.
        if held is None or document["_id"] >= held["_id"]:
            newest[key] = document


def raise_latest(store: Store, documents: Iterable[Document]) -> None:
    """Bring `latest_prices` up to these records, where it has no newer ones.

    A record id ends with the hash of its asset and begins with its time, so the tail is the
    key here and comparing ids compares times. Of one record the latest price is a copy, and it
    may be changed while it is being copied: so it is looked at again afterwards. Whoever changed
    it does the same; the last of them to copy finds it as it is.
    """
    newest: dict[bytes, Document] = {}
    newest_of(documents, newest)
    while newest:
        with store_errors(f"updating {len(newest)} latest prices"):
            written = _copy_to_latest(store, newest)
        now = find_existing(store, [bytes(newest[key]["_id"]) for key in written])
        newest = {
            key: found
            for key in written
            if (found := now.get(bytes(newest[key]["_id"])))
            and _sighting(found) != _sighting(newest[key])
        }


def _copy_to_latest(store: Store, newest: Mapping[bytes, Document]) -> list[bytes]:
    """Write records as the latest of their assets; returns the keys of those that may be."""
    known = {
        bytes(d["_id"]): (bytes(d["record_id"]), _sighting(d))
        for d in store.latest_prices.find(
            {"_id": {"$in": list(newest)}}, dict.fromkeys(("record_id", *_SIGHTING), 1)
        )
    }
    keys = [
        key
        for key, document in newest.items()
        if key not in known
        or known[key][0] < document["_id"]
        or (known[key][0] == document["_id"] and known[key][1] != _sighting(document))
    ]
    updates = [_raise(key, newest[key]) for key in keys]
    # Two loaders that both upsert a new key can meet: the one that lost simply asks again,
    # now that the key is there.
    while updates:
        try:
            store.latest_prices.bulk_write(updates, ordered=False)
            break
        except BulkWriteError as error:
            updates = [updates[f["index"]] for f in _duplicates_or_raise(error)]
    return keys


_SIGHTING = ("run_id", "received_at", "version", "row", "raw_id", "revision")


def _sighting(document: Document) -> tuple[Any, ...]:
    """Which sighting of a record is current, and how many there are."""
    return tuple(document.get(field) for field in _SIGHTING)


def _raise(key: bytes, document: Document) -> UpdateOne:
    new = {k: v for k, v in document.items() if k not in ("_id", "history", "digest")}
    new |= {"_id": key, "record_id": document["_id"]}
    # `$literal`: a name such as "$NOMAD" is a value here, never a field path.
    newer = {"$gte": [{"$literal": new["record_id"]}, "$record_id"]}
    return UpdateOne(
        {"_id": new["_id"]},
        [{"$replaceWith": {"$cond": [newer, {"$literal": new}, "$$ROOT"]}}],
        upsert=True,
    )
