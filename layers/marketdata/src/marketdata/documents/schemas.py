"""Documents of the collection `schemas`: what rows look like, by source and version."""

from __future__ import annotations

from datetime import datetime
from typing import NotRequired, TypedDict


class SchemaField(TypedDict):
    """A field of a source's rows."""

    path: str
    """Its name; dots part the names of nested objects."""
    types: list[str]
    """The JSON types that its values have had, but for null; of files how it is read."""
    nullable: bool
    """Whether it has been null, or an empty cell."""
    optional: bool
    """Whether rows have come without it."""
    field: str | None
    """The canonical field that it is; None if it is none."""
    first_at: datetime
    """When a batch with it was received first."""


class SchemaChange(TypedDict):
    """A difference to the version before."""

    kind: str
    """`added`, `removed`, `retyped`, `renamed`, or `unit` for values in another unit."""
    path: str
    """The field; of a renamed one its name now."""
    before: str | None
    """What there was: the former name or types."""
    after: str | None
    """What there is: the name or the types now."""
    matters: bool
    """Whether it is about a canonical field."""


class SchemaVersion(TypedDict):
    """One version of the shape of a source's rows. `_id` is the source, a slash and the number.

    Rows that bring further fields, lack optional ones, or have nulls widen a version. A new one
    begins where a canonical field is found elsewhere, as another type, or not at all.
    """

    _id: str
    """The source, a slash and the version."""
    source: str
    """The source; `csv` for uploads."""
    version: int
    """Counts from 1 within the source."""
    signature: str
    """A hash of where and as what each canonical field is found: equal for equal versions."""
    family: str
    """What versions are compared within: the source, or of uploads the folder and the dataset."""
    fields: list[SchemaField]
    """All fields that its rows have had, by path."""
    changes: list[SchemaChange]
    """The differences to `previous`, as it was when this version began."""
    previous: int | None
    """The version before it in its family; None for the first."""
    run_id: str
    """The run that received its first rows."""
    example: NotRequired[str]
    """Of uploads: the key of the first file."""
    first_at: datetime
    """When its first rows were received."""
    widened: int
    """How often it was widened: whoever widens it does so from the state that it has read."""
