"""The rows of a raw batch as tables, by the batch's format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import batched, islice
from typing import Any

from marketdata import sources
from marketdata.csv_files import columns, parsing
from marketdata.schema.record import Fault, Table, table_of
from marketdata.sources.base import ApiSource
from marketdata.sources.json_stream import parse as parse_json
from marketdata.store.connection import Document


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


def read(raw: Document, payload: bytes, together: int) -> Iterator[Reading]:
    """The rows of a raw batch. What it needs is in the batch: a rebuild has nothing else.

    Args:
        raw: the raw batch's document.
        payload: its bytes, unpacked.
        together: the number of rows in each reading, but for the last.

    Raises:
        FileRefused: a CSV's bytes are not what they were when it was cut.
    """
    return _FORMATS[raw["format"]](raw, payload, together)


def _read_json(raw: Document, payload: bytes, together: int) -> Iterator[Reading]:
    source = sources.load(raw["source"])
    for rows in batched(parse_json(payload), together, strict=False):
        yield _json_rows(source, rows)


def _json_rows(source: type[ApiSource], rows: Sequence[Any]) -> Reading:
    candidates, places, faults = [], [], []
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            faults.append(
                Fault(index, "not_an_object", "", f"A row must be an object, not {row!r:.80}")
            )
            continue
        candidates.append(source.candidate(row) | {"source": source.name, "dataset": ""})
        places.append(index)
    table = table_of(candidates)
    return Reading(len(rows), table, places, faults, lambda index: json.dumps(rows[index]))


def _read_csv(raw: Document, payload: bytes, together: int) -> Iterator[Reading]:
    lines = parsing.plain_lines(payload)
    if lines is not None:
        for some in batched(lines, together, strict=False):
            yield _plain_rows(raw, some)
        return
    records = parsing.parse(payload, raw.get("malformed", ()))
    while rows := list(islice(records, together)):
        yield _csv_rows(raw, rows)


def _plain_rows(raw: Document, lines: Sequence[str]) -> Reading:
    header, layout = raw["header"], raw["layout"]
    cut = parsing.columns_of(lines, len(header))
    if cut is None:
        return _csv_rows(raw, [line.split(",") for line in lines])
    return Reading(
        len(lines),
        columns.table(cut, len(lines), layout["columns"], layout["dataset"]),
        range(len(lines)),
        [],
        lambda index: parsing.as_json(lines[index].split(","), header),
    )


def _csv_rows(raw: Document, records: Sequence[list[str] | str]) -> Reading:
    header, layout = raw["header"], raw["layout"]
    cells, places, ragged = parsing.regular(records, len(header))
    cut = parsing.transposed(cells, len(header))
    return Reading(
        len(records),
        columns.table(cut, len(cells), layout["columns"], layout["dataset"]),
        places,
        ragged,
        lambda index: parsing.as_json(records[index], header),
    )


_FORMATS: dict[str, Callable[[Document, bytes, int], Iterator[Reading]]] = {
    "json": _read_json,
    "csv": _read_csv,
}
