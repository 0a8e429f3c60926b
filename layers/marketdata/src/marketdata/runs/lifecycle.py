"""Opening and closing runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import batched
from typing import Any, Protocol

from marketdata import clock
from marketdata.errors import MarketDataError, StateConflict, StoreUnavailable
from marketdata.objects import ObjectVersion, Uploads, is_upload
from marketdata.runs import triggers
from marketdata.runs.triggers import Trigger
from marketdata.store import batches as checkpoints
from marketdata.store import objects, runs
from marketdata.store.batches import COUNTS
from marketdata.store.connection import Document, Store

MAX_UPLOADS = 200
"""Object versions that one run takes at most: its document and its execution have limits."""

_LOOKUP = 1_000

FAILED, PARTIAL, SUCCESS, RUNNING = "failed", "partial_success", "success", "running"


class Engine(Protocol):
    """What carries a run out: Step Functions, seen from here."""

    def start(self, run_id: str, envelope: Mapping[str, Any]) -> str:
        """Start the execution named after the run; returns its id.

        Starting it a second time with the same input finds the first.

        Raises:
            TransientError: it could not be started now.
        """


def create(
    store: Store,
    trigger: Trigger,
    sources: Sequence[str],
    pre_run_counts: Mapping[str, int] | None = None,
    *,
    upload: ObjectVersion | None = None,
) -> Document | None:
    """Create the run of a trigger, with one input per source, or with the uploaded object.

    Runs that gave no sign of life for longer than their lease are ended first: what died
    with its execution must not hold its inputs for ever.

    Returns:
        None when it was created, else the run in the way; see `store.runs.create`.
    """
    for orphan in runs.expired(store, clock.now()):
        close(
            store,
            orphan["_id"],
            errors=[
                {
                    "code": "expired",
                    "message": "No step of this run gave a sign of life for 20 minutes, so it was "
                    "ended. Its execution in Step Functions shows what happened.",
                }
            ],
        )
    inputs: Document = {name: {"source": name, "status": "pending"} for name in sources}
    if upload is not None:
        inputs[upload.id] = objects.input_note(upload)
    now = clock.now()
    return runs.create(
        store,
        {
            "_id": trigger.run_id,
            "trigger": trigger.kind,
            "event_id": trigger.event_id,
            "event_time": trigger.time,
            "execution": None,
            "status": RUNNING,
            "started_at": now,
            "ended_at": None,
            "expires_at": now + runs.LEASE,
            "holds": list(inputs),
            "inputs": inputs,
            "pre_run_counts": pre_run_counts,
        },
    )


def request(
    store: Store,
    engine: Engine,
    sources: Sequence[str],
    pre_run_counts: Mapping[str, int] | None = None,
) -> tuple[str, bool]:
    """Start a run on demand, unless one is under way.

    The run exists before its execution, and from the moment its id is given out.

    Returns:
        The run's id, and whether it was started by this call.
    """
    trigger = triggers.parse(triggers.refresh_envelope())
    other = create(store, trigger, sources, pre_run_counts)
    if other is not None:
        return other["_id"], False
    try:
        engine.start(trigger.run_id, trigger.envelope)
    except Exception as error:
        # Without an execution nobody would ever close it.
        close(store, trigger.run_id, errors=[checkpoints.describe(error)])
        raise
    return trigger.run_id, True


def open_run(
    store: Store,
    envelope: Mapping[str, Any],
    execution: str,
    sources: Sequence[str],
    uploads: Uploads | None = None,
) -> Document:
    """The first step of an execution: which run this is and what it has to do.

    The hourly rule and a refresh take the sources, and every uploaded object version that no
    run has taken. An upload takes its object version and nothing else.

    Args:
        store: the database.
        envelope: the event that started the execution.
        execution: its id.
        sources: the API sources.
        uploads: the bucket for uploads; without one, none are looked for.

    Returns:
        `{run_id, proceed, inputs}`: `proceed` is false when this execution has nothing to
        do (the event came twice, or another run holds the sources or the object), else
        `inputs` lists `{run_id, input, source}`.

    Raises:
        InvalidInput: the envelope starts no run.
        TransientError: MongoDB or, for an upload, S3 did not answer.
    """
    trigger = triggers.parse(envelope)
    upload = None
    if trigger.upload is not None:
        upload = _find_upload(trigger.upload, uploads)
        taken_by = objects.owner(store, upload.id) if upload else trigger.run_id
        if upload is None or taken_by not in (None, trigger.run_id):
            return _nothing_to_do(taken_by or trigger.run_id)
    other = create(store, trigger, [] if upload else sources, upload=upload)
    if other is not None and other["_id"] != trigger.run_id:
        return _nothing_to_do(other["_id"])
    if not runs.adopt(store, trigger.run_id, execution):
        return _nothing_to_do(trigger.run_id)
    if upload is not None:
        taken_by = objects.claim(store, upload, trigger.run_id)
        if taken_by != trigger.run_id:
            # The run that had it ended between the look above and the creation of this one.
            objects.discard_run(store, trigger.run_id)
            return _nothing_to_do(taken_by)
    elif uploads is not None:
        _take_uploads(store, trigger.run_id, uploads)
    document = runs.get(store, trigger.run_id)
    return {
        "run_id": trigger.run_id,
        "proceed": True,
        "inputs": [
            {"run_id": trigger.run_id, "input": name, "source": note["source"]}
            for name, note in document["inputs"].items()
            if note["status"] != FAILED
        ],
    }


def _nothing_to_do(run_id: str) -> Document:
    return {"run_id": run_id, "proceed": False, "inputs": []}


def _find_upload(told: ObjectVersion, uploads: Uploads | None) -> ObjectVersion | None:
    """The uploaded object version that an event tells of; None if runs don't take it."""
    if uploads is None or told.bucket != uploads.bucket:
        return None
    found = uploads.locate(told)
    return found if is_upload(found.key) else None


def _take_uploads(store: Store, run_id: str, uploads: Uploads) -> None:
    """Make the oldest object versions that no run has taken inputs of a run.

    If they can't be listed, the run says so and goes on without: a later one finds them.
    """
    try:
        oldest = nsmallest(
            MAX_UPLOADS + 1, _untaken(store, uploads), key=lambda v: (v.last_modified, v.id)
        )
    except StoreUnavailable:
        raise
    except MarketDataError as error:
        note = {"source": "csv", "status": FAILED, "error": checkpoints.describe(error)}
        runs.set_input(store, run_id, "uploads", note)
        return
    objects.add_to_run(store, run_id, oldest[:MAX_UPLOADS])


def _untaken(store: Store, uploads: Uploads) -> Iterator[ObjectVersion]:
    for page in batched(uploads.versions(), _LOOKUP, strict=False):
        taken = objects.taken(store, [version.id for version in page])
        yield from (version for version in page if version.id not in taken)


def close(store: Store, run_id: str, errors: Sequence[Document] = ()) -> Document:
    """End a run: its status and totals follow from its batches and inputs.

    Args:
        store: the database.
        run_id: the run.
        errors: what went wrong outside the inputs, each `{code, message}` and, where it
            belongs to one, `input`.

    Returns:
        The run as `summary` gives it. Closing twice changes nothing.
    """
    document = runs.get(store, run_id)
    if document["status"] == RUNNING:
        for error in errors:
            name = error.get("input")
            if name in document["inputs"] and not document["inputs"][name].get("error"):
                document["inputs"][name]["error"] = {k: v for k, v in error.items() if k != "input"}
        inputs = summarise_inputs(store, [document], closing=True)[run_id]
        general = [e for e in errors if e.get("input") not in document["inputs"]]
        totals = {name: sum(i[name] for i in inputs) for name in ("extracted", "rows_in", *COUNTS)}
        fields: Document = {
            "status": _status([i["status"] for i in inputs], failed=bool(general)),
            "results": inputs,
            "totals": totals,
        }
        if general:
            fields["error"] = general[0]
        runs.end(store, run_id, fields)
    return runs.get(store, run_id)


def _status(inputs: Sequence[str], *, failed: bool) -> str:
    if not failed and all(status == SUCCESS for status in inputs):
        return SUCCESS
    if all(status == FAILED for status in inputs):
        return FAILED
    return PARTIAL


def summarise_inputs(
    store: Store, documents: Sequence[Document], *, closing: bool = False
) -> dict[str, list[Document]]:
    """What became of each input of some runs so far, by run id.

    Args:
        store: the database.
        documents: the runs.
        closing: nothing more will happen: what is unfinished counts as failed.
    """
    sums = checkpoints.summarise(store, [d["_id"] for d in documents])
    return {
        d["_id"]: [
            _summarise_input(name, note, sums.get((d["_id"], name)), closing=closing)
            for name, note in d["inputs"].items()
        ]
        for d in documents
    }


def _summarise_input(
    name: str, note: Document, sums: Document | None, *, closing: bool
) -> Document:
    sums = sums or {}
    batches, loaded = sums.get("batches", 0), sums.get("loaded", 0)
    extracted = note["status"] == "extracted"
    if extracted and batches == loaded:
        status = SUCCESS
    elif not closing and note["status"] != FAILED:
        status = RUNNING
    else:
        status = PARTIAL if loaded else FAILED
    error = note.get("error")
    if error is None and closing and status != SUCCESS:
        error = (
            {
                "code": "batches_failed",
                "message": f"{batches - loaded} of {batches} batches were not loaded.",
            }
            if extracted
            else {
                "code": "not_extracted",
                "message": f"The extraction of {name} did not come to its end.",
            }
        )
    started, ended = note.get("started_at"), sums.get("last") or note.get("extracted_at")
    return {
        "source": note["source"],
        "input": name,
        "status": status,
        "extracted": sums.get("rows", 0),
        "rows_in": sums.get("rows_in", 0),
        **{count: sums.get(count, 0) for count in COUNTS},
        "batches": batches,
        "failed_batches": batches - loaded if closing else sums.get("failed", 0),
        "pages": note.get("pages", 0),
        "throttled": note.get("throttled", 0),
        "seconds": round((ended - started).total_seconds(), 3) if started and ended else None,
        "error": error,
    }


def require_running(store: Store, run_id: str) -> None:
    """Refuse work for a run that has ended.

    Raises:
        StateConflict: names the run.
    """
    if not runs.renew(store, run_id):
        raise StateConflict(f"Run {run_id} has ended; its steps have nothing more to do.")
