"""The shape of JSON rows: which fields they have, of which types, and how often.

Rows of one source are mostly alike. So what is counted are whole rows' names and types, and what
each field has is added up from the few distinct ones: a row costs about a microsecond.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_PATHS = 500
"""Fields that a shape tells of; objects with names that are values have any number of them."""
DEEPEST = 6
"""Levels of nested objects that are looked into."""

_NAMES: Mapping[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    list: "array",
    type(None): "null",
}


def type_of(value: object) -> str:
    """The JSON type of a value; whole numbers are `integer`."""
    return _NAMES.get(type(value), "string")


@dataclass(slots=True)
class FieldShape:
    """What one field of some rows is like."""

    types: Counter[str] = field(default_factory=Counter)
    """How many values have each JSON type."""
    parents: int = 0
    """Objects that could have it: the rows, or the objects that it is nested in."""

    @property
    def there(self) -> int:
        """How many have it, be it null."""
        return self.types.total()

    @property
    def kinds(self) -> set[str]:
        """The types of its values, but for null."""
        return set(self.types) - {"null"}

    @property
    def nullable(self) -> bool:
        """Whether some are null."""
        return "null" in self.types

    @property
    def optional(self) -> bool:
        """Whether some lack it."""
        return self.there < self.parents


type Shape = dict[str, FieldShape]
"""Fields by path; dots part the names of nested objects."""


def shape_of(rows: Sequence[Mapping[str, Any]]) -> Shape:
    """What fields rows have.

    Objects are looked into up to `DEEPEST` levels, lists are not. A name with a dot in it can't be
    told from a nested one, and is left out.
    """
    found: Shape = {}
    _add(found, rows, "", 1)
    return found


def _add(found: Shape, rows: Sequence[Mapping[str, Any]], prefix: str, depth: int) -> None:
    nested: set[str] = set()
    for (names, types), count in Counter(map(_signature, rows)).items():
        for name, kind in zip(names, types, strict=True):
            shape = _of(found, prefix + name) if "." not in name else None
            if shape is not None:
                shape.types[_NAMES.get(kind, "string")] += count
                if kind is dict:
                    nested.add(name)
    for path, shape in found.items():
        if path.startswith(prefix) and "." not in path[len(prefix) :]:
            shape.parents = len(rows)
    if depth == DEEPEST:
        return
    for name in sorted(nested):
        inner = [value for row in rows if type(value := row.get(name)) is dict]
        _add(found, inner, f"{prefix}{name}.", depth + 1)


def _of(found: Shape, path: str) -> FieldShape | None:
    """The shape of a field; None if there are too many already."""
    if path not in found and len(found) >= MOST_PATHS:
        return None
    return found.setdefault(path, FieldShape())


def _signature(row: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[type, ...]]:
    return tuple(row), tuple(map(type, row.values()))


_MISSING = object()


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """What a row has at a path; None if it has nothing there."""
    value: Any = row
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name, _MISSING)
        if value is _MISSING:
            return None
    return value


def with_value(row: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of a row that has a value at a path; what is an object on the way there stays."""
    name, _, rest = path.partition(".")
    if not rest:
        return {**row, name: value}
    inner = row.get(name)
    return {**row, name: with_value(inner if isinstance(inner, Mapping) else {}, rest, value)}
