"""The collection `objects`: which run has taken which version of an uploaded object.

    taken ──► done       all of it is loaded, or parked
      │
      └─────► refused    it is not understood as a whole, or every try at it failed

A version is taken once, by one run. A run *holds* an object as it holds its sources, in
`runs.holds`, which is unique over all running runs; what it holds it then *claims* here. Between
the two a crash leaves an object that is held and not claimed: the run's end lets go of it, and a
later run takes it. A version whose run ended while it was `taken` is taken again, by the next run
that looks for uploads, and gone on with from where the former one stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pymongo.errors import DuplicateKeyError

from marketdata import clock
from marketdata.documents.objects import ObjectState, UploadedObject
from marketdata.documents.runs import (
    ColumnNote,
    InputStatus,
    RunStatus,
    StoredInput,
    StoredMappings,
)
from marketdata.objects import ObjectVersion
from marketdata.store import runs
from marketdata.store.connection import Filter, Store, Update, store_errors

LISTING = "uploads"
"""The input that stands for the uploads of a run that could not list them."""


def owner(store: Store, object_id: str) -> str | None:
    """The run that has taken an object version; None if no run has."""
    with store_errors(f"looking up object {object_id}"):
        found = store.objects.find_one({"_id": object_id}, {"run_id": 1})
    return found["run_id"] if found else None


def taken(store: Store, object_ids: Sequence[str]) -> set[str]:
    """Those of some object versions that a run has taken."""
    with store_errors(f"looking up {len(object_ids)} objects"):
        found = store.objects.find({"_id": {"$in": list(object_ids)}}, {"_id": 1})
        return {document["_id"] for document in found}


def claim(store: Store, version: ObjectVersion, run_id: str) -> str:
    """Take an object version for a run, unless one has it; returns the run that has it now."""
    document: UploadedObject = {
        "_id": version.id,
        "bucket": version.bucket,
        "key": version.key,
        "version_id": version.version_id,
        "size": version.size,
        "etag": version.etag,
        "last_modified": version.last_modified,
        "run_id": run_id,
        "state": ObjectState.TAKEN,
        "resumptions": 0,
        "taken_at": clock.now(),
    }
    with store_errors(f"claiming {version.place} for run {run_id}"):
        try:
            store.objects.insert_one(document)
        except DuplicateKeyError:
            return owner(store, version.id) or run_id
    return run_id


def refused(store: Store, object_id: str) -> bool:
    """Whether an object version was refused or given up."""
    with store_errors(f"looking up object {object_id}"):
        return (
            store.objects.find_one({"_id": object_id, "state": ObjectState.REFUSED}, {"_id": 1})
            is not None
        )


def reclaim(store: Store, object_id: str, former: str, run_id: str) -> bool:
    """Take an object version from a run that ended before it was done; False if it is not its.

    It counts as a resumption if that run had got nowhere with it.
    """
    in_vain = {"$cond": [{"$eq": ["$in_vain", {"$literal": former}]}, 1, 0]}
    with store_errors(f"taking object {object_id} from run {former} for run {run_id}"):
        result = store.objects.update_one(
            {"_id": object_id, "run_id": former, "state": ObjectState.TAKEN},
            [
                {
                    "$set": {
                        "run_id": {"$literal": run_id},
                        "taken_at": clock.now(),
                        "resumptions": {"$add": ["$resumptions", in_vain]},
                    }
                },
                {"$unset": "in_vain"},
            ],
        )
    return result.modified_count == 1 or owner(store, object_id) == run_id


def left(store: Store, limit: int) -> list[tuple[ObjectVersion, str]]:
    """Object versions that ended runs have left, the longest first, each with its run."""
    with store_errors("looking for objects that were not loaded to their end"):
        found = list(
            store.objects.find({"state": ObjectState.TAKEN})
            .sort("taken_at")
            .hint("state_taken")
            .limit(limit)
        )
    under_way = runs.running(store, [document["run_id"] for document in found])
    return [
        (ObjectVersion.of(document), document["run_id"])
        for document in found
        if document["run_id"] not in under_way
    ]


def settle(
    store: Store, object_id: str, run_id: str, *, refused: bool = False, most: int | None = None
) -> bool:
    """Say what became of an object version that a run has taken.

    Args:
        store: the database.
        object_id: the object version's id.
        run_id: the run that has it.
        refused: it can't be loaded as a whole.
        most: the run got nowhere with it; it is refused only after so many resumptions.

    Returns:
        Whether it is settled now; else a later run takes it again.
    """
    which: Filter = {"_id": object_id, "run_id": run_id, "state": ObjectState.TAKEN}
    state = ObjectState.REFUSED if refused or most is not None else ObjectState.DONE
    with store_errors(f"settling object {object_id} in run {run_id}"):
        if most is not None:
            store.objects.update_one(which, {"$set": {"in_vain": run_id}})
            which["resumptions"] = {"$gte": most}
        result = store.objects.update_one(
            which, {"$set": {"state": state, "settled_at": clock.now()}}
        )
        if result.modified_count == 1:
            return True
        return (
            store.objects.find_one(
                {"_id": object_id, "run_id": run_id, "state": {"$ne": ObjectState.TAKEN}},
                {"_id": 1},
            )
            is not None
        )


def release(store: Store, object_id: str, run_id: str, *, done: bool) -> None:
    """Let an object version that a run has be taken again, as if it had never failed.

    Args:
        store: the database.
        object_id: the object version's id.
        run_id: the run that has it.
        done: also if it is done; else such a one is left as it is.
    """
    states = [ObjectState.TAKEN, ObjectState.REFUSED, *([ObjectState.DONE] if done else [])]
    with store_errors(f"releasing object {object_id} of run {run_id}"):
        store.objects.update_one(
            {"_id": object_id, "run_id": run_id, "state": {"$in": states}},
            {
                "$set": {"state": ObjectState.TAKEN, "resumptions": 0},
                "$unset": {"settled_at": "", "in_vain": ""},
            },
        )


def add_to_run(
    store: Store,
    run_id: str,
    versions: Iterable[ObjectVersion],
    formers: Mapping[str, str] | None = None,
) -> list[str]:
    """Make object versions inputs of a running run, each unless another run has or holds it.

    Args:
        store: the database.
        run_id: the run.
        versions: the object versions.
        formers: by id, the ended runs that those are taken from which were taken before.

    Returns:
        The ids of those that are the run's now.
    """
    formers = formers or {}
    added = []
    for version in versions:
        former = formers.get(version.id)
        with store_errors(f"adding {version.place} to run {run_id}"):
            try:
                result = store.runs.update_one(
                    {"_id": run_id, "status": RunStatus.RUNNING, f"inputs.{version.id}": None},
                    {
                        "$addToSet": {"holds": version.id},
                        "$set": {f"inputs.{version.id}": input_note(version, former)},
                    },
                )
            except DuplicateKeyError:
                # Another run is at it right now: it is left to that one.
                continue
            if _own(store, run_id, version, former):
                added.append(version.id)
            elif result.modified_count:
                _let_go(store, run_id, version.id)
    return added


def take_held(store: Store, run_id: str, inputs: Mapping[str, StoredInput]) -> None:
    """Take those inputs of a run that are objects, which it holds, from the runs it resumes.

    An object that another run has taken meanwhile is no input any more.
    """
    for object_id, note in inputs.items():
        former = note.get("resumes")
        if former is not None and "object" in note and "lease" not in note:
            with store_errors(f"taking object {object_id} for run {run_id}"):
                if not _own(store, run_id, ObjectVersion.of(note["object"]), former):
                    _let_go(store, run_id, object_id)


def _own(store: Store, run_id: str, version: ObjectVersion, former: str | None) -> bool:
    if former is not None:
        return reclaim(store, version.id, former, run_id)
    return claim(store, version, run_id) == run_id


def _let_go(store: Store, run_id: str, object_id: str) -> None:
    store.runs.update_one(
        {"_id": run_id}, {"$pull": {"holds": object_id}, "$unset": {f"inputs.{object_id}": ""}}
    )


def input_note(version: ObjectVersion, former: str | None = None) -> StoredInput:
    """An object version as the note of a run's input; `former` is the run that it resumes."""
    note: StoredInput = {
        "source": "csv",
        "status": InputStatus.PENDING,
        "object": version.document(),
    }
    if former:
        note["resumes"] = former
    return note


def note_mappings(store: Store, run_id: str, input_id: str, mappings: StoredMappings) -> None:
    """Add an object's column mappings to those of its run, each with the input it is of.

    Doing it again adds nothing.
    """
    added = {
        "applied_mappings": _of_input(mappings["applied_mappings"], input_id),
        "quarantined_mappings": _of_input(mappings["quarantined_mappings"], input_id),
        "skipped_mappings": _of_input(mappings["skipped_mappings"], input_id),
    }
    with store_errors(f"noting the columns of {input_id} in run {run_id}"):
        store.runs.update_one({"_id": run_id, "status": RunStatus.RUNNING}, {"$addToSet": added})


def _of_input(notes: Sequence[ColumnNote], input_id: str) -> Update:
    return {"$each": [{**note, "input": input_id} for note in notes]}


def discard_run(store: Store, run_id: str) -> None:
    """Remove a run that turned out to have nothing to do, before anybody was told of it."""
    with store_errors(f"removing run {run_id}"):
        store.runs.delete_one({"_id": run_id, "status": RunStatus.RUNNING})
