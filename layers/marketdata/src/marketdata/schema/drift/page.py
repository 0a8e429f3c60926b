"""A page of rows as it came, looked at once, beside what its source documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from marketdata.schema.drift import values
from marketdata.schema.drift.shapes import Shape, shape_of, value_at

REQUIRED = frozenset({"symbol", "asset_id", "price_usd", "timestamp"})
"""Without these a row of a source is no observation of an asset's price."""
FEWEST_ROWS = 3
"""Rows of a page at least, all of which lack a field, for it to count as gone."""
FEWEST_FOR_OPTIONAL = 10
"""The same of a field that rows may do without."""
COMPARED_ROWS = 60
"""Rows whose values are compared with the last ones, to see whether units are the same."""


@dataclass(frozen=True, slots=True)
class Documented:
    """What a source says that its rows are like."""

    source: str
    fields: Mapping[str, str]
    """By canonical field: the path of its value."""
    others: frozenset[str]
    """The paths of all else."""


@dataclass(slots=True)
class Page:
    """Rows as they came, looked at once."""

    documented: Documented
    rows: Sequence[Mapping[str, Any]]
    received_at: datetime
    shape: Shape = field(init=False)
    time: datetime = field(init=False)
    """The time that its values are of, about; that of its receipt where rows don't tell."""
    unknown: list[str] = field(init=False)
    """Paths of single values that the source does not document."""

    def __post_init__(self) -> None:
        """Look at the rows."""
        self.shape = shape_of(self.rows)
        self.time = self._time()
        self.unknown = self._unknown()

    def _time(self) -> datetime:
        path = self.documented.fields[values.TIME]
        some = self.rows[:COMPARED_ROWS]
        found = sorted(
            time.timestamp() for row in some if (time := values.time_of(value_at(row, path)))
        )
        if not found:
            return self.received_at
        middle = datetime.fromtimestamp(found[len(found) // 2], self.received_at.tzinfo)
        return min(middle, self.received_at)

    def _unknown(self) -> list[str]:
        known = self.documented.others | set(self.documented.fields.values())
        wholes = self._wholes()
        return [
            path
            for path, shape in self.shape.items()
            if path not in known
            and shape.kinds
            and shape.kinds <= {"string", "integer", "number"}
            # What is within a list or an object that is documented as a whole is of that.
            and not ("." in path and any(path.startswith(f"{one}.") for one in wholes))
        ]

    def _wholes(self) -> list[str]:
        """Documented fields that may be objects, and have no canonical field within them."""
        canonical = self.documented.fields.values()
        return [
            path
            for path in self.documented.others
            if not any(one.startswith(f"{path}.") for one in canonical)
        ]

    def suspects(self) -> list[str]:
        """Fields that may have drifted, told by the shape of the rows alone."""
        return [
            name
            for name, path in self.documented.fields.items()
            if self._odd(name) or self._epoch_text(name, path)
        ]

    def _odd(self, name: str) -> bool:
        shape = self.shape.get(self.documented.fields[name])
        if shape is None:
            return name in REQUIRED or len(self.rows) >= FEWEST_FOR_OPTIONAL
        expected = {"integer", "number"} if name in values.NUMBERS else {"string"}
        if shape.kinds - expected:
            return True
        incomplete = shape.nullable or shape.there < len(self.rows)
        return bool(self.unknown) and name in REQUIRED and incomplete

    def _epoch_text(self, name: str, path: str) -> bool:
        if name != values.TIME or path not in self.shape:
            return False
        ends = [self.rows[0], self.rows[-1]] if self.rows else []
        told = [value_at(row, path) for row in ends]
        return any(
            isinstance(v, str) and (values.read(name, v) or ("",))[0] != "same" for v in told
        )
