"""The collections `market_data` and `latest_prices`: writing."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from marketdata import clock
from marketdata.documents.market_data import Record
from marketdata.schema.identity import DIGEST_BYTES, ID_BYTES
from marketdata.store.connection import Filter, Store, store_errors

_DUPLICATE_KEY = 11000
_ID = b"\x05_id\0" + struct.pack("<iB", ID_BYTES, 0)
_ANSWERED = re.compile(
    re.escape(_ID)
    + b"(.{%d})" % ID_BYTES
    + re.escape(b"\x05digest\0" + struct.pack("<iB", DIGEST_BYTES, 0))
    + b"(.{%d})" % DIGEST_BYTES
    + re.escape(b"\x09received_at\0")
    + b"(.{8})",
    re.DOTALL,
)
"""The document `{_id: 20 bytes, digest: 12 bytes, received_at: time}` in BSON: two binary elements
(type 5, name, length, subtype 0, bytes) and a time (type 9, name, milliseconds since 1970). Format:
the BSON specification, version 1.1."""
_UNDECODED: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
_LOOKUP = 5_000
"""Ids per look-up: below MongoDB's message limit by far, and large enough to hide the trip."""
_PROBE = 16
"""Ids by which records are taken for new; a wrong guess costs time and nothing else."""


def find_existing(store: Store, ids: Sequence[bytes]) -> dict[bytes, Record]:
    """The records with these ids, by id."""
    found: dict[bytes, Record] = {}
    with store_errors(f"looking up {len(ids)} records"):
        for start in range(0, len(ids), _LOOKUP):
            part = list(ids[start : start + _LOOKUP])
            for document in store.market_data.find({"_id": {"$in": part}}):
                found[bytes(document["_id"])] = document
    return found


@dataclass(frozen=True, slots=True)
class Known:
    """Of some records those that the database has from before, by id."""

    same: AbstractSet[bytes]
    """They say the same."""
    other: AbstractSet[bytes]
    """They may say something else."""


def known(
    store: Store,
    ids: Sequence[bytes],
    digests: Sequence[bytes],
    received_at: datetime,
) -> Known:
    """Which records exist whose current revision was received before a time.

    Ids begin with the time, so records that were loaded together lie together: walking from the
    lowest id to the highest takes MongoDB two thirds of the work of seeking each, as long as
    few strangers are met on the way. Where many are, a few of the ids tell whether it is worth
    seeking all of them.

    A record that is not found, for whatever reason, is met as a duplicate key when it is
    inserted, and is merged then.

    Args:
        store: the database.
        ids: the records, at least one.
        digests: what each says; see `schema.identity.digest`.
        received_at: the time.
    """
    most = len(ids) + len(ids) // 4 + 1
    with store_errors(f"looking up {len(ids)} records"):
        answer = _ids_and_digests(store, {"$gte": min(ids), "$lte": max(ids)}, most)
        if answer.count(_ID) >= most:
            some = list(ids[:: max(1, len(ids) // _PROBE)])
            if store.market_data.find_one({"_id": {"$in": some}}, {"_id": 1}) is None:
                return Known(frozenset(), frozenset())
            answer = _ids_and_digests(store, {"$in": list(ids)}, len(ids))
    return _compared(answer, ids, digests, received_at)


def _ids_and_digests(store: Store, selected: Filter, most: int) -> bytes:
    """What records say, as MongoDB's answer in BSON: decoding it would cost most of the time."""
    answer = store.database.command(
        {
            "find": store.market_data.name,
            "filter": {"_id": selected},
            "projection": {"_id": 1, "digest": 1, "received_at": 1},
            "limit": most,
            # All in one answer: by default the first one has a hundred.
            "batchSize": most,
            "singleBatch": True,
            "readConcern": store.database.read_concern.document,
        },
        codec_options=_UNDECODED,
    )
    return bytes(answer.raw)


def _decoded(answer: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Id, digest and time of receipt, the time as BSON has it."""
    return [
        (
            bytes(document["_id"]),
            bytes(document["digest"]),
            struct.pack("<q", clock.to_ms(document["received_at"])),
        )
        for document in bson.decode(answer, _AWARE)["cursor"]["firstBatch"]
        if "digest" in document
    ]


def _compared(
    answer: bytes,
    ids: Sequence[bytes],
    digests: Sequence[bytes],
    received_at: datetime,
) -> Known:
    found = _ANSWERED.findall(answer)
    if len(found) < answer.count(_ID):
        # Some have their fields in another order, or none of them.
        found = _decoded(answer)
    if not found:
        return Known(frozenset(), frozenset())
    limit = clock.to_ms(received_at)
    times = {at: int.from_bytes(at, "little") for at in set(map(itemgetter(2), found))}
    if max(times.values()) >= limit:
        found = [document for document in found if times[document[2]] < limit]
    there = dict(map(itemgetter(0, 1), found))
    theirs = list(map(there.get, ids))
    if theirs == digests:
        return Known(frozenset(ids), frozenset())
    triples = zip(ids, digests, theirs, strict=True)
    other = {id_ for id_, said, says in triples if said != says and says is not None}
    return Known(there.keys() & set(ids) - other, other)


def any_there(store: Store, ids: Sequence[bytes]) -> bool:
    """Whether one of some records exists, at least."""
    with store_errors(f"looking whether any of {len(ids)} records exists"):
        return any(
            store.market_data.find_one({"_id": {"$in": ids[start : start + _LOOKUP]}}, {"_id": 1})
            for start in range(0, len(ids), _LOOKUP)
        )


def revised_after(
    store: Store, first: bytes, last: bytes, received_at: datetime, raw_id: str, *, most: int
) -> list[bytes]:
    """Which records of a range of ids have had their values changed after a batch was received.

    A record that has said one thing only contradicts nobody; of the others `revised` is the
    index.

    Args:
        store: the database.
        first: the lowest id.
        last: the highest id.
        received_at: when the batch was received. What came at the same time counts as later, as
            other ranges of the same file do that come further down in it.
        raw_id: the batch's raw rows: what they said then is not meant. (The same rows may have
            been received again since, after something else was.)
        most: how many ids are returned at most.
    """
    query: Filter = {
        "_id": {"$gte": first, "$lte": last},
        "revision": {"$gt": 1},
        "received_at": {"$gte": received_at},
        "$nor": [{"received_at": received_at, "raw_id": raw_id}],
    }
    with store_errors("looking for records that were revised"):
        found = store.market_data.find(query, {"_id": 1}, hint="revised", limit=most)
        return [bytes(document["_id"]) for document in found]


def inserted_by(store: Store, ids: Sequence[bytes], batch_id: str) -> set[bytes]:
    """Which of some records a batch inserted."""
    query = {"_id": {"$in": list(ids)}, "inserted_by": batch_id}
    with store_errors(f"looking up what batch {batch_id} inserted"):
        return {bytes(d["_id"]) for d in store.market_data.find(query, {"_id": 1})}


def insert_new(store: Store, documents: Sequence[Record]) -> set[bytes]:
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
        return {bytes(documents[f["index"]]["_id"]) for f in duplicates_or_raise(error)}
    return set()


def duplicates_or_raise(error: BulkWriteError) -> list[dict[str, Any]]:
    """The duplicate-key errors of a bulk write; any other error in it is raised."""
    details: Any = error.details
    faults = [dict(fault) for fault in details.get("writeErrors", [])]
    if details.get("writeConcernErrors") or any(f["code"] != _DUPLICATE_KEY for f in faults):
        raise error
    return faults


def replace_if_unchanged(
    store: Store, replacements: Sequence[tuple[Record, Record]]
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
    # Which revision is current and the history tell any two states of a record apart. With the
    # number of revisions instead, one that took another's place in the history would be lost.
    operations = [
        ReplaceOne(
            {
                "_id": old["_id"],
                "history": old.get("history", {"$exists": False}),
                "run_id": old["run_id"],
                "raw_id": old["raw_id"],
                "row": old["row"],
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
