"""Opening a run: the first step of an execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from marketdata.documents.runs import InputState, InputStatus
from marketdata.errors import StateConflict
from marketdata.objects import CSV, UploadsBucket
from marketdata.runs import going_on, resuming, triggers, uploads
from marketdata.runs.starting import WorkflowStarter, create, end_orphans
from marketdata.runs.triggers import RunRequest
from marketdata.runs.uploads import NotTaken
from marketdata.store import backfills, runs
from marketdata.store.batches import batch
from marketdata.store.connection import Store


class OpenedInput(TypedDict):
    """An input of a run, as the state machine hands it from step to step."""

    run_id: str
    """The run."""
    input: str
    """The input: the source, or the id of an object's version."""
    source: str
    """The source, after which the extracting function is named; `csv` for uploads."""


class OpenedRun(TypedDict):
    """What an execution has to do."""

    run_id: str
    """The run: that of this execution, or the one that it leaves its inputs to."""
    proceed: bool
    """False when it has nothing to do: the event came twice, or other runs have locked all
    sources or the object."""
    inputs: list[OpenedInput]
    """The inputs that are to be extracted and loaded."""


def open_run(
    store: Store,
    given: Mapping[str, Any],
    execution: str,
    sources: Sequence[str],
    bucket: UploadsBucket | None = None,
    *,
    starter: WorkflowStarter | None = None,
    most_resumptions: int = batch.MAX_RESUMPTIONS,
) -> OpenedRun:
    """The first step of an execution: which run this is and what it has to do.

    The hourly rule and a refresh take the sources that are free, and every upload that is not
    loaded. An upload's event takes its object version and nothing else; see `uploads`. Of each of
    its inputs the run then gets the lease, and what earlier runs have left undone.

    Args:
        store: the database.
        given: the execution's input: the event that started it, or the id of the run on demand
            that it was started for.
        execution: its id.
        sources: the API sources.
        bucket: the bucket for uploads; without one, none are looked for.
        starter: starts the next execution of backfills that wait for one; without it, none does.
        most_resumptions: how often a batch or an object that failed is tried by later runs.

    Returns:
        What the execution has to do.

    Raises:
        InvalidInput: nothing starts a run with such an input.
        NotFound: there is no run on demand of that id.
        TransientError: MongoDB or, for an upload, S3 did not answer.
    """
    opened = _open(store, given, execution, sources, bucket, most_resumptions)
    if starter is not None:
        # After runs that died were dealt with: backfills among them wait for an execution now.
        going_on.start_waiting(store, starter)
    return opened


def _open(
    store: Store,
    given: Mapping[str, Any],
    execution: str,
    sources: Sequence[str],
    bucket: UploadsBucket | None,
    most_resumptions: int,
) -> OpenedRun:
    requested = triggers.requested_run(given)
    if requested is not None:
        end_orphans(store, most_resumptions=most_resumptions)
        asked = RunRequest.of(runs.get(store, requested).get("asked", {}))
        return _begin(store, requested, execution, asked, bucket)
    trigger = triggers.parse(given)
    if trigger.upload is not None:
        taken = uploads.take_uploaded(
            store, trigger, trigger.upload, execution, bucket, most_resumptions=most_resumptions
        )
        if isinstance(taken, NotTaken):
            return _nothing_to_do(taken.run_id)
        return _acquire(store, trigger.run_id)
    created = create(store, trigger, sources, most_resumptions=most_resumptions)
    if created.run_id != trigger.run_id:
        return _nothing_to_do(created.run_id)
    return _begin(store, trigger.run_id, execution, trigger.asked, bucket)


def _begin(
    store: Store, run_id: str, execution: str, asked: RunRequest, bucket: UploadsBucket | None
) -> OpenedRun:
    """Begin a run of the hourly rule or on demand, which may take uploads as well."""
    if not runs.adopt(store, run_id, execution):
        return _nothing_to_do(run_id)
    if "backfill" in runs.get(store, run_id):
        backfills.begin_part(store, run_id)
        return _acquire(store, run_id)
    try:
        if asked.resume is not None:
            uploads.reclaim_resumed(store, run_id)
        elif bucket is not None and _takes_uploads(asked):
            uploads.add_unloaded(store, run_id, bucket)
    except StateConflict:
        # It has ended meanwhile.
        return _nothing_to_do(run_id)
    return _acquire(store, run_id)


def _acquire(store: Store, run_id: str) -> OpenedRun:
    """Acquire the lease of each input that a run has locked, and list them for the state machine.

    There is nothing to do if the run has ended meanwhile, with its execution or as an orphan.
    """
    try:
        for name, stored in runs.get(store, run_id)["inputs"].items():
            state = InputState.of(stored)
            if state.status is not InputStatus.FAILED:
                resuming.acquire(store, run_id, name, state)
    except StateConflict:
        # What it had locked is free.
        return _nothing_to_do(run_id)
    inputs = runs.get(store, run_id)["inputs"]
    if (reclaimed := resuming.latest_reclaimed(inputs)) is not None:
        runs.set_fields(store, run_id, {"resume_from": reclaimed})
    states = {name: InputState.of(stored) for name, stored in inputs.items()}
    return {
        "run_id": run_id,
        "proceed": True,
        "inputs": [
            {"run_id": run_id, "input": name, "source": state.source}
            for name, state in states.items()
            if state.status is not InputStatus.FAILED
        ],
    }


def _takes_uploads(asked: RunRequest) -> bool:
    return asked.sources is None or CSV in asked.sources


def _nothing_to_do(run_id: str) -> OpenedRun:
    return {"run_id": run_id, "proceed": False, "inputs": []}
