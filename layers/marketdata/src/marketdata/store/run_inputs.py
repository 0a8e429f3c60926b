"""What a run knows about each of its inputs: how far its extraction is, and what stopped it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from marketdata.documents.errors import StoredError
from marketdata.documents.runs import (
    ColumnNote,
    InputChanges,
    InputState,
    InputStatus,
    RunStatus,
    StoredInput,
    StoredMappings,
)
from marketdata.errors import StateConflict
from marketdata.store.connection import Filter, Store, Update, store_errors
from marketdata.store.runs import ALIVE, LEASE, after

LISTING = "uploads"
"""The input that stands for the uploads of a run that could not list them."""
INPUT_ENDED = tuple(status for status in InputStatus if status.ended)
"""The states of an input whose extraction is over for its run."""


class Addition(Enum):
    """What came of adding an input to a run."""

    ADDED = auto()
    """It is an input of the run now, and locked."""
    PRESENT = auto()
    """It was one before."""
    LOCKED = auto()
    """It is none: another running run has it locked."""


def add(store: Store, run_id: str, input_id: str, state: StoredInput) -> Addition:
    """Add an input to a running run, and lock it.

    Raises:
        StateConflict: the run has ended.
    """
    place = f"inputs.{input_id}"
    with store_errors(f"adding {input_id} to run {run_id}"):
        try:
            result = store.runs.update_one(
                {"_id": run_id, **ALIVE, place: None},
                {"$addToSet": {"holds": input_id}, "$set": {place: state}},
            )
        except DuplicateKeyError:
            return Addition.LOCKED
        if result.modified_count:
            return Addition.ADDED
        if store.runs.find_one({"_id": run_id, **ALIVE, "holds": input_id}, {"_id": 1}):
            return Addition.PRESENT
    raise StateConflict(f"Run {run_id} has ended; {input_id} is left to a later run.")


def remove(store: Store, run_id: str, input_id: str) -> None:
    """Take an input from a run, and unlock it."""
    with store_errors(f"taking {input_id} from run {run_id}"):
        store.runs.update_one(
            {"_id": run_id}, {"$pull": {"holds": input_id}, "$unset": {f"inputs.{input_id}": ""}}
        )


def set_input(store: Store, run_id: str, input_id: str, fields: InputChanges) -> None:
    """Update what a run knows about one of its inputs; a run that has ended is left as it is."""
    noted = {f"inputs.{input_id}.{name}": {"$literal": value} for name, value in fields.items()}
    longer = {"$max": ["$expires_at", after(LEASE)]}
    with store_errors(f"noting progress of {input_id} in run {run_id}"):
        store.runs.update_one({"_id": run_id, **ALIVE}, [{"$set": {"expires_at": longer, **noted}}])


def note_error(store: Store, run_id: str, input_id: str, error: StoredError) -> None:
    """Note why an input of a running run failed, unless something is noted already."""
    place = f"inputs.{input_id}"
    unsaid = {place: {"$exists": True}, f"{place}.error": None}
    with store_errors(f"noting why {input_id} failed in run {run_id}"):
        store.runs.update_one(
            {"_id": run_id, **ALIVE, **unsaid}, {"$set": {f"{place}.error": dict(error)}}
        )


def set_input_if_unchanged(
    store: Store, run_id: str, input_id: str, known: Filter, fields: InputChanges
) -> bool:
    """Update what a run knows about an input, if it is still as the caller knows it: one update.

    Of two calls that extract one input at once, each so finds out when the other is further.

    Args:
        store: the database.
        run_id: the run.
        input_id: the input.
        known: values that it must have; None stands also for a field that is not there.
        fields: what is set.

    Returns:
        False, with nothing written, if it has other values, if the extraction is over, or
        if the run has ended.
    """
    noted = {f"inputs.{input_id}.{name}": {"$literal": value} for name, value in fields.items()}
    longer = {"$max": ["$expires_at", after(LEASE)]}
    with store_errors(f"noting progress of {input_id} in run {run_id}"):
        result = store.runs.update_one(
            _as_known(run_id, input_id, known), [{"$set": {"expires_at": longer, **noted}}]
        )
    return result.matched_count == 1


def take_numbers(
    store: Store, run_id: str, input_id: str, known: Filter
) -> tuple[int, InputState] | None:
    """Take the next numbers of an input's batches, for as long as nobody takes them later.

    The fencing token only grows. Whoever has one writes batches under it, and then stores how far
    the input is by `set_input_if_unchanged` with `claims` being this token: only the last one can.

    Args:
        store: the database.
        run_id: the run.
        input_id: the input.
        known: as for `set_input_if_unchanged`: how far the caller knows the input to be.

    Returns:
        The fencing token, and what the run knows about the input; None if another call is further,
        the extraction is over, or the run has ended.
    """
    with store_errors(f"taking numbers of batches of {input_id} in run {run_id}"):
        found = store.runs.find_one_and_update(
            _as_known(run_id, input_id, known),
            {"$inc": {f"inputs.{input_id}.claims": 1}},
            projection={f"inputs.{input_id}": 1},
            return_document=ReturnDocument.AFTER,
        )
    if found is None:
        return None
    stored = found["inputs"][input_id]
    return stored["claims"], InputState.of(stored)


def _as_known(run_id: str, input_id: str, known: Filter) -> Filter:
    place = f"inputs.{input_id}"
    same = {f"{place}.{name}": {"$eq": value} for name, value in known.items()}
    return {"_id": run_id, **ALIVE, f"{place}.status": {"$nin": list(INPUT_ENDED)}, **same}


def note_resumed_by(store: Store, run_id: str, input_id: str, by: str) -> None:
    """Note on a run that ended that a later one goes on with the extraction of an input."""
    with store_errors(f"noting that run {by} resumes run {run_id}"):
        store.runs.update_one(
            {"_id": run_id, f"inputs.{input_id}": {"$exists": True}},
            {"$set": {f"inputs.{input_id}.resumed_by": by}},
        )


def note_mappings(store: Store, run_id: str, input_id: str, mappings: StoredMappings) -> None:
    """Add a file's column mappings to those of its run, each with the input that it is of.

    Doing it again adds nothing.
    """
    added = {
        "applied_mappings": _of_input(mappings["applied_mappings"], input_id),
        "quarantined_mappings": _of_input(mappings["quarantined_mappings"], input_id),
        "skipped_mappings": _of_input(mappings["skipped_mappings"], input_id),
    }
    with store_errors(f"noting the columns of {input_id} in run {run_id}"):
        store.runs.update_one({"_id": run_id, "status": RunStatus.RUNNING}, {"$addToSet": added})


def _of_input(columns: Sequence[ColumnNote], input_id: str) -> Update:
    return {"$each": [{**column, "input": input_id} for column in columns]}
