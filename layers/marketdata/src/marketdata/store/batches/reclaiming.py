"""What ended runs have left: interrupted, reclaimed by a later run, or dead-lettered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import batched

from pymongo import ASCENDING, UpdateOne

from marketdata import clock
from marketdata.documents.batches import Batch, BatchState
from marketdata.documents.errors import StoredError
from marketdata.documents.runs import InputState, ReclaimedBatches
from marketdata.errors import StateConflict, StoreUnavailable
from marketdata.store import leases, runs
from marketdata.store.batches.batch import UNFINISHED, WRITTEN_TOGETHER
from marketdata.store.batches.queue import drop_pending_from, next_number
from marketdata.store.connection import Filter, Store, aggregate, store_errors

INTERRUPTIONS_EACH = 3
"""So many interruptions or outages count as one failure of a batch's own."""

_PASSING = (
    "interrupted",
    "transient",
    "throttled",
    "upstream_unavailable",
    "store_unavailable",
    "store_full",
    "store_refused",
    "query_timeout",
)
"""Codes of errors that may have nothing to do with the batch."""
_PASSES = 10
"""How often what is left is looked for while it is reclaimed."""
_RUNS_TOLD = 10


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """The dead-lettered batches of one source, of all runs."""

    batches: int
    runs: list[str]
    """The runs that have them, the last ones; those that `requeue_dead_lettered` is for."""


_INTERRUPTED: StoredError = {
    "code": "interrupted",
    "type": None,
    "message": "The attempt at loading this batch did not come to its end: its function was killed "
    "or timed out, or its run was ended meanwhile. Nothing is lost; the next run reclaims it.",
}


def interrupt(store: Store, run_id: str) -> None:
    """Take the batches of a run that ends from whoever is still loading them."""
    with store_errors(f"ending the attempts at batches of run {run_id}"):
        store.batches.update_many(
            {"run_id": run_id, "state": BatchState.LOADING},
            {
                "$set": {
                    "state": BatchState.FAILED,
                    "failed_at": clock.now(),
                    "error": _INTERRUPTED,
                },
                "$inc": {"attempts": 1},
            },
        )


def dead_letter(store: Store, run_id: str, most: int) -> None:
    """Dead-letter the batches of a run that failed too often: no run tries them again.

    That is in `most` further runs by an error of their own, or in `INTERRUPTIONS_EACH` times as
    many by one that may pass: a batch that kills its loader each time must come to an end, too.
    """
    own = {"error.code": {"$nin": list(_PASSING)}, **_at_least("resumptions", most)}
    passing = {
        "error.code": {"$in": list(_PASSING)},
        **_at_least("interruptions", INTERRUPTIONS_EACH * most),
    }
    with store_errors(f"dead-lettering batches of run {run_id}"):
        store.batches.update_many(
            {"run_id": run_id, "state": BatchState.FAILED, "$or": [own, passing]},
            {"$set": {"parked": True}},
        )


def _at_least(counter: str, number: int) -> Filter:
    """Of a counter that is not there until it counts something."""
    return {counter: {"$gte": number}} if number else {}


def requeue_dead_lettered(store: Store, run_ids: Sequence[str], input_id: str) -> int:
    """Let the next run reclaim the failed batches of ended runs, as if they had never failed.

    Returns:
        How many there are.
    """
    with store_errors(f"requeueing the failed batches of {input_id} in run {_named(run_ids)}"):
        result = store.batches.update_many(
            {"run_id": {"$in": list(run_ids)}, "input": input_id, "state": BatchState.FAILED},
            {"$set": {"resumptions": 0}, "$unset": {"parked": "", "interruptions": ""}},
        )
    return result.matched_count


def count_dead_lettered(store: Store, run_ids: Sequence[str], input_id: str) -> int:
    """How many batches of an input are dead-lettered in these runs."""
    which = {"run_id": {"$in": list(run_ids)}, "input": input_id, "parked": True}
    with store_errors(f"counting the dead-lettered batches of {input_id} in run {_named(run_ids)}"):
        return store.batches.count_documents(which)


def _named(run_ids: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(run_ids))


def dead_lettered_by_source(store: Store) -> dict[str, DeadLettered]:
    """What is dead-lettered of each source; `csv` stands for all uploads.

    It looks at batches that are not loaded, of which there are few however many there are in all.
    """
    with store_errors("counting the dead-lettered batches"):
        groups = list(
            aggregate(
                store.batches,
                [
                    {"$match": {"state": {"$in": list(UNFINISHED)}, "parked": True}},
                    {
                        "$group": {
                            "_id": {"input": "$input", "run_id": "$run_id"},
                            "batches": {"$sum": 1},
                        }
                    },
                ],
                hint="unfinished",
            )
        )
    found: dict[str, Counter[str]] = {}
    for group in groups:
        name = leases.source_of(group["_id"]["input"])
        found.setdefault(name, Counter())[group["_id"]["run_id"]] += group["batches"]
    return {
        name: DeadLettered(of_runs.total(), sorted(of_runs, reverse=True)[:_RUNS_TOLD])
        for name, of_runs in found.items()
    }


def reclaim_batches(store: Store, input_id: str, run_id: str) -> list[ReclaimedBatches]:
    """Make what earlier, ended runs left of an input batches of a run, which has it locked.

    One atomic update for each batch, which takes it from the attempts of its earlier owner. One
    that changes in between, as a late loader begins it and is sent away, is found the next time.
    Doing it again, after a crash in its middle or whenever, goes on where it stopped.

    Returns:
        `{run_id, batches}` of each run that something was reclaimed from, by run id.

    Raises:
        StateConflict: the run has ended meanwhile: another may have the input by now.
        StoreUnavailable: batches kept changing; calling again helps.
    """
    for _ in range(_PASSES):
        # In this order: what a run that comes after this one has cut is not among them.
        some = _left_by_others(store, input_id, run_id)
        if not some:
            break
        if not runs.heartbeat(store, run_id):
            raise StateConflict(
                f"Run {run_id} has ended; a later run reclaims what is left of {input_id}."
            )
        _take(store, input_id, run_id, some)
    else:
        raise StoreUnavailable(
            f"Batches of {input_id} that earlier runs have left are still being changed by their "
            "loaders. Nothing is lost. Try again."
        )
    with store_errors(f"counting what run {run_id} reclaimed of {input_id}"):
        groups = aggregate(
            store.batches,
            [
                {"$match": {"run_id": run_id, "input": input_id, "resumed_from": {"$ne": None}}},
                {"$group": {"_id": "$resumed_from.run_id", "batches": {"$sum": 1}}},
                {"$sort": {"_id": 1}},
            ],
        )
        return [{"run_id": group["_id"], "batches": group["batches"]} for group in groups]


def drop_uncounted(store: Store, run_id: str, input_id: str, state: InputState) -> None:
    """Drop the pending batches of an input that never counted, and never will.

    They were written after the extraction had ended, by a call that died before it took them back.

    Args:
        store: the database.
        run_id: the run.
        input_id: the input.
        state: what the run knows about it.
    """
    if state.final_batches is not None:
        drop_pending_from(store, input_id, run_id, state.final_batches)


def _left_by_others(store: Store, input_id: str, run_id: str) -> list[Batch]:
    with store_errors(f"looking for batches of {input_id} that earlier runs left"):
        found = list(
            store.batches.find(
                {**_left(input_id), "run_id": {"$ne": run_id}},
                {"run_id": 1, "number": 1, "state": 1, "error.code": 1},
            ).sort([("run_id", ASCENDING), ("number", ASCENDING)])
        )
        earlier = store.runs.find(
            {"_id": {"$in": list({batch["run_id"] for batch in found})}}, {f"inputs.{input_id}": 1}
        )
        states = {
            run["_id"]: InputState.of(run["inputs"][input_id])
            for run in earlier
            if input_id in run["inputs"]
        }
    for earlier_id, state in states.items():
        drop_uncounted(store, earlier_id, input_id, state)
    return [batch for batch in found if _counts(batch, states.get(batch["run_id"]))]


def _counts(batch: Batch, state: InputState | None) -> bool:
    final = None if state is None else state.final_batches
    return final is None or batch["state"] != BatchState.PENDING or batch["number"] < final


def _take(store: Store, input_id: str, run_id: str, left: Sequence[Batch]) -> None:
    first = next_number(store, run_id, input_id)
    for some in batched(enumerate(left, first), WRITTEN_TOGETHER, strict=False):
        changes = [
            UpdateOne(
                {
                    "_id": batch["_id"],
                    "state": batch["state"],
                    "run_id": batch["run_id"],
                    "number": batch["number"],
                },
                {
                    "$set": {
                        "run_id": run_id,
                        "number": number,
                        "state": BatchState.PENDING,
                        "resumed_from": {"run_id": batch["run_id"], "number": batch["number"]},
                    },
                    "$inc": {"attempts": 1, **_counted(batch)},
                },
            )
            for number, batch in some
        ]
        with store_errors(f"reclaiming batches of {input_id} for run {run_id}"):
            store.batches.bulk_write(changes, ordered=False)
        runs.heartbeat(store, run_id)


def _counted(batch: Batch) -> dict[str, int]:
    """What being reclaimed counts as; what nobody has tried yet has not failed either."""
    if batch["state"] == BatchState.PENDING:
        return {}
    own = batch["state"] == BatchState.FAILED and batch.get("error", {}).get("code") not in _PASSING
    return {"resumptions" if own else "interruptions": 1}


def _left(input_id: str) -> Filter:
    return {"input": input_id, "state": {"$in": list(UNFINISHED)}, "parked": {"$ne": True}}


def any_left(store: Store, input_id: str) -> bool:
    """Whether there are batches of an input that a later run would reclaim, of whatever run."""
    with store_errors(f"looking for batches of {input_id} that are not loaded"):
        return store.batches.find_one(_left(input_id), {"_id": 1}) is not None


def any_unfinished(store: Store, run_ids: Sequence[str], input_id: str) -> bool:
    """Whether runs have batches of an input that a later one would reclaim."""
    with store_errors(f"looking for batches of {input_id} that run {_named(run_ids)} left"):
        found = store.batches.find_one(
            {**_left(input_id), "run_id": {"$in": list(run_ids)}}, {"_id": 1}
        )
    return found is not None
