"""How long what was received is kept: MongoDB deletes what is older, by indexes with an expiry.

By default nothing expires. The settings are applied by each migration: an index is made where
one is set, changed where it says something else, and dropped where nothing is to expire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from pymongo import ASCENDING
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from marketdata.settings import Settings
from marketdata.store.connection import Filter, Store, store_errors

DAY_SECONDS = 86_400
_MOST_DAYS = (2**31 - 1) // DAY_SECONDS
"""MongoDB takes an expiry of a signed 32-bit number of seconds."""

_INDEX_NOT_FOUND = 27


class RetentionSettings(Settings):
    """For how many days something is kept; 0 is for ever."""

    raw_retention_days: int = Field(default=0, ge=0, le=_MOST_DAYS)
    """Raw batches, since they were last received."""
    snapshot_retention_days: int = Field(default=0, ge=0, le=_MOST_DAYS)
    """Records of APIs, since their current values were received."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """What expires by one index."""

    what: str
    setting: str
    collection: str
    index: str
    field: str
    only: Filter
    """Which documents; empty for all."""

    def options(self) -> dict[str, Any]:
        """What the index has beside its name, its field and its time."""
        return {"partialFilterExpression": self.only} if self.only else {}


EXPIRIES: Sequence[Expiry] = (
    Expiry("raw batches", "raw_retention_days", "raw_batches", "raw_retention", "seen_at", {}),
    # The dataset of an API's record is empty and that of a CSV's never is: a history that was
    # uploaded is old by nature, and no source could be asked for it again.
    Expiry(
        "records of APIs",
        "snapshot_retention_days",
        "market_data",
        "snapshot_retention",
        "received_at",
        {"dataset": ""},
    ),
)


def apply(store: Store, settings: RetentionSettings) -> list[str]:
    """Bring the indexes by which something expires up to the settings.

    Returns:
        What was changed, in words; nothing when they were as they should be.
    """
    with store_errors("applying the retention"):
        changes = (_apply(store, expiry, getattr(settings, expiry.setting)) for expiry in EXPIRIES)
        return [change for change in changes if change]


def _apply(store: Store, expiry: Expiry, days: int) -> str:
    collection = store.database[expiry.collection]
    now = _days(collection, expiry)
    if days == (now or 0):
        return ""
    if days == 0:
        try:
            collection.drop_index(expiry.index)
        except OperationFailure as error:
            # Somebody else was at it at the same time.
            if error.code != _INDEX_NOT_FOUND:
                raise
        return f"{expiry.what} are kept for ever"
    seconds = days * DAY_SECONDS
    if now is None:
        collection.create_index(
            [(expiry.field, ASCENDING)],
            name=expiry.index,
            expireAfterSeconds=seconds,
            **expiry.options(),
        )
    else:
        change = {"name": expiry.index, "expireAfterSeconds": seconds}
        store.database.command("collMod", expiry.collection, index=change)
    return f"{expiry.what} are kept for {days} days"


def in_force(store: Store) -> dict[str, float | None]:
    """For how many days things are kept, by setting, as the database has it; None is for ever."""
    with store_errors("reading the retention"):
        return {e.setting: _days(store.database[e.collection], e) for e in EXPIRIES}


def _days(collection: Collection[Any], expiry: Expiry) -> float | None:
    index = collection.index_information().get(expiry.index)
    return None if index is None else float(index["expireAfterSeconds"]) / DAY_SECONDS
