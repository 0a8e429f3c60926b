"""The rows of a raw batch as a table, by the batch's format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from marketdata import sources
from marketdata.csv_files import columns, parsing
from marketdata.schema.record import Fault, Table, table_of
from marketdata.sources.json_stream import parse as parse_json
from marketdata.store.connection import Document


@dataclass(frozen=True, slots=True)
class Reading:
    """The rows of one batch; each is either in the table or a fault."""

    rows: int
    table: Table
    places: Sequence[int]
    """The index of each of the table's rows in the batch."""
    faults: list[Fault]
    """Of the other rows."""
    text: Callable[[int], str]
    """A row as JSON text, by its index in the batch: it may hold what BSON can't."""


def read(raw: Document, payload: bytes) -> Reading:
    """The rows of a raw batch. What it needs is in the batch: a rebuild has nothing else.

    Args:
        raw: the raw batch's document.
        payload: its bytes, unpacked.

    Raises:
        FileRefused: a CSV's bytes are not what they were when it was cut.
    """
    return _FORMATS[raw["format"]](raw, payload)


def _read_json(raw: Document, payload: bytes) -> Reading:
    source = sources.load(raw["source"])
    rows: list[Any] = parse_json(payload)
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


def _read_csv(raw: Document, payload: bytes) -> Reading:
    header, layout = raw["header"], raw["layout"]
    records = parsing.parse(payload, raw.get("malformed", ()))
    cells, places, ragged = parsing.regular(records, len(header))
    return Reading(
        len(records),
        columns.table(cells, layout["columns"], layout["dataset"]),
        places,
        ragged,
        lambda index: parsing.as_json(records[index], header),
    )


_FORMATS: dict[str, Callable[[Document, bytes], Reading]] = {"json": _read_json, "csv": _read_csv}
