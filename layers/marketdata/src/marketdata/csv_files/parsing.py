"""Reading one piece of a CSV: its records as lists of cells, and those that are none."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import repeat

from marketdata.csv_files.cutting import MAX_RECORD_BYTES
from marketdata.errors import FileRefused
from marketdata.schema.record import Fault

# The limit is the whole process's; the module's own of 131,072 would fail where a piece is good.
csv.field_size_limit(MAX_RECORD_BYTES)


def header_cells(line: bytes) -> list[str]:
    """The column names that a header record holds, as they are written."""
    return next(_cells(line))


def parse(data: bytes, malformed: Sequence[Sequence[int]] = ()) -> Iterator[list[str] | str]:
    """The records of a piece in order: cells, or the line's text where it is malformed.

    Args:
        data: whole records, as `cutting.cut` made them.
        malformed: (offset, length) of the malformed ones.

    Raises:
        FileRefused: the bytes are not what the cutting had seen.
    """
    at = 0
    for offset, length in malformed:
        yield from _cells(data[at:offset])
        at = offset + length
        yield data[offset:at].decode()
    yield from _cells(data[at:])


def plain_lines(data: bytes) -> list[str] | None:
    """The records of a piece as lines, if commas are all that parts their cells.

    So it is wherever nothing is quoted, and taking such lines apart costs a third of what a
    reader of CSV takes.

    Returns:
        None if a reader of CSV is needed.

    Raises:
        FileRefused: the bytes are not what the cutting had seen.
    """
    if b'"' in data:
        return None
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
        if b"\r" in data:
            return None
    try:
        lines = data.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise _unreadable(error) from error
    # Empty lines are no records.
    return [line for line in lines if line] if "" in lines else lines


def columns_of(lines: Sequence[str], width: int) -> list[list[str]] | None:
    """The cells of plain lines, a column at a time; None if some line has not one for each."""
    if set(map(str.count, lines, repeat(","))) != {width - 1}:
        return None
    cells = ",".join(lines).split(",")
    return [cells[column::width] for column in range(width)]


def transposed(rows: Sequence[Sequence[str]], width: int) -> Sequence[Sequence[str]]:
    """The cells of rows, a column at a time."""
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _cells(data: bytes) -> Iterator[list[str]]:
    try:
        text = io.StringIO(data.decode(), newline="")
        # Empty lines are no records.
        yield from filter(None, csv.reader(text, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> FileRefused:
    return FileRefused(
        f"A range of a CSV can't be read although it was cut on record boundaries: {error}."
    )


def regular(
    records: Sequence[list[str] | str], width: int
) -> tuple[Sequence[list[str]], Sequence[int], list[Fault]]:
    """The records that have a cell for each column, the place of each, and the others' faults."""
    if set(map(type, records)) <= {list} and set(map(len, records)) <= {width}:
        return records, range(len(records)), []  # type: ignore[return-value]
    cells, places, faults = [], [], []
    for place, record in enumerate(records):
        if isinstance(record, str):
            message = (
                "A quote in this line is not closed, or text follows a closing quote. Quotes "
                "within a quoted field are to be doubled."
            )
            faults.append(Fault(place, "malformed_row", "", message))
        elif len(record) != width:
            message = f"The row has {len(record)} cells and the header has {width}."
            faults.append(Fault(place, "ragged_row", "", message))
        else:
            cells.append(record)
            places.append(place)
    return cells, places, faults


def as_json(record: list[str] | str, header: Sequence[str]) -> str:
    """A record as JSON text, for whoever has to look at it.

    An object of cells by column; without one cell for each distinct column name, a list of
    cells; of a malformed record, its text.
    """
    if isinstance(record, str):
        return json.dumps(record.rstrip("\r\n"))
    if len(set(header)) == len(record) == len(header):
        return json.dumps(dict(zip(header, record, strict=True)))
    return json.dumps(record)
