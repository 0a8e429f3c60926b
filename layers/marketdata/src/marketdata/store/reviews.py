"""Deciding about what is uncertain; the same for everything that can be reviewed.

quarantined ──► approved | rejected       somebody decides
applied ──► rejected | approved           somebody looks at what was used unasked
approved | rejected ──► quarantined       a decision is taken back
approved ◄──► rejected                    a decision is turned round
"""

from __future__ import annotations

from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection

from marketdata.documents.reviews import ReviewState
from marketdata.errors import NotFound, StateConflict
from marketdata.store.connection import store_errors

_FROM = {
    ReviewState.APPROVED: (ReviewState.QUARANTINED, ReviewState.APPLIED, ReviewState.REJECTED),
    ReviewState.REJECTED: (ReviewState.QUARANTINED, ReviewState.APPLIED, ReviewState.APPROVED),
    ReviewState.QUARANTINED: (ReviewState.APPROVED, ReviewState.REJECTED),
}
"""From which states each decision can be made."""


def decide[T](
    collection: Collection[T],  # type: ignore[type-var]  # every document is a TypedDict
    id_: str,
    to: ReviewState,
    *,
    by: str,
    note: str,
    what: str,
) -> T:
    """Decide about one thing, in one atomic step.

    Args:
        collection: where it is.
        id_: its id.
        to: the decision; `quarantined` takes the last one back.
        by: who decides.
        note: why.
        what: what it is, for messages, as `mapping`.

    Returns:
        Its document before the decision.

    Raises:
        NotFound: there is nothing with that id.
        StateConflict: it has that state already, or there is no decision to be taken back.
        StoreUnavailable: MongoDB is out of reach.
    """
    decided: Any = {"state": to, "by": by, "at": "$$NOW", "note": {"$literal": note}}
    decided["by"] = {"$literal": by}
    with store_errors(f"deciding about {what} {id_}"):
        before = collection.find_one_and_update(
            {"_id": id_, "state": {"$in": list(_FROM[to])}},
            [
                {
                    "$set": {
                        "state": to,
                        "changed_at": "$$NOW",
                        "decisions": {"$concatArrays": ["$decisions", [decided]]},
                    }
                }
            ],
            return_document=ReturnDocument.BEFORE,
        )
        if before is not None:
            return before
        found: Any = collection.find_one({"_id": id_}, {"state": 1})
    if found is None:
        raise NotFound(f"There is no {what} {id_!r}.")
    if to is ReviewState.QUARANTINED:
        raise StateConflict(
            f"The {what} {id_} is {found['state']}: there is no decision to be taken back.",
            state=found["state"],
        )
    raise StateConflict(f"The {what} {id_} is {found['state']} already.", state=found["state"])
