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
from marketdata.documents.objects import ObjectState
from marketdata.documents.runs import InputStatus, ResultStatus
from marketdata.store.batches.batch import COUNTS, UNFINISHED
from marketdata.store.connection import Filter, Store, store_errors

_NAMESPACE_EXISTS = 48
_INDEX_NOT_FOUND = 27
_LARGEST = sys.float_info.max
# Between the bounds there is neither an infinity nor NaN, which compares below all numbers.
_NUMBER_OR_NULL: dict[str, Any] = {
    "bsonType": ["double", "null"],
    "minimum": -_LARGEST,
    "maximum": _LARGEST,
}
_TEXT: dict[str, Any] = {"bsonType": "string", "minLength": 1}

MARKET_DATA_SCHEMA: dict[str, Any] = {
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


def _places(store: Store) -> None:
    # Finds the batch that came from the same page or range before, whose content may be the same.
    store.batches.create_indexes(
        [
            IndexModel(
                [("place", ASCENDING), ("received_at", ASCENDING), ("_id", ASCENDING)],
                name="place_received",
            )
        ]
    )


def _replay_and_retention(store: Store) -> None:
    # What a raw batch's expiry counts from. Those from before begin with their receipt.
    store.raw_batches.update_many(
        {"seen_at": {"$exists": False}}, [{"$set": {"seen_at": "$received_at"}}]
    )
    # Which batches count a quarantined row. Rows from before that was noted have the last alone.
    counting: dict[str, list[str]] = {}
    query: Filter = {"state": "loaded", "counts.quarantined": {"$gt": 0}}
    for batch in store.batches.find(query, {"raw_id": 1}):
        counting.setdefault(batch["raw_id"], []).append(batch["_id"])
    for raw_id, batches in counting.items():
        store.quarantine.update_many(
            {"_id": {"$gt": f"{raw_id}/", "$lt": f"{raw_id}0"}, "batches": {"$exists": False}},
            {"$set": {"batches": batches}},
        )
    store.quarantine.update_many(
        {"batches": {"$exists": False}}, [{"$set": {"batches": ["$batch"]}}]
    )
    # Finds the batches that were skipped since their content was known.
    store.batches.create_indexes([IndexModel([("raw_id", ASCENDING)], name="raw")])
    _collection(store, "rebuilds")


def _resumption(store: Store) -> None:
    # Which run a batch was received by, and so its records' origin, stays when another takes it.
    store.batches.update_many(
        {"first_run_id": {"$exists": False}}, [{"$set": {"first_run_id": "$run_id"}}]
    )
    # What ended runs have left of an input; most batches are loaded and not in it.
    store.batches.create_indexes(
        [
            IndexModel(
                [("input", ASCENDING), ("run_id", ASCENDING), ("number", ASCENDING)],
                name="unfinished",
                partialFilterExpression={"state": {"$in": list(UNFINISHED)}},
            )
        ]
    )
    # Objects that were taken before it was noted what became of them.
    for document in store.objects.find({"state": {"$exists": False}}, {"run_id": 1}):
        run = store.runs.find_one({"_id": document["run_id"]}, {"inputs": 1, "results": 1})
        note = run["inputs"].get(document["_id"]) if run else None
        state = ObjectState.TAKEN
        if note is not None and note["status"] == InputStatus.FAILED:
            state = ObjectState.REFUSED
        if run is not None and "results" in run:
            results = {result["input"]: result["status"] for result in run["results"]}
            if results.get(document["_id"], "success") == ResultStatus.SUCCESS:
                state = ObjectState.DONE
        store.objects.update_one(
            {"_id": document["_id"], "state": {"$exists": False}},
            {"$set": {"state": state, "resumptions": 0}},
        )
    store.objects.create_indexes(
        [IndexModel([("state", ASCENDING), ("taken_at", ASCENDING)], name="state_taken")]
    )
    _collection(store, "alerts")
    store.database["alerts"].create_indexes(
        [IndexModel([("sent_at", ASCENDING), ("made_at", ASCENDING)], name="sent_made")]
    )


def _quarantine_of_runs(store: Store) -> None:
    # Which batch had set aside what skipped ones count. In the order of receipt the one before is
    # always known already.
    roots: dict[str, str] = {}
    query: Filter = {"skipped": True, "known_as": {"$exists": True}}
    for batch in store.batches.find(query, {"known_as": 1}).sort("received_at", ASCENDING):
        id_, known_as = str(batch["_id"]), str(batch["known_as"])
        roots[id_] = roots.get(known_as, known_as)
        store.batches.update_one({"_id": id_}, {"$set": {"known_root": roots[id_]}})
    # The rows of a run are found by its batches.
    try:
        store.quarantine.drop_index("run")
    except OperationFailure as error:
        if error.code != _INDEX_NOT_FOUND:
            raise


def _revised(store: Store) -> None:
    # Finds what has changed since a file was uploaded before; most records never do.
    store.market_data.create_indexes(
        [
            IndexModel(
                [("_id", ASCENDING), ("received_at", ASCENDING), ("raw_id", ASCENDING)],
                name="revised",
                partialFilterExpression={"revision": {"$gt": 1}},
            )
        ]
    )


def _replays(store: Store) -> None:
    # Replay batches, by the run whose quarantined rows they resolve.
    store.batches.create_indexes(
        [
            IndexModel(
                [("resolves.run_id", ASCENDING)],
                name="resolves",
                partialFilterExpression={"resolves.run_id": {"$exists": True}},
            )
        ]
    )


def _series(store: Store) -> None:
    # Of a series of the past, or a candle's: which points there are, told by the index alone.
    store.market_data.create_indexes(
        [
            IndexModel(
                [
                    ("source", ASCENDING),
                    ("asset_id", ASCENDING),
                    ("interval", ASCENDING),
                    ("_id", ASCENDING),
                ],
                name="series",
                partialFilterExpression={"interval": {"$exists": True}},
            )
        ]
    )
    _collection(store, "asked_ranges")


def _ignored(store: Store) -> None:
    _collection(store, "ignored_objects")
    store.ignored_objects.create_indexes(
        [IndexModel([("noticed_at", DESCENDING), ("_id", DESCENDING)], name="noticed")]
    )
    # The API's list of uploads, the latest first.
    latest_first = [("state", ASCENDING), ("taken_at", DESCENDING), ("_id", DESCENDING)]
    store.objects.create_indexes([IndexModel(latest_first, name="state_latest")])


def _questions(store: Store) -> None:
    # The API's list of files that wait for an answer, the latest first; few ever do.
    store.objects.create_indexes(
        [
            IndexModel(
                [("waiting_at", DESCENDING), ("_id", DESCENDING)],
                name="waiting",
                partialFilterExpression={"state": ObjectState.WAITING},
            ),
            # The versions of one key, of which a newer one ends the waiting of the others.
            IndexModel(
                [("key", ASCENDING), ("bucket", ASCENDING), ("last_modified", DESCENDING)],
                name="key_versions",
            ),
        ]
    )
    _collection(store, "answers")
    latest_first = [("changed_at", DESCENDING), ("_id", DESCENDING)]
    store.answers.create_indexes([IndexModel(latest_first, name="changed")])


MIGRATIONS = (
    Migration(1, "collections and the validator of market_data", _first_collections),
    Migration(2, "indexes", _first_indexes),
    Migration(3, "indexes of the API's lists and totals", _list_indexes),
    Migration(4, "uploaded objects and which run took them", _uploads),
    Migration(5, "batches in the order of receipt", _order_of_receipt),
    Migration(6, "runs by trigger, and since when the schedule is as it is", _schedule),
    Migration(7, "batches by the place of their content", _places),
    Migration(8, "what replays, retention and rebuilds go by", _replay_and_retention),
    Migration(9, "what runs that go on with the work of others go by", _resumption),
    Migration(10, "quarantined rows of a run by its batches", _quarantine_of_runs),
    Migration(11, "revised records", _revised),
    Migration(12, "replay batches", _replays),
    Migration(13, "series of the past, and what sources were asked of it", _series),
    Migration(14, "objects that no run takes, and lists of uploads", _ignored),
    Migration(15, "files that wait for an answer, and answers that are remembered", _questions),
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
