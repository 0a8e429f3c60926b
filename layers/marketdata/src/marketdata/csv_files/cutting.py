"""Cutting a CSV into pieces of whole records, in one pass and in constant memory.

Format: RFC 4180, with `,` between fields, and records that end with CRLF, LF or CR. A field in
quotes may hold any of these; a quote within it is doubled; after its closing quote the field
ends. A quote anywhere else is an ordinary character. Empty lines are no records.

A line that breaks these rules (text after a closing quote, a quote that is never closed) is a
*malformed record* that ends where the line ends. So one lost quote costs one row: it can
neither swallow the rows after it nor give any of them a wrong meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from marketdata.errors import FileRefused

MAX_RECORD_BYTES = 1024 * 1024
"""The longest record. It bounds what a quote that is never closed makes this program read."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_FIELD = rb'(?:"(?:[^"]++|"")*+"|[^",\r\n][^,\r\n]*+|)'
_FIELDS = rb"(?:" + _FIELD + rb",)*+" + _FIELD
_RECORD = re.compile(_FIELDS + rb"()(?:\r\n|\n|\r(?=[^\n]))")
"""A whole record. A CR at the end of what was read may be the first half of a CRLF."""
_LAST_RECORD = re.compile(_FIELDS + rb"()(?:\r\n|\n|\r|\Z)")
"""A whole record when nothing more comes."""
_BEGINNING = re.compile(rb"(?:" + _FIELD + rb',)*+(?:"(?:[^"]++|"")*+"?|[^",\r\n][^,\r\n]*+|)\r?\Z')
"""What may yet become a record."""
_ONE_BY_ONE = 100
"""Records after which it is worth looking again whether many lines can be passed at once."""
_LINE_END = re.compile(rb"\r\n|\n|\r(?=[^\n])")
_LAST_LINE_END = re.compile(rb"\r\n|\n|\r|\Z")


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a CSV that begins and ends between records."""

    start: int
    """Offset of its first byte."""
    end: int
    """Offset after its last byte."""
    rows: int
    """Records in it, malformed ones included, empty lines not."""
    data: bytes = field(repr=False)
    malformed: tuple[tuple[int, int], ...] = ()
    """(Offset within the piece, length) of its malformed records, ascending."""


def cut(
    chunks: Iterable[bytes], *, start: int = 0, rows: int, size: int, what: str = "The file"
) -> Iterator[Piece]:
    """The records of a CSV in pieces.

    Where the cuts are depends on the bytes alone, not on how they arrive. The memory needed is
    that of one piece, one record and one chunk.

    Args:
        chunks: the bytes, in parts of any size.
        start: the offset of the first one.
        rows: records in one piece at most.
        size: bytes in one piece at most, unless a single record has more.
        what: names the file, for messages.

    Raises:
        FileRefused: a line is longer than any record may be.
    """
    cutter = _Cutter(start, rows, size, what)
    for chunk in chunks:
        cutter.buffer += chunk
        yield from cutter.pieces(last=False)
    yield from cutter.pieces(last=True)


class _Cutter:
    """The bytes from the beginning of the current piece on, and how far they are understood."""

    def __init__(self, start: int, rows: int, size: int, what: str) -> None:
        self.buffer = b""
        self._start = start
        self._rows = rows
        self._size = size
        self._what = what
        self._at = 0
        self._count = 0
        self._malformed: list[tuple[int, int]] = []
        self._one_by_one_until = 0
        """Offset up to which lines were seen to need a look at each."""

    def pieces(self, *, last: bool) -> Iterator[Piece]:
        """The pieces that are complete now; all that is left, if nothing more comes."""
        while self._advance(last=last):
            yield self._piece()
        if last and self._count:
            yield self._piece()

    def _piece(self) -> Piece:
        data = self.buffer[: self._at]
        end = self._start + self._at
        piece = Piece(self._start, end, self._count, data, tuple(self._malformed))
        self.buffer = self.buffer[self._at :]
        self._start, self._at, self._count, self._malformed = end, 0, 0, []
        return piece

    def _advance(self, *, last: bool) -> bool:
        """Go on over whole records; True when the piece is full."""
        while self._count < self._rows:
            if self._advance_over_plain_lines() or self._advance_over_records():
                continue
            if self._at == len(self.buffer):
                return False
            record = self._record(last=last)
            if record is None:
                # Even if what has begun is beyond the limit already: it may turn out to be a
                # malformed line that had ended before it, or half of an empty one.
                return False
            end, kind = record
            if kind != "empty" and self._count and end > self._size:
                return True
            if kind == "malformed":
                self._malformed.append((self._at, end - self._at))
            self._count += kind != "empty"
            self._at = end
        return True

    def _advance_over_plain_lines(self) -> bool:
        """Go over many lines at once, where no quote makes them anything but records."""
        buffer, at = self.buffer, self._at
        if self._start + at < self._one_by_one_until:
            return False
        window = min(len(buffer), self._size)
        quote = buffer.find(b'"', at, window)
        if quote >= 0:
            window = quote
        limit = buffer.rfind(b"\n", at, window) + 1
        lone_returns = buffer.count(b"\r", at, limit) - buffer.count(b"\r\n", at, limit)
        *lines, rest = buffer[at:limit].split(b"\n", self._rows - self._count)
        if limit <= at or lone_returns or max(map(len, lines)) >= MAX_RECORD_BYTES:
            # Without this note, each record would look through the same window again.
            self._one_by_one_until = self._start + window
            return False
        empty = lines.count(b"") + lines.count(b"\r")
        self._count += len(lines) - empty
        self._at = limit - len(rest)
        return True

    def _advance_over_records(self) -> bool:
        """Go over some whole records, one by one; whatever is special about one is left."""
        buffer, begin, match = self.buffer, self._at, _RECORD.match
        at, count = begin, self._count
        for _ in range(min(_ONE_BY_ONE, self._rows - count)):
            found = match(buffer, at)
            if found is None:
                break
            end = found.end()
            if end > self._size or end - at > MAX_RECORD_BYTES:
                break
            count += found.start(1) != at
            at = end
        self._at, self._count = at, count
        return at > begin

    def _record(self, *, last: bool) -> tuple[int, str] | None:
        """Where the next record ends and what it is; None if that can't be told yet.

        Raises:
            FileRefused: the line is too long.
        """
        buffer, at = self.buffer, self._at
        found = (_LAST_RECORD if last else _RECORD).match(buffer, at)
        if found and found.end() - at <= MAX_RECORD_BYTES:
            return found.end(), "empty" if found.start(1) == at else "whole"
        if not last and len(buffer) - at <= MAX_RECORD_BYTES and _BEGINNING.match(buffer, at):
            return None
        line = (_LAST_LINE_END if last else _LINE_END).search(buffer, at)
        if line and line.end() - at <= MAX_RECORD_BYTES:
            return line.end(), "malformed"
        if not line and len(buffer) - at <= MAX_RECORD_BYTES:
            return None
        raise FileRefused(
            f"{self._what} has a line of more than {MAX_RECORD_BYTES // 2**20} MiB at byte "
            f"{self._start + at}, which no record of market data is. If it is a CSV, check its "
            "line ends there.",
            offset=self._start + at,
        )


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a CSV."""

    header: bytes
    """The first record, with its line end."""
    end: int
    """Offset of what follows."""


def head(data: bytes, *, complete: bool, what: str = "The file") -> Head | None:
    """The header within the first bytes of a CSV; None if they end within it.

    Empty lines before it are passed over, as is a byte order mark.

    Args:
        data: the first bytes.
        complete: there are no more than these.
        what: names the file, for messages.

    Raises:
        FileRefused: the first record is malformed or too long.
    """
    mark = len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0
    cutter = _Cutter(mark, 1, len(data), what)
    cutter.buffer = data[mark:]
    piece = next(cutter.pieces(last=complete), None)
    if piece is None:
        return None
    if piece.malformed:
        raise FileRefused(
            f"{what} begins with a line whose quotes are wrong: {piece.data[:80]!r}. Its header "
            "can't be told; correct the first line and upload the file again."
        )
    return Head(piece.data, piece.end)
