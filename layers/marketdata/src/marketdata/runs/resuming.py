"""Going on where an earlier run stopped: with its batches, and with its extraction.

Every run reclaims the batches that ended runs have left of its inputs, and loads them before it
fetches anything (`acquire`). A run that *resumes* another one (`find_leftovers`) also goes on with
the extraction of that one, after the last page that is noted. An uploaded file is always gone on
with, after the last byte that is noted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from marketdata import clock
from marketdata.documents.runs import (
    FileProgress,
    InputChanges,
    InputState,
    InputStatus,
    ReclaimedBatches,
    Run,
    RunStatus,
    StoredInput,
    TriggerKind,
)
from marketdata.errors import NotFound, StateConflict
from marketdata.objects import CSV
from marketdata.runs.triggers import RunRequest
from marketdata.settings import Settings
from marketdata.store import asking, leases, objects, run_inputs, runs
from marketdata.store.batches import batch, queue, reclaiming
from marketdata.store.connection import Store

_FROM_THE_BEGINNING = (InputStatus.FAILED, InputStatus.WAITING)
"""A file that ended so is read anew: what refused it may have been in any part of it, and what it
asked may change how all of it is read."""


class ResumptionSettings(Settings):
    """How often what fails is tried again by later runs."""

    batch_max_resumptions: int = Field(default=batch.MAX_RESUMPTIONS, ge=0, le=1_000)


def check_sources(asked: Collection[str], known: Collection[str], what: str) -> None:
    """Refuse names of sources that there are none of.

    Raises:
        NotFound: names them, and those that are known. (The form of the request is right, so it
            is not called malformed.)
    """
    unknown = [name for name in asked if name not in known]
    if unknown:
        text = f"sources: {', '.join(map(repr, unknown))} is not known {what}; known are " + (
            ", ".join(known) or "none"
        )
        raise NotFound(
            text, faults=[{"in": "body", "name": "sources", "message": text}], known=list(known)
        )


# --- what a run that is to be resumed has left ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What an ended run has left to be done."""

    inputs: dict[str, InputState]
    """The inputs of the run that resumes it; never none."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """There is nothing to resume: a running run is at it."""

    run: Run
    """That run: the one that was to be resumed, or one that resumes it."""


def find_leftovers(store: Store, asked: RunRequest, run_id: str) -> Leftovers | UnderWay:
    """Find what a run has left, of the sources that are asked for.

    Args:
        store: the database.
        asked: the request to resume the run.
        run_id: the run.

    Raises:
        NotFound: there is no such run, or it had no such source.
        StateConflict: it has left nothing, or nothing that is tried again without being asked; or
            it is a replay, which is not resumed.
    """
    run = _resumable(store, asked, run_id)
    if isinstance(run, UnderWay):
        return run
    inputs: dict[str, InputState] = {}
    dead_lettered = refused = waiting = 0
    for input_id in _asked_inputs(run, asked):
        chain = _chain(store, run, input_id)
        last = chain[-1]
        if last["status"] == RunStatus.RUNNING:
            return UnderWay(last)
        run_ids = [one["_id"] for one in chain]
        state = InputState.of(last["inputs"][input_id])
        dead_lettered += reclaiming.count_dead_lettered(store, run_ids, input_id)
        if state.source == CSV and objects.refused(store, input_id):
            refused += 1
        elif state.source == CSV and asking.waits(store, input_id):
            waiting += 1
        elif not _is_whole(store, run_ids, input_id, state):
            inputs[input_id] = InputState(
                state.source, InputStatus.PENDING, object=state.object, resumes=last["_id"]
            )
    if not inputs:
        raise StateConflict(_nothing_left(run_id, dead_lettered, refused, waiting), run_id=run_id)
    return Leftovers(inputs)


def requeue_given_up(store: Store, asked: RunRequest, run_id: str) -> None:
    """Requeue what was given up of a run: its dead-lettered batches and its refused files.

    They are left to a later run then, as if they had never failed. What a running run is at stays.

    Args:
        store: the database.
        asked: the request to resume the run.
        run_id: the run.

    Raises:
        NotFound, StateConflict: as `find_leftovers` does for the run as a whole.
    """
    run = _resumable(store, asked, run_id)
    if isinstance(run, UnderWay):
        return
    for input_id in _asked_inputs(run, asked):
        chain = _chain(store, run, input_id)
        if chain[-1]["status"] == RunStatus.RUNNING:
            return
        run_ids = [one["_id"] for one in chain]
        requeued = reclaiming.requeue_dead_lettered(store, run_ids, input_id)
        if leases.is_object(input_id):
            # One that is done is left so, unless batches of it were given up.
            objects.release(store, input_id, run_ids[-1], done=requeued > 0)


def _resumable(store: Store, asked: RunRequest, run_id: str) -> Run | UnderWay:
    """The run that is to be resumed, if it has ended and had the sources that are asked for."""
    run = runs.get(store, run_id)
    if run["status"] == RunStatus.RUNNING:
        return UnderWay(run)
    _refuse_others(run)
    if asked.sources is not None:
        named = dict.fromkeys(stored["source"] for stored in run["inputs"].values())
        check_sources(asked.sources, list(named), f"in run {run_id}")
    return run


def _asked_inputs(run: Run, asked: RunRequest) -> Iterator[str]:
    for input_id, stored in run["inputs"].items():
        if asked.sources is None or stored["source"] in asked.sources:
            yield input_id


def _refuse_others(run: Run) -> None:
    if run["trigger"] == TriggerKind.REPLAY:
        raise StateConflict(
            f"Run {run['_id']} loaded rows from quarantine, and can't be resumed. POST "
            "/quarantine/replay tries those again that are still there.",
            run_id=run["_id"],
        )
    if run["trigger"] == TriggerKind.BACKFILL:
        raise StateConflict(
            f"Run {run['_id']} was a backfill, and can't be resumed. POST /backfills with `gaps` "
            "asks for what is still missing, and loads what was received.",
            run_id=run["_id"],
        )


def _chain(store: Store, run: Run, input_id: str) -> list[Run]:
    """A run and those that went on with an input of it, one after the other.

    A dead-lettered batch stays with the run that it failed in: each of them may have some.
    """
    chain = [run]
    while by := run["inputs"][input_id].get("resumed_by") or _later_owner(store, run, input_id):
        run = runs.get(store, by)
        if input_id not in run["inputs"]:
            # It claimed a file after its end; see `_find_stopped`.
            break
        chain.append(run)
    return chain


def _later_owner(store: Store, run: Run, input_id: str) -> str | None:
    """The run that has reclaimed a file from a run, and died before it could note so there."""
    owner = objects.owner(store, input_id) if leases.is_object(input_id) else None
    return owner if owner != run["_id"] else None


def _is_whole(store: Store, run_ids: Sequence[str], input_id: str, state: InputState) -> bool:
    """Whether all of an input was extracted and loaded, or given up."""
    if input_id == run_inputs.LISTING:
        # That the uploads could not be listed is no work that was left.
        return True
    if _never_began(state) or not state.status.complete or state.error:
        return False
    return not reclaiming.any_unfinished(store, run_ids, input_id)


def _never_began(state: InputState) -> bool:
    """Whether a run died on its way to an input: it was to resume it, and never got its lease."""
    return state.resumes is not None and state.lease is None


def _nothing_left(run_id: str, dead_lettered: int, refused: int, waiting: int) -> str:
    if waiting and not (refused or dead_lettered):
        return (
            f"Run {run_id} has left nothing but files that wait for an answer: {waiting}. GET "
            "/uploads?state=waiting lists them, and how to answer."
        )
    if refused or dead_lettered:
        return (
            f"What run {run_id} has left was given up after several tries: {dead_lettered} "
            f"dead-lettered batches and {refused} refused files. Remove the cause and ask for "
            f"POST /runs/{run_id}/retry."
        )
    return (
        f"Run {run_id} has left nothing to go on with: everything that it received is loaded, by "
        "it or by a later run. POST /refresh without `resume` fetches from the sources anew."
    )


# --- what a run has of its inputs from earlier ones -----------------------------------------------


def acquire(store: Store, run_id: str, input_id: str, state: InputState) -> None:
    """Get a run its lease of an input, what earlier runs have left of it, and where they stopped.

    Doing it again, after a crash in its middle, ends in the same.

    Args:
        store: the database.
        run_id: the run, which has locked the input.
        input_id: the input.
        state: what the run knows about it.

    Raises:
        StateConflict: the run has ended.
        StoreUnavailable: batches of earlier runs kept changing; calling again helps.
    """
    if state.lease is not None:
        return
    changes: InputChanges = {"lease": leases.acquire(store, run_id, input_id)}
    stopped = _find_stopped(store, input_id, state.resumes)
    if stopped is not None:
        progress = _progress_of(stopped.state)
        _drop_cut_again(store, stopped.run_id, input_id, stopped.state)
        if stopped.state.mappings is not None and stopped.state.status not in _FROM_THE_BEGINNING:
            run_inputs.note_mappings(store, run_id, input_id, stopped.state.mappings)
        # Before anything is reclaimed: batches and the place they were cut at belong together.
        run_inputs.set_input(store, run_id, input_id, progress)
        for earlier in (*stopped.died, stopped.run_id):
            run_inputs.note_resumed_by(store, earlier, input_id, run_id)
        changes.update(progress)
    reclaimed = reclaiming.reclaim_batches(store, input_id, run_id)
    if stopped is not None and all(one["run_id"] != stopped.run_id for one in reclaimed):
        reclaimed.append({"run_id": stopped.run_id, "batches": 0})
    if reclaimed:
        changes["resume_from"] = reclaimed
    # What is extracted now gets the numbers after those of what was reclaimed.
    changes["batches"] = queue.next_number(store, run_id, input_id)
    if "progress" in changes:
        changes["progress"] = {**changes["progress"], "batches": changes["batches"]}
    run_inputs.set_input(store, run_id, input_id, changes)


@dataclass(frozen=True, slots=True)
class _Stopped:
    """Where the extraction of an input stopped."""

    run_id: str
    """The last run that extracted it."""
    state: InputState
    """What that run knows about it."""
    died: list[str]
    """Later runs, which were to go on with it, and died before they had its lease."""


def _find_stopped(store: Store, input_id: str, earlier: str | None) -> _Stopped | None:
    """Find where the extraction of an input stopped that is to be gone on with; None if nowhere."""
    died: list[str] = []
    while earlier is not None:
        stored = runs.get(store, earlier)["inputs"].get(input_id)
        if stored is None:
            # Version 0.1 let a run claim a file after its end, without having it as an input.
            return None
        state = InputState.of(stored)
        if not _never_began(state):
            return _Stopped(earlier, state, died)
        died.append(earlier)
        earlier = state.resumes
    return None


def _progress_of(stopped: InputState) -> InputChanges:
    """What a run that goes on with an extraction knows from the start."""
    progress: InputChanges = {}
    if stopped.object is not None:
        if stopped.status in _FROM_THE_BEGINNING:
            return progress
        position = stopped.file.position if stopped.file else 0
        progress = replace(stopped, resumed_at=position).of_file()
    elif stopped.pages is not None:
        progress = stopped.pages.document()
        # This run's numbers go on after what it reclaims.
        del progress["batches"]
        if stopped.status.complete:
            progress["warnings"] = stopped.warnings
    if stopped.status.complete and not stopped.error:
        progress["status"] = InputStatus.EXTRACTED
        progress["started_at"] = progress["extracted_at"] = clock.now()
    return progress


def _drop_cut_again(store: Store, run_id: str, input_id: str, stopped: InputState) -> None:
    """Drop the batches of an ended run that are cut again, as a file's progress lacks them."""
    if stopped.object is not None:
        kept = stopped.file or FileProgress()
        refused = stopped.status in _FROM_THE_BEGINNING
        queue.drop_pending_from(store, input_id, run_id, 0 if refused else kept.batches)


def latest_reclaimed(inputs: Mapping[str, StoredInput]) -> ReclaimedBatches | None:
    """What a run has reclaimed of the latest of the runs that it reclaimed something of."""
    batches: dict[str, int] = {}
    for stored in inputs.values():
        for one in InputState.of(stored).reclaimed:
            batches[one["run_id"]] = batches.get(one["run_id"], 0) + one["batches"]
    if not batches:
        return None
    latest = max(batches)
    return {"run_id": latest, "batches": batches[latest]}
