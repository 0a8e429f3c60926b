"""What is told of the batches of a run: which failed, who owns them, what they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pymongo import ASCENDING

from marketdata.store.batches.batch import COUNTS, UNFINISHED
from marketdata.store.connection import Document, Store, store_errors
from marketdata.store.reading import MAX_TIME_MS, reading


def of_run(store: Store, run_id: str, *, limit: int = 0) -> Iterator[Document]:
    """The batches of a run, by input and number; `limit` 0 means all."""
    with store_errors(f"listing the batches of run {run_id}"):
        yield from (
            store.batches.find({"run_id": run_id}).sort([("input", 1), ("number", 1)]).limit(limit)
        )


def not_loaded(store: Store, run_id: str, *, limit: int) -> tuple[list[Document], int]:
    """The first batches that a run did not load, by input and number, and how many there are.

    Each as a run keeps it: `{batch_id, source, input, number, rows, attempts, parked, error}`.
    """
    query = {"run_id": run_id, "state": {"$in": list(UNFINISHED)}}
    with store_errors(f"listing the batches that run {run_id} did not load"):
        count = store.batches.count_documents(query)
        found = store.batches.find(query).sort([("input", 1), ("number", 1)]).limit(limit)
        return [failure(batch) for batch in found], count


def failure(batch: Document) -> Document:
    """What is told of a batch that was not loaded."""
    return {
        "batch_id": batch["_id"],
        **{name: batch[name] for name in ("source", "input", "number", "rows", "attempts")},
        "parked": batch.get("parked", False),
        "error": batch.get("error"),
    }


def owners(store: Store, batch_ids: Sequence[str]) -> dict[str, Document]:
    """Of some batches: the run that owns each now, and its state, by `_id`."""
    with store_errors(f"looking up {len(batch_ids)} batches"):
        found = store.batches.find(
            {"_id": {"$in": list(batch_ids)}}, {"run_id": 1, "state": 1, "parked": 1}
        )
        return {batch["_id"]: batch for batch in found}


def summarise(store: Store, run_ids: Iterable[str]) -> dict[tuple[str, str], Document]:
    """Totals of runs' batches by (run id, input).

    Returns:
        For each: `batches`, `rows` (received, of all batches), the counts of the loaded ones
        under their names, `skipped` (loaded ones whose content was known), `parked`, batches by
        state, `first` and `last` (times of work).
    """
    sums: dict[str, Any] = {
        name: {"$sum": {"$ifNull": [f"$counts.{name}", 0]}} for name in ("rows_in", *COUNTS)
    }
    states = {
        state: {"$sum": {"$cond": [{"$eq": ["$state", state]}, 1, 0]}}
        for state in ("pending", "loading", "loaded", "failed")
    }
    flags = {
        flag: {"$sum": {"$cond": [{"$eq": [f"${flag}", True]}, 1, 0]}}
        for flag in ("skipped", "parked")
    }
    with store_errors("adding up batches"):
        groups = store.batches.aggregate(
            [
                {"$match": {"run_id": {"$in": list(run_ids)}}},
                {
                    "$group": {
                        "_id": {"run_id": "$run_id", "input": "$input"},
                        "batches": {"$sum": 1},
                        "rows": {"$sum": "$rows"},
                        "first": {"$min": "$created_at"},
                        "last": {"$max": "$loaded_at"},
                        **sums,
                        **states,
                        **flags,
                    }
                },
            ]
        )
        return {(g["_id"]["run_id"], g["_id"]["input"]): g for g in groups}


def total_counts(store: Store) -> dict[str, int]:
    """What became of the rows of all closed batches; read from an index alone."""
    names = ("rows_in", *COUNTS)
    with reading("totals"):
        groups = store.batches.aggregate(
            [
                {"$match": {"state": "loaded"}},
                {"$group": {"_id": None, **{n: {"$sum": f"$counts.{n}"} for n in names}}},
            ],
            hint="state_counts",
            maxTimeMS=MAX_TIME_MS,
        )
        found = next(iter(groups), {})
    return {name: int(found.get(name, 0)) for name in names}


_STATES = ("pending", "loading", "loaded", "failed")


def batch_states(store: Store, run_id: str) -> dict[str, int]:
    """How many batches of a run are in each state, and how many there are."""
    with reading(f"the batches of run {run_id}"):
        groups = store.batches.aggregate(
            [
                {"$match": {"run_id": {"$eq": run_id}}},
                {"$group": {"_id": "$state", "batches": {"$sum": 1}}},
            ],
            hint="run_input_number",
            maxTimeMS=MAX_TIME_MS,
        )
        found = {group["_id"]: group["batches"] for group in groups}
    return {"total": sum(found.values()), **{state: found.get(state, 0) for state in _STATES}}


def batches_not_loaded(
    store: Store, run_id: str, *, unfinished: bool, limit: int
) -> list[Document]:
    """Failed batches of a run, by input and number; with `unfinished` also those left undone."""
    states = [s for s in _STATES if s != "loaded"] if unfinished else ["failed"]
    with reading(f"the failed batches of run {run_id}"):
        return list(
            store.batches.find({"run_id": {"$eq": run_id}, "state": {"$in": states}})
            .sort([("input", ASCENDING), ("number", ASCENDING)])
            .hint("run_input_number")
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )
