"""`/runs`: what was run and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Path, Query

from marketdata import clock
from marketdata.documents.batches import Batch as StoredBatch
from marketdata.documents.batches import FailedBatch, StoredCounts
from marketdata.documents.errors import StoredError
from marketdata.documents.runs import Result, StoredInput, Totals
from marketdata.documents.runs import Run as StoredRun
from marketdata.documents.runs import RunStatus as StoredStatus
from marketdata.errors import NotFound
from marketdata.runs import backfills
from marketdata.runs.summary import summarise_inputs, total
from marketdata.store import run_queries
from marketdata.store.batches import reports
from marketdata.store.connection import Store
from marketdata.store.run_queries import RunPosition
from marketdata.store.runs import get
from marketdata.web import cursor as cursors
from marketdata.web.models.common import RUN_ID, Part
from marketdata.web.models.runs import Run, Runs, RunStatus, Trigger
from marketdata.web.parameters import (
    DEFAULT_LIMIT,
    MAX_MS,
    CursorText,
    Limit,
    Source,
    check_same,
    read_text,
)
from marketdata.web.responses import responses
from marketdata.web.routes.refresh import LONGEST_ID
from marketdata.web.routing import new_router
from marketdata.web.services import services

router = new_router()

LISTED_BATCHES = 100
"""Batches that a run shows; a large file has thousands."""

_MAPPINGS = ("applied_mappings", "quarantined_mappings", "skipped_mappings")


@router.get(
    "/runs",
    summary="Runs",
    description="Runs, the newest first.",
    responses=responses("A page; an empty one if nothing matches.", 400, 404),
    tags=["runs"],
    operation_id="listRuns",
)
def list_runs(
    request: Request,
    status: Annotated[RunStatus | None, Query(description="Only with this status.")] = None,
    trigger: Annotated[
        Trigger | None,
        Query(description="Only those with this trigger.", examples=["schedule"]),
    ] = None,
    source: Source = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorText = None,
) -> Runs:
    """One page of runs."""
    asked = {"status": status, "trigger": trigger, "source": read_text("source", source)}
    after = None
    if cursor is not None:
        *kept, milliseconds, last_id = cursors.decode("runs", cursor, len(asked) + 2)
        if not (
            all(cursors.text_or_none(part) for part in kept)
            and type(milliseconds) is int
            and 0 <= milliseconds <= MAX_MS
            and isinstance(last_id, str)
        ):
            cursors.refuse()
        for name, value in zip(asked, kept, strict=True):
            check_same(name, asked[name], value)
            asked[name] = read_text(name, value)
        after = RunPosition(clock.from_ms(milliseconds), last_id)
    store = services(request).store()
    found = run_queries.find_runs(store, limit=limit + 1, after=after, **asked)
    shown, more = found[:limit], len(found) > limit
    next_cursor = None
    if more:
        last = shown[-1]
        next_cursor = cursors.encode(
            "runs", *asked.values(), clock.to_ms(last["started_at"]), last["_id"]
        )
    inputs = inputs_of(store, shown)
    newest = run_queries.last_run(store)
    return Runs.model_validate(
        {
            "data": [summary(run, inputs[run["_id"]]) for run in shown],
            "pagination": {"limit": limit, "next_cursor": next_cursor, "has_more": more},
            "run_id": newest["_id"] if newest else None,
        }
    )


@router.get(
    "/runs/<run_id>",
    summary="A run",
    description="A run as it is now: its status, what each source brought, its batches, and "
    "what failed. It exists from the moment that its id was returned.",
    responses=responses("The run.", 400, 404),
    tags=["runs"],
    operation_id="getRun",
)
def get_run(
    request: Request,
    run_id: Annotated[str, Path(description="Its id.", examples=[RUN_ID])],
) -> Run:
    """One run, flat."""
    if len(run_id) > LONGEST_ID or not run_id.isprintable():
        raise NotFound(f"There is no run {run_id[:LONGEST_ID]!r}. GET /runs lists them.")
    store = services(request).store()
    run = get(store, run_id)
    inputs = inputs_of(store, [run])[run_id]
    states = reports.batch_states(store, run_id)
    batches = reports.of_run(store, run_id, limit=LISTED_BATCHES)
    failed, failed_total = _failed(store, run, states)
    mappings = {name: run.get(name, []) for name in _MAPPINGS}
    return Run.model_validate(
        {
            **summary(run, inputs),
            "batch_states": states,
            "batches": [_batch(batch) for batch in batches],
            "failed_batches": failed,
            "failed_batches_total": failed_total,
            "force": run.get("force", False),
            **mappings,
            "resume_from": run.get("resume_from"),
            "pre_run_counts": run.get("pre_run_counts"),
            "backfill": _backfill(run, inputs),
            "under_way": [
                {"source": source, "run_id": other}
                for source, other in run.get("under_way", {}).items()
            ],
        }
    )


def _backfill(run: StoredRun, inputs: list[Result]) -> Part | None:
    """What a backfill asks for, and how far it is; None of other runs."""
    if "backfill" not in run:
        return None
    stored = run["backfill"]
    far = backfills.progress(run, inputs, clock.now())
    cancelled = stored.get("cancelled_at")
    return {
        "source": inputs[0]["source"],
        "interval": stored["interval"],
        "start": clock.iso(stored["start"]),
        "end": clock.iso(stored["end"]),
        "gaps": stored["gaps"],
        **asdict(far),
        "estimated_end": clock.iso(far.estimated_end) if far.estimated_end else None,
        "cancelled_at": clock.iso(cancelled) if cancelled else None,
    }


def _failed(store: Store, run: StoredRun, states: Mapping[str, int]) -> tuple[list[Part], int]:
    """The first batches that a run did not load, and how many there are.

    A run that ended keeps them as they were then, and what became of each is looked up.
    """
    kept = run.get("failed_batches")
    if kept is None:
        closed = run["status"] != StoredStatus.RUNNING
        found = reports.batches_not_loaded(
            store, run["_id"], unfinished=closed, limit=LISTED_BATCHES
        )
        total = states["total"] - states["loaded"] if closed else states["failed"]
        failed = [_failed_batch(reports.failure(batch)) for batch in found]
    else:
        total = run["failed_batches_total"]
        owners = reports.owners(store, [batch["batch_id"] for batch in kept])
        failed = [_failed_batch(batch) | _now(owners.get(batch["batch_id"])) for batch in kept]
    return failed, total


def _failed_batch(batch: FailedBatch) -> Part:
    return {**batch, "error": cause(batch["error"]), "now": None}


def _now(batch: StoredBatch | None) -> Part:
    if batch is None:
        return {"now": None}
    return {
        "parked": batch.get("parked", False),
        "now": {"run_id": batch["run_id"], "state": batch["state"]},
    }


def inputs_of(store: Store, runs: list[StoredRun]) -> dict[str, list[Result]]:
    """What became of the inputs of runs: as stored for those that ended, else as it is now."""
    found = {run["_id"]: run["results"] for run in runs if "results" in run}
    if under_way := [run for run in runs if run["_id"] not in found]:
        found |= summarise_inputs(store, under_way)
    resolved = reports.resolved_counts(store, list(found))
    return {
        run_id: [{**r, "resolved": resolved.get((run_id, r["input"]), 0)} for r in results]
        for run_id, results in found.items()
    }


def summary(run: StoredRun, inputs: list[Result]) -> Part:
    """The fields that a run has in a list and by itself."""
    started, ended = run["started_at"], run["ended_at"]
    totals: Totals = {
        **(run.get("totals") or total(inputs)),
        "resolved": sum(i.get("resolved", 0) for i in inputs),
    }
    return {
        "run_id": run["_id"],
        "status": run["status"],
        "trigger": run["trigger"],
        "started_at": clock.iso(started),
        "ended_at": clock.iso(ended) if ended else None,
        "duration": round((ended - started).total_seconds(), 3) if ended else None,
        "sources": [
            {
                **_described(run["inputs"].get(i["input"])),
                **i,
                "incremental": incremental(i),
                "error": cause(i.get("error")),
            }
            for i in inputs
        ],
        "totals": totals,
        "incremental": incremental(totals),
        "error": cause(run.get("error")),
    }


def incremental(counts: StoredCounts) -> Part:
    """What was changed, of what became of rows."""
    return {
        "new": counts["inserted"],
        "updated": counts["updated"],
        "unchanged": counts["unchanged"],
    }


def _described(note: StoredInput | None) -> Part:
    """What the run's note on an input says of it, beyond what was counted."""
    if note is None:
        return {}
    version, layout = note.get("object"), note.get("layout")
    return {
        "reason": note.get("reason"),
        "left_out": note.get("left_out", 0),
        "bucket": version and version["bucket"],
        "key": version and version["key"],
        "version_id": version and version["version_id"],
        "dataset": layout and layout["dataset"],
        "warnings": note.get("warnings", []),
    }


def cause(error: StoredError | None) -> Part | None:
    """A stored error as it is told."""
    if error is None:
        return None
    return {
        "code": error.get("code", "unknown"),
        "type": error.get("type"),
        "message": error.get("message", ""),
        "payload_head": error.get("payload_head"),
        "next_probe_at": error.get("next_probe_at"),
    }


def _batch(batch: StoredBatch) -> Part:
    return {
        "source": batch["source"],
        "input": batch["input"],
        "number": batch["number"],
        "rows": batch["rows"],
        "state": batch["state"],
        "attempts": batch["attempts"],
        "counts": batch.get("counts"),
    }
