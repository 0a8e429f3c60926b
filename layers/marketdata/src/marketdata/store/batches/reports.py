"""What is told of the batches of a run: which failed, who owns them, what they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, TypedDict

from pymongo import ASCENDING

from marketdata.documents.batches import Batch, BatchState, Counts, FailedBatch, StoredCounts
from marketdata.documents.questions import EXAMPLES, KINDS, Finding
from marketdata.store.batches.batch import COUNTS, UNFINISHED
from marketdata.store.connection import Expression, Store, aggregate, store_errors
from marketdata.store.reading import MAX_TIME_MS, reading

_REPLAYING: Expression = {"$gt": ["$resolves", None]}
"""Whether a batch is a replay batch."""


class BatchSums(TypedDict):
    """What the batches of an input of a run add up to."""

    batches: int
    """How many there are."""
    rows: int
    """Rows received, of all."""
    last: datetime | None
    """When the last was closed as loaded; None if none was."""
    rows_in: int
    """Rows of the loaded ones: the sum of the next five."""
    inserted: int
    """New records."""
    updated: int
    """Records that say something else now."""
    unchanged: int
    """Records that said the same already."""
    duplicate: int
    """Rows that lost to another row of the same record in the same batch."""
    quarantined: int
    """Rows that could not be loaded."""
    pending: int
    """Batches that are pending."""
    loading: int
    """Batches that are loading."""
    loaded: int
    """Batches that are loaded."""
    failed: int
    """Batches that failed."""
    skipped: int
    """Loaded ones that were not read, as their content was known."""
    parked: int
    """Failed ones that are dead-lettered."""


NO_BATCHES: BatchSums = {
    "batches": 0,
    "rows": 0,
    "last": None,
    "rows_in": 0,
    "inserted": 0,
    "updated": 0,
    "unchanged": 0,
    "duplicate": 0,
    "quarantined": 0,
    "pending": 0,
    "loading": 0,
    "loaded": 0,
    "failed": 0,
    "skipped": 0,
    "parked": 0,
}
"""What no batches add up to."""


def of_run(store: Store, run_id: str, *, limit: int = 0) -> Iterator[Batch]:
    """The batches of a run, by input and number; `limit` 0 means all."""
    with store_errors(f"listing the batches of run {run_id}"):
        yield from (
            store.batches.find({"run_id": run_id}).sort([("input", 1), ("number", 1)]).limit(limit)
        )


def not_loaded(store: Store, run_id: str, *, limit: int) -> tuple[list[FailedBatch], int]:
    """The first batches that a run did not load, by input and number, and how many there are.

    Each as a run keeps it: `{batch_id, source, input, number, rows, attempts, parked, error}`.
    """
    query = {"run_id": run_id, "state": {"$in": list(UNFINISHED)}}
    with store_errors(f"listing the batches that run {run_id} did not load"):
        count = store.batches.count_documents(query)
        found = store.batches.find(query).sort([("input", 1), ("number", 1)]).limit(limit)
        return [failure(batch) for batch in found], count


def failure(batch: Batch) -> FailedBatch:
    """What is told of a batch that was not loaded."""
    return {
        "batch_id": batch["_id"],
        "source": batch["source"],
        "input": batch["input"],
        "number": batch["number"],
        "rows": batch["rows"],
        "attempts": batch["attempts"],
        "parked": batch.get("parked", False),
        "error": batch.get("error"),
    }


def owners(store: Store, batch_ids: Sequence[str]) -> dict[str, Batch]:
    """Of some batches: the run that owns each now, and its state, by `_id`."""
    with store_errors(f"looking up {len(batch_ids)} batches"):
        found = store.batches.find(
            {"_id": {"$in": list(batch_ids)}}, {"run_id": 1, "state": 1, "parked": 1}
        )
        return {batch["_id"]: batch for batch in found}


def summarise(store: Store, run_ids: Iterable[str]) -> dict[tuple[str, str], BatchSums]:
    """Totals of runs' batches by (run id, input)."""
    sums: dict[str, Any] = {
        name: {"$sum": {"$ifNull": [f"$counts.{name}", 0]}} for name in ("rows_in", *COUNTS)
    }
    states = {
        state.value: {"$sum": {"$cond": [{"$eq": ["$state", state]}, 1, 0]}} for state in BatchState
    }
    flags = {
        flag: {"$sum": {"$cond": [{"$eq": [f"${flag}", True]}, 1, 0]}}
        for flag in ("skipped", "parked")
    }
    with store_errors("adding up batches"):
        groups: Iterator[Any] = aggregate(
            store.batches,
            [
                {"$match": {"run_id": {"$in": list(run_ids)}}},
                {
                    "$group": {
                        "_id": {"run_id": "$run_id", "input": "$input"},
                        "batches": {"$sum": 1},
                        # What a replay batch loads was received by another run.
                        "rows": {"$sum": {"$cond": [_REPLAYING, 0, "$rows"]}},
                        "last": {"$max": "$loaded_at"},
                        **sums,
                        **states,
                        **flags,
                    }
                },
            ],
        )
        return {(g["_id"]["run_id"], g["_id"]["input"]): g for g in groups}


def resolved_counts(store: Store, run_ids: Sequence[str]) -> dict[tuple[str, str], int]:
    """How many quarantined rows of runs are resolved by replays by now, by (run id, input)."""
    with reading("resolved rows"):
        groups = aggregate(
            store.batches,
            [
                {
                    "$match": {
                        "resolves.run_id": {"$in": list(run_ids)},
                        "state": BatchState.LOADED,
                    }
                },
                {
                    "$group": {
                        "_id": {"run_id": "$resolves.run_id", "input": "$resolves.input"},
                        "resolved": {"$sum": _RESOLVED},
                    }
                },
            ],
            hint="resolves",
            maxTimeMS=MAX_TIME_MS,
        )
        return {(g["_id"]["run_id"], g["_id"]["input"]): int(g["resolved"]) for g in groups}


_RESOLVED: Expression = {"$subtract": ["$counts.rows_in", "$counts.quarantined"]}
"""Of a replay batch: the rows that it has loaded."""


class TotalCounts(StoredCounts):
    """What became of the rows of all closed batches.

    `rows_in + resolved` is the sum of the five figures in between, as a resolved row counts in
    `quarantined` and, once it is loaded, in one of the others.
    """

    resolved: int
    """Of the rows that were quarantined: those that replays have loaded since."""


def total_counts(store: Store) -> TotalCounts:
    """What became of the rows of all closed batches.

    All batches are read from an index alone; replay batches are read again, to tell what they
    have loaded from what was received.
    """
    names = ("rows_in", *COUNTS)
    loaded = {"state": BatchState.LOADED}
    with reading("totals"):
        groups = aggregate(
            store.batches,
            [
                {"$match": loaded},
                {"$group": {"_id": None, **{n: {"$sum": f"$counts.{n}"} for n in names}}},
            ],
            hint="state_counts",
            maxTimeMS=MAX_TIME_MS,
        )
        found = next(iter(groups), {})
        replayed = aggregate(
            store.batches,
            [
                {"$match": {**loaded, "resolves.run_id": {"$exists": True}}},
                {
                    "$group": {
                        "_id": None,
                        "rows_in": {"$sum": "$counts.rows_in"},
                        "quarantined": {"$sum": "$counts.quarantined"},
                    }
                },
            ],
            hint="resolves",
            maxTimeMS=MAX_TIME_MS,
        )
        again = next(iter(replayed), {"rows_in": 0, "quarantined": 0})
    counts = Counts(**{name: int(found.get(name, 0)) for name in names})
    counts.rows_in -= again["rows_in"]
    counts.quarantined -= again["quarantined"]
    return {**counts.document(), "resolved": again["rows_in"] - again["quarantined"]}


def batch_states(store: Store, run_id: str) -> dict[str, int]:
    """How many batches of a run are in each state, and how many there are."""
    with reading(f"the batches of run {run_id}"):
        groups = aggregate(
            store.batches,
            [
                {"$match": {"run_id": {"$eq": run_id}}},
                {"$group": {"_id": "$state", "batches": {"$sum": 1}}},
            ],
            hint="run_input_number",
            maxTimeMS=MAX_TIME_MS,
        )
        found = {group["_id"]: group["batches"] for group in groups}
    return {
        "total": sum(found.values()),
        **{state.value: found.get(state, 0) for state in BatchState},
    }


def batches_not_loaded(store: Store, run_id: str, *, unfinished: bool, limit: int) -> list[Batch]:
    """Failed batches of a run, by input and number; with `unfinished` also those left undone."""
    states = UNFINISHED if unfinished else (BatchState.FAILED,)
    with reading(f"the failed batches of run {run_id}"):
        return list(
            store.batches.find({"run_id": {"$eq": run_id}, "state": {"$in": list(states)}})
            .sort([("input", ASCENDING), ("number", ASCENDING)])
            .hint("run_input_number")
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )


def findings(store: Store, run_ids: Iterable[str]) -> dict[tuple[str, str], list[Finding]]:
    """Cells that records do without, by (run id, input), the most frequent reasons first."""
    found: dict[tuple[str, str], list[Finding]] = {}
    with store_errors("adding up findings"):
        groups: Iterator[Any] = aggregate(
            store.batches,
            [
                {"$match": {"run_id": {"$in": list(run_ids)}, "findings": {"$exists": True}}},
                {"$sort": {"number": 1}},
                {"$unwind": "$findings"},
                {
                    "$group": {
                        "_id": {
                            "run_id": "$run_id",
                            "input": "$input",
                            "field": "$findings.field",
                            "column": "$findings.column",
                            "code": "$findings.code",
                        },
                        "count": {"$sum": "$findings.count"},
                        "examples": {"$firstN": {"input": "$findings.examples", "n": EXAMPLES}},
                    }
                },
                {"$sort": {"count": -1, "_id": 1}},
            ],
        )
        for group in groups:
            which = group["_id"]
            kinds = found.setdefault((which["run_id"], which["input"]), [])
            if len(kinds) < KINDS:
                examples = dict.fromkeys(chain.from_iterable(group["examples"]))
                kinds.append(
                    {
                        "field": which["field"],
                        "column": which["column"],
                        "code": which["code"],
                        "count": group["count"],
                        "examples": list(examples)[:EXAMPLES],
                    }
                )
    return found
