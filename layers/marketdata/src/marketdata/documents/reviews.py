"""Parts of documents: what was decided about something uncertain, by whom and when."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TypedDict


class ReviewState(StrEnum):
    """What holds of something that was found, and that somebody may look at."""

    APPLIED = "applied"
    """It is certain enough to be used unasked."""
    QUARANTINED = "quarantined"
    """It is uncertain, and waits for a decision."""
    APPROVED = "approved"
    """Somebody has said that it is so."""
    REJECTED = "rejected"
    """Somebody has said that it is not so."""

    @property
    def used(self) -> bool:
        """Whether what was found is used."""
        return self in (ReviewState.APPLIED, ReviewState.APPROVED)


class Decision(TypedDict):
    """What one person has decided."""

    state: str
    """The state from then on; a `ReviewState`. `quarantined` takes an earlier decision back."""
    by: str
    """Who decided, as they call themselves."""
    at: datetime
    """When, by the database's clock."""
    note: str
    """Why, in their words; may be empty."""


class Reviewed(TypedDict):
    """What each document has that can be reviewed."""

    _id: str
    """Deterministic: whoever finds the same thing names it alike."""
    state: str
    """A `ReviewState`."""
    confidence: float
    """How certain it is that it is so, from 0 to 1."""
    decisions: list[Decision]
    """All decisions, the latest last."""
    found_at: datetime
    """When it was found first, by the database's clock."""
    changed_at: datetime
    """When its state changed last, by the database's clock."""
