"""Runs as the API reads them, each list with the index that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pymongo import ASCENDING, DESCENDING

from marketdata.documents.runs import ResultStatus, Run, RunStatus, TriggerKind
from marketdata.store import leases
from marketdata.store.connection import Filter, Store
from marketdata.store.reading import MAX_TIME_MS, reading

_ASIDE = [TriggerKind.REPLAY, TriggerKind.BACKFILL]
_EXTRACTING: Filter = {"trigger": {"$nin": _ASIDE}}
"""Runs that ask sources for the present or load files. A replay, or a backfill, says nothing of how
these are."""
_NO_FILE: Filter = {
    "input": {"$regex": f"^{leases.OBJECT}"},
    "status": {"$in": [ResultStatus.SKIPPED, ResultStatus.WAITING]},
    "error": None,
    "batches": 0,
}
"""The result of a file that there was nothing to load of; see `runs.alerts.says_nothing`."""
_SILENT: Filter = {
    "status": RunStatus.SUCCESS,
    "results": {"$exists": True, "$not": {"$elemMatch": {"$nor": [_NO_FILE]}}},
    # The hourly rule's run says that there was nothing to do for all sources.
    "$or": [{"trigger": {"$ne": TriggerKind.SCHEDULE}}, {"results.0": {"$exists": True}}],
}
"""Runs that ended and had nothing to load: they say nothing of how the service is."""
_OF_SOURCES: Filter = {"trigger": {"$nin": [TriggerKind.UPLOAD, *_ASIDE]}}


def last_closed_run_id(store: Store) -> str | None:
    """The run that started last among those that ended; replays and backfills are left out."""
    with reading("the last run"):
        run = store.runs.find_one(
            {"status": {"$ne": RunStatus.RUNNING}, **_EXTRACTING},
            {"_id": 1},
            sort=[("started_at", DESCENDING), ("_id", DESCENDING)],
            hint="started",
            max_time_ms=MAX_TIME_MS,
        )
    return None if run is None else run["_id"]


def last_run(store: Store, *, status: str | None = None, trigger: str | None = None) -> Run | None:
    """The run that started last, of any status and trigger or of those given.

    Replays and backfills are left out, unless that is the trigger.
    """
    filter_: Filter = {**_EXTRACTING}
    if status is not None:
        filter_["status"] = {"$eq": status}
    if trigger is not None:
        filter_["trigger"] = {"$eq": trigger}
    with reading("the last run"):
        return store.runs.find_one(
            filter_,
            sort=[("started_at", DESCENDING), ("_id", DESCENDING)],
            hint=_run_hint(status, trigger),
            max_time_ms=MAX_TIME_MS,
        )


def last_telling_run(store: Store, *, ended: bool = False) -> Run | None:
    """The run that started last among those that say how the service is.

    Replays and backfills are left out, and runs that ended with nothing to load: their files were
    empty or superseded.

    Args:
        store: the database.
        ended: only of those that have ended.
    """
    filter_: Filter = {**_EXTRACTING, "$nor": [_SILENT]}
    if ended:
        filter_["status"] = {"$ne": RunStatus.RUNNING}
    with reading("the last run"):
        return store.runs.find_one(
            filter_,
            sort=[("started_at", DESCENDING), ("_id", DESCENDING)],
            hint="started",
            max_time_ms=MAX_TIME_MS,
        )


def last_whole_success(store: Store) -> Run | None:
    """The run that started last among those of all sources that were a success."""
    with reading("the last success"):
        return store.runs.find_one(
            {
                "status": {"$eq": RunStatus.SUCCESS},
                **_OF_SOURCES,
                "asked.sources": {"$eq": None},
                "asked.resume": {"$eq": None},
                # One that left sources to other runs says nothing of these.
                "under_way": {"$in": [None, {}]},
            },
            {"started_at": 1, "event_time": 1, "trigger": 1},
            sort=[("started_at", DESCENDING), ("_id", DESCENDING)],
            hint="status_started",
            max_time_ms=MAX_TIME_MS,
        )


def first_run(store: Store) -> Run | None:
    """The run that started first of all that say how the service is; see `last_telling_run`."""
    with reading("the first run"):
        return store.runs.find_one(
            {**_EXTRACTING, "$nor": [_SILENT]},
            {"started_at": 1, "event_time": 1, "trigger": 1},
            sort=[("started_at", ASCENDING), ("_id", ASCENDING)],
            hint="started",
            max_time_ms=MAX_TIME_MS,
        )


def _run_hint(status: str | None, trigger: str | None) -> str:
    if status is not None:
        return "status_started"
    return "started" if trigger is None else "trigger_started"


def run_under_way(
    store: Store, *, begin: datetime, end: datetime, longest: timedelta
) -> Run | None:
    """A run of the sources that was under way at some time between two; None if there was none.

    Args:
        store: the database.
        begin: the first time.
        end: the last time.
        longest: runs that began longer than this before `begin` are not looked at.
    """
    with reading("which runs were under way"):
        return store.runs.find_one(
            {
                "started_at": {"$gte": begin - longest, "$lte": end},
                **_OF_SOURCES,
                "$or": [{"ended_at": {"$eq": None}}, {"ended_at": {"$gte": begin}}],
            },
            sort=[("started_at", DESCENDING), ("_id", DESCENDING)],
            hint="started",
            max_time_ms=MAX_TIME_MS,
        )


_LOOKED_THROUGH = 50
"""Runs that are looked through for the last one that asked a source."""


def ended_runs(store: Store, *, limit: int) -> list[Run]:
    """Of the runs that ended, those that started last: status, start and end.

    Replays and backfills are left out.
    """
    with reading("runs"):
        return list(
            store.runs.find(
                {"status": {"$ne": RunStatus.RUNNING}, **_EXTRACTING},
                {"status": 1, "started_at": 1, "ended_at": 1},
            )
            .sort([("started_at", DESCENDING), ("_id", DESCENDING)])
            .hint("started")
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )


@dataclass(frozen=True, slots=True)
class RunPosition:
    """The last run of a page."""

    started_at: datetime
    id: str


def find_runs(
    store: Store,
    *,
    limit: int,
    status: str | None = None,
    trigger: str | None = None,
    source: str | None = None,
    after: RunPosition | None = None,
) -> list[Run]:
    """Runs, the newest first, of a status, a trigger, and with an input of a source."""
    parts: list[Filter] = []
    if status is not None:
        parts.append({"status": {"$eq": status}})
    if trigger is not None:
        parts.append({"trigger": {"$eq": trigger}})
    if source is not None:
        # The inputs are an object by name; a CSV's name is its object's, so compare values.
        sources = {"$map": {"input": {"$objectToArray": "$inputs"}, "in": "$$this.v.source"}}
        parts.append({"$expr": {"$in": [{"$literal": source}, sources]}})
    if after is not None:
        earlier = {"started_at": {"$lt": after.started_at}}
        tie = {"started_at": {"$eq": after.started_at}, "_id": {"$lt": after.id}}
        # The first part bounds the index scan, the second is the exact place.
        parts += [{"started_at": {"$lte": after.started_at}}, {"$or": [earlier, tie]}]
    with reading("runs"):
        return list(
            store.runs.find({"$and": parts} if parts else {})
            .sort([("started_at", DESCENDING), ("_id", DESCENDING)])
            .hint(_run_hint(status, trigger))
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )
