"""Cutting a CSV into pieces of whole records, in one pass and in constant memory.

Format: RFC 4180, or another dialect of it: by default with `,` between fields, and records that end
with CRLF, LF or CR. A field in quotes may hold any of these; a quote within it is doubled; after
its closing quote the field ends. A quote anywhere else is an ordinary character. Lines of
delimiters alone are no records, nor are empty ones.

A line that breaks these rules (text after a closing quote, a quote that is never closed) is a
*malformed record* that ends where the line ends. So one lost quote costs one row: it can
neither swallow the rows after it nor give any of them a wrong meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter

from marketdata.csv_files.dialect import RFC_4180, Dialect
from marketdata.errors import FileRefused

MAX_RECORD_BYTES = 1024 * 1024
"""The longest record. It bounds what a quote that is never closed makes this program read."""

_ONE_BY_ONE = 100
"""Records after which it is worth looking again whether many lines can be passed at once."""
_FIRST = itemgetter(slice(0, 1))
_SHORT, _USUAL = 4096, 256
"""Bytes of some lines, and of each line more: to look no further than lines are wanted."""
_FEW = 16
_AT_ONCE = 256 * 1024
"""Bytes of lines that are passed at once."""
_LINE_END = re.compile(rb"\r\n|\n|\r(?=[^\n])")
_LAST_LINE_END = re.compile(rb"\r\n|\n|\r|\Z")
BLANKS = " \t\r\n\0\x1a"
"""What a line may have and still be blank: also what old programs fill up and end files with."""
_LINE_ENDS = re.compile(rb"[\r\n]++")


class Grammar:
    """What records of a dialect look like, as bytes."""

    def __init__(self, dialect: Dialect) -> None:
        self.delimiter = dialect.delimiter.encode()
        self.quote = dialect.quote.encode()
        d, q = re.escape(self.delimiter), re.escape(self.quote)
        inner = rb"[^" + q + rb"]++|" + q + q
        if dialect.escape:
            e = re.escape(dialect.escape.encode())
            inner = rb"[^" + q + e + rb"]++|" + e + rb"[\s\S]|" + q + q
        # A chunk may end behind an escape, whose sign comes with the next one.
        half = re.escape(dialect.escape.encode()) + rb"?" if dialect.escape else rb""
        blank = rb"[ ]*+" if dialect.trim else rb""
        opened = blank + q + rb"(?:" + inner + rb")*+"
        bare = (
            rb"[^"
            + q
            + d
            + rb"\r\n"
            + (rb" " if dialect.trim else rb"")
            + rb"][^"
            + d
            + rb"\r\n]*+"
        )
        field = rb"(?:" + opened + q + blank + rb"|" + blank + bare + rb"|" + blank + rb")"
        fields = rb"(?:" + field + d + rb")*+" + field
        self.record = re.compile(fields + rb"()(?:\r\n|\n|\r(?=[^\n]))")
        """A whole record. A CR at the end of what was read may be the first half of a CRLF."""
        self.last_record = re.compile(fields + rb"()(?:\r\n|\n|\r|\Z)")
        """A whole record when nothing more comes."""
        self.beginning = re.compile(
            rb"(?:" + field + d + rb")*+(?:" + opened + rb"(?:" + half + q + rb"?" + blank + rb")|"
            + blank + bare + rb"|" + blank + rb")\r?\Z"
        )  # fmt: skip
        """What may yet become a record."""
        self.no_rows = NoRows(dialect)


class NoRows:
    """Which lines of a dialect are no rows: blank ones, comments, headers that are repeated.

    Whoever counts rows and whoever reads them ask this, so that they agree.
    """

    def __init__(self, dialect: Dialect) -> None:
        encoding = dialect.encoding
        self._blanks = f"{dialect.delimiter}{dialect.quote}{BLANKS}".encode()
        self._comment = dialect.comment.encode(encoding)
        self._lines = tuple(line.encode(encoding) for line in dialect.not_rows)
        self._ended = tuple(line + b"\r" for line in self._lines)
        firsts = {bytes((byte,)) for byte in self._blanks} | {self._comment[:1]}
        self._suspicious = frozenset(firsts - {b"", b"\r", b"\n"})
        self._encoding = encoding
        self._suspicious_text = frozenset(one.decode(encoding) for one in self._suspicious) | {""}
        self._lines_as_text = dialect.not_rows
        blank = re.escape(f"{dialect.delimiter}{dialect.quote} \t\0\x1a".encode())
        sign = re.escape(self._comment) if self._comment else rb"(?!)"
        self._may_be = re.compile(
            rb"(?:\A|\n|\r(?!\n))(?:[" + blank + rb"]*+(?:[\r\n]|\Z)|[ \t]*+" + sign + rb")"
        )
        """The first line of whatever may be no row, but for the lines that are known."""

    def has(self, line: bytes) -> bool:
        """Whether a line, with or without its end, is no row."""
        if not line.strip(self._blanks):
            return True
        if self._comment and line.lstrip(b" \t").startswith(self._comment):
            return True
        return bool(self._lines) and line.rstrip(b"\r\n") in self._lines

    def may_be_in(self, data: bytes) -> bool:
        """Whether some record may be no row; in quotes there may be lines that look like one."""
        data = data.removesuffix(b"\n").removesuffix(b"\r")
        return self._may_be.search(data) is not None or any(line in data for line in self._lines)

    def count(self, lines: Sequence[bytes]) -> int:
        """How many of some lines are no rows; they have no LF, and may end with a CR."""
        empty = lines.count(b"") + lines.count(b"\r")
        firsts = {line[:1] for line in lines}
        if not firsts.isdisjoint(self._suspicious):
            distinct = set(lines)
            if len(distinct) <= _FEW:
                return sum(lines.count(line) for line in distinct if self.has(line))
            return sum(map(self.has, lines))
        return empty + sum(map(lines.count, self._lines)) + sum(map(lines.count, self._ended))

    def drop(self, lines: list[str]) -> list[str]:
        """The lines that are rows; of lines as texts, without their ends."""
        firsts = set(map(_FIRST, lines))
        known = any(map(lines.count, self._lines_as_text))
        if not known and firsts.isdisjoint(self._suspicious_text):
            return lines
        return [line for line in lines if not self.has(line.encode(self._encoding))]


def _length_until_row(lines: Sequence[bytes], no_rows: NoRows) -> int:
    """Bytes of the first lines that are no rows, with their line ends."""
    length = 0
    for line in lines:
        if not no_rows.has(line):
            break
        length += len(line) + 1
    return length


@lru_cache(maxsize=64)
def grammar_of(dialect: Dialect) -> Grammar:
    """The grammar of a dialect, made once."""
    return Grammar(dialect)


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
    chunks: Iterable[bytes],
    *,
    start: int = 0,
    rows: int,
    size: int,
    what: str = "The file",
    dialect: Dialect = RFC_4180,
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
        dialect: how bytes are lines and cells.

    Raises:
        FileRefused: a line is longer than any record may be.
    """
    cutter = _Cutter(start, rows, size, what, grammar_of(dialect))
    for chunk in chunks:
        cutter.buffer += chunk
        yield from cutter.pieces(last=False)
    yield from cutter.pieces(last=True)


class _Cutter:
    """The bytes from the beginning of the current piece on, and how far they are understood."""

    def __init__(self, start: int, rows: int, size: int, what: str, grammar: Grammar) -> None:
        self._grammar = grammar
        self.buffer = b""
        self._start = start
        self._rows = rows
        self._size = size
        self._what = what
        self._at = 0
        """How far the buffer is understood."""
        self._begin = 0
        """Where the piece begins: with its first row."""
        self._last = 0
        """Where its last row ends."""
        self._count = 0
        self._malformed: list[tuple[int, int]] = []
        """Offset in the file, and length, of the piece's malformed records."""
        self._one_by_one_until = 0
        """Offset up to which lines were seen to need a look at each."""

    def pieces(self, *, last: bool) -> Iterator[Piece]:
        """The pieces that are complete now; all that is left, if nothing more comes."""
        while self._advance(last=last):
            yield self._piece()
        if last and self._count:
            yield self._piece()
        self._forget(self._begin)

    def _piece(self) -> Piece:
        """What is between the first row and the last one: lines around them are in no piece."""
        begin, end = self._begin, self._last
        data = self.buffer[begin:end]
        malformed = tuple((at - self._start - begin, size) for at, size in self._malformed)
        piece = Piece(self._start + begin, self._start + end, self._count, data, malformed)
        self._forget(end)
        self._begin = self._last = self._at
        self._count, self._malformed = 0, []
        return piece

    def _forget(self, count: int) -> None:
        """Let go of the first bytes of the buffer."""
        if count:
            self.buffer = self.buffer[count:]
            self._start += count
            self._at -= count
            self._begin -= count
            self._last -= count

    def _advance(self, *, last: bool) -> bool:
        """Go on over whole records; True when the piece is full."""
        while self._count < self._rows:
            if self._count and self._at - self._begin >= self._size:
                # Whatever row comes next is too much.
                return True
            if (
                self._advance_over_line_ends()
                or self._advance_over_plain_lines()
                or self._advance_over_records()
            ):
                continue
            if self._at == len(self.buffer):
                return False
            record = self._record(last=last)
            if record is None:
                # Even if what has begun is beyond the limit already: it may turn out to be a
                # malformed line that had ended before it, or half of an empty one.
                return False
            end, kind = record
            if kind != "empty" and self._count and end - self._begin > self._size:
                return True
            if kind == "malformed":
                self._malformed.append((self._start + self._at, end - self._at))
            self._pass(end, kind != "empty")
        return True

    def _pass(self, end: int, is_row: bool) -> None:
        """Go over one record."""
        if is_row:
            self._count += 1
            self._at = self._last = end
        else:
            self._at = end
            if not self._count:
                self._begin = end

    def _advance_over_line_ends(self) -> bool:
        """Go over empty lines."""
        found = _LINE_ENDS.match(self.buffer, self._at)
        if found is None:
            return False
        self._pass(found.end(), is_row=False)
        return True

    def _advance_over_plain_lines(self) -> bool:
        """Go over many lines at once, where no quote makes them anything but records."""
        buffer, at = self.buffer, self._at
        if self._start + at < self._one_by_one_until:
            return False
        wanted = min(_AT_ONCE, _SHORT + _USUAL * (self._rows - self._count))
        window = min(len(buffer), self._begin + self._size, at + wanted)
        quote = buffer.find(self._grammar.quote, at, window)
        if quote >= 0:
            window = quote
        limit = buffer.rfind(b"\n", at, window) + 1
        lone_returns = buffer.count(b"\r", at, limit) - buffer.count(b"\r\n", at, limit)
        *lines, rest = buffer[at:limit].split(b"\n", self._rows - self._count)
        if limit <= at or lone_returns or max(map(len, lines)) >= MAX_RECORD_BYTES:
            # Without this note, each record would look through the same window again.
            self._one_by_one_until = self._start + window
            return False
        self._at = limit - len(rest)
        no_rows = self._grammar.no_rows
        none = no_rows.count(lines)
        if none == len(lines):
            if not self._count:
                self._begin = self._at
            return True
        if none and not self._count:
            # The piece begins with its first row.
            self._begin = at + _length_until_row(lines, no_rows)
        self._count += len(lines) - none
        self._last = self._at - (_length_until_row(lines[::-1], no_rows) if none else 0)
        return True

    def _advance_over_records(self) -> bool:
        """Go over some whole records, one by one; whatever is special about one is left."""
        buffer, begin, match = self.buffer, self._at, self._grammar.record.match
        is_no_row = self._grammar.no_rows.has
        most = self._rows - self._count
        for _ in range(min(_ONE_BY_ONE, most)):
            at = self._at
            found = match(buffer, at)
            if found is None:
                break
            end = found.end()
            if end - self._begin > self._size or end - at > MAX_RECORD_BYTES:
                break
            self._pass(end, not is_no_row(buffer[at:end]))
        return self._at > begin

    def _record(self, *, last: bool) -> tuple[int, str] | None:
        """Where the next record ends and what it is; None if that can't be told yet.

        Raises:
            FileRefused: the line is too long.
        """
        buffer, at = self.buffer, self._at
        grammar = self._grammar
        found = (grammar.last_record if last else grammar.record).match(buffer, at)
        if found and found.end() - at <= MAX_RECORD_BYTES:
            empty = grammar.no_rows.has(buffer[at : found.end()])
            return found.end(), "empty" if empty else "whole"
        if (
            not last
            and len(buffer) - at <= MAX_RECORD_BYTES
            and grammar.beginning.match(buffer, at)
        ):
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
