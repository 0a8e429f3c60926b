"""The rows of a raw batch as tables, by the batch's format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import batched, islice
from typing import Any

from marketdata import sources
from marketdata.csv_files import columns, parsing
from marketdata.csv_files.dialect import Dialect
from marketdata.documents.raw_batches import RawBatch
from marketdata.schema.record import Fault, Table, table_of
from marketdata.sources.json_stream import elements
from marketdata.sources.json_stream import parse as parse_json

type MapRow = Callable[[Mapping[str, Any]], dict[str, Any]]
"""A row of a source under canonical names."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Some consecutive rows of a batch; each is either in the table or a fault."""

    rows: int
    table: Table
    places: Sequence[int]
    """The index of each of the table's rows among these rows."""
    faults: list[Fault]
    """Of the other rows."""
    text: Callable[[int], str]
    """A row as JSON text, by its index among these: it may hold what BSON can't."""
    passed_over: int = 0
    """Of these rows, those that were not to be read."""


def read(
    raw: RawBatch, payload: bytes, together: int, known: AbstractSet[str] = frozenset()
) -> Iterator[Reading]:
    """The rows of a raw batch. What it needs is in the batch: a rebuild has nothing else.

    Args:
        raw: the raw batch's document.
        payload: its bytes, unpacked.
        together: the number of rows that each reading reads, but for the last.
        known: lines of a CSV that are not to be read; only of one that `plain_lines` can split.

    Raises:
        FileRefused: a CSV's bytes are not what they were when it was cut.
    """
    if known:
        return _read_others(raw, payload, together, known)
    return _FORMATS[raw["format"]](raw, payload, together)


class _Unreadable(str):
    """The text of a row that is no JSON value that can be read."""

    __slots__ = ()


def _read_pages(raw: RawBatch, payload: bytes, together: int) -> Iterator[Reading]:
    return _read_json(sources.load(raw["source"]).map_row, raw, payload, together)


def _read_history(raw: RawBatch, payload: bytes, together: int) -> Iterator[Reading]:
    map_row = sources.load_with_history(raw["source"]).map_history_row
    return _read_json(map_row, raw, payload, together)


def _read_json(map_row: MapRow, raw: RawBatch, payload: bytes, together: int) -> Iterator[Reading]:
    try:
        found = parse_json(payload)
    except (RecursionError, ValueError):
        # Of one row, which alone is to be set aside.
        found = map(_row, elements([payload], what="a raw batch"))
    for rows in batched(found, together, strict=False):
        yield _json_rows(map_row, raw["source"], rows)


def _row(text: str) -> Any:
    try:
        return parse_json(text)
    except (RecursionError, ValueError):
        return _Unreadable(text)


def _json_rows(map_row: MapRow, source: str, rows: Sequence[Any]) -> Reading:
    candidates, places, faults = [], [], []
    for index, row in enumerate(rows):
        if isinstance(row, _Unreadable):
            message = f"The row is nested too deeply, or is no JSON: {row[:80]}"
            faults.append(Fault(index, "malformed_row", "", message))
            continue
        if not isinstance(row, dict):
            faults.append(
                Fault(index, "not_an_object", "", f"A row must be an object, not {row!r:.80}")
            )
            continue
        candidates.append(map_row(row) | {"source": source, "dataset": ""})
        places.append(index)
    table = table_of(candidates)
    return Reading(len(rows), table, places, faults, lambda index: _text_of(rows[index]))


def _text_of(row: Any) -> str:
    return str(row) if isinstance(row, _Unreadable) else json.dumps(row)


def _read_csv(raw: RawBatch, payload: bytes, together: int) -> Iterator[Reading]:
    dialect = _dialect(raw)
    lines = parsing.plain_lines(payload, dialect)
    if lines is not None:
        for some in batched(lines, together, strict=False):
            yield _plain_rows(raw, some)
        return
    records = parsing.parse(payload, raw.get("malformed", ()), dialect)
    while rows := list(islice(records, together)):
        yield _csv_rows(raw, rows)


def _read_others(
    raw: RawBatch, payload: bytes, together: int, known: AbstractSet[str]
) -> Iterator[Reading]:
    lines = parsing.plain_lines(payload, _dialect(raw)) or []
    others = [index for index, line in enumerate(lines) if line not in known]
    begin = 0
    for some in batched(others, together, strict=False):
        # With what is passed over before each of them, and after the last one.
        end = len(lines) if some[-1] == others[-1] else some[-1] + 1
        yield _spread(_plain_rows(raw, [lines[index] for index in some]), some, begin, end)
        begin = end
    if not others:
        yield _spread(_plain_rows(raw, []), (), 0, len(lines))


def _spread(reading: Reading, indexes: Sequence[int], begin: int, end: int) -> Reading:
    """A reading of the rows of these indexes, as one of all rows from `begin` to `end`."""
    of = {index - begin: place for place, index in enumerate(indexes)}
    return Reading(
        end - begin,
        reading.table,
        [indexes[place] - begin for place in reading.places],
        [replace(fault, row=indexes[fault.row] - begin) for fault in reading.faults],
        lambda index: reading.text(of[index]),
        end - begin - len(indexes),
    )


def _dialect(raw: RawBatch) -> Dialect:
    return Dialect.of(raw["layout"].get("dialect"))


def _plain_rows(raw: RawBatch, lines: Sequence[str]) -> Reading:
    header, layout, dialect = raw["header"], raw["layout"], _dialect(raw)
    cut = parsing.columns_of(lines, len(header), dialect)
    if cut is None:
        return _csv_rows(raw, [parsing.split(line, dialect) for line in lines])
    return Reading(
        len(lines),
        columns.table(cut, len(lines), layout),
        range(len(lines)),
        [],
        lambda index: parsing.as_json(parsing.split(lines[index], dialect), header),
    )


def _csv_rows(raw: RawBatch, records: Sequence[list[str] | str]) -> Reading:
    header, layout = raw["header"], raw["layout"]
    cells, places, ragged = parsing.regular(records, len(header), _dialect(raw))
    cut = parsing.transposed(cells, len(header))
    return Reading(
        len(records),
        columns.table(cut, len(cells), layout),
        places,
        ragged,
        lambda index: parsing.as_json(records[index], header),
    )


_FORMATS: dict[str, Callable[[RawBatch, bytes, int], Iterator[Reading]]] = {
    "json": _read_pages,
    "history": _read_history,
    "csv": _read_csv,
}
