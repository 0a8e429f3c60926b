"""Opening a run: the first step of an execution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import batched
from typing import Any, TypedDict

from marketdata.documents.runs import InputChanges
from marketdata.errors import (
    MarketDataError,
    StateConflict,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from marketdata.objects import ObjectVersion, Uploads, is_upload
from marketdata.runs import resuming, triggers
from marketdata.runs.resuming import CSV
from marketdata.runs.starting import create, end_orphans
from marketdata.runs.summary import FAILED
from marketdata.runs.triggers import RunRequest, Trigger
from marketdata.store import objects, run_inputs, runs
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


MAX_UPLOADS = 200
"""Object versions that one run takes at most: its document and its execution have limits."""

_LOOKUP = 1_000


def open_run(
    store: Store,
    given: Mapping[str, Any],
    execution: str,
    sources: Sequence[str],
    uploads: Uploads | None = None,
    *,
    most_resumptions: int = batch.MAX_RESUMPTIONS,
) -> OpenedRun:
    """The first step of an execution: which run this is and what it has to do.

    The hourly rule and a refresh take the sources that are free, and every uploaded object
    version that no run has taken, or that an ended one has not loaded to its end. An upload takes
    its object version and nothing else. Of each of its inputs the run then gets the lease, and
    what earlier runs have left undone.

    Args:
        store: the database.
        given: the execution's input: the event that started it, or the id of the run on demand
            that it was started for.
        execution: its id.
        sources: the API sources.
        uploads: the bucket for uploads; without one, none are looked for.
        most_resumptions: how often a batch or an object that failed is tried by later runs.

    Returns:
        What the execution has to do.

    Raises:
        InvalidInput: nothing starts a run with such an input.
        NotFound: there is no run on demand of that id.
        TransientError: MongoDB or, for an upload, S3 did not answer.
    """
    requested = triggers.requested_run(given)
    if requested is not None:
        end_orphans(store, most_resumptions=most_resumptions)
        asked = RunRequest.of(runs.get(store, requested).get("asked", {}))
        return _begin(store, requested, execution, asked, uploads)
    trigger = triggers.parse(given)
    if trigger.upload is not None:
        return _open_upload(store, trigger, trigger.upload, execution, uploads, most_resumptions)
    created = create(store, trigger, sources, most_resumptions=most_resumptions)
    if created.run_id != trigger.run_id:
        return _nothing_to_do(created.run_id)
    return _begin(store, trigger.run_id, execution, trigger.asked, uploads)


def _begin(
    store: Store, run_id: str, execution: str, asked: RunRequest, uploads: Uploads | None
) -> OpenedRun:
    """Begin a run of the hourly rule or on demand, which may take uploads as well."""
    if not runs.adopt(store, run_id, execution):
        return _nothing_to_do(run_id)
    if asked.resume is not None:
        objects.take_held(store, run_id, runs.get(store, run_id)["inputs"])
    elif uploads is not None and _takes_uploads(asked):
        _take_uploads(store, run_id, uploads)
    return _acquire(store, run_id)


def _open_upload(
    store: Store,
    trigger: Trigger,
    told: ObjectVersion,
    execution: str,
    uploads: Uploads | None,
    most_resumptions: int,
) -> OpenedRun:
    """Open the run of an uploaded object version, unless runs don't take it or one has taken it."""
    run_id = trigger.run_id
    upload = _find_upload(told, uploads)
    if upload is None:
        return _nothing_to_do(run_id)
    taken_by = objects.owner(store, upload.id)
    if taken_by not in (None, run_id):
        return _nothing_to_do(taken_by or run_id)
    created = create(store, trigger, (), upload=upload, most_resumptions=most_resumptions)
    if created.run_id != run_id:
        return _nothing_to_do(created.run_id)
    if not runs.adopt(store, run_id, execution):
        return _nothing_to_do(run_id)
    taken_by = objects.claim(store, upload, run_id)
    if taken_by != run_id:
        # The run that had it ended between the look above and the creation of this one.
        objects.discard_run(store, run_id)
        return _nothing_to_do(taken_by)
    return _acquire(store, run_id)


def _acquire(store: Store, run_id: str) -> OpenedRun:
    """Acquire the lease of each input that a run has locked, and list them for the state machine.

    There is nothing to do if the run has ended meanwhile, with its execution or as an orphan.
    """
    try:
        for name, note in runs.get(store, run_id)["inputs"].items():
            if note["status"] != FAILED:
                resuming.acquire(store, run_id, name, note)
    except StateConflict:
        # What it had locked is free.
        return _nothing_to_do(run_id)
    inputs = runs.get(store, run_id)["inputs"]
    if (resume_from := resuming.told(inputs)) is not None:
        runs.set_fields(store, run_id, {"resume_from": resume_from})
    return {
        "run_id": run_id,
        "proceed": True,
        "inputs": [
            {"run_id": run_id, "input": name, "source": note["source"]}
            for name, note in inputs.items()
            if note["status"] != FAILED
        ],
    }


def _takes_uploads(asked: RunRequest) -> bool:
    return asked.sources is None or CSV in asked.sources


def _nothing_to_do(run_id: str) -> OpenedRun:
    return {"run_id": run_id, "proceed": False, "inputs": []}


def _find_upload(told: ObjectVersion, uploads: Uploads | None) -> ObjectVersion | None:
    """The uploaded object version that an event tells of; None if runs don't take it."""
    if uploads is None or told.bucket != uploads.bucket:
        return None
    found = uploads.locate(told)
    return found if is_upload(found.key) else None


def _take_uploads(store: Store, run_id: str, uploads: Uploads) -> None:
    """Make object versions inputs of a run: those left undone, then the oldest untaken ones.

    If they can't be listed, the run says so and goes on without: a later one finds them.
    """
    left = objects.left(store, MAX_UPLOADS)
    objects.add_to_run(store, run_id, [version for version, _ in left], {v.id: r for v, r in left})
    try:
        oldest = nsmallest(
            MAX_UPLOADS + 1, _untaken(store, uploads), key=lambda v: (v.last_modified, v.id)
        )
    except (StoreUnavailable, StoreFull, StoreRefused):
        raise
    except MarketDataError as error:
        note: InputChanges = {"source": CSV, "status": FAILED, "error": batch.describe(error)}
        run_inputs.set_input(store, run_id, objects.LISTING, note)
        return
    objects.add_to_run(store, run_id, oldest[: MAX_UPLOADS - len(left)])


def _untaken(store: Store, uploads: Uploads) -> Iterator[ObjectVersion]:
    for page in batched(uploads.versions(), _LOOKUP, strict=False):
        taken = objects.taken(store, [version.id for version in page])
        yield from (version for version in page if version.id not in taken)
