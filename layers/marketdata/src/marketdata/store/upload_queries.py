"""Uploaded objects as the API lists them: those that runs have taken, and those that none takes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pymongo import DESCENDING

from marketdata.documents.objects import IgnoredObject, ObjectState, UploadedObject
from marketdata.store.connection import Filter, Store
from marketdata.store.reading import MAX_TIME_MS, reading


@dataclass(frozen=True, slots=True)
class UploadPosition:
    """The last object of a page."""

    at: datetime
    """When it was taken, or noticed."""
    id: str


def find_taken(
    store: Store, state: ObjectState, *, limit: int, after: UploadPosition | None = None
) -> list[UploadedObject]:
    """Object versions of a state, those first that a run has taken last."""
    with reading("uploaded objects"):
        return list(
            store.objects.find({"state": {"$eq": state}, **after_position("taken_at", after)})
            .sort([("taken_at", DESCENDING), ("_id", DESCENDING)])
            .hint("state_latest")
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )


def find_ignored(
    store: Store, *, limit: int, after: UploadPosition | None = None
) -> list[IgnoredObject]:
    """Objects that no run takes, those first that were noticed last."""
    with reading("objects that no run takes"):
        return list(
            store.ignored_objects.find(after_position("noticed_at", after))
            .sort([("noticed_at", DESCENDING), ("_id", DESCENDING)])
            .hint("noticed")
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )


def after_position(field: str, position: UploadPosition | None) -> Filter:
    """What comes behind a position, in a list that is sorted by a time, the latest first."""
    if position is None:
        return {}
    earlier = {field: {"$lt": position.at}}
    tie = {field: {"$eq": position.at}, "_id": {"$lt": position.id}}
    return {field: {"$lte": position.at}, "$or": [earlier, tie]}
