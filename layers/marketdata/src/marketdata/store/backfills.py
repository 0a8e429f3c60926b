"""What makes a backfill more than a run: executions one after the other, and being cancelled.

A backfill may take longer than an execution lasts. So an execution ends in time and lets the run
go, and the next run that opens starts the next execution (see `runs.backfills`). The number of the
present execution is `backfill.part`; the run is as it was in all else.
"""

from __future__ import annotations

from datetime import datetime

from marketdata.documents.runs import InputState, Run, RunStatus, TriggerKind
from marketdata.store.connection import Store, store_errors
from marketdata.store.leases import is_backfill
from marketdata.store.runs import ALIVE

MOST_IDLE_PARTS = 3
"""Executions in a row that failed and got nowhere, after which a backfill ends as failed."""


def execution_name(run: Run) -> str:
    """The name of the execution that is to carry out a run, the present one of a backfill."""
    part = run["backfill"]["part"] if "backfill" in run else 1
    return run["_id"] if part == 1 else f"{run['_id']}-{part}"


def begin_part(store: Store, run_id: str) -> None:
    """Note that an execution of a backfill begins."""
    run = store.runs.find_one({"_id": run_id})
    if run is None:
        return
    changes = {
        "backfill.part_calls": 0,
        "backfill.part_began_at": _requests_done(run),
        "backfill.part_since": "$$NOW",
    }
    with store_errors(f"noting that an execution of run {run_id} begins"):
        store.runs.update_one({"_id": run_id, **ALIVE}, [{"$set": changes}])


def count_call(store: Store, run_id: str, rate_per_minute: float) -> None:
    """Count a call that extracts; note how many requests a minute it may send."""
    with store_errors(f"counting a call of run {run_id}"):
        store.runs.update_one(
            {"_id": run_id, **ALIVE},
            {
                "$inc": {"backfill.part_calls": 1},
                "$set": {"backfill.rate_per_minute": rate_per_minute},
            },
        )


def cancel(store: Store, run_id: str) -> bool:
    """Note that a backfill is cancelled, once; False if it has ended, or is being ended."""
    with store_errors(f"cancelling run {run_id}"):
        result = store.runs.update_one(
            {"_id": run_id, **ALIVE, "trigger": TriggerKind.BACKFILL},
            [{"$set": {"backfill.cancelled_at": {"$ifNull": ["$backfill.cancelled_at", "$$NOW"]}}}],
        )
    return result.matched_count == 1


def cancelled_at(store: Store, run_id: str) -> datetime | None:
    """When a backfill was cancelled; None if it was not."""
    with store_errors(f"looking whether run {run_id} is cancelled"):
        found = store.runs.find_one({"_id": run_id}, {"backfill.cancelled_at": 1})
    return None if found is None else found.get("backfill", {}).get("cancelled_at")


def let_go(store: Store, run: Run, *, failed: bool) -> bool:
    """Let a running backfill go, for the next execution to go on with.

    Args:
        store: the database.
        run: the run, as its present execution leaves it.
        failed: the execution ended before its time.

    Returns:
        False if there is nothing to go on with: the extraction is over, the run was cancelled, or
        too many executions in a row failed and got nowhere. Then the run is to be ended.
    """
    backfill = run["backfill"]
    if "cancelled_at" in backfill or all(
        InputState.of(stored).status.ended for stored in run["inputs"].values()
    ):
        return False
    idle = 0
    if failed and _requests_done(run) <= backfill["part_began_at"]:
        idle = backfill["idle_parts"] + 1
    if idle >= MOST_IDLE_PARTS:
        return False
    part = backfill["part"]
    with store_errors(f"letting run {run['_id']} go"):
        store.runs.update_one(
            {"_id": run["_id"], **ALIVE, "backfill.part": part},
            {
                "$set": {
                    "execution": None,
                    "backfill.part": part + 1,
                    "backfill.idle_parts": idle,
                    "backfill.part_began_at": _requests_done(run),
                }
            },
        )
    return True


def let_go_runs(store: Store) -> list[Run]:
    """Backfills that no execution carries out at the moment, as the last one let them go."""
    with store_errors("looking for backfills to go on with"):
        return list(
            store.runs.find(
                {
                    **ALIVE,
                    "trigger": TriggerKind.BACKFILL,
                    "execution": None,
                    "backfill.part": {"$gt": 1},
                }
            )
        )


def is_let_go(run: Run) -> bool:
    """Whether a run waits for its next execution, and so gives no sign of life."""
    return (
        run["status"] == RunStatus.RUNNING
        and run["execution"] is None
        and "backfill" in run
        and run["backfill"]["part"] > 1
    )


def told_as_cancelled(done: int, requests: int) -> str:
    """Why a backfill is not complete that was cancelled, in words."""
    return (
        f"It was cancelled after {done} of {requests} requests. What was received is loaded; POST "
        "/backfills with `gaps` asks for the rest."
    )


def _requests_done(run: Run) -> int:
    return sum(
        stored.get("pages", 0) for name, stored in run["inputs"].items() if is_backfill(name)
    )
