"""Going on where an earlier run stopped: its batches, and the place its extraction had reached.

Every run takes over the batches that ended runs have left of its inputs, and loads them before it
asks a source anything. A run that *resumes* another one also goes on with that one's extraction,
from the page or the byte after the last that is kept; an uploaded object is always gone on with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
    StoredInput,
    TriggerKind,
)
from marketdata.errors import NotFound, StateConflict
from marketdata.objects import CSV
from marketdata.runs.triggers import RunRequest
from marketdata.settings import Settings
from marketdata.store import leases, objects, run_inputs, runs
from marketdata.store.batches import batch, queue, reclaiming
from marketdata.store.connection import Store


class ResumptionSettings(Settings):
    """How often what fails is tried again by later runs."""

    batch_max_resumptions: int = Field(default=batch.MAX_RESUMPTIONS, ge=0, le=1_000)


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What a run that ended has left to be done."""

    inputs: dict[str, StoredInput]
    """Notes on the inputs, for the run that goes on with them."""
    under_way: Run | None = None
    """A run that is at it already; then there is nothing for another one to do."""


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


def leftovers(store: Store, asked: RunRequest) -> Leftovers:
    """What the run to be resumed has left, of the sources that are asked for.

    Raises:
        NotFound: there is no such run, or it had no such source.
        StateConflict: it has left nothing, or nothing that is tried again without being asked.
    """
    run_id = asked.resume or ""
    run = runs.get(store, run_id)
    if run["status"] == "running":
        return Leftovers({}, run)
    _refuse_replay(run)
    if asked.sources is not None:
        named = dict.fromkeys(note["source"] for note in run["inputs"].values())
        check_sources(asked.sources, list(named), f"in run {run_id}")
    inputs: dict[str, StoredInput] = {}
    given_up = []
    parked = 0
    for input_id, first_note in run["inputs"].items():
        if asked.sources is not None and first_note["source"] not in asked.sources:
            continue
        chain = _chain(store, run, input_id)
        last, run_ids = chain[-1], [one["_id"] for one in chain]
        note = last["inputs"][input_id]
        if last["status"] == "running":
            return Leftovers({}, last)
        if asked.retry:
            _release(store, run_ids, input_id)
        parked += reclaiming.parked(store, run_ids, input_id)
        if note["source"] == CSV and not asked.retry and objects.refused(store, input_id):
            given_up.append(input_id)
        elif not _whole(store, run_ids, input_id, note):
            inputs[input_id] = _resuming(note, last["_id"])
    if not inputs:
        raise StateConflict(_nothing_left(run_id, parked, len(given_up)), run_id=run_id)
    return Leftovers(inputs)


def _refuse_replay(run: Run) -> None:
    if run["trigger"] == TriggerKind.REPLAY:
        raise StateConflict(
            f"Run {run['_id']} loaded rows from quarantine, and can't be resumed. POST "
            "/quarantine/replay tries those again that are still there.",
            run_id=run["_id"],
        )


def _chain(store: Store, run: Run, input_id: str) -> list[Run]:
    """A run and those that went on with an input of it, one after the other.

    What was parked stays with the run that it failed in: each of them may have such batches.
    """
    chain = [run]
    while by := run["inputs"][input_id].get("resumed_by") or _later_owner(store, run, input_id):
        run = runs.get(store, by)
        chain.append(run)
    return chain


def _later_owner(store: Store, run: Run, input_id: str) -> str | None:
    """The run that has taken an object from a run, and died before it could note so there."""
    owner = objects.owner(store, input_id) if leases.is_object(input_id) else None
    return owner if owner != run["_id"] else None


def _never_began(note: StoredInput) -> bool:
    """Whether a run died on its way to an input: it was to resume it, and never got its lease."""
    return "resumes" in note and "lease" not in note


def _release(store: Store, run_ids: Sequence[str], input_id: str) -> None:
    freed = reclaiming.requeue_dead_lettered(store, run_ids, input_id)
    if leases.is_object(input_id):
        # One that is done is left so, unless batches of it were given up.
        objects.release(store, input_id, run_ids[-1], done=freed > 0)


def _whole(store: Store, run_ids: Sequence[str], input_id: str, note: StoredInput) -> bool:
    if input_id == run_inputs.LISTING:
        # That the uploads could not be listed is no work that was left.
        return True
    if _never_began(note):
        return False
    done = InputStatus(note["status"]).complete and not note.get("error")
    return done and not reclaiming.any_unfinished(store, run_ids, input_id)


def _resuming(note: StoredInput, former: str) -> StoredInput:
    kept = InputState.of(note)
    return InputState(
        kept.source, InputStatus.PENDING, object=kept.object, resumes=former
    ).document()


def _nothing_left(run_id: str, parked: int, refused: int) -> str:
    if refused or parked:
        return (
            f"What run {run_id} has left was given up after several tries: {parked} parked batches "
            f"and {refused} refused files. Remove the cause and ask for "
            f"POST /runs/{run_id}/retry."
        )
    return (
        f"Run {run_id} has left nothing to go on with: everything that it received is loaded, by "
        "it or by a later run. POST /refresh without `resume` asks the sources anew."
    )


def acquire(store: Store, run_id: str, input_id: str, note: StoredInput) -> None:
    """Make an input that a run holds its own: the lease, what was left, and how far that got.

    Doing it again, after a crash in its middle, ends in the same.
    """
    if "lease" in note:
        return
    changes: InputChanges = {"lease": leases.acquire(store, run_id, input_id)}
    former = note.get("resumes")
    if former is not None:
        stopped, died = _stopped(store, input_id, former)
        position = _position(store, run_id, input_id, stopped)
        # Before anything is taken over: batches and the place they were cut at belong together.
        run_inputs.set_input(store, run_id, input_id, position)
        former = stopped["_id"]
        for earlier in (*died, former):
            run_inputs.note_resumed_by(store, earlier, input_id, run_id)
        changes.update(position)
    taken = reclaiming.reclaim_batches(store, input_id, run_id)
    if former is not None and former not in [one["run_id"] for one in taken]:
        taken.append({"run_id": former, "batches": 0})
    if taken:
        changes["resume_from"] = taken
    # What is extracted now gets the numbers after those of what was taken over.
    changes["batches"] = queue.next_number(store, run_id, input_id)
    if "progress" in changes:
        changes["progress"] = {**changes["progress"], "batches": changes["batches"]}
    run_inputs.set_input(store, run_id, input_id, changes)


def _stopped(store: Store, input_id: str, former: str) -> tuple[Run, list[str]]:
    """The run whose extraction of an input is gone on with, and those that died on the way.

    A run that never got the lease has extracted nothing: what it resumed is resumed in its place.
    """
    died: list[str] = []
    run = runs.get(store, former)
    while _never_began(note := run["inputs"][input_id]):
        died.append(run["_id"])
        run = runs.get(store, note["resumes"])
    return run, died


def _position(store: Store, run_id: str, input_id: str, former: Run) -> InputChanges:
    """Where the extraction of an input stopped, for the note of the run that goes on with it."""
    state = InputState.of(former["inputs"][input_id])
    found: InputChanges = {}
    if leases.is_object(input_id):
        if state.status is InputStatus.FAILED:
            # It is read from its beginning: what refused it may have been in any part of it.
            queue.drop_pending_from(store, input_id, former["_id"], 0)
            return found
        # Ranges that were cut after the last note of how far it got are cut again.
        progress = state.file or FileProgress()
        queue.drop_pending_from(store, input_id, former["_id"], progress.batches)
        found = replace(state, resumed_at=progress.position).of_file()
        if state.mappings is not None:
            run_inputs.note_mappings(store, run_id, input_id, state.mappings)
    elif state.pages is not None:
        found = state.pages.document()
        # This run's numbers go on after what it reclaims.
        del found["batches"]
    if state.status.complete and not state.error:
        found["status"] = InputStatus.EXTRACTED
        found["started_at"] = found["extracted_at"] = clock.now()
    return found


def told(inputs: Mapping[str, StoredInput]) -> ReclaimedBatches | None:
    """What a run says of the work that it took over: `{run_id, batches}` of the latest run."""
    batches: dict[str, int] = {}
    for note in inputs.values():
        for one in note.get("resume_from", ()):
            batches[one["run_id"]] = batches.get(one["run_id"], 0) + one["batches"]
    if not batches:
        return None
    latest = max(batches)
    return {"run_id": latest, "batches": batches[latest]}
