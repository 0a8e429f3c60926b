"""Opening and closing runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from heapq import nsmallest
from itertools import batched
from typing import Any, Protocol

from marketdata.errors import (
    InvalidInput,
    MarketDataError,
    StateConflict,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from marketdata.logs import make_logger
from marketdata.objects import ObjectVersion, Uploads, is_upload
from marketdata.runs import alerts, resuming, triggers
from marketdata.runs.resuming import CSV
from marketdata.runs.triggers import Asked, Trigger
from marketdata.store import batches as checkpoints
from marketdata.store import leases, objects, runs
from marketdata.store.batches import COUNTS
from marketdata.store.connection import Document, Store
from marketdata.store.sources import move_watermark

_LOG = make_logger()

MAX_UPLOADS = 200
"""Object versions that one run takes at most: its document and its execution have limits."""

_LOOKUP = 1_000

_OUTAGES = (
    "transient",
    "store_unavailable",
    "store_full",
    "store_refused",
    "query_timeout",
    "TransientError",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
)
"""Errors of an input, told by the library or caught by Step Functions, that no file causes."""

KEPT_FAILURES = 100
"""Batches that were not loaded which a run keeps the reasons of; it keeps how many there were."""

FAILED, PARTIAL, SUCCESS, RUNNING = "failed", "partial_success", "success", "running"
SKIPPED, THROTTLED = "skipped", "throttled"
"""Of inputs only: nothing was new, or the source was not to be asked; the source's quota was used
up for longer than a run waits."""
DONE = ("extracted", SKIPPED)
"""An extraction that came to its end."""


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
    most_resumptions: int = checkpoints.MAX_RESUMPTIONS,
) -> Document | None:
    """Create the run of a trigger, with one input for each thing that it has to take.

    These are the sources, or those of them that are asked for; the uploaded object; or what the
    run to be resumed has left. Sources that other runs hold are left to these, as long as there
    is one that is free; the run says so in `under_way`.

    Runs that gave no sign of life for longer than their lease are ended first: what died with its
    execution must not hold its inputs for ever.

    Returns:
        None when it was created, else the run in the way: the same one, or the one that holds
        the first of the inputs when none of them is free.

    Raises:
        NotFound: the run to be resumed does not exist.
        InvalidInput: a source that is asked for does not exist.
        StateConflict: the run to be resumed has left nothing.
    """
    for orphan in runs.expired(store):
        message = (
            "No step of this run gave a sign of life for 20 minutes, so it was ended. Its "
            "execution in Step Functions shows what happened."
        )
        error = {"code": "expired", "message": message}
        try:
            close_dead(store, orphan["_id"], error, most_resumptions=most_resumptions)
        except Exception:  # noqa: BLE001 - one orphan must not stop every other run
            # It stays in the way of its own inputs, and of nobody else's.
            _LOG.exception("Run %s is an orphan and could not be ended.", orphan["_id"])
    if (known := runs.find(store, trigger.run_id)) is not None:
        return known
    asked, inputs = trigger.asked, {}
    if upload is not None:
        inputs = {upload.id: objects.input_note(upload)}
    elif asked.resume is not None:
        left = resuming.leftovers(store, asked)
        if left.under_way is not None:
            return left.under_way
        inputs = left.inputs
    else:
        if asked.sources is not None:
            resuming.check_sources(asked.sources, [*sources, CSV], "here")
        inputs = {
            name: {"source": name, "status": "pending"}
            for name in sources
            if asked.sources is None or name in asked.sources
        }
    document = {
        "_id": trigger.run_id,
        "trigger": trigger.kind,
        "event_id": trigger.event_id,
        "event_time": trigger.time,
        "execution": None,
        "status": RUNNING,
        "started_at": None,
        "ended_at": None,
        "expires_at": None,
        # A run of uploads alone holds the looking for them.
        "holds": list(inputs) or [objects.LISTING],
        **({"asked": asked.detail()} if asked.detail() else {}),
        "force": asked.force,
        "inputs": inputs,
        "under_way": {},
        "pre_run_counts": pre_run_counts,
    }
    if upload is not None or asked.resume is not None:
        return runs.create(store, document)
    return _create_of_free(store, document)


def _create_of_free(store: Store, document: Document) -> Document | None:
    """Create a run of those of its inputs that no other run holds; see `create`.

    Which are free is only looked up when some are not, and may have changed by the time that the
    run is created; then it is looked up again.
    """
    wanted = document["inputs"]
    # Each upload is held by itself, so while some are loaded others can be looked for.
    uploads = CSV in document.get("asked", {}).get("sources", ())
    while (other := runs.create(store, document)) is not None:
        if other["_id"] == document["_id"] or not document["inputs"]:
            return other
        held = runs.holders(store, list(wanted))
        free = {name: note for name, note in wanted.items() if name not in held}
        if not free and not uploads:
            return runs.get(store, next(iter(held.values())))
        document = {
            **document,
            "inputs": free,
            "holds": list(free) or [objects.LISTING],
            "under_way": held,
        }
    return None


def under_way(store: Store, asked: Asked, sources: Sequence[str]) -> dict[str, str]:
    """Which run has each of the sources that are asked for, of those that one has, by source.

    Args:
        store: the database.
        asked: what is asked for.
        sources: the API sources that there are.
    """
    if asked.resume is not None:
        return {}
    names = {name: name for name in sources if asked.sources is None or name in asked.sources}
    if asked.sources is not None and CSV in asked.sources:
        names[objects.LISTING] = CSV
    held = runs.holders(store, list(names))
    return {names[input_id]: run_id for input_id, run_id in held.items()}


def request(
    store: Store,
    engine: Engine,
    sources: Sequence[str],
    pre_run_counts: Mapping[str, int] | None = None,
    asked: Asked | None = None,
    *,
    most_resumptions: int = checkpoints.MAX_RESUMPTIONS,
) -> tuple[str, bool]:
    """Start a run on demand, unless others have all that it is to take.

    The run exists before its execution, and from the moment its id is given out.

    Returns:
        The run's id, and whether it was started by this call.

    Raises:
        NotFound, InvalidInput, StateConflict: see `create`.
        TransientError: Step Functions or MongoDB did not answer.
    """
    trigger = triggers.parse(triggers.refresh_envelope(asked))
    other = create(store, trigger, sources, pre_run_counts, most_resumptions=most_resumptions)
    if other is not None:
        return other["_id"], False
    try:
        engine.start(trigger.run_id, trigger.envelope)
    except Exception as error:
        # Without an execution nobody would ever close it.
        errors = [checkpoints.describe(error)]
        close(store, trigger.run_id, errors=errors, most_resumptions=most_resumptions)
        raise
    return trigger.run_id, True


def open_run(
    store: Store,
    envelope: Mapping[str, Any],
    execution: str,
    sources: Sequence[str],
    uploads: Uploads | None = None,
    *,
    most_resumptions: int = checkpoints.MAX_RESUMPTIONS,
) -> Document:
    """The first step of an execution: which run this is and what it has to do.

    The hourly rule and a refresh take the sources that are free, and every uploaded object
    version that no run has taken, or that an ended one has not loaded to its end. An upload takes
    its object version and nothing else. Of each of its inputs the run then gets the lease, and
    what earlier runs have left undone.

    Args:
        store: the database.
        envelope: the event that started the execution.
        execution: its id.
        sources: the API sources.
        uploads: the bucket for uploads; without one, none are looked for.
        most_resumptions: how often a batch or an object that failed is tried by later runs.

    Returns:
        `{run_id, proceed, inputs}`: `proceed` is false when this execution has nothing to
        do (the event came twice, or other runs hold all sources or the object), else
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
    other = create(store, trigger, sources, upload=upload, most_resumptions=most_resumptions)
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
    elif trigger.asked.resume is not None:
        objects.take_held(store, trigger.run_id, runs.get(store, trigger.run_id)["inputs"])
    elif uploads is not None and _takes_uploads(trigger.asked):
        _take_uploads(store, trigger.run_id, uploads)
    try:
        return _acquire(store, trigger.run_id)
    except StateConflict:
        # It was ended meanwhile, with its execution or as an orphan; what it held is free.
        return _nothing_to_do(trigger.run_id)


def _acquire(store: Store, run_id: str) -> Document:
    """Make what a run holds its own, and list it for the state machine."""
    for name, note in runs.get(store, run_id)["inputs"].items():
        if note["status"] != FAILED:
            resuming.acquire(store, run_id, name, note)
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


def _takes_uploads(asked: Asked) -> bool:
    return asked.sources is None or CSV in asked.sources


def _nothing_to_do(run_id: str) -> Document:
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
        note = {"source": CSV, "status": FAILED, "error": checkpoints.describe(error)}
        runs.set_input(store, run_id, objects.LISTING, note)
        return
    objects.add_to_run(store, run_id, oldest[: MAX_UPLOADS - len(left)])


def _untaken(store: Store, uploads: Uploads) -> Iterator[ObjectVersion]:
    for page in batched(uploads.versions(), _LOOKUP, strict=False):
        taken = objects.taken(store, [version.id for version in page])
        yield from (version for version in page if version.id not in taken)


def close(
    store: Store,
    run_id: str,
    errors: Sequence[Document] = (),
    *,
    most_resumptions: int = checkpoints.MAX_RESUMPTIONS,
) -> Document:
    """End a run: its status and totals follow from its batches and inputs.

    Args:
        store: the database.
        run_id: the run.
        errors: what went wrong outside the inputs, each `{code, message}` and, where it
            belongs to one, `input`.
        most_resumptions: how often a batch or an object that failed is tried by later runs.

    Returns:
        The run as it ended. Closing twice changes nothing.

    Raises:
        StateConflict: another run has one of its inputs; the ending is left to whoever finds
            that this one gives no sign of life any more.
    """
    document = runs.get(store, run_id)
    if document["status"] == RUNNING:
        for name, note in document["inputs"].items():
            if "lease" in note:
                leases.require(store, run_id, name, note["lease"])
        _end(store, run_id, errors, most_resumptions)
    return runs.get(store, run_id)


def close_dead(
    store: Store,
    run_id: str,
    error: Document,
    *,
    most_resumptions: int = checkpoints.MAX_RESUMPTIONS,
) -> Document:
    """End a run in place of its execution, which died, and alert; see `close`.

    A run that has ended by itself is left as it is.
    """
    if runs.get(store, run_id)["status"] == RUNNING:
        # Before its end: who dies in between finds it running, and comes here again.
        alerts.note_died(store, run_id, error["message"])
        _end(store, run_id, [error], most_resumptions)
    return runs.get(store, run_id)


def close_execution(
    store: Store,
    execution: str,
    envelope: Mapping[str, Any],
    error: Document,
    *,
    most_resumptions: int = checkpoints.MAX_RESUMPTIONS,
) -> Document | None:
    """End the run of an execution that is over, and alert; None if it has none that runs.

    Args:
        store: the database.
        execution: its id.
        envelope: the event that had started it; empty if that is not known.
        error: how it ended, as `{code, message}`.
        most_resumptions: how often a batch or an object that failed is tried by later runs.
    """
    run_id = runs.find_by_execution(store, execution)
    if run_id is None:
        run = _named(store, envelope)
        if run is None:
            alerts.note_execution_died(store, execution, error["message"])
            return None
        # A run on demand is there before its execution, which is named after it.
        if run["execution"] is not None or not execution.endswith(f":{run['_id']}"):
            return None
        run_id = run["_id"]
    return close_dead(store, run_id, error, most_resumptions=most_resumptions)


def _named(store: Store, envelope: Mapping[str, Any]) -> Document | None:
    """The run that an event starts, if there is one."""
    try:
        return runs.find(store, triggers.parse(envelope).run_id)
    except InvalidInput:
        return None


def _end(store: Store, run_id: str, errors: Sequence[Document], most_resumptions: int) -> None:
    if not runs.begin_closing(store, run_id):
        return
    # From here on no attempt can close a batch of this run any more, so what is added up stays.
    checkpoints.interrupt(store, run_id)
    checkpoints.park(store, run_id, most_resumptions)
    document = runs.get(store, run_id)
    for error in errors:
        name = error.get("input")
        if name in document["inputs"] and not document["inputs"][name].get("error"):
            document["inputs"][name]["error"] = {k: v for k, v in error.items() if k != "input"}
    inputs = summarise_inputs(store, [document], closing=True)[run_id]
    for result in inputs:
        if leases.is_object(result["input"]):
            _settle(store, document, result, most_resumptions)
        elif result["rows_in"]:
            _move_watermark(store, document, result["input"])
    general = [e for e in errors if e.get("input") not in document["inputs"]]
    totals = {name: sum(i[name] for i in inputs) for name in ("extracted", "rows_in", *COUNTS)}
    failed, count = checkpoints.not_loaded(store, run_id, limit=KEPT_FAILURES)
    fields: Document = {
        "status": _status(inputs, failed=bool(general)),
        "results": inputs,
        "totals": totals,
        "failed_batches": failed,
        "failed_batches_total": count,
    }
    if general:
        fields["error"] = general[0]
    # Before the end, as long as no other run of these sources can have begun.
    alerts.count_outcomes(store, run_id, inputs)
    runs.end(store, run_id, fields)


def _move_watermark(store: Store, run: Document, name: str) -> None:
    lease = run["inputs"][name].get("lease")
    if lease is not None:
        # Whoever has the source by now has a watermark of its own to move.
        with suppress(StateConflict):
            move_watermark(store, name, run["_id"], lease)


def _settle(store: Store, run: Document, result: Document, most_resumptions: int) -> None:
    """Say of an object whether it is done with; of one that is given up, the result says so."""
    name, note = result["input"], run["inputs"][result["input"]]
    if note["status"] == FAILED:
        objects.settle(store, name, run["_id"], refused=True)
    elif note["status"] in DONE:
        # Whatever is left of it, whoever has it: the next run finds what this one did not.
        if not checkpoints.any_left(store, name):
            objects.settle(store, name, run["_id"])
    elif _in_vain(note, result) and objects.settle(store, name, run["_id"], most=most_resumptions):
        cause = (result["error"] or {}).get("message", "")
        result["error"] = {
            "code": "given_up",
            "message": f"{most_resumptions + 1} runs got nowhere with this file; it is given up. "
            f"POST /runs/{run['_id']}/retry tries it again. {cause}",
        }


def _in_vain(note: Document, result: Document) -> bool:
    """Whether a run that extracted an object got nowhere, for no outage that would tell why."""
    if "started_at" not in note or (result["error"] or {}).get("code") in _OUTAGES:
        return False
    got = note.get("progress", {}).get("position", 0) > note.get("resumed_at", 0)
    return not got and result["batches"] == result["failed_batches"]


def _status(inputs: Sequence[Document], *, failed: bool) -> str:
    if not failed and all(map(alerts.succeeded, inputs)):
        return SUCCESS
    if any(
        alerts.succeeded(i) or (i["status"] != FAILED and i["batches"] > i["failed_batches"])
        for i in inputs
    ):
        return PARTIAL
    return FAILED


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
    error = note.get("error")
    status = _input_status(note, sums, closing=closing)
    reason = note.get("reason")
    if status == SKIPPED and error is None and reason is None:
        reason = "Nothing had changed: all of it had been loaded before, with the same content."
    if error is None and status == FAILED and _all_set_aside(note, sums):
        error = {
            "code": "all_quarantined",
            "message": f"Every row was set aside, {sums['rows_in']} of {sums['rows_in']}: "
            "GET /quarantine tells why of each. If the format has changed, POST "
            "/quarantine/replay loads them once the program or the mapping knows the new one.",
        }
    elif error is None and closing and status not in (SUCCESS, SKIPPED):
        error = (
            {
                "code": "batches_failed",
                "message": f"{batches - loaded} of {batches} batches were not loaded.",
            }
            if note["status"] in DONE
            else {
                "code": "not_extracted",
                "message": f"The extraction of {name} did not come to its end.",
            }
        )
    throttling = note.get("throttling") or {}
    started, ended = note.get("started_at"), sums.get("last") or note.get("extracted_at")
    seconds = (ended - started).total_seconds() if started and ended else None
    return {
        "source": note["source"],
        "input": name,
        "status": status,
        "extracted": sums.get("rows", 0),
        "rows_in": sums.get("rows_in", 0),
        **{count: sums.get(count, 0) for count in COUNTS},
        "batches": batches,
        "failed_batches": batches - loaded if closing else sums.get("failed", 0),
        "parked_batches": sums.get("parked", 0),
        "skipped_batches": sums.get("skipped", 0),
        "pages": note.get("pages", 0),
        "unchanged_pages": note.get("unchanged_pages", 0),
        "throttled": throttling.get("events", 0),
        "throttling": throttling or None,
        "resume_from": note.get("resume_from", []),
        # The two times may be of functions whose clocks differ.
        "seconds": None if seconds is None else round(max(0.0, seconds), 3),
        "reason": reason,
        "error": error,
    }


def _all_set_aside(note: Document, sums: Document) -> bool:
    """Whether there were rows, and not one that could be loaded: then it is for somebody to see.

    Also if they are known; but not of the rest that an earlier run has left, which may be short.
    """
    rows: int = sums.get("rows_in", 0)
    return "resumes" not in note and rows > 0 and sums["quarantined"] == rows


def _input_status(note: Document, sums: Document, *, closing: bool) -> str:
    batches, loaded = sums.get("batches", 0), sums.get("loaded", 0)
    told, refused = note["status"], note.get("error") is not None
    if told in DONE and batches == loaded and _all_set_aside(note, sums):
        return FAILED
    if told == SKIPPED and (refused or batches == loaded):
        return SKIPPED
    if told == "extracted" and batches == loaded:
        known = batches > 0 and sums.get("skipped") == batches
        return SKIPPED if known and not refused else SUCCESS
    if told == THROTTLED:
        return THROTTLED
    if not closing and told != FAILED:
        return RUNNING
    return PARTIAL if loaded else FAILED


def note_failure(store: Store, run_id: str, input_id: str, error: Document) -> list[int]:
    """Note why a step of an input failed.

    Returns:
        The numbers of the batches that had been received by then and are to be loaded yet.
    """
    runs.note_error(store, run_id, input_id, error)
    note = runs.get(store, run_id)["inputs"].get(input_id, {})
    if leases.is_object(input_id) and note.get("status") not in DONE:
        # As long as not all of a file was seen it may be refused, which is as a whole.
        return []
    received = note.get("progress", note).get("batches", 0)
    return checkpoints.numbers(store, run_id, input_id, received)


def require_running(store: Store, run_id: str, input_id: str | None = None) -> None:
    """Refuse work for a run that has ended, or that has lost an input to another one.

    Raises:
        StateConflict: names the run.
    """
    if not runs.renew(store, run_id):
        raise StateConflict(f"Run {run_id} has ended; its steps have nothing more to do.")
    if input_id is not None:
        leases.require(store, run_id, input_id)
