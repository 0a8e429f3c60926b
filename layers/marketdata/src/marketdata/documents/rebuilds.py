"""The document of the collection `rebuilds`: the last rebuild of the records."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NotRequired, TypedDict


class RebuildPhase(StrEnum):
    """How far a rebuild is."""

    NONE = "none"
    """There was none yet."""
    BUILDING = "building"
    """It fills collections beside the live ones; if it dies, nothing has changed."""
    EXCHANGING = "exchanging"
    """Its collections take the place of the live ones; if it dies, the next one ends that."""
    DONE = "done"
    """It came to its end."""


class Beside(TypedDict):
    """Names of the collections that take the place of the live ones."""

    market_data: str
    """The one of the records."""
    latest_prices: str
    """The one of the latest prices."""


class Rebuild(TypedDict):
    """The last rebuild, and who has the lock on rebuilding."""

    _id: str
    """Always `rebuild`: there is one at a time."""
    phase: str
    """A `RebuildPhase`."""
    owner: NotRequired[str]
    """Random id of the process that has the lock."""
    expires_at: NotRequired[datetime]
    """Until when it has it without a further heartbeat."""
    beside: NotRequired[Beside]
    """Since the phase `exchanging`: the new collections."""
    since: NotRequired[datetime]
    """Since the phase `exchanging`: batches closed after this time are loaded once more."""


class RebuildChanges(TypedDict, total=False):
    """What a rebuild notes of how far it is; see `Rebuild`."""

    phase: str
    beside: Beside
    since: datetime
