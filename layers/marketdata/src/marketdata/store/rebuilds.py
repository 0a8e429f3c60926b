"""The collection `rebuilds`, and the collections that a rebuild builds beside the live ones.

There is one document, `rebuild`: who rebuilds, with a heartbeat on the server's clock, and how far
the last rebuild came. What is built stands in collections named `<live name>_rebuild_<owner>`; at
the end each of them takes the live one's place in one step. See `load.rebuild` for the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import batched
from typing import Any

from pymongo import IndexModel, ReplaceOne, ReturnDocument, UpdateOne
from pymongo.collection import Collection

from marketdata.documents.batches import Batch, BatchState
from marketdata.documents.market_data import LatestPrice, Record
from marketdata.documents.rebuilds import Beside, Rebuild, RebuildChanges
from marketdata.errors import StateConflict
from marketdata.store import retention
from marketdata.store.batches.batch import UNFINISHED
from marketdata.store.connection import Expression, Filter, Store, store_errors
from marketdata.store.server_time import server_clock

MARK = "rebuild"
"""What the names of collections end with, before the owner, that a rebuild works in."""
EXCHANGED = ("market_data", "latest_prices")
"""The collections that are built anew."""

_ID = "rebuild"
_TOGETHER = 1_000
_SIGNATURE = ("state", "attempts", "loaded_at", "replayed_at")

type Signature = tuple[Any, ...]
"""What changes whenever a batch is loaded, or loaded again: equal ones mean that it was not."""


# --- one at a time ------------------------------------------------------------------------


def begin(store: Store, owner: str, seconds: float) -> Rebuild | None:
    """Become the owner of the rebuild for so many seconds, unless another one has a heartbeat.

    Returns:
        The document as the rebuild before had left it; None if another owner lives.
    """
    with store_errors("beginning a rebuild"):
        _rebuilds(store).update_one({"_id": _ID}, {"$setOnInsert": {"phase": "none"}}, upsert=True)
        return _rebuilds(store).find_one_and_update(
            {"_id": _ID, "$expr": {"$lte": ["$expires_at", "$$NOW"]}},
            [{"$set": {"owner": owner, "expires_at": _ahead(seconds)}}],
            return_document=ReturnDocument.BEFORE,
        )


def expires_at(store: Store) -> datetime | None:
    """Until when the present owner is taken to live; each heartbeat moves it."""
    with store_errors("looking for another rebuild"):
        found = _rebuilds(store).find_one({"_id": _ID})
    return None if found is None else found.get("expires_at")


def heartbeat(store: Store, owner: str, seconds: float) -> bool:
    """Stay the owner for so many seconds more; False if another one is the owner by now."""
    with store_errors("sending the rebuild's heartbeat"):
        result = _rebuilds(store).update_one(
            {"_id": _ID, "owner": owner}, [{"$set": {"expires_at": _ahead(seconds)}}]
        )
    return result.matched_count == 1


def note(store: Store, owner: str, changes: RebuildChanges) -> bool:
    """Store how far the rebuild is; False if another one is the owner by now."""
    with store_errors("noting how far the rebuild is"):
        result = _rebuilds(store).update_one({"_id": _ID, "owner": owner}, {"$set": changes})
    return result.matched_count == 1


def let_go(store: Store, owner: str) -> None:
    """End the ownership at once, so that nobody has to wait for it to expire."""
    with store_errors("letting go of the rebuild"):
        _rebuilds(store).update_one(
            {"_id": _ID, "owner": owner}, [{"$set": {"expires_at": "$$NOW"}}]
        )


def _rebuilds(store: Store) -> Collection[Rebuild]:
    return Collection(store.database, "rebuilds")


def _ahead(seconds: float) -> Expression:
    return {"$add": ["$$NOW", round(seconds * 1000)]}


# --- collections beside the live ones -----------------------------------------------------


def beside(store: Store, owner: str) -> Store:
    """The same database, with this rebuild's own collections in place of the live ones."""
    fresh: Any = {
        name: store.database[f"{name}_{MARK}_{owner}"] for name in (*EXCHANGED, "batches")
    }
    return replace(store, **fresh)


def names(built: Store) -> Beside:
    """How the collections are called that are to take the live ones' place, by the live names."""
    return {
        "market_data": built.market_data.name,
        "latest_prices": built.latest_prices.name,
    }


def remove_leftovers(store: Store) -> None:
    """Remove the collections that this rebuild, or one that was killed, has left."""
    with store_errors("removing what rebuilds have left"):
        left = {"name": {"$regex": f"_{MARK}_[0-9a-f]{{12}}$"}}
        for name in store.database.list_collection_names(filter=left):
            store.database.drop_collection(name)


def make_collections(store: Store, built: Store) -> None:
    """Make collections with the options of the live ones, and the indexes that loading uses.

    The indexes of the records come when the records are there: that is faster, and nobody reads
    them before.

    Raises:
        StateConflict: a live collection is missing, since the migrations were not run.
    """
    with store_errors("making collections beside the live ones"):
        for name in EXCHANGED:
            live = next(store.database.list_collections(filter={"name": name}), None)
            if live is None:
                raise StateConflict(
                    f"There is no collection {name}: run the migrations (make migrate) first."
                )
            store.database.create_collection(getattr(built, name).name, **live["options"])
    for name in ("latest_prices", "batches"):
        copy_indexes(store, built, name)


def copy_indexes(store: Store, built: Store, name: str) -> None:
    """Give a collection the indexes of the live one."""
    of_the_server = ("v", "ns", "key", "name")
    with store_errors(f"making the indexes of {name}"):
        made = [
            IndexModel(
                list(index["key"].items()),
                name=index["name"],
                **{k: v for k, v in index.items() if k not in of_the_server},
            )
            for index in getattr(store, name).list_indexes()
            if index["name"] != "_id_"
        ]
        if made:
            getattr(built, name).create_indexes(made)


def drop_expired(store: Store, built: Store) -> None:
    """Drop from what was built the records that have expired, and are still in raw batches."""
    days = retention.in_force(store)["snapshot_retention_days"]
    if days is None:
        return
    with store_errors("dropping expired records"):
        before = server_clock(store).now() - timedelta(days=days)
        expiry = next(e for e in retention.EXPIRIES if e.collection == "market_data")
        expired = {**expiry.only, expiry.field: {"$lt": before}}
        built.market_data.delete_many(expired, hint=expiry.index)


def is_exchanged(store: Store, collections: Beside) -> bool:
    """Whether the records of these collections have taken the live ones' place already."""
    with store_errors("looking for what rebuilds have left"):
        return collections["market_data"] not in store.database.list_collection_names()


def exchange(store: Store, collections: Beside) -> None:
    """Put collections in the place of the live ones, each in one step; what is done stays done."""
    with store_errors("exchanging the collections"):
        there = store.database.list_collection_names()
        for name, built in collections.items():
            if built in there:
                store.database[str(built)].rename(name, dropTarget=True)


# --- batches ------------------------------------------------------------------------------


def loaded_in_order(store: Store) -> list[str]:
    """The ids of all loaded batches, in the order in which revisions are ordered."""
    needed = ("received_at", "first_row", "object.version_id", "raw_id", "resolves.batch")
    with store_errors("listing the batches"):
        found = store.batches.find({"state": BatchState.LOADED}, dict.fromkeys(needed, 1))
        return [batch["_id"] for batch in sorted(found, key=_place)]


def _place(batch: Batch) -> tuple[datetime, str, int, str, bool]:
    version = batch["object"]["version_id"] if "object" in batch else ""
    # A replay batch comes after the batch that it resolves rows of.
    replay = "resolves" in batch
    return batch["received_at"], version, batch["first_row"], batch["raw_id"], replay


def find_batch(store: Store, batch_id: str, **which: str) -> Batch | None:
    """A batch, if it is there and in this state; None otherwise."""
    with store_errors(f"reading batch {batch_id}"):
        return store.batches.find_one({"_id": batch_id, **which})


def copy_batch(built: Store, batch: Batch) -> None:
    """Have a batch among those that were built from, as whoever loads later ones looks for it."""
    with store_errors(f"copying batch {batch['_id']}"):
        built.batches.replace_one({"_id": batch["_id"]}, batch, upsert=True)


def signature(batch: Batch) -> Signature:
    """How a batch is now; it differs once the batch is loaded or replayed again."""
    return tuple(batch.get(name) for name in _SIGNATURE)


def loaded_signatures(store: Store, since: datetime | None = None) -> dict[str, Signature]:
    """The signatures of all loaded batches, or of those loaded or replayed since a time, by id."""
    recent: Filter = {}
    if since is not None:
        recent = {"$or": [{"loaded_at": {"$gte": since}}, {"replayed_at": {"$gte": since}}]}
    return _signatures(store, {**recent, "state": BatchState.LOADED})


def unfinished_signatures(store: Store, since: datetime | None = None) -> dict[str, Signature]:
    """Those of batches whose loading was begun, at all or since a time, and has not ended."""
    begun: Filter = {"$exists": True} if since is None else {"$gte": since}
    return _signatures(store, {"state": {"$in": list(UNFINISHED)}, "loading_since": begun})


def _signatures(store: Store, query: Filter) -> dict[str, Signature]:
    with store_errors("looking for batches that changed"):
        found = store.batches.find(query, dict.fromkeys(_SIGNATURE, 1))
        return {batch["_id"]: signature(batch) for batch in found}


# --- records ------------------------------------------------------------------------------


def records_in_order(store: Store, fields: Iterable[str]) -> Iterator[Record]:
    """Some fields of every record, by id."""
    with store_errors("comparing the records"):
        found = store.market_data.find({}, dict.fromkeys(fields, 1)).sort([("_id", 1)])
        yield from found.hint("_id_").batch_size(5_000)


def set_inserted_by(built: Store, inserted_by: Mapping[bytes, str]) -> None:
    """Say of records which batch inserted them, by their ids."""
    if inserted_by:
        with store_errors(f"noting who inserted {len(inserted_by)} records"):
            built.market_data.bulk_write(
                [
                    UpdateOne({"_id": i}, {"$set": {"inserted_by": b}})
                    for i, b in inserted_by.items()
                ],
                ordered=False,
            )


def replace_records(built: Store, records: Sequence[Record]) -> None:
    """Write records as they are, in place of those of the same ids."""
    _replace(built.market_data, records)


def replace_latest(built: Store, prices: Sequence[LatestPrice]) -> None:
    """Write latest prices as they are, in place of those of the same assets."""
    _replace(built.latest_prices, prices)


def _replace(
    collection: Collection[Any], documents: Sequence[Record] | Sequence[LatestPrice]
) -> None:
    if documents:
        with store_errors(f"writing {len(documents)} documents of {collection.name}"):
            collection.bulk_write(
                [ReplaceOne({"_id": d["_id"]}, d, upsert=True) for d in documents], ordered=False
            )


def latest_in_parts(store: Store) -> Iterator[tuple[LatestPrice, ...]]:
    """All latest prices, some at a time."""
    with store_errors("comparing the latest prices"):
        yield from batched(store.latest_prices.find({}), _TOGETHER, strict=False)


def find_latest(store: Store, ids: Sequence[bytes]) -> dict[bytes, LatestPrice]:
    """Those latest prices that are there, by the tail of their record's id."""
    with store_errors("comparing the latest prices"):
        return {d["_id"]: d for d in store.latest_prices.find({"_id": {"$in": list(ids)}})}


def count_records(store: Store) -> int:
    """How many records there are, by MongoDB's own count."""
    with store_errors("counting records"):
        return store.market_data.estimated_document_count()
