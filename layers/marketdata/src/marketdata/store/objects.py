"""The collection `objects`: which run has claimed which version of an uploaded object.

    taken ──► done       all of it is loaded, or dead-lettered
      │ ▲
      │ ├───► refused    it is not understood as a whole, or every try at it failed
      ▼ │
    waiting              it asks something (`store.asking`); an answer makes it `taken` again

A version is claimed once, by the run that loads it. If that run ended while the version was
`taken`, a later run reclaims it, and goes on where the earlier one stopped. A run has a version
locked (`runs.holds`) before it claims it. `runs.uploads` in the library tells the whole way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pymongo.errors import DuplicateKeyError

from marketdata import clock
from marketdata.documents.objects import ObjectState, UploadedObject
from marketdata.objects import ObjectVersion
from marketdata.store import asking, runs
from marketdata.store.connection import Filter, Store, store_errors


@dataclass(frozen=True, slots=True)
class Claimed:
    """The run has the object version."""


@dataclass(frozen=True, slots=True)
class NotClaimed:
    """The run does not have the object version."""

    owner: str | None
    """The run that has it; None if no run has."""


def owner(store: Store, object_id: str) -> str | None:
    """The run that has claimed an object version; None if no run has."""
    with store_errors(f"looking up object {object_id}"):
        found = store.objects.find_one({"_id": object_id}, {"run_id": 1})
    return found["run_id"] if found else None


def taken(store: Store, object_ids: Sequence[str]) -> set[str]:
    """Those of some object versions that a run has claimed."""
    with store_errors(f"looking up {len(object_ids)} objects"):
        found = store.objects.find({"_id": {"$in": list(object_ids)}}, {"_id": 1})
        return {document["_id"] for document in found}


def claim(store: Store, version: ObjectVersion, run_id: str) -> Claimed | NotClaimed:
    """Claim an object version for a run, unless another run has it. Doing it again is fine."""
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
            claimed = _owned(store, version.id, run_id)
        else:
            claimed = Claimed()
    # Whoever has the version: an older one that waits for an answer is superseded by it.
    asking.supersede(store, version)
    return claimed


def refused(store: Store, object_id: str) -> bool:
    """Whether an object version was refused or given up."""
    with store_errors(f"looking up object {object_id}"):
        return (
            store.objects.find_one({"_id": object_id, "state": ObjectState.REFUSED}, {"_id": 1})
            is not None
        )


def reclaim(store: Store, object_id: str, earlier: str, run_id: str) -> Claimed | NotClaimed:
    """Claim an object version that a run had which ended before it was done. Again is fine.

    It counts as a resumption if that run had got nowhere with it.

    Args:
        store: the database.
        object_id: the object version's id.
        earlier: the run that ended.
        run_id: the run that claims it.
    """
    in_vain = {"$cond": [{"$eq": ["$in_vain", {"$literal": earlier}]}, 1, 0]}
    with store_errors(f"reclaiming object {object_id} from run {earlier} for run {run_id}"):
        result = store.objects.update_one(
            {"_id": object_id, "run_id": earlier, "state": ObjectState.TAKEN},
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
    return Claimed() if result.modified_count == 1 else _owned(store, object_id, run_id)


def _owned(store: Store, object_id: str, run_id: str) -> Claimed | NotClaimed:
    found = owner(store, object_id)
    return Claimed() if found == run_id else NotClaimed(found)


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
        # An answered one was let go by its run, which may still be under way with others.
        if document["run_id"] not in under_way or "answered_at" in document
    ]


def settle(
    store: Store, object_id: str, run_id: str, *, refused: bool = False, most: int | None = None
) -> bool:
    """Say what became of an object version that a run has claimed.

    Args:
        store: the database.
        object_id: the object version's id.
        run_id: the run that has it.
        refused: it can't be loaded as a whole.
        most: the run got nowhere with it; it is refused only after so many resumptions.

    Returns:
        Whether it is settled now; else a later run reclaims it.
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
                {
                    "_id": object_id,
                    "run_id": run_id,
                    "state": {"$in": [ObjectState.DONE, ObjectState.REFUSED]},
                },
                {"_id": 1},
            )
            is not None
        )


def release(store: Store, object_id: str, run_id: str, *, done: bool) -> None:
    """Let the next run reclaim an object version that a run has, as if it had never failed.

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
