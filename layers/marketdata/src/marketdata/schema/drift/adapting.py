"""Reading rows by a mapping: what is elsewhere by now is put where its source documents it.

So what follows, a source's `map_row` and the validation, sees rows as it always did. Ways in which
a value is read, a mapping's `as`:

`same`               as it comes
`text`               a number in a text
`epoch_s` and others a time in seconds (`ms`, `us`, `ns`: parts of them) since 1970
`times 0.01`         a number in another unit, by a power of ten
`as it comes, ...`   a number that has moved with all others, and is right nonetheless
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from marketdata.documents.mappings import BatchMapping, FoundMapping
from marketdata.schema.drift import values
from marketdata.schema.drift.shapes import value_at, with_value

TIMES = "times "
AS_IT_COMES = "as it comes"
WAITS = "mapping_waits"
REJECTED = "mapping_rejected"


@dataclass(frozen=True, slots=True)
class Held:
    """Why a row is not loaded: a mapping that it needs is not to be used, or not yet."""

    code: str
    """`WAITS` or `REJECTED`."""
    field: str
    mapping: str
    """The mapping's id."""
    message: str


def convert(field: str, value: object, way: str) -> Any:
    """A value as one of a field, read in a way; None if it can't be read so."""
    found = values.read(field, value)
    if found is None:
        return None
    how, read = found
    if way.startswith(TIMES):
        return float(Decimal(repr(read)) * Decimal(way.removeprefix(TIMES)))
    if way.startswith(AS_IT_COMES):
        return read
    return read if how == way else None


def adapt(
    row: Mapping[str, Any], mapping: BatchMapping, fields: Mapping[str, str]
) -> Mapping[str, Any] | Held:
    """One row as its source documents it.

    Args:
        row: the row as it came.
        mapping: how the rows of its batch are read.
        fields: where the source documents each canonical field.

    Returns:
        The row, or why it can't be loaded.
    """
    for field in dict.fromkeys(m["to"] for part in _parts(mapping) for m in part):
        path = fields[field]
        value = _used(row, field, path, mapping["applied"])
        if value is not None:
            row = with_value(row, path, value)
            continue
        for waiting in mapping["quarantined"]:
            if waiting["to"] == field and _needed(row, path, waiting) is not None:
                return _held(WAITS, waiting)
        for skipped in mapping["skipped"]:
            if (
                skipped["to"] == field
                and skipped.get("rejected")
                and (skipped["required"] or skipped["from"] == path)
                and _needed(row, path, skipped) is not None
            ):
                return _held(REJECTED, skipped)
    for field in mapping["discarded"]:
        row = with_value(row, fields[field], None)
    return row


def _parts(mapping: BatchMapping) -> tuple[list[FoundMapping], ...]:
    return mapping["applied"], mapping["quarantined"], mapping["skipped"]


def _used(row: Mapping[str, Any], field: str, path: str, applied: Iterable[FoundMapping]) -> Any:
    for one in applied:
        if one["to"] == field and (value := _needed(row, path, one)) is not None:
            return value
    return None


def _needed(row: Mapping[str, Any], path: str, mapping: FoundMapping) -> Any:
    """What a mapping makes of a row, if the row needs it; else None."""
    field, way = mapping["to"], mapping["as"]
    if mapping["from"] == path:
        return convert(field, value_at(row, path), way)
    if values.read(field, value_at(row, path)) is not None:
        return None
    return convert(field, value_at(row, mapping["from"]), way)


def _held(code: str, mapping: FoundMapping) -> Held:
    where, field = mapping["from"], mapping["to"]
    if code == WAITS:
        message = (
            f"{field} may be in `{where}` by now ({mapping['as']}): {mapping['reason']} "
            f"POST /mappings/{mapping['id']}/approve loads the row, /reject does not."
        )
    else:
        message = (
            f"{field} could be read from `{where}` ({mapping['as']}), which was rejected. "
            f"POST /mappings/{mapping['id']}/undo takes that back."
        )
    return Held(code, field, mapping["id"], message)
