"""The collection `latest_prices`: the newest record of each source's asset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bson import Binary
from pymongo import ASCENDING, DESCENDING, UpdateOne
from pymongo.errors import BulkWriteError

from marketdata import clock
from marketdata.documents.market_data import CurrentRevision, LatestPrice, Record
from marketdata.schema.identity import record_id
from marketdata.store.connection import Filter, Store, store_errors
from marketdata.store.market_data import duplicates_or_raise, find_existing
from marketdata.store.reading import MAX_TIME_MS, reading


def newest_of(documents: Iterable[Record], newest: dict[bytes, Record]) -> None:
    """Keep of records the newest of each asset, in `newest` by the tail of their ids.

    The past of an API's asset is none of it: whoever asks for the latest price wants what the
    source says of now, once, and not a series beside it.
    """
    for document in documents:
        if is_past(document):
            continue
        key = document["_id"][8:]
        held = newest.get(key)
        # An identity that is there twice was changed twice; the last state counts.
        if held is None or document["_id"] >= held["_id"]:
            newest[key] = document


def is_past(document: CurrentRevision) -> bool:
    """Whether a record is a point of a series that an API was asked for.

    The dataset of an API's record is empty and that of a CSV's never is: whose candles are all
    that there is of it.
    """
    return not document["dataset"] and "interval" in document


def raise_latest(store: Store, documents: Iterable[Record]) -> None:
    """Bring `latest_prices` up to these records, where it has no newer ones.

    A record id ends with the hash of its asset and begins with its time, so the tail is the
    key here and comparing ids compares times. Of one record the latest price is a copy, and it
    may be changed while it is being copied: so it is looked at again afterwards. Whoever changed
    it does the same; the last of them to copy finds it as it is.
    """
    newest: dict[bytes, Record] = {}
    newest_of(documents, newest)
    while newest:
        with store_errors(f"updating {len(newest)} latest prices"):
            written = _copy_to_latest(store, newest)
        now = find_existing(store, [bytes(newest[key]["_id"]) for key in written])
        newest = {
            key: found
            for key in written
            if (found := now.get(bytes(newest[key]["_id"])))
            and _revision(found) != _revision(newest[key])
        }


def _copy_to_latest(store: Store, newest: Mapping[bytes, Record]) -> list[bytes]:
    """Write records as the latest of their assets; returns the keys of those that may be."""
    known = {
        bytes(d["_id"]): (bytes(d["record_id"]), _revision(d))
        for d in store.latest_prices.find(
            {"_id": {"$in": list(newest)}}, dict.fromkeys(("record_id", *_REVISION_FIELDS), 1)
        )
    }
    keys = [
        key
        for key, document in newest.items()
        if key not in known
        or known[key][0] < document["_id"]
        or (known[key][0] == document["_id"] and known[key][1] != _revision(document))
    ]
    updates = [_raise(key, newest[key]) for key in keys]
    # Two loaders that both upsert a new key can meet: the one that lost simply asks again,
    # now that the key is there.
    while updates:
        try:
            store.latest_prices.bulk_write(updates, ordered=False)
            break
        except BulkWriteError as error:
            updates = [updates[f["index"]] for f in duplicates_or_raise(error)]
    return keys


_REVISION_FIELDS = ("run_id", "received_at", "version", "row", "raw_id", "revision")


def _revision(document: CurrentRevision) -> tuple[Any, ...]:
    """Which revision of a record is current, and how many there are."""
    return tuple(document.get(field) for field in _REVISION_FIELDS)


def _raise(key: bytes, document: Record) -> UpdateOne:
    new = {k: v for k, v in document.items() if k not in ("_id", "history", "digest")}
    new |= {"_id": key, "record_id": document["_id"]}
    # `$literal`: a name such as "$NOMAD" is a value here, never a field path.
    newer = {"$gte": [{"$literal": new["record_id"]}, "$record_id"]}
    return UpdateOne(
        {"_id": new["_id"]},
        [{"$replaceWith": {"$cond": [newer, {"$literal": new}, "$$ROOT"]}}],
        upsert=True,
    )


@dataclass(frozen=True, slots=True)
class LatestPosition:
    """The last entry of a page of latest prices."""

    symbol: str
    id: bytes


def find_latest(
    store: Store,
    *,
    limit: int,
    symbols: Sequence[str] = (),
    source: str | None = None,
    after: LatestPosition | None = None,
) -> list[LatestPrice]:
    """The newest record of each source's asset, by symbol."""
    parts: list[Filter] = []
    if symbols:
        parts.append({"symbol": {"$in": list(symbols)}})
    if source is not None:
        parts.append({"source": {"$eq": source}})
    if after is not None:
        tie = {"symbol": {"$eq": after.symbol}, "_id": {"$gt": Binary(after.id)}}
        parts += [
            {"symbol": {"$gte": after.symbol}},
            {"$or": [{"symbol": {"$gt": after.symbol}}, tie]},
        ]
    with reading("latest prices"):
        return list(
            store.latest_prices.find({"$and": parts} if parts else {})
            .sort([("symbol", ASCENDING), ("_id", ASCENDING)])
            .hint("symbol_id")
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )


def find_symbols(
    store: Store, *, limit: int, source: str | None = None, after: str | None = None
) -> list[tuple[str, list[LatestPrice]]]:
    """Tickers with the assets that bear them, by ticker; reads on only as far as it needs."""
    parts: list[Filter] = []
    if source is not None:
        parts.append({"source": {"$eq": source}})
    if after is not None:
        parts.append({"symbol": {"$gt": after}})
    found: list[tuple[str, list[LatestPrice]]] = []
    with (
        reading("symbols"),
        store.latest_prices.find({"$and": parts} if parts else {}, _ASSET)
        .sort([("symbol", ASCENDING), ("_id", ASCENDING)])
        .hint("symbol_id")
        .batch_size(max(100, 2 * limit))
        .max_time_ms(MAX_TIME_MS) as cursor,
    ):
        for document in cursor:
            if not found or found[-1][0] != document["symbol"]:
                if len(found) == limit:
                    break
                found.append((document["symbol"], []))
            found[-1][1].append(document)
    return found


_ASSET = {"symbol": 1, "name": 1, "asset_id": 1, "source": 1, "dataset": 1, "timestamp": 1}


@dataclass(frozen=True, slots=True)
class KnownAsset:
    """An asset that a source has told of."""

    asset_id: str
    """The source's own id."""
    symbol: str
    name: str | None
    """None if no record has one."""


_KNOWN_ASSET = {"asset_id": 1, "symbol": 1, "name": 1, "source": 1}


def find_assets(store: Store, source: str, wanted: Sequence[str]) -> dict[str, list[KnownAsset]]:
    """The assets of an API that ids or tickers mean, by what is wanted.

    An id goes before a ticker. Of a ticker there may be several; of what is not known, none.
    """
    keys = {_asset_key(source, name): name for name in wanted}
    symbols = {name.upper() for name in wanted}
    found: dict[str, list[KnownAsset]] = {name: [] for name in wanted}
    with reading(f"assets of {source}"):
        by_id = store.latest_prices.find(
            {"_id": {"$in": [Binary(key) for key in keys]}}, _KNOWN_ASSET, max_time_ms=MAX_TIME_MS
        )
        for one in by_id:
            found[keys[bytes(one["_id"])]] = [_known(one)]
        by_symbol: dict[str, list[KnownAsset]] = {}
        tickers = store.latest_prices.find(
            {"symbol": {"$in": sorted(symbols)}, "source": source, "dataset": ""},
            _KNOWN_ASSET,
            hint="symbol_id",
            max_time_ms=MAX_TIME_MS,
        )
        for one in tickers:
            by_symbol.setdefault(one["symbol"], []).append(_known(one))
    for name in wanted:
        found[name] = found[name] or by_symbol.get(name.upper(), [])
    return found


def largest_assets(store: Store, source: str, limit: int) -> list[KnownAsset]:
    """The assets of an API with the highest market cap, the highest first."""
    with reading(f"the largest assets of {source}"):
        found = (
            store.latest_prices.find(
                {"source": source, "dataset": "", "market_cap": {"$gt": 0}}, _KNOWN_ASSET
            )
            .sort([("market_cap", DESCENDING), ("_id", ASCENDING)])
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )
        return [_known(one) for one in found]


def _asset_key(source: str, asset_id: str) -> bytes:
    return record_id(source, "", asset_id, "", clock.EPOCH)[8:]


def _known(found: LatestPrice) -> KnownAsset:
    return KnownAsset(found["asset_id"], found["symbol"], found["name"])
