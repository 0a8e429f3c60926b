"""Starting runs: by a trigger or on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from marketdata.documents.errors import FailedInput, StoredError
from marketdata.documents.runs import InputState, InputStatus, NewRun, RowsBefore, RunStatus
from marketdata.logs import make_logger
from marketdata.objects import CSV
from marketdata.runs import resuming, triggers
from marketdata.runs.closing import close, close_dead
from marketdata.runs.resuming import UnderWay
from marketdata.runs.triggers import RunRequest, Trigger
from marketdata.store import runs
from marketdata.store.batches import batch
from marketdata.store.connection import Store
from marketdata.store.run_inputs import LISTING
from marketdata.store.runs import Blocked, Created

_LOG = make_logger()


class WorkflowStarter(Protocol):
    """What carries a run out: Step Functions, seen from here."""

    def start(self, run_id: str, execution_input: Mapping[str, Any]) -> str:
        """Start the execution named after the run; returns its id.

        Starting it a second time with the same input finds the first.

        Raises:
            TransientError: it could not be started now.
        """


def end_orphans(store: Store, *, most_resumptions: int = batch.MAX_RESUMPTIONS) -> None:
    """End the runs that had no heartbeat for longer than their lease.

    A run that died with its execution must not keep its inputs locked for ever. One that can't be
    ended is logged and left: it blocks its own inputs, and no others.
    """
    for orphan in runs.expired(store):
        message = (
            "The run had no heartbeat for 20 minutes, so it was closed. Its batches are reclaimed "
            "by the next run. Its execution in Step Functions shows what happened."
        )
        error: StoredError = {"code": "expired", "message": message}
        try:
            close_dead(store, orphan["_id"], error, most_resumptions=most_resumptions)
        except Exception:  # noqa: BLE001 - one orphan must not stop every other run
            _LOG.exception(
                "Run %s had no heartbeat and could not be ended. Its inputs stay locked; the next "
                "run tries again.",
                orphan["_id"],
            )


def create(
    store: Store,
    trigger: Trigger,
    sources: Sequence[str],
    pre_run_counts: RowsBefore | None = None,
    *,
    most_resumptions: int = batch.MAX_RESUMPTIONS,
) -> Created | Blocked:
    """Create the run of a trigger, with one input for each thing that it has to take.

    These are the sources, or those of them that are asked for; or what the run to be resumed has
    left. Sources that other runs have locked are left to these, as long as there is one that is
    free; the run says so in `under_way`.

    Orphans are ended first; see `end_orphans`.

    Returns:
        What happened. A run in the way is the same one, or the one that has locked the first of
        the inputs when none of them is free.

    Raises:
        NotFound: the run to be resumed, or a source that is asked for, does not exist.
        StateConflict: the run to be resumed has left nothing.
    """
    end_orphans(store, most_resumptions=most_resumptions)
    if (known := runs.find(store, trigger.run_id)) is not None:
        return Blocked(known)
    asked = trigger.asked
    if asked.resume is not None:
        if asked.retry:
            resuming.requeue_given_up(store, asked, asked.resume)
        left = resuming.find_leftovers(store, asked, asked.resume)
        if isinstance(left, UnderWay):
            return Blocked(left.run)
        return runs.create(store, _new_run(trigger, left.inputs, pre_run_counts))
    if asked.sources is not None:
        resuming.check_sources(asked.sources, [*sources, CSV], "here")
    inputs = {
        name: InputState(name, InputStatus.PENDING)
        for name in sources
        if asked.sources is None or name in asked.sources
    }
    return _create_of_free(store, _new_run(trigger, inputs, pre_run_counts))


def create_run(
    store: Store, trigger: Trigger, inputs: Mapping[str, InputState], *, most_resumptions: int
) -> Created | Blocked:
    """Create the run of a trigger with exactly these inputs, or not at all; see `create`."""
    end_orphans(store, most_resumptions=most_resumptions)
    return runs.create(store, _new_run(trigger, inputs, None))


def _new_run(
    trigger: Trigger, inputs: Mapping[str, InputState], pre_run_counts: RowsBefore | None
) -> NewRun:
    document: NewRun = {
        "_id": trigger.run_id,
        "trigger": trigger.kind,
        "event_id": trigger.event_id,
        "event_time": trigger.time,
        "execution": None,
        "status": RunStatus.RUNNING,
        "ended_at": None,
        # A run of uploads alone has the looking for them locked.
        "holds": list(inputs) or [LISTING],
        "force": trigger.asked.force,
        "inputs": {name: state.document() for name, state in inputs.items()},
        "under_way": {},
        "pre_run_counts": pre_run_counts,
    }
    if stored := trigger.asked.document():
        document["asked"] = stored
    return document


def _create_of_free(store: Store, document: NewRun) -> Created | Blocked:
    """Create a run of those of its inputs that no other run has locked; see `create`.

    Which are free is only looked up when some are not, and may have changed by the time that the
    run is created; then it is looked up again.
    """
    wanted = document["inputs"]
    # Each upload is locked by itself, so while some are loaded others can be looked for.
    uploads = CSV in document.get("asked", {}).get("sources", ())
    while isinstance(created := runs.create(store, document), Blocked):
        if created.run_id == document["_id"] or not document["inputs"]:
            return created
        locked = runs.lock_holders(store, list(wanted))
        free = {name: state for name, state in wanted.items() if name not in locked}
        if not free and not uploads:
            return Blocked(runs.get(store, next(iter(locked.values()))))
        document = {
            **document,
            "inputs": free,
            "holds": list(free) or [LISTING],
            "under_way": locked,
        }
    return created


def under_way(store: Store, asked: RunRequest, sources: Sequence[str]) -> dict[str, str]:
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
        names[LISTING] = CSV
    locked = runs.lock_holders(store, list(names))
    return {names[input_id]: run_id for input_id, run_id in locked.items()}


class Requested(NamedTuple):
    """What came of a request to start a run."""

    run_id: str
    """The run that was started, else the one in the way."""
    started: bool
    """Whether this call has started it."""


def request(
    store: Store,
    starter: WorkflowStarter,
    sources: Sequence[str],
    pre_run_counts: RowsBefore | None = None,
    asked: RunRequest | None = None,
    *,
    most_resumptions: int = batch.MAX_RESUMPTIONS,
) -> Requested:
    """Start a run on demand, unless others have all that it is to take.

    The run exists before its execution, and from the moment its id is given out.

    Raises:
        NotFound, StateConflict: see `create`.
        TransientError: Step Functions or MongoDB did not answer.
    """
    trigger = triggers.on_demand(asked or RunRequest())
    created = create(store, trigger, sources, pre_run_counts, most_resumptions=most_resumptions)
    if isinstance(created, Blocked):
        return Requested(created.run_id, started=False)
    try:
        starter.start(trigger.run_id, triggers.execution_input(trigger.run_id))
    except Exception as error:
        # Without an execution nobody would ever close it.
        told = batch.describe(error)
        why: FailedInput = {"code": told["code"], "message": told["message"], "type": told["type"]}
        close(store, trigger.run_id, [why], most_resumptions=most_resumptions)
        raise
    return Requested(trigger.run_id, started=True)
