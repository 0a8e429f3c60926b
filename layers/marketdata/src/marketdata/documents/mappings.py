"""Documents of the collection `mappings`, and what batches keep of them.

A mapping says where a canonical field of a source is found since it left its place: under another
name, deeper or less deep, as another type, or in another unit.
"""

from __future__ import annotations

from datetime import datetime
from typing import NotRequired, TypedDict

from marketdata.documents.reviews import Reviewed

FoundMapping = TypedDict(
    "FoundMapping",
    {
        "id": str,
        "from": str,
        "to": str,
        "as": str,
        "confidence": float,
        "reason": str,
        "required": bool,
        "rejected": NotRequired[bool],
    },
)
"""A mapping as it was found in one batch.

`id` names it whoever finds it. `from` is the path of the field as it comes now (dots part the names
of nested objects), `to` the canonical field, `as` how a value is read (`schema.adapting` lists the
ways), `confidence` from 0 to 1, `reason` in words, `required` whether a row needs the field, and
`rejected` that somebody has said that it is not so.
"""


class BatchMapping(TypedDict):
    """How the rows of a batch are read where they are not as their source documents them."""

    applied: list[FoundMapping]
    """Mappings that are used."""
    quarantined: list[FoundMapping]
    """Mappings that wait for a decision; rows that need one are set aside."""
    skipped: list[FoundMapping]
    """Mappings that are not used, as they are too unlikely, or were rejected."""
    discarded: list[str]
    """Canonical fields whose values are left out, as the policy says."""


MappingNote = TypedDict(
    "MappingNote",
    {
        "source": str,
        "from": str,
        "to": str,
        "as": str,
        "reason": str,
        "required": bool,
        "run_id": str,
        "batch": str,
        "seen_at": datetime,
    },
)
"""What is told of a mapping beside its review.

`reason` is of the batch that found it first, `run_id` and `batch` are that one's, and `seen_at` is
when a batch found it last, by the database's clock.
"""


class ReviewedMapping(MappingNote, Reviewed):
    """A mapping that a batch of a source has found, with its review; `_id` is its id."""
