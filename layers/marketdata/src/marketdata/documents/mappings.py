"""What is kept with a batch of mappings that were found in it.

A mapping says where a canonical field of a source is found since it left its place: under another
name, deeper or less deep, as another type, or in another unit.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

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
of nested objects), `to` the canonical field, `as` how a value is read (`schema.drift.adapting` has
the ways), `confidence` from 0 to 1, `reason` in words, `required` whether a row needs the field,
and `rejected` that somebody has said that it is not so.
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
