"""The collection `quarantine`: rows that could not be loaded, whole, with the reason.

A row is known by its raw batch and number. Several batches may have the same raw batch, as a
source answers the same content again; `batches` names those that count the row as quarantined.
It leaves quarantine once it is resolved for all of them; see `runs.replaying`. What else the row
says of a batch and its run is of the one that was received last, in whatever order they were
loaded.

Which rows a run counts is read from its batches: a row may be of any number of runs, and a batch
may change hands. So no row has a list of runs, which would grow with every run that meets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import batched

from pymongo import ASCENDING, DeleteOne, UpdateOne

from marketdata import clock
from marketdata.documents.batches import Batch, BatchState
from marketdata.documents.quarantine import NewQuarantinedRow, QuarantinedRow, Reason
from marketdata.store.connection import (
    Expression,
    Filter,
    Projection,
    Store,
    Update,
    store_errors,
)
from marketdata.store.reading import MAX_TIME_MS, reading

_IN_THE_ORDER_OF_HOW_MUCH_EACH_NARROWS = ("reason", "source")
_PLACE = {"raw_id": 1, "row_number": 1, "batches": 1, "source": 1, "first_at": 1}
_RAW_TOGETHER = 50
"""Raw batches of a run whose rows are looked for in one query."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows; what is None selects nothing out."""

    source: str | None = None
    reason: str | None = None
    run_id: str | None = None
    """Those that this run's loaded batches count, whoever else has met them as well."""
    ids: tuple[str, ...] | None = None


def put_quarantine(store: Store, rows: Sequence[NewQuarantinedRow]) -> None:
    """Set rows aside, each for its `batch`.

    A row is known by its raw batch and number: setting it aside again, after a crash or in a
    later run over the same content, keeps one row. It says what the batch says of it that
    was received last.
    """
    if not rows:
        return
    with store_errors(f"setting {len(rows)} rows aside"):
        store.quarantine.bulk_write(
            [UpdateOne({"_id": row["_id"]}, [_set_aside(row)], upsert=True) for row in rows],
            ordered=False,
        )


def _set_aside(row: NewQuarantinedRow) -> Update:
    times = ("first_at", "last_at")
    said = {name: value for name, value in row.items() if name not in ("_id", *times)}
    always = {
        "first_at": {"$ifNull": ["$first_at", row["first_at"]]},
        "last_at": {"$max": ["$last_at", row["last_at"]]},
        "batches": {"$setUnion": [{"$ifNull": ["$batches", []]}, [_literal(row["batch"])]]},
    }
    return {"$replaceWith": {"$mergeObjects": ["$$ROOT", _if_last(row, said), always]}}


def put_again(store: Store, raw_id: str, batch: Batch) -> None:
    """Set the rows of a raw batch aside again for another batch that brought the same content.

    Rows that have been loaded since then stay loaded.
    """
    again = {"run_id": batch["run_id"], "batch": batch["_id"], "received_at": batch["received_at"]}
    always = {"last_at": {"$max": ["$last_at", clock.now()]}}
    with store_errors(f"setting the rows of raw batch {raw_id} aside again"):
        store.quarantine.update_many(
            {"_id": _within(raw_id)},
            [{"$replaceWith": {"$mergeObjects": ["$$ROOT", _if_last(again, again), always]}}],
        )


def _if_last(receipt: Mapping[str, object], said: Mapping[str, object]) -> Expression:
    """What is said of a row, if no batch that was received later has said something yet.

    Batches of one moment are told apart by their names; and of one batch, the run says most that
    has it now, as it took the batch over from an earlier one.
    """
    place = ("received_at", "batch", "run_id")
    stored: Expression = {"$lte": [[f"${n}" for n in place], [_literal(receipt[n]) for n in place]]}
    return {"$cond": [stored, _literal(said), {}]}


def _literal(value: object) -> Expression:
    """A value as it is: a text that begins with a dollar sign is no field's name."""
    return {"$literal": value}


def _within(raw_id: str) -> Filter:
    """The ids of a raw batch's rows: it, a slash, which "0" comes next to, and a number."""
    return {"$gt": f"{raw_id}/", "$lt": f"{raw_id}0"}


def release(store: Store, batch_id: str, raw_id: str, kept: Iterable[str]) -> None:
    """Let go of rows that an earlier attempt at a batch had set aside and this one has loaded.

    Args:
        store: the database.
        batch_id: the batch.
        raw_id: its raw batch.
        kept: the ids of the rows that this attempt has set aside.
    """
    kept = set(kept)
    gone = [d["_id"] for d in of_raw(store, raw_id, batch_id) if d["_id"] not in kept]
    if not gone:
        return
    with store_errors(f"letting go of {len(gone)} rows of batch {batch_id}"):
        store.quarantine.update_many({"_id": {"$in": gone}}, {"$pull": {"batches": batch_id}})
        store.quarantine.delete_many({"_id": {"$in": gone}, "batches": []})


def find(
    store: Store,
    selection: Selection,
    *,
    after: str | None = None,
    limit: int,
    max_time_ms: int | None = None,
) -> list[QuarantinedRow]:
    """Rows by raw batch and number, from after an id on.

    Args:
        store: the database.
        selection: which rows.
        after: an id.
        limit: how many at most.
        max_time_ms: what MongoDB may spend on one query, in milliseconds. The driver's errors,
            that it was not enough for one, are left to the caller.
    """
    return _find(store, selection, None, after, limit, max_time_ms)


def select(
    store: Store, selection: Selection, *, after: str | None, limit: int
) -> list[QuarantinedRow]:
    """Rows by raw batch and number, from after an id on: where they are, without their text."""
    with store_errors("selecting quarantined rows"):
        return _find(store, selection, _PLACE, after, limit, None)


def count(store: Store, selection: Selection, *, after: str | None, limit: int) -> int:
    """How many rows there are from after an id on; counts no further than a limit."""
    found = 0
    with store_errors("counting quarantined rows"):
        for filter_, hint in _queries(store, selection, after):
            found += store.quarantine.count_documents(filter_, hint=hint, limit=limit - found)
            if found >= limit:
                break
    return found


def _find(
    store: Store,
    selection: Selection,
    fields: Projection | None,
    after: str | None,
    limit: int,
    max_time_ms: int | None,
) -> list[QuarantinedRow]:
    found: list[QuarantinedRow] = []
    for filter_, hint in _queries(store, selection, after):
        cursor = store.quarantine.find(filter_, fields).sort([("_id", ASCENDING)]).hint(hint)
        found += cursor.limit(limit - len(found)).max_time_ms(max_time_ms)
        if len(found) >= limit:
            break
    return found


def _queries(store: Store, selection: Selection, after: str | None) -> Iterator[tuple[Filter, str]]:
    """Filters, one after the other in the order of ids, each with the index that answers it."""
    given = {n: getattr(selection, n) for n in _IN_THE_ORDER_OF_HOW_MUCH_EACH_NARROWS}
    filter_: Filter = {name: {"$eq": v} for name, v in given.items() if v is not None}
    ids: Filter = {} if selection.ids is None else {"$in": list(selection.ids)}
    if selection.run_id is not None:
        counting = _counting(store, selection.run_id)
        for some in batched(_in_order(counting), _RAW_TOGETHER, strict=False):
            # Each on its own has all of its bounds: whatever lies between them is passed over.
            alternatives = [
                filter_ | {"_id": {**ids, **within}, "batches": {"$in": sorted(counting[raw_id])}}
                for raw_id in some
                if (within := _rest(_within(raw_id), after)) is not None
            ]
            if alternatives:
                yield {"$or": alternatives}, "_id_"
        return
    hint = "_id_" if ids else next(iter(filter_), "_id_")
    if after is not None:
        ids["$gt"] = after
    yield {**filter_, **({"_id": ids} if ids else {})}, hint


def _in_order(raw_ids: Iterable[str]) -> list[str]:
    """Raw batches in the order of the ids of their rows."""
    return sorted(raw_ids, key=lambda raw_id: f"{raw_id}/")


def _rest(within: Filter, after: str | None) -> Filter | None:
    """What of a range of ids comes after one; None if nothing does."""
    if after is None or after <= within["$gt"]:
        return within
    return {**within, "$gt": after} if after < within["$lt"] else None


def _counting(store: Store, run_id: str) -> dict[str, set[str]]:
    """Of each raw batch that rows of a run may be in, the batches by which the run counts them.

    A batch that was skipped counts the rows of the one that had its content first.
    """
    query: Filter = {"run_id": run_id, "state": BatchState.LOADED, "counts.quarantined": {"$gt": 0}}
    needed = ("raw_id", "skipped", "known_as", "known_root")
    counting: dict[str, set[str]] = {}
    for batch in store.batches.find(query, dict.fromkeys(needed, 1)).hint("run_input_number"):
        counting.setdefault(batch["raw_id"], set()).add(root_of(batch))
    return counting


def root_of(batch: Batch) -> str:
    """The batch that had set aside what a batch counts: itself, if it was not skipped."""
    if not batch.get("skipped"):
        return str(batch["_id"])
    return str(batch.get("known_root") or batch["known_as"])


def of_raw(store: Store, raw_id: str, batch_id: str | None = None) -> list[QuarantinedRow]:
    """Where the rows of a raw batch are that are set aside, of all its batches or of one."""
    filter_: Filter = {"_id": _within(raw_id)}
    if batch_id is not None:
        filter_["batches"] = batch_id
    with store_errors(f"listing the quarantined rows of raw batch {raw_id}"):
        return list(store.quarantine.find(filter_, _PLACE).hint("_id_"))


def note_reasons(store: Store, reasons: Sequence[Reason], now: datetime) -> None:
    """Note why rows that were tried again still can't be loaded.

    Args:
        store: the database.
        reasons: for each `_id`, `reason`, `field` and `message`.
        now: the time of the attempt.
    """
    if not reasons:
        return
    with store_errors(f"noting why {len(reasons)} rows stay in quarantine"):
        # No upsert: a row that somebody else has loaded meanwhile must not come back.
        store.quarantine.bulk_write(
            [
                UpdateOne(
                    {"_id": reason["_id"]},
                    {
                        "$set": {k: v for k, v in reason.items() if k != "_id"}
                        | {"last_at": now, "replayed_at": now}
                    },
                )
                for reason in reasons
            ],
            ordered=False,
        )


def take(store: Store, rows: Sequence[QuarantinedRow]) -> set[str]:
    """Delete rows that are resolved, each if the same batches still count it.

    Returns:
        The ids of those that this call has deleted.
    """
    if not rows:
        return set()
    ids = [row["_id"] for row in rows]
    with store_errors(f"taking {len(rows)} resolved rows out of quarantine"):
        deleted = store.quarantine.bulk_write(
            [DeleteOne({"_id": row["_id"], "batches": row.get("batches")}) for row in rows],
            ordered=False,
        ).deleted_count
        there = store.quarantine.distinct("_id", {"_id": {"$in": ids}})
    # If others have deleted some at the same time, which ones does not matter, but how many.
    gone = [id_ for id_ in ids if id_ not in set(there)]
    return set(gone[:deleted])


def find_quarantined(
    store: Store,
    *,
    limit: int,
    run_id: str | None = None,
    source: str | None = None,
    reason: str | None = None,
    after: str | None = None,
) -> list[QuarantinedRow]:
    """Rows that were set aside, by raw batch and row."""
    selection = Selection(source, reason, run_id)
    with reading("quarantined rows"):
        return find(store, selection, after=after, limit=limit, max_time_ms=MAX_TIME_MS)
