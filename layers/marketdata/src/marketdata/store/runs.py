"""The collection `runs`.

All times that decide something (when a run expires, which one is older) are set and compared by
MongoDB's own clock: functions run on many machines, whose clocks may differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo.errors import DuplicateKeyError

from marketdata.documents.runs import NewRun, Run, RunEnding, RunStatus, TriggerKind
from marketdata.errors import NotFound
from marketdata.store import leases
from marketdata.store.connection import Expression, Filter, Store, store_errors

LEASE = leases.LEASE

_RENEWED_AFTER = timedelta(minutes=1)
"""A heartbeat sooner than this after another one needs no write."""

ALIVE: Filter = {"status": RunStatus.RUNNING, "closing": {"$exists": False}}


@dataclass(frozen=True, slots=True)
class Created:
    """The run was created, and has locked its inputs."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """Nothing was created: this run is in the way, as it is the same one or has locked an input."""

    run: Run

    @property
    def run_id(self) -> str:
        """The id of the run in the way."""
        return str(self.run["_id"])


def create(store: Store, run: NewRun) -> Created | Blocked:
    """Create a run and lock its inputs, unless it exists or another run has locked one of them.

    The times `started_at` and `expires_at` are set here.
    """
    made = {
        "$mergeObjects": [
            {"$literal": run},
            {"started_at": "$$NOW", "expires_at": after(LEASE)},
        ]
    }
    with store_errors(f"creating run {run['_id']}"):
        while True:
            try:
                # It never matches, so it inserts; unlike an insert it knows the server's time.
                store.runs.update_one(
                    {"_id": run["_id"], "status": {"$exists": False}},
                    [{"$replaceWith": made}],
                    upsert=True,
                )
            except DuplicateKeyError:
                other = store.runs.find_one({"_id": run["_id"]}) or store.runs.find_one(
                    {"holds": {"$in": run["holds"]}}
                )
                if other is not None:
                    return Blocked(other)
                # It ended in between: the way is free now.
            else:
                return Created(run["_id"])


def lock_holders(store: Store, input_ids: Sequence[str]) -> dict[str, str]:
    """Which running run has each of some inputs locked; those that are free are not there."""
    with store_errors(f"looking who has {', '.join(input_ids)} locked"):
        found = store.runs.find({"holds": {"$in": list(input_ids)}}, {"holds": 1})
        held = {name: run["_id"] for run in found for name in run["holds"]}
    return {name: held[name] for name in input_ids if name in held}


def get(store: Store, run_id: str) -> Run:
    """One run.

    Raises:
        NotFound: there is none of that id.
    """
    document = find(store, run_id)
    if document is None:
        raise NotFound(f"There is no run {run_id!r}. GET /runs lists them.", run_id=run_id)
    return document


def is_forced(store: Store, run_id: str) -> bool:
    """Whether a run loads again what is known; see POST /refresh."""
    with store_errors(f"reading run {run_id}"):
        return store.runs.find_one({"_id": run_id, "force": True}, {"_id": 1}) is not None


def find(store: Store, run_id: str) -> Run | None:
    """One run; None if there is none of that id."""
    with store_errors(f"reading run {run_id}"):
        return store.runs.find_one({"_id": run_id})


def find_by_execution(store: Store, execution: str) -> str | None:
    """The running run that an execution carries out; None if there is none."""
    with store_errors(f"looking for the run of {execution}"):
        found = store.runs.find_one(
            {"status": RunStatus.RUNNING, "execution": execution}, {"_id": 1}
        )
    return found["_id"] if found else None


def adopt(store: Store, run_id: str, execution: str) -> bool:
    """Tie a run to the execution that carries it out; False if another one does, or it ended."""
    with store_errors(f"adopting run {run_id}"):
        result = store.runs.update_one(
            {"_id": run_id, **ALIVE, "execution": {"$in": [None, execution]}},
            [{"$set": {"execution": {"$literal": execution}, "expires_at": after(LEASE)}}],
        )
    return result.matched_count == 1


def heartbeat(store: Store, run_id: str, *, pause_seconds: float = 0) -> bool:
    """Note that a run is alive; False if it has ended meanwhile, or is just being ended.

    Args:
        store: the database.
        run_id: the run.
        pause_seconds: so long no other heartbeat can be expected.
    """
    life = LEASE + timedelta(seconds=pause_seconds)
    enough = {"$gte": ["$expires_at", after(life - _RENEWED_AFTER)]}
    with store_errors(f"renewing run {run_id}"):
        result = store.runs.update_one(
            {"_id": run_id, **ALIVE},
            [{"$set": {"expires_at": {"$cond": [enough, "$expires_at", after(life)]}}}],
        )
    return result.matched_count == 1


def set_fields(store: Store, run_id: str, fields: Mapping[str, Any]) -> None:
    """Set fields of a running run; one that has ended is left as it is."""
    with store_errors(f"noting progress of run {run_id}"):
        store.runs.update_one({"_id": run_id, **ALIVE}, {"$set": dict(fields)})


def discard(store: Store, run_id: str) -> None:
    """Remove a running run that has nothing to do, before anybody was told of it."""
    with store_errors(f"removing run {run_id}"):
        store.runs.delete_one({"_id": run_id, "status": RunStatus.RUNNING})


def begin_closing(store: Store, run_id: str) -> bool:
    """Let no further step of a run begin, nor note anything; False if it has ended already.

    A call that dies after this is made again, or the run expires.
    """
    with store_errors(f"closing run {run_id}"):
        result = store.runs.update_one(
            {"_id": run_id, "status": RunStatus.RUNNING}, {"$set": {"closing": True}}
        )
    return result.matched_count == 1


def end(store: Store, run_id: str, fields: RunEnding) -> bool:
    """End a run and unlock its inputs; False if it had ended already."""
    told = {name: {"$literal": value} for name, value in fields.items()}
    with store_errors(f"ending run {run_id}"):
        result = store.runs.update_one(
            {"_id": run_id, "status": RunStatus.RUNNING},
            [{"$set": {**told, "ended_at": "$$NOW"}}, {"$unset": ["holds", "closing"]}],
        )
    return result.matched_count == 1


def expiries(store: Store, run_ids: Sequence[str]) -> dict[str, datetime]:
    """Until when those of some runs that are under way live without a further heartbeat."""
    with store_errors("looking until when runs live"):
        found = store.runs.find(
            {"_id": {"$in": list(run_ids)}, "status": RunStatus.RUNNING}, {"expires_at": 1}
        )
        return {run["_id"]: run["expires_at"] for run in found}


def expired(store: Store) -> list[Run]:
    """Running runs that had no heartbeat for longer than their lease.

    A backfill that waits for its next execution is none of them: nobody is to give a sign of life.
    """
    let_go = {"trigger": TriggerKind.BACKFILL, "execution": None, "backfill.part": {"$gt": 1}}
    with store_errors("looking for orphaned runs"):
        return list(
            store.runs.find(
                {
                    "status": RunStatus.RUNNING,
                    "$expr": {"$lt": ["$expires_at", "$$NOW"]},
                    "$nor": [let_go],
                }
            )
        )


def running(store: Store, run_ids: list[str]) -> set[str]:
    """Those of some runs that have not ended."""
    with store_errors("looking for runs under way"):
        found = store.runs.find({"_id": {"$in": run_ids}, "status": RunStatus.RUNNING}, {"_id": 1})
        return {run["_id"] for run in found}


def after(time: timedelta) -> Expression:
    """So long from now, by the server's clock."""
    return {"$add": ["$$NOW", leases.milliseconds(time)]}
