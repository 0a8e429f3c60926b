"""Documents of the collection `migrations`: the steps that were applied to the database."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict


class AppliedMigration(TypedDict):
    """A step that was applied."""

    _id: int
    """Its number."""
    title: str
    """What it does."""
    applied_at: datetime
    """When it was done."""
