"""The columns of a CSV under canonical names, a column at a time.

Texts stay texts wherever validation reads them as what they are meant to be: it does so once,
for the whole batch, in compiled code. Only what it would read *too* generously is judged here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from marketdata.schema.record import OPTIONAL, Fault, Table
from marketdata.schema.texts import NO_NAME, NOTHING

SOURCE = "csv"
DEFAULT_DATASET = "csv"

_NUMBERS = ("price_usd", "volume_24h", "market_cap", "percent_change_24h")
_TEXTS = ("symbol", "asset_id")

_EPOCH_LENGTHS = {10, 13}
_EPOCH = re.compile(r"[1-9](?:\d{9}|\d{12})(?:\.\d*)?", re.ASCII)
"""Ten digits are seconds (2001 to 2286), thirteen are milliseconds; nothing else is guessed:
`20240101` or sixteen digits would be read as some time, too, and as a wrong one."""
_ISO = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[Zz]|[+-]\d\d:?\d\d|(?P<utc> ?UTC))?)?",
    re.ASCII,
)


def table(
    cut: Sequence[Sequence[str]], rows: int, columns: Mapping[str, int], dataset: str
) -> Table:
    """Rows under canonical names, without validation.

    Args:
        cut: the columns of cells, as many as the header has.
        rows: the number of cells in each.
        columns: the index of the column of each canonical field; see `schema.mapping`.
        dataset: the dataset of rows that name none.
    """
    cells: Mapping[str, Sequence[str]] = {name: cut[index] for name, index in columns.items()}
    faults: dict[int, Fault] = {}
    fields = _fields(cells, rows, dataset, faults)
    for name in OPTIONAL:
        if name in cells:
            said = (
                _names(cells[name]) if name == "interval" else _numbers(name, cells[name], faults)
            )
            values = [None if value is None or value in NOTHING else value for value in said]
            if any(value is not None for value in values):
                fields[name] = values
    return Table(fields, rows, faults)


def _fields(
    cells: Mapping[str, Sequence[str]], rows: int, dataset: str, faults: dict[int, Fault]
) -> dict[str, Sequence[Any]]:
    """The fields that every record has, each as a column."""
    nothing: list[None] = [None] * rows
    fields: dict[str, Sequence[Any]] = {
        name: _numbers(name, cells[name], faults) if name in cells else nothing for name in _NUMBERS
    }
    _require("price_usd", fields["price_usd"], faults)
    names = cells.get("name")
    fields["name"] = nothing if names is None else _names(names)
    for name in _TEXTS:
        if name in cells:
            fields[name] = _required(name, cells[name], faults)
    if "asset_id" not in fields:
        fields["asset_id"] = _upper(fields["symbol"])
    fields["timestamp"] = _times(cells["timestamp"], faults)
    said = cells.get("dataset")
    fields["dataset"] = [dataset] * rows if said is None else _datasets(said, dataset)
    fields["source"] = [SOURCE] * rows
    return fields


def _names(values: Sequence[str]) -> Sequence[str | None]:
    absent = {value for value in set(values) if value.strip() in NO_NAME}
    return [None if value in absent else value for value in values] if absent else values


def _numbers(name: str, values: Sequence[str], faults: dict[int, Fault]) -> Sequence[str | None]:
    # Validation takes `1_000` for a thousand, as Python does; a file that writes it means
    # nobody knows what.
    together = "".join(values)
    if "_" in together:
        for place, value in enumerate(values):
            if "_" in value:
                message = f"Underscores have no place in a number (is {value[:80]!r})"
                faults.setdefault(place, Fault(place, "float_parsing", name, message))
    if len(together.split(maxsplit=1)) > 1 or together[:1].isspace():
        values = [value.strip() for value in values]
    if NOTHING.isdisjoint(values):
        return values
    return [None if value in NOTHING else value for value in values]


def _require(name: str, values: Sequence[Any], faults: dict[int, Fault]) -> None:
    if None in values:
        for place, value in enumerate(values):
            if value is None:
                faults.setdefault(place, _missing(place, name))


def _required(name: str, values: Sequence[str], faults: dict[int, Fault]) -> Sequence[str]:
    """The values of a text column, after those that say nothing have become faults."""
    distinct = set(values)
    absent = {value for value in distinct if value.strip() in NO_NAME}
    if absent:
        for place, value in enumerate(values):
            if value in absent:
                faults.setdefault(place, _missing(place, name))
    return values


def _missing(place: int, name: str) -> Fault:
    return Fault(place, "missing_value", name, f"The row does not say its {name}, which it must")


def _upper(symbols: Sequence[str]) -> Sequence[str]:
    known = {symbol: symbol.strip().upper() for symbol in set(symbols)}
    return list(map(known.__getitem__, symbols))


def _datasets(values: Sequence[str], default: str) -> Sequence[str]:
    known = {value: value.strip() or default for value in set(values)}
    return list(map(known.__getitem__, values))


def _times(values: Sequence[str], faults: dict[int, Fault]) -> Sequence[str | None]:
    """Texts that validation reads as the times that they are."""
    together = "".join(values)
    if (
        together.isdecimal()
        and together.isascii()
        and set(map(len, values)) <= _EPOCH_LENGTHS
        and min(values) >= "1"
    ):
        return values
    known = {value: _time(value) for value in set(values)}
    if None in known.values():
        for place, value in enumerate(values):
            if known[value] is None:
                faults.setdefault(place, _not_a_time(place, value))
    return list(map(known.__getitem__, values))


def _time(value: str) -> str | None:
    text = value.strip()
    iso = _ISO.fullmatch(text)
    if iso is not None:
        end = iso["utc"]
        return text if end is None else text.removesuffix(end) + "Z"
    return text if _EPOCH.fullmatch(text) else None


def _not_a_time(place: int, value: str) -> Fault:
    if value.strip() in NOTHING:
        return _missing(place, "timestamp")
    return Fault(
        place,
        "timestamp_not_understood",
        "timestamp",
        "A time is ISO 8601 (2025-05-09T06:00:00Z, UTC where no zone is given), or a Unix time "
        f"of 10 digits (seconds) or 13 (milliseconds) (is {value[:80]!r})",
    )
