"""Replay batches: the rows of quarantine that they load, and which rows are resolved by that.

Each batch that counts quarantined rows has a row of replay batches, numbered from 0, which the
`_id` of each says. The next one is made once all before it are loaded. So of two replays at once
only one can make it, and whoever finds one that is not loaded loads it first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from pymongo.errors import DuplicateKeyError

from marketdata.documents.batches import Batch, BatchState, Resolves
from marketdata.store.batches.batch import UNFINISHED, BatchKey
from marketdata.store.connection import Filter, Store, Update, store_errors

_MARK: Update = {"$currentDate": {"replayed_at": True}, "$set": {"plain": False}}
"""Nothing goes by the content of a batch whose rows were replayed; see `known_content`. And whoever
works on batches while this does sees that it has to look again."""


def of_raw(store: Store, raw_id: str, counting: Collection[str], *, mark: bool) -> list[Batch]:
    """The batches that may count quarantined rows of a raw batch, and the replay batches of them.

    Args:
        store: the database.
        raw_id: the raw batch.
        counting: the batches that its rows in quarantine name.
        mark: keep the counting ones from serving as known content from now on, so that no further
            batch counts what they count.
    """
    with store_errors(f"looking up the batches of raw batch {raw_id}"):
        which: Filter = {
            "raw_id": raw_id,
            "$or": [
                {"_id": {"$in": sorted(counting)}},
                {"skipped": True},
                {"resolves": {"$exists": True}},
            ],
        }
        if mark and counting:
            store.batches.update_many({**which, "resolves": {"$exists": False}}, _MARK)
        return list(store.batches.find(which).hint("raw"))


def resolved_rows(replays: Iterable[Batch]) -> set[int]:
    """The numbers of the rows that some replay batches of one batch have resolved."""
    return {
        row
        for replay in replays
        if replay["state"] == BatchState.LOADED
        for row in set(resolved_by(replay)["rows"]).difference(replay.get("unresolved", ()))
    }


def resolved_by(replay: Batch) -> Resolves:
    """What a replay batch says that it resolves."""
    return replay["resolves"]


def of_batch(store: Store, batch: Batch) -> list[Batch]:
    """The replay batches of a batch."""
    which: Filter = {"raw_id": batch["raw_id"], "resolves.batch": batch["_id"]}
    with store_errors(f"looking up the replays of batch {batch['_id']}"):
        return list(store.batches.find(which).hint("raw"))


def put(
    store: Store,
    key: BatchKey,
    resolved: Batch,
    rows: Sequence[int],
    place: int,
    validated_at: datetime,
) -> bool:
    """Make a replay batch; False if somebody else has made the one of this place.

    Args:
        store: the database.
        key: its run, input and number.
        resolved: the batch that counts the rows as quarantined.
        rows: their numbers in their page or file, ascending.
        place: which replay batch of that batch it is, from 0.
        validated_at: the time against which a row is too far ahead.
    """
    replay: Batch = {
        "_id": f"{resolved['_id']}/replay/{place}",
        "run_id": key.run_id,
        "first_run_id": resolved["first_run_id"],
        "input": key.input,
        "number": key.number,
        "source": resolved["source"],
        "raw_id": resolved["raw_id"],
        "first_row": resolved["first_row"],
        "rows": len(rows),
        "received_at": resolved["received_at"],
        "judged_at": validated_at,
        "resolves": {
            "batch": resolved["_id"],
            "run_id": resolved["run_id"],
            "input": resolved["input"],
            "rows": list(rows),
        },
        "state": BatchState.PENDING,
        "attempts": 0,
        "created_at": validated_at,
    }
    if "object" in resolved:
        replay["object"] = resolved["object"]
    with store_errors(f"making a replay batch of batch {resolved['_id']}"):
        try:
            store.batches.insert_one(replay)
        except DuplicateKeyError:
            return False
    return True


def take_over(store: Store, replay: Batch, key: BatchKey) -> bool:
    """Make a replay batch that its run did not load one of another run; False if it has changed.

    Args:
        store: the database.
        replay: the batch as it was read.
        key: the run that takes it, with the input and the number there.
    """
    with store_errors(f"taking over replay batch {replay['_id']}"):
        result = store.batches.update_one(
            {
                "_id": replay["_id"],
                "state": {"$in": list(UNFINISHED)},
                "run_id": replay["run_id"],
                "attempts": replay["attempts"],
            },
            {
                "$set": {
                    "run_id": key.run_id,
                    "input": key.input,
                    "number": key.number,
                    "state": BatchState.PENDING,
                },
                "$inc": {"attempts": 1},
            },
        )
    return result.matched_count == 1


def loading_at(store: Store, places: Iterable[str]) -> bool:
    """Whether a batch is being loaded that comes from one of these places."""
    query = {"state": BatchState.LOADING, "place": {"$in": sorted(places)}}
    with store_errors("looking for batches of the same places"):
        return store.batches.find_one(query, {"_id": 1}, hint="state_source") is not None
