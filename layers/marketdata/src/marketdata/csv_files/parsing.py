"""Reading one piece of a CSV: its records as lists of cells, and those that are none."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import repeat

from marketdata.csv_files.cutting import MAX_RECORD_BYTES, Grammar, grammar_of
from marketdata.csv_files.dialect import RFC_4180, Dialect
from marketdata.errors import FileRefused
from marketdata.schema.record import Fault

# The limit is the whole process's; the module's own of 131,072 would fail where a piece is good.
csv.field_size_limit(MAX_RECORD_BYTES)


def parse(
    data: bytes, malformed: Sequence[Sequence[int]] = (), dialect: Dialect = RFC_4180
) -> Iterator[list[str] | str]:
    """The records of a piece in order: cells, or the line's text where it is malformed.

    Args:
        data: whole records, as `cutting.cut` made them.
        malformed: (offset, length) of the malformed ones.
        dialect: how bytes are lines and cells.

    Raises:
        FileRefused: the bytes are not what the cutting had seen.
    """
    at = 0
    for offset, length in malformed:
        yield from _cells(data[at:offset], dialect)
        at = offset + length
        yield data[offset:at].decode(dialect.encoding, "replace")
    yield from _cells(data[at:], dialect)


def plain_lines(data: bytes, dialect: Dialect = RFC_4180) -> list[str] | None:
    """The records of a piece as lines, if delimiters are all that parts their cells.

    So it is wherever nothing is quoted, and taking such lines apart costs a third of what a
    reader of CSV takes.

    Returns:
        None if a reader of CSV is needed.

    Raises:
        FileRefused: the bytes are not what the cutting had seen.
    """
    if dialect.quote.encode() in data:
        return None
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
        if b"\r" in data:
            return None
    try:
        lines = data.decode(dialect.encoding).removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise _unreadable(error) from error
    return grammar_of(dialect).no_rows.drop(lines)


def columns_of(
    lines: Sequence[str], width: int, dialect: Dialect = RFC_4180
) -> list[list[str]] | None:
    """The cells of plain lines, a column at a time; None if some line has not one for each."""
    delimiter = dialect.delimiter
    counts = set(map(str.count, lines, repeat(delimiter)))
    if len(counts) != 1:
        return None
    there = counts.pop() + 1
    if not width <= there <= width + dialect.extra:
        return None
    joined = delimiter.join(lines)
    cells = joined.split(delimiter)
    if dialect.trim:
        cells = [cell.strip(_PADDING) for cell in cells]
    elif "\0" in joined:
        cells = _without_padding(cells)
    if any("".join(cells[column::there]).strip() for column in range(width, there)):
        return None
    return [cells[column::there] for column in range(width)]


def split(line: str, dialect: Dialect = RFC_4180) -> list[str]:
    """The cells of a plain line."""
    cells = line.split(dialect.delimiter)
    if dialect.trim:
        return [cell.strip(_PADDING) for cell in cells]
    return _without_padding(cells) if "\0" in line else cells


def _without_padding(cells: Sequence[str]) -> list[str]:
    """Cells without the NULs with which some programs fill them up."""
    return [cell.strip(_PADDING) if "\0" in cell else cell for cell in cells]


_PADDING = " \t\0"


def transposed(rows: Sequence[Sequence[str]], width: int) -> Sequence[Sequence[str]]:
    """The cells of rows, a column at a time."""
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _cells(data: bytes, dialect: Dialect) -> Iterator[list[str]]:
    grammar = grammar_of(dialect)
    if grammar.no_rows.may_be_in(data):
        data = _without_no_rows(data, grammar)
    try:
        text = data.decode(dialect.encoding)
    except UnicodeDecodeError as error:
        raise _unreadable(error) from error
    if dialect.trim or dialect.escape:
        records = cells_by_grammar(text, dialect)
    else:
        records = _cells_by_module(text, dialect)
    padded = "\0" in text
    for cells in records:
        if cells:
            yield _without_padding(cells) if padded else cells


def _cells_by_module(text: str, dialect: Dialect) -> Iterator[list[str]]:
    try:
        yield from csv.reader(
            io.StringIO(text, newline=""),
            delimiter=dialect.delimiter,
            quotechar=dialect.quote,
            strict=True,
        )
    except csv.Error as error:
        raise _unreadable(error) from error


@lru_cache(maxsize=64)
def _field_of(dialect: Dialect) -> re.Pattern[str]:
    """A cell and what ends it: a delimiter, the line's end, or the end of all."""
    d, q = re.escape(dialect.delimiter), re.escape(dialect.quote)
    inner = rf"[^{q}]++|{q}{q}"
    if dialect.escape:
        e = re.escape(dialect.escape)
        inner = rf"[^{q}{e}]++|{e}[\s\S]|{q}{q}"
    blank = "[ ]*+" if dialect.trim else ""
    return re.compile(
        rf"(?:{blank}{q}(?P<quoted>(?:{inner})*+){q}{blank}|(?P<bare>[^{d}\r\n]*+))"
        rf"(?P<end>{d}|\r\n|\n|\r|\Z)"
    )


def cells_by_grammar(text: str, dialect: Dialect) -> Iterator[list[str]]:
    """The cells of records in any dialect; Python's module does not know all of them.

    Args:
        text: whole records.
        dialect: how they are written.

    Raises:
        FileRefused: they are no records.
    """
    match, at, cells = _field_of(dialect).match, 0, list[str]()
    while at < len(text) or cells:
        found = match(text, at)
        if found is None:
            raise _unreadable(ValueError(f"no cell at character {at}"))
        quoted = found["quoted"]
        cells.append(
            (found["bare"].strip() if dialect.trim else found["bare"])
            if quoted is None
            else _unquoted(quoted, dialect)
        )
        at = found.end()
        if found["end"] != dialect.delimiter:
            yield cells
            cells = []


def _unquoted(text: str, dialect: Dialect) -> str:
    if dialect.escape and dialect.escape in text:
        text = re.sub(
            rf"{re.escape(dialect.escape)}([\s\S])|{re.escape(dialect.quote * 2)}",
            lambda found: found[1] or dialect.quote,
            text,
        )
    else:
        text = text.replace(dialect.quote * 2, dialect.quote)
    return text.strip() if dialect.trim else text


def _without_no_rows(data: bytes, grammar: Grammar) -> bytes:
    """Records without those that are no rows, told as the cutting tells them."""
    kept, at = [], 0
    while at < len(data):
        found = grammar.last_record.match(data, at)
        if found is None or found.end() == at:
            kept.append(data[at:])
            break
        if not grammar.no_rows.has(data[at : found.end()]):
            kept.append(data[at : found.end()])
        at = found.end()
    return b"".join(kept)


def _unreadable(error: Exception) -> FileRefused:
    return FileRefused(
        f"A range of a CSV can't be read although it was cut on record boundaries: {error}."
    )


def regular(
    records: Sequence[list[str] | str], width: int, dialect: Dialect = RFC_4180
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
            continue
        behind = record[width:]
        if len(record) < width or len(behind) > dialect.extra or any(map(str.strip, behind)):
            message = f"The row has {len(record)} cells and the header has {width}."
            faults.append(Fault(place, "ragged_row", "", message))
        else:
            cells.append(record[:width] if behind else record)
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
