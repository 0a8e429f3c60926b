"""From the bytes of a file to how it is read: its dialect, then its columns.

Who loads a file and who shows it before it is loaded both come through here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from marketdata.csv_files import cutting, parsing
from marketdata.csv_files.detection import Found, detect
from marketdata.csv_files.dialect import Dialect
from marketdata.csv_files.judging import Judgement, Sample, judge, profile_id
from marketdata.documents.questions import Answers
from marketdata.errors import FileRefused

HEAD_BYTES = 256 * 1024
"""What is looked at of the beginning of a file."""
PART_BYTES = 64 * 1024
"""What is looked at of its middle, and of its end."""
_HEAD_ROWS = 1_000
"""Rows that are judged of the beginning of a file."""
_PART_ROWS = 400
"""Rows that are judged of its middle, and of its end."""
MAX_COLUMNS = 500
_QUOTED_NUMBER = re.compile(rb"""["'][-+$]?\d[\d.,' ]*["']""")


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of a file as they are kept: after unpacking, in a single-byte encoding, without BOM."""

    head: bytes
    complete: bool
    """The head is the whole file."""
    middle: bytes = b""
    """Some of its middle, cut anywhere; empty if the head has it."""
    tail: bytes = b""
    """Its end, cut anywhere at its beginning; empty if the head has it."""


@dataclass(frozen=True, slots=True)
class Understood:
    """How a file is read."""

    dialect: Dialect
    begin: int
    """Offset of the first row, behind a byte order mark."""
    preamble: list[str]
    """Lines before the header."""
    judgement: Judgement


def understand(
    parts: Parts,
    *,
    encoding: str,
    key: str,
    answers: Callable[[str], Answers],
    dataset: str,
    received_at: datetime,
    what: str,
) -> Understood | None:
    """Decide how a file is read.

    Args:
        parts: of the file.
        encoding: of these parts: `utf-8` or `cp1252`.
        key: the object's key, which may say what it is about.
        answers: gives what was said of it, by its profile: of files that look alike.
        dataset: the data set of rows that name none.
        received_at: when it was received.
        what: names the file, for messages.

    Returns:
        None if the file is empty.

    Raises:
        FileRefused: it is not understood, or no series of prices.
    """
    found = detect(
        parts.head,
        complete=parts.complete,
        middle=parts.middle,
        tail=parts.tail,
        encoding=encoding,
        what=what,
    )
    if found is None:
        return None
    if found.width > MAX_COLUMNS:
        raise FileRefused(
            f"{what} has {found.width} columns, and {MAX_COLUMNS} is the most. Keep those that are "
            "market data and upload the file again."
        )
    sample = _sample(parts, found, what)
    judgement = judge(
        sample,
        dialect=found.dialect,
        key=key,
        answers=answers(profile_id(found.header or [], found.dialect)),
        dataset=dataset,
        received_at=received_at,
        what=what,
    )
    return Understood(found.dialect, found.begin, found.preamble, judgement)


def _sample(parts: Parts, found: Found, what: str) -> Sample:
    head = parts.head[found.begin :]
    if not parts.complete:
        head = head[: _last_line_end(head)]
    rows: list[list[str]] = []
    odd = 0
    first = list(_records(head, found.dialect, what))
    later = [
        list(islice(_records(part, found.dialect, what), _PART_ROWS))
        for part in (
            _whole_lines(parts.middle, last=False),
            _whole_lines(parts.tail, last=True),
        )
        if part
    ]
    for records in (*_blocks(first), *later):
        cells, _, faults = parsing.regular(records, found.width, found.dialect)
        rows += cells
        odd += len(faults)
    quoted = _QUOTED_NUMBER.search(head[:PART_BYTES]) is not None
    return Sample(found.header, rows, odd, quoted, found.units, found.ticker)


def _blocks(records: list[list[str] | str]) -> list[list[list[str] | str]]:
    """The first records of some, others of their middle, and the last ones: whole blocks."""
    if len(records) <= _HEAD_ROWS + 2 * _PART_ROWS:
        return [records]
    middle = (_HEAD_ROWS + len(records) - _PART_ROWS) // 2
    return [
        records[:_HEAD_ROWS],
        records[middle : middle + _PART_ROWS],
        records[-_PART_ROWS:],
    ]


def _records(part: bytes, dialect: Dialect, what: str) -> Iterator[list[str] | str]:
    for piece in cutting.cut([part], rows=1000, size=len(part) + 1, what=what, dialect=dialect):
        yield from parsing.parse(piece.data, piece.malformed, dialect)


def _last_line_end(data: bytes) -> int:
    return max(data.rfind(b"\n"), data.rfind(b"\r")) + 1


def _whole_lines(part: bytes, *, last: bool) -> bytes:
    """A part without the line that it begins in, and without the one that it ends in."""
    begin = re.search(rb"\r\n|\n|\r", part)
    if begin is None:
        return b""
    return part[begin.end() :] if last else part[begin.end() : _last_line_end(part)]
