"""Uploaded files that ask something, in the collections `objects` and `answers`.

    taken ──► waiting    it asks; nothing of it is loaded, and its run lets it go
    waiting ──► taken    somebody has answered: the next run that looks for uploads takes it
    waiting ──► done     a newer version of its key is there, and is loaded in its place

Answers that are to be remembered are kept for all files of one profile whose keys begin alike.
"""

from __future__ import annotations

from hashlib import blake2b

from pymongo import DESCENDING, ReturnDocument

from marketdata import clock
from marketdata.documents.objects import ObjectState, UploadedObject
from marketdata.documents.questions import Answers, Question, RememberedAnswers, merged
from marketdata.errors import NotFound, StateConflict
from marketdata.objects import ObjectVersion
from marketdata.store.connection import Filter, Store, store_errors
from marketdata.store.reading import MAX_TIME_MS, reading
from marketdata.store.upload_queries import UploadPosition, after_position

_TRIES = 20
SUPERSEDED = (
    "It asked something, and a newer version of its key is there, which is loaded in its place. "
    "If both are wanted, copy this one to a key of its own."
)


def why(object_id: str) -> str:
    """Why an input of a run waits, in words."""
    return (
        f"The file asks something, and waits: nothing of it is loaded, and nothing is lost. GET "
        f"/uploads/{object_id} has the question, and POST /uploads/{object_id}/answer answers it."
    )


def wait(
    store: Store, object_id: str, run_id: str, questions: list[Question], profile: str
) -> bool:
    """Have an object version of a run wait for an answer.

    If a newer version of its key is there by now, it is superseded at once.

    Returns:
        Whether it waits, or is superseded; else it is not the run's any more.
    """
    with store_errors(f"noting that object {object_id} asks something"):
        found = store.objects.find_one_and_update(
            {
                "_id": object_id,
                "run_id": run_id,
                "state": {"$in": [ObjectState.TAKEN, ObjectState.WAITING]},
            },
            [
                {
                    "$set": {
                        "state": ObjectState.WAITING,
                        "questions": {"$literal": questions},
                        "profile": profile,
                        "waiting_at": "$$NOW",
                        "resumptions": 0,
                    }
                },
                {"$unset": "in_vain"},
            ],
            return_document=ReturnDocument.AFTER,
        )
        if found is None:
            return False
        for newer in store.objects.find(_of_same_key(found)):
            if _is_newer(newer, found):
                supersede(store, ObjectVersion.of(newer))
    return True


def _of_same_key(document: UploadedObject) -> Filter:
    return {
        "bucket": document["bucket"],
        "key": document["key"],
        "_id": {"$ne": document["_id"]},
    }


def _is_newer(one: UploadedObject, other: UploadedObject) -> bool:
    """Whether a version followed another one, and has content."""
    if not one["size"] or one["last_modified"] is None or other["last_modified"] is None:
        return False
    return (one["last_modified"], one["version_id"]) > (
        other["last_modified"],
        other["version_id"],
    )


def supersede(store: Store, version: ObjectVersion) -> None:
    """End the waiting of versions of a key that a newer one has followed. Again is fine."""
    if not version.size or version.last_modified is None:
        return
    which: Filter = {
        "bucket": version.bucket,
        "key": version.key,
        "state": ObjectState.WAITING,
        "$or": [
            {"last_modified": {"$lt": version.last_modified}},
            {
                "last_modified": version.last_modified,
                "version_id": {"$lt": version.version_id},
            },
        ],
    }
    reason = (
        f"A newer version of it was uploaded before it was answered: {version.version_id}, which "
        "is loaded in its place. If both are wanted, copy this one to a key of its own."
    )
    with store_errors(f"ending the waiting of versions of {version.key}"):
        store.objects.update_many(
            which,
            {"$set": {"state": ObjectState.DONE, "reason": reason, "settled_at": clock.now()}},
        )


def waits(store: Store, object_id: str, run_id: str | None = None) -> bool:
    """Whether an object version waits for an answer, of any run or of this one."""
    which: Filter = {"_id": object_id, "state": ObjectState.WAITING}
    if run_id is not None:
        which["run_id"] = run_id
    with store_errors(f"looking up object {object_id}"):
        return store.objects.find_one(which, {"_id": 1}) is not None


def find(store: Store, object_id: str) -> UploadedObject:
    """One uploaded object version.

    Raises:
        NotFound: there is none of this id.
    """
    with reading("an uploaded object"):
        found = store.objects.find_one({"_id": object_id}, max_time_ms=MAX_TIME_MS)
    if found is None:
        raise NotFound(
            f"There is no upload {object_id[:80]!r}. GET /uploads?state=waiting lists those that "
            "ask something."
        )
    return found


def answers_of(store: Store, object_id: str) -> Answers:
    """What somebody has said of an object version."""
    with store_errors(f"looking up the answers for object {object_id}"):
        found = store.objects.find_one({"_id": object_id}, {"answers": 1})
    return found.get("answers", {}) if found else {}


def answer(store: Store, object_id: str, answers: Answers) -> UploadedObject:
    """Answer the questions of an object version; the next run that looks for uploads takes it.

    Raises:
        NotFound: there is none of this id.
        StateConflict: it asks nothing; says what became of it.
    """
    for _ in range(_TRIES):
        found = find(store, object_id)
        if found["state"] != ObjectState.WAITING:
            raise StateConflict(_told(found), upload_id=object_id, state=found["state"])
        both = merged(found.get("answers", {}), answers)
        with store_errors(f"answering for object {object_id}"):
            changed = store.objects.find_one_and_update(
                {
                    "_id": object_id,
                    "state": ObjectState.WAITING,
                    "answered": found.get("answered"),
                },
                [
                    {
                        "$set": {
                            "state": ObjectState.TAKEN,
                            "answers": {"$literal": both},
                            "answered": {"$add": [{"$ifNull": ["$answered", 0]}, 1]},
                            "answered_at": "$$NOW",
                        }
                    }
                ],
                return_document=ReturnDocument.AFTER,
            )
        if changed is not None:
            return changed
    raise StateConflict(
        f"Upload {object_id} is being answered by somebody else again and again. Nothing was "
        "changed; ask for it again."
    )


def _told(found: UploadedObject) -> str:
    place = f"Upload {found['_id']} ({found['key']})"
    if found["state"] == ObjectState.TAKEN and "answered_at" in found:
        return (
            f"{place} is answered already, and a run takes it: {found['run_id']} had it last. "
            "Nothing was changed."
        )
    state = {
        ObjectState.TAKEN: f"is being loaded by run {found['run_id']}",
        ObjectState.DONE: found.get("reason") or "is loaded, or was skipped",
        ObjectState.REFUSED: f"was refused in run {found['run_id']}, which says why",
    }[ObjectState(found["state"])]
    return (
        f"{place} asks nothing: it {state}. Nothing was changed. To have it read otherwise, "
        "upload it again, with metadata or under another key."
    )


# --- answers that are remembered ------------------------------------------------------------------


def prefix_of(key: str) -> str:
    """What a key begins with, up to its last slash."""
    return key[: key.rfind("/") + 1]


def _id_of(profile: str, prefix: str) -> str:
    text = f"{len(profile)}:{profile}{prefix}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def remember(store: Store, document: UploadedObject, answers: Answers) -> str:
    """Keep answers for all files of the same profile whose keys begin alike; returns their id."""
    profile, prefix = document.get("profile", ""), prefix_of(document["key"])
    id_ = _id_of(profile, prefix)
    with store_errors(f"remembering answers for {prefix}"):
        for _ in range(_TRIES):
            known = store.answers.find_one({"_id": id_})
            both = merged(known["answers"], answers) if known else answers
            result = store.answers.update_one(
                {"_id": id_, "changed_at": known["changed_at"]} if known else {"_id": id_},
                [
                    {
                        "$set": {
                            "profile": {"$literal": profile},
                            "prefix": {"$literal": prefix},
                            "answers": {"$literal": both},
                            "object_id": document["_id"],
                            "key": {"$literal": document["key"]},
                            "since": {"$ifNull": ["$since", "$$NOW"]},
                            "changed_at": "$$NOW",
                            "used": {"$ifNull": ["$used", 0]},
                            "used_at": {"$ifNull": ["$used_at", None]},
                        }
                    }
                ],
                upsert=known is None,
            )
            if result.matched_count or result.upserted_id is not None:
                return id_
    raise StateConflict(f"The answers for {prefix} are being changed by somebody else; ask again.")


def remembered(store: Store, profile: str, key: str) -> RememberedAnswers | None:
    """What is remembered for a file of a profile and a key."""
    with store_errors("looking for answers that are remembered"):
        return store.answers.find_one({"_id": _id_of(profile, prefix_of(key))})


def note_used(store: Store, answers_id: str) -> None:
    """Note that a file has used remembered answers."""
    with store_errors("noting that answers were used"):
        store.answers.update_one(
            {"_id": answers_id}, [{"$set": {"used": {"$add": ["$used", 1]}, "used_at": "$$NOW"}}]
        )


def list_remembered(
    store: Store, *, limit: int, after: UploadPosition | None = None
) -> list[RememberedAnswers]:
    """Answers that are remembered, those first that were given last."""
    with reading("answers that are remembered"):
        return list(
            store.answers.find(after_position("changed_at", after))
            .sort([("changed_at", DESCENDING), ("_id", DESCENDING)])
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )


def forget(store: Store, answers_id: str) -> RememberedAnswers:
    """Take answers back: files that come from now on ask again.

    Raises:
        NotFound: nothing is remembered under this id.
    """
    with store_errors("taking back answers"):
        found = store.answers.find_one_and_delete({"_id": answers_id})
    if found is None:
        raise NotFound(f"There are no answers {answers_id[:80]!r}. GET /answers lists them.")
    return found
