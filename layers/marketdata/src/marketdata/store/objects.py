"""The collection `objects`: which run has taken which version of an uploaded object.

A version is taken once, by one run. A run *holds* an object as it holds its sources, in
`runs.holds`, which is unique over all running runs; what it holds it then *claims* here, for
good. Between the two a crash leaves an object that is held and not claimed: the run's end lets
go of it, and a later run takes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pymongo.errors import DuplicateKeyError

from marketdata import clock
from marketdata.objects import ObjectVersion
from marketdata.store.connection import Document, Store, store_errors


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
    document: Document = {
        "_id": version.id,
        **version.document(),
        "run_id": run_id,
        "taken_at": clock.now(),
    }
    with store_errors(f"claiming {version.place} for run {run_id}"):
        try:
            store.objects.insert_one(document)
        except DuplicateKeyError:
            return owner(store, version.id) or run_id
    return run_id


def add_to_run(store: Store, run_id: str, versions: Iterable[ObjectVersion]) -> list[str]:
    """Make object versions inputs of a running run, each unless another run has or holds it.

    Returns:
        The ids of those that are the run's now.
    """
    added = []
    for version in versions:
        with store_errors(f"adding {version.place} to run {run_id}"):
            try:
                result = store.runs.update_one(
                    {"_id": run_id, "status": "running", f"inputs.{version.id}": None},
                    {
                        "$addToSet": {"holds": version.id},
                        "$set": {f"inputs.{version.id}": input_note(version)},
                    },
                )
            except DuplicateKeyError:
                # Another run is at it right now: it is left to that one.
                continue
            mine = claim(store, version, run_id) == run_id
            if mine:
                added.append(version.id)
            elif result.modified_count:
                store.runs.update_one(
                    {"_id": run_id},
                    {"$pull": {"holds": version.id}, "$unset": {f"inputs.{version.id}": ""}},
                )
    return added


def input_note(version: ObjectVersion) -> Document:
    """An object version as the note of a run's input."""
    return {"source": "csv", "status": "pending", "object": version.document()}


def note_mappings(
    store: Store, run_id: str, input_id: str, mappings: Mapping[str, Sequence[Document]]
) -> None:
    """Add an object's column mappings to those of its run, each with the input it is of.

    Doing it again adds nothing.
    """
    added = {
        name: {"$each": [{**mapping, "input": input_id} for mapping in found]}
        for name, found in mappings.items()
    }
    with store_errors(f"noting the columns of {input_id} in run {run_id}"):
        store.runs.update_one({"_id": run_id, "status": "running"}, {"$addToSet": added})


def discard_run(store: Store, run_id: str) -> None:
    """Remove a run that turned out to have nothing to do, before anybody was told of it."""
    with store_errors(f"removing run {run_id}"):
        store.runs.delete_one({"_id": run_id, "status": "running"})
