"""Closing runs: their status and totals follow from their batches and inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from marketdata.documents.errors import FailedInput, StoredError
from marketdata.documents.runs import (
    InputChanges,
    InputState,
    InputStatus,
    Result,
    ResultStatus,
    Run,
    RunEnding,
    RunStatus,
    StoredInput,
    TriggerKind,
)
from marketdata.errors import InvalidInput, StateConflict
from marketdata.runs import alerts, triggers
from marketdata.runs.summary import summarise_inputs, total
from marketdata.store import asking, backfills, leases, objects, run_inputs, runs
from marketdata.store.batches import batch, reclaiming, reports
from marketdata.store.connection import Store
from marketdata.store.sources.watermarks import move_watermark

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


@dataclass(frozen=True, slots=True)
class Closed:
    """The run of an execution is over: this call ended it, or found it just ended."""

    run: Run
    """The run as it ended."""


@dataclass(frozen=True, slots=True)
class NothingToClose:
    """An execution has no run that is under way."""

    why: str
    """In words."""


KEPT_FAILURES = 100
"""Batches that were not loaded which a run keeps the reasons of; it keeps how many there were."""


def close(
    store: Store,
    run_id: str,
    errors: Sequence[FailedInput] = (),
    *,
    most_resumptions: int = batch.MAX_RESUMPTIONS,
) -> Run:
    """End a run: its status and totals follow from its batches and inputs.

    Args:
        store: the database.
        run_id: the run.
        errors: what went wrong outside the inputs, each `{code, message}` and, where it
            belongs to one, `input`.
        most_resumptions: how often a batch or an object that failed is tried by later runs.

    A backfill whose extraction is not over is not ended: it is let go, for the next execution to
    go on with; see `store.backfills`.

    Returns:
        The run as it ended, or as it was let go. Closing twice changes nothing.

    Raises:
        StateConflict: another run has one of its inputs; the ending is left to whoever finds
            that this one has no heartbeat any more.
    """
    document = runs.get(store, run_id)
    if document["status"] == RunStatus.RUNNING and document["trigger"] == TriggerKind.REPLAY:
        _end_replay(store, document)
    elif document["status"] == RunStatus.RUNNING and not _let_go(
        store, document, failed=bool(errors)
    ):
        for name, note in document["inputs"].items():
            # What waits for an answer was let go: whoever is asked for it may have it by now.
            if "lease" in note and note["status"] != InputStatus.WAITING:
                leases.require(store, run_id, name, note["lease"])
        _end(store, run_id, errors, most_resumptions)
    return runs.get(store, run_id)


def close_dead(
    store: Store,
    run_id: str,
    error: StoredError,
    *,
    most_resumptions: int = batch.MAX_RESUMPTIONS,
) -> Run:
    """End a run in place of its execution, which died, and alert; see `close`.

    A run that has ended by itself is left as it is.
    """
    run = runs.get(store, run_id)
    if run["status"] == RunStatus.RUNNING:
        if run["trigger"] == TriggerKind.REPLAY:
            # Whoever asked for it has had no answer, and the next replay goes on with it.
            _end_replay(store, run, error)
            return runs.get(store, run_id)
        if _let_go(store, run, failed=True):
            return runs.get(store, run_id)
        # Before its end: who dies in between finds it running, and comes here again.
        alerts.note_died(store, run_id, error["message"])
        general: FailedInput = {"code": error["code"], "message": error["message"]}
        _end(store, run_id, [general], most_resumptions)
    return runs.get(store, run_id)


def close_execution(
    store: Store,
    execution: str,
    given: Mapping[str, Any],
    error: StoredError,
    *,
    most_resumptions: int = batch.MAX_RESUMPTIONS,
) -> Closed | NothingToClose:
    """End the run of an execution that is over, and alert.

    An execution that never became a run is alerted of as well.

    Args:
        store: the database.
        execution: its id.
        given: the input that it was started with; empty if that is not known.
        error: how it ended, as `{code, message}`.
        most_resumptions: how often a batch or an object that failed is tried by later runs.

    Returns:
        What happened. There is nothing to close if the execution never became a run, or if its
        run has ended already or is another execution's.
    """
    run_id = runs.find_by_execution(store, execution)
    if run_id is None:
        run = _find_run_of(store, given)
        if run is None:
            alerts.note_execution_died(store, execution, error["message"])
            return NothingToClose("The execution never became a run.")
        # A run on demand is there before its execution, which is named after it.
        if run["execution"] is not None or not execution.endswith(
            f":{backfills.execution_name(run)}"
        ):
            return NothingToClose(
                f"Run {run['_id']} has ended already, or another execution carries it out."
            )
        run_id = run["_id"]
    return Closed(close_dead(store, run_id, error, most_resumptions=most_resumptions))


def _find_run_of(store: Store, given: Mapping[str, Any]) -> Run | None:
    """Find the run of an execution by the execution's input; None if it never became a run."""
    try:
        return runs.find(store, triggers.run_id_of(given))
    except InvalidInput:
        return None


def _let_go(store: Store, run: Run, *, failed: bool) -> bool:
    """Let a backfill go that another execution can go on with; false for all other runs.

    One that is to be ended, as it was cancelled, is told to be so.
    """
    if "backfill" not in run:
        return False
    if backfills.let_go(store, run, failed=failed):
        return True
    if "cancelled_at" in run["backfill"]:
        for name, stored in run["inputs"].items():
            if not InputState.of(stored).status.ended:
                told = backfills.told_as_cancelled(
                    stored.get("pages", 0), run["backfill"]["requests"]
                )
                changes: InputChanges = {"status": InputStatus.CANCELLED, "reason": told}
                run_inputs.set_input_if_unchanged(store, run["_id"], name, {}, changes)
    return False


def _end(store: Store, run_id: str, errors: Sequence[FailedInput], most_resumptions: int) -> None:
    if not runs.begin_closing(store, run_id):
        return
    # From here on no attempt can close a batch of this run any more, so what is added up stays.
    reclaiming.interrupt(store, run_id)
    reclaiming.dead_letter(store, run_id, most_resumptions)
    document = runs.get(store, run_id)
    _note_ends(store, document, errors)
    inputs = summarise_inputs(store, [document], closing=True)[run_id]
    past = document["trigger"] == TriggerKind.BACKFILL
    for result in inputs:
        if leases.is_object(result["input"]):
            _record_outcome_of_object(store, document, result, most_resumptions)
        elif result["rows_in"] and not past:
            _move_watermark(store, document, result["input"])
    general = [e for e in errors if e.get("input") not in document["inputs"]]
    failed, count = reports.not_loaded(store, run_id, limit=KEPT_FAILURES)
    ending: RunEnding = {
        "status": _status(inputs, failed=bool(general)),
        "results": inputs,
        "totals": total(inputs),
        "failed_batches": failed,
        "failed_batches_total": count,
    }
    if general:
        ending["error"] = general[0]
    if not past:
        # Before the end, as long as no other run of these sources can have begun.
        alerts.count_outcomes(store, run_id, inputs)
    runs.end(store, run_id, ending)


def _note_ends(store: Store, document: Run, errors: Sequence[FailedInput]) -> None:
    """Say in what is told of the inputs what nobody could note: what waits, and errors."""
    for name, stored in document["inputs"].items():
        if _waits_unnoted(store, document["_id"], name, stored):
            stored["status"], stored["reason"] = InputStatus.WAITING, asking.why(name)
        reclaiming.drop_uncounted(store, document["_id"], name, InputState.of(stored))
    for error in errors:
        name = error.get("input", "")
        if name in document["inputs"] and not document["inputs"][name].get("error"):
            document["inputs"][name]["error"] = _without_input(error)


def _waits_unnoted(store: Store, run_id: str, name: str, stored: StoredInput) -> bool:
    """Whether an object waits for an answer, and its call died before the run could know."""
    if not leases.is_object(name) or InputStatus(stored["status"]).ended:
        return False
    return asking.waits(store, name, run_id)


def _end_replay(store: Store, run: Run, error: StoredError | None = None) -> None:
    """End the run of a replay, which locks no input and says nothing of any source.

    Its batches that are not loaded stay as they are: the next replay of their rows loads them.
    """
    run_id = run["_id"]
    if not runs.begin_closing(store, run_id):
        return
    inputs = summarise_inputs(store, [runs.get(store, run_id)], closing=True)[run_id]
    failed, count = reports.not_loaded(store, run_id, limit=KEPT_FAILURES)
    ending: RunEnding = {
        "status": _status(inputs, failed=error is not None),
        "results": inputs,
        "totals": total(inputs),
        "failed_batches": failed,
        "failed_batches_total": count,
    }
    if error is not None:
        ending["error"] = error
    runs.end(store, run_id, ending)


def _without_input(error: FailedInput) -> StoredError:
    """An error as the run's note on its input has it."""
    noted = error.copy()
    noted.pop("input", None)
    return noted


def _move_watermark(store: Store, run: Run, name: str) -> None:
    lease = run["inputs"][name].get("lease")
    if lease is not None:
        # Whoever has the source by now has a watermark of its own to move.
        with suppress(StateConflict):
            move_watermark(store, name, run["_id"], lease)


def _record_outcome_of_object(
    store: Store, run: Run, result: Result, most_resumptions: int
) -> None:
    """Record whether an object is loaded, refused or left for a later run.

    One that too many runs got nowhere with is refused, and the run's result says so.
    """
    name = result["input"]
    known = InputState.of(run["inputs"][name])
    if known.status == InputStatus.WAITING:
        # It was noted when it asked, and may be answered by now.
        return
    if known.status == InputStatus.FAILED:
        objects.settle(store, name, run["_id"], refused=True)
    elif known.status.complete:
        # Whatever is left of it, whoever has it: the next run finds what this one did not.
        if not reclaiming.any_left(store, name):
            objects.settle(store, name, run["_id"])
    elif _got_nowhere(known, result) and objects.settle(
        store, name, run["_id"], most=most_resumptions
    ):
        cause = result["error"]["message"] if result["error"] else ""
        result["error"] = {
            "code": "given_up",
            "message": f"{most_resumptions + 1} runs got nowhere with this file; it is given up. "
            f"POST /runs/{run['_id']}/retry tries it again. {cause}",
        }


def _got_nowhere(known: InputState, result: Result) -> bool:
    """Whether a run that extracted an object got nowhere, for no outage that would tell why."""
    error = result["error"]
    if known.started_at is None or (error is not None and error["code"] in _OUTAGES):
        return False
    got = (known.file.position if known.file else 0) > (known.resumed_at or 0)
    return not got and result["batches"] == result["failed_batches"]


def _status(inputs: Sequence[Result], *, failed: bool) -> RunStatus:
    if any(one["status"] == ResultStatus.CANCELLED for one in inputs):
        return RunStatus.CANCELLED
    good = [one for one in inputs if alerts.succeeded(one) or alerts.says_nothing(one)]
    if not failed and len(good) == len(inputs):
        return RunStatus.SUCCESS
    if any(alerts.succeeded(one) or _loaded_some(one) for one in inputs):
        return RunStatus.PARTIAL_SUCCESS
    return RunStatus.FAILED


def _loaded_some(result: Result) -> bool:
    return result["status"] != ResultStatus.FAILED and result["batches"] > result["failed_batches"]
