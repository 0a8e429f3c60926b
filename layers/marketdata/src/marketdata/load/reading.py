"""The rows of a raw batch as candidates, by the batch's format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from marketdata import sources
from marketdata.csv_files import parsing
from marketdata.csv_files.columns import candidates as csv_candidates
from marketdata.load.raw import unpack
from marketdata.schema.record import Fault
from marketdata.sources.json_stream import parse as parse_json
from marketdata.store.connection import Document


@dataclass(frozen=True, slots=True)
class Reading:
    """The rows of one batch; each is either a candidate or a fault."""

    rows: int
    candidates: list[dict[str, Any]]
    places: Sequence[int]
    """The index of each candidate's row."""
    faults: list[Fault]
    text: Callable[[int], str]
    """A row as JSON text, by its index: it may hold what BSON can't."""


def read(raw: Document) -> Reading:
    """The rows of a raw batch. What it needs is in the batch: a rebuild has nothing else.

    Raises:
        FileRefused: a CSV's bytes are not what they were when it was cut.
    """
    return _FORMATS[raw["format"]](raw)


def _read_json(raw: Document) -> Reading:
    source = sources.load(raw["source"])
    rows: list[Any] = parse_json(unpack(raw))
    candidates, places, faults = [], [], []
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            faults.append(
                Fault(index, "not_an_object", "", f"A row must be an object, not {row!r:.80}")
            )
            continue
        candidates.append(source.candidate(row) | {"source": source.name, "dataset": ""})
        places.append(index)
    return Reading(len(rows), candidates, places, faults, lambda index: json.dumps(rows[index]))


def _read_csv(raw: Document) -> Reading:
    header, layout = raw["header"], raw["layout"]
    records = parsing.parse(unpack(raw), raw.get("malformed", ()))
    cells, regular, ragged = parsing.regular(records, len(header))
    candidates, good, faults = csv_candidates(cells, layout["columns"], layout["dataset"])
    if ragged or faults:
        places: Sequence[int] = [regular[place] for place in good]
        faults = [Fault(regular[f.row], f.code, f.field, f.message) for f in faults] + ragged
    else:
        places = good
    return Reading(
        len(records),
        candidates,
        places,
        faults,
        lambda index: parsing.as_json(records[index], header),
    )


_FORMATS: dict[str, Callable[[Document], Reading]] = {"json": _read_json, "csv": _read_csv}
