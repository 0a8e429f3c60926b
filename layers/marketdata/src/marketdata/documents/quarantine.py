"""Documents of the collection `quarantine`: rows that could not be loaded, whole, with reasons."""

from __future__ import annotations

from datetime import datetime
from typing import NotRequired, TypedDict


class Reason(TypedDict):
    """Why a row that was tried again still can't be loaded."""

    _id: str
    """The row; see `QuarantinedRow`."""
    reason: str
    """Stable code of the reason: pydantic's type of error, or one of `schema.record`."""
    field: str
    """The field that it is about."""
    message: str
    """The reason in words, with the value."""


class NewQuarantinedRow(Reason):
    """A row as one batch sets it aside."""

    source: str
    """The source; `csv` for uploads."""
    run_id: str
    """The run that owned the batch then. Of several batches: of the one received last."""
    batch: str
    """The `_id` of the batch that says all this: the one that was received last."""
    raw_id: str
    """The raw batch that has the row."""
    received_at: datetime
    """When that batch was received."""
    row: str
    """The row as JSON text, up to 1,000,000 characters of it."""
    row_number: int
    """The row's number in its file or page, from 0."""
    first_at: datetime
    """When it was set aside first."""
    last_at: datetime
    """When it was set aside, or tried in vain, last."""


class QuarantinedRow(NewQuarantinedRow):
    """A row that could not be loaded. Its `_id` is its raw batch, a slash, and its number."""

    batches: list[str]
    """The `_id`s of all batches that count the row as quarantined."""
    replayed_at: NotRequired[datetime]
    """When it was tried again last."""


class RowPlace(TypedDict):
    """Where a quarantined row is, without its text; see `QuarantinedRow`."""

    _id: str
    raw_id: str
    row_number: int
    source: str
    first_at: datetime
    batches: NotRequired[list[str]]
