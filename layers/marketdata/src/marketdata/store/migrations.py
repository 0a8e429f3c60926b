"""Collections, validators and indexes, in numbered steps.

A step is applied once per database and recorded in `migrations`; each is idempotent by itself
too, so a step that was interrupted is simply run again. Nothing else creates an index.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import CollectionInvalid, OperationFailure

from marketdata import clock
from marketdata.store.batches import COUNTS
from marketdata.store.connection import Document, Store, store_errors

_NAMESPACE_EXISTS = 48
_LARGEST = sys.float_info.max
# Between the bounds there is neither an infinity nor NaN, which compares below all numbers.
_NUMBER_OR_NULL: Document = {
    "bsonType": ["double", "null"],
    "minimum": -_LARGEST,
    "maximum": _LARGEST,
}
_TEXT: Document = {"bsonType": "string", "minLength": 1}

MARKET_DATA_SCHEMA: Document = {
    "bsonType": "object",
    "required": [
        "_id",
        "symbol",
        "name",
        "asset_id",
        "price_usd",
        "volume_24h",
        "market_cap",
        "percent_change_24h",
        "timestamp",
        "source",
        "dataset",
        "run_id",
        "raw_id",
        "row",
        "received_at",
        "revision",
    ],
    "properties": {
        "_id": {"bsonType": "binData"},
        "symbol": _TEXT,
        "name": {"bsonType": ["string", "null"]},
        "asset_id": _TEXT,
        "price_usd": {
            "bsonType": "double",
            "minimum": 0,
            "exclusiveMinimum": True,
            "maximum": _LARGEST,
        },
        "volume_24h": {**_NUMBER_OR_NULL, "minimum": 0},
        "market_cap": {**_NUMBER_OR_NULL, "minimum": 0},
        "percent_change_24h": _NUMBER_OR_NULL,
        "timestamp": {"bsonType": "date"},
        "source": _TEXT,
        "dataset": {"bsonType": "string"},
        "run_id": _TEXT,
        "raw_id": _TEXT,
        "row": {"bsonType": ["int", "long"], "minimum": 0},
        "received_at": {"bsonType": "date"},
        "revision": {"bsonType": ["int", "long"], "minimum": 1},
        "history": {"bsonType": "array"},
    },
}
"""The form of a record. A write that breaks it fails: it is the last guard, behind validation."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: a number that never changes, what it does, and the doing."""

    number: int
    title: str
    apply: Callable[[Store], None]


def _collection(store: Store, name: str, **options: Any) -> None:
    try:
        store.database.create_collection(name, **options)
    except (CollectionInvalid, OperationFailure) as error:
        # The driver looks first (CollectionInvalid); the server refuses who comes second.
        if isinstance(error, OperationFailure) and error.code != _NAMESPACE_EXISTS:
            raise
        if options:
            store.database.command("collMod", name, **options)


def _first_collections(store: Store) -> None:
    _collection(
        store,
        "market_data",
        validator={"$jsonSchema": MARKET_DATA_SCHEMA},
        validationLevel="strict",
        validationAction="error",
    )
    for name in ("raw_batches", "latest_prices", "runs", "batches", "quarantine", "sources"):
        _collection(store, name)


def _first_indexes(store: Store) -> None:
    # Record ids lead with the time, so (symbol, _id) is "a symbol's records by time", with a
    # tie-break that makes every order total.
    store.market_data.create_indexes(
        [
            IndexModel([("symbol", ASCENDING), ("_id", ASCENDING)], name="symbol_time"),
            IndexModel([("source", ASCENDING), ("_id", ASCENDING)], name="source_time"),
            IndexModel([("price_usd", ASCENDING), ("_id", ASCENDING)], name="price"),
            IndexModel([("market_cap", ASCENDING), ("_id", ASCENDING)], name="market_cap"),
        ]
    )
    store.runs.create_indexes(
        [
            IndexModel([("started_at", DESCENDING), ("_id", DESCENDING)], name="started"),
            IndexModel(
                [("status", ASCENDING), ("started_at", DESCENDING), ("_id", DESCENDING)],
                name="status_started",
            ),
            # A running run holds its inputs; uniqueness across documents makes "one run at a
            # time for an input" the database's own promise.
            IndexModel(
                [("holds", ASCENDING)],
                name="holds",
                unique=True,
                partialFilterExpression={"holds": {"$exists": True}},
            ),
        ]
    )
    store.batches.create_indexes(
        [
            IndexModel(
                [("run_id", ASCENDING), ("input", ASCENDING), ("number", ASCENDING)],
                name="run_input_number",
                unique=True,
            ),
            IndexModel([("state", ASCENDING), ("source", ASCENDING)], name="state_source"),
        ]
    )
    # Covers the sum of rows over all raw batches.
    store.raw_batches.create_indexes([IndexModel([("rows", ASCENDING)], name="rows")])
    store.quarantine.create_indexes(
        [
            IndexModel([("run_id", ASCENDING), ("_id", ASCENDING)], name="run"),
            IndexModel([("source", ASCENDING), ("_id", ASCENDING)], name="source"),
            IndexModel([("reason", ASCENDING), ("_id", ASCENDING)], name="reason"),
        ]
    )


def _list_indexes(store: Store) -> None:
    store.latest_prices.create_indexes(
        [IndexModel([("symbol", ASCENDING), ("_id", ASCENDING)], name="symbol_id")]
    )
    # Covers the totals over all closed batches.
    counts = [(f"counts.{name}", ASCENDING) for name in ("rows_in", *COUNTS)]
    store.batches.create_indexes([IndexModel([("state", ASCENDING), *counts], name="state_counts")])


def _uploads(store: Store) -> None:
    _collection(store, "objects")


def _order_of_receipt(store: Store) -> None:
    # Finds the batches that were received after another one, without which a batch that is
    # loaded late could not know what it must not override.
    store.batches.create_indexes(
        [IndexModel([("source", ASCENDING), ("received_at", ASCENDING)], name="source_received")]
    )


def _schedule(store: Store) -> None:
    # The last run that the rule started, without passing by all those that others did.
    store.runs.create_indexes(
        [
            IndexModel(
                [("trigger", ASCENDING), ("started_at", DESCENDING), ("_id", DESCENDING)],
                name="trigger_started",
            )
        ]
    )
    _collection(store, "schedule")


MIGRATIONS = (
    Migration(1, "collections and the validator of market_data", _first_collections),
    Migration(2, "indexes", _first_indexes),
    Migration(3, "indexes of the API's lists and totals", _list_indexes),
    Migration(4, "uploaded objects and which run took them", _uploads),
    Migration(5, "batches in the order of receipt", _order_of_receipt),
    Migration(6, "runs by trigger, and since when the schedule is as it is", _schedule),
)


def migrate(store: Store) -> list[Migration]:
    """Apply the steps that this database lacks, in order; the applied ones are returned.

    Two at once do no harm: every step is idempotent, and recording it twice is an upsert.

    Raises:
        StoreUnavailable: MongoDB cannot be reached.
    """
    with store_errors("applying migrations"):
        done = {document["_id"] for document in store.migrations.find({}, {"_id": 1})}
        applied = []
        for migration in MIGRATIONS:
            if migration.number in done:
                continue
            migration.apply(store)
            store.migrations.update_one(
                {"_id": migration.number},
                {"$set": {"title": migration.title, "applied_at": clock.now()}},
                upsert=True,
            )
            applied.append(migration)
        return applied
