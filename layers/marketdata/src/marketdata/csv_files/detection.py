"""Finding the dialect of a file: what parts its cells, where its rows begin, what is no row.

Every delimiter is tried on the first records, and the one under which most of them have equally
many cells wins. A wrong dialect would be worse than none: what fits nowhere is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from marketdata.csv_files import parsing, times
from marketdata.csv_files.cutting import BLANKS, Grammar, grammar_of
from marketdata.csv_files.dialect import Dialect
from marketdata.csv_files.encoding import BYTE_ORDER_MARK
from marketdata.errors import FileRefused

_DELIMITERS = ("\t", ";", "|", ",")
"""The last one stands within numbers and texts most often, so it wins only if it fits better."""
_BETTER = 0.03
_LOOKED_AT = 300
"""Records of the head that decide."""
_MOST_PREAMBLE = 30
_MOST_UNIT_ROWS = 3
_MOST_FOOTERS = 5
_MOST_EXTRA = 16
_TIMES = frozenset(("date", "datetime", "time", "timestamp"))
"""What a second header may name in its first cell alone, as yfinance's does."""
_CONSISTENT = 0.5
_STRICT_NUMBER = re.compile(r"[-+]?[$€£]?\d[\d.,]*(?:[eE][-+]?\d+)?%?", re.ASCII)
_SEPARATOR_LINE = re.compile(rb"""\s*["']?sep=(.)["']?[ \t]*(?:\r\n|\n|\r|\Z)""", re.IGNORECASE)
_COMMENTS = ("#", "//")
_WEB_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml|table)", re.IGNORECASE)
_JSON = re.compile(rb"\s*[\[{]\s*[\"\[{]")


@dataclass(frozen=True, slots=True)
class Found:
    """What was found out about the lines and cells of a file."""

    dialect: Dialect
    header: list[str] | None
    """The names of its columns, without blanks around them; None if it has no header."""
    width: int
    """Cells of a row."""
    begin: int
    """Offset of the first row, behind a byte order mark."""
    preamble: list[str]
    """Lines before the header."""
    units: list[str]
    """Of each column what a row of units below the header says; empty if there is none."""
    ticker: str = ""
    """The one symbol that a second header names."""


@dataclass(frozen=True, slots=True)
class _Record:
    begin: int
    end: int
    cells: tuple[str, ...]
    """As Latin-1, whatever the encoding: what parts cells is the same in all of them."""
    whole: bool = True
    """False for a line whose quotes are wrong."""

    @property
    def blank(self) -> bool:
        return self.whole and not any(cell.strip(f"{BLANKS}\"'") for cell in self.cells)

    @property
    def is_data(self) -> bool:
        """Whether some cell is a number or a date, as in rows and not in headers."""
        return any(_is_value(cell) for cell in self.cells)


def _is_value(cell: str) -> bool:
    text = cell.strip()
    if _STRICT_NUMBER.fullmatch(text):
        return True
    return (
        bool(text)
        and text[-1:].isalnum()
        and any(map(str.isdigit, text))
        and (times.examine([text]).times > 0)
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """How well a dialect fits."""

    dialect: Dialect
    records: Sequence[_Record]
    width: int
    """The most frequent number of cells."""
    first: int
    """The index of the first record of the table."""
    score: float


def detect(
    head: bytes,
    *,
    complete: bool,
    middle: bytes = b"",
    tail: bytes = b"",
    encoding: str,
    what: str,
) -> Found | None:
    """Find the dialect of a file.

    Args:
        head: its first bytes.
        complete: they are the whole file.
        middle: some bytes of its middle, cut anywhere.
        tail: its last bytes, cut anywhere at their beginning.
        encoding: of these bytes: `utf-8` or `cp1252`.
        what: names the file, for messages.

    Returns:
        None if there is nothing but blank lines.

    Raises:
        FileRefused: nothing in it looks like a table; says what it looks like.
    """
    mark = len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0
    if not head[mark:].strip():
        return None
    _require_table(head[mark:], what)
    said = _SEPARATOR_LINE.match(head, mark)
    begin = mark if said is None else said.end()
    told = said[1].decode("latin-1") if said is not None else ""
    trial = _best(head, begin, told, complete=complete, encoding=encoding)
    if trial is None:
        raise FileRefused(
            f"{what} is no table that can be told: its first line is {_shown(head[begin:])!r}, "
            "and its "
            "lines have no common number of cells, whether they are parted by commas, semicolons, "
            "tabs or pipes. Nothing was loaded. Save it as a CSV and upload it again."
        )
    found = _found(trial, head, encoding, what)
    if said is not None:
        found = replace(found, preamble=[_shown(head[mark:begin]), *found.preamble])
    return _with_ends(found, trial, middle, tail if tail or not complete else head, encoding)


def _require_table(head: bytes, what: str) -> None:
    kind = "a web page" if _WEB_PAGE.match(head) else "JSON" if _JSON.match(head) else ""
    if kind:
        raise FileRefused(
            f"{what} is {kind}, not a table of cells: it begins with {_shown(head)!r}. Nothing was "
            "loaded. Save the data itself as a CSV and upload that."
        )
    if b"\0" in re.split(rb"[\r\n]", head, maxsplit=1)[0]:
        raise FileRefused(
            f"{what} is no text: it is full of zero bytes. Nothing was loaded. Save it as a CSV in "
            "UTF-8 and upload it again."
        )


def _shown(data: bytes) -> str:
    line = re.split(rb"[\r\n]", data.lstrip(), maxsplit=1)[0]
    return line[:80].decode("utf-8", "replace")


def _best(head: bytes, begin: int, told: str, *, complete: bool, encoding: str) -> _Trial | None:
    trials: list[_Trial] = []
    for delimiter in (told,) if told in _DELIMITERS else _DELIMITERS:
        for dialect in _quotings(head[begin : begin + 65536], delimiter, encoding):
            trial = _tried(head, begin, dialect, complete=complete)
            if trial is not None:
                trials.append(trial)
    best: _Trial | None = None
    for trial in trials:
        if best is None or trial.score > best.score + _BETTER:
            best = trial
    return best


def _quotings(head: bytes, delimiter: str, encoding: str) -> Iterator[Dialect]:
    """The quotes, escapes and blanks around cells that a delimiter may go with."""
    usual = _quoting(head, delimiter, encoding, '"')
    text = head.decode("latin-1")
    if '"' in text:
        yield usual
        return
    d = re.escape(delimiter)
    single = re.findall(rf"(?:^|{d}) *'[^'\r\n]*' *(?={d}|\r|\n|\Z)", text, re.MULTILINE)
    opening = re.findall(rf"(?:^|{d}) *'", text, re.MULTILINE)
    if not single or len(single) != len(opening):
        yield usual
        return
    if len(single) == 1:
        # One alone may be a part of a name; it is a quote if cells come out even then.
        yield usual
    yield _quoting(head, delimiter, encoding, "'")


def _quoting(head: bytes, delimiter: str, encoding: str, quote: str) -> Dialect:
    """The dialect of a delimiter and a quote, with the escape and the blanks that go with them."""
    text = head.decode("latin-1")
    d = re.escape(delimiter)
    q = re.escape(quote)
    trim = re.search(rf"{d} +{q}|{q} +{d}|^ +{q}|{q} +$", text, re.MULTILINE) is not None
    escaped = re.findall(rf"\\{q}(?! *(?:{d}|\r|\n|\Z))", text)
    return Dialect(
        encoding=encoding,
        delimiter=delimiter,
        quote=quote,
        escape="\\" if (escaped and delimiter != "\t") or len(escaped) > 1 else "",
        trim=trim and delimiter != "\t",
    )


def _tried(head: bytes, begin: int, dialect: Dialect, *, complete: bool) -> _Trial | None:
    records = _records(head, begin, dialect, complete=complete)
    if not records:
        return None
    widths = Counter(len(record.cells) for record in records if record.whole)
    # Later rows count more than what may stand before a table, and wide ones more than texts.
    width = max(widths, key=lambda w: (widths[w] * (w > 1), widths[w]), default=1)
    first = next(
        (
            index
            for index, record in enumerate(records)
            if record.whole
            and _near(len(record.cells), width)
            and not _is_comment(record, records, index)
        ),
        None,
    )
    if first is None:
        return None
    after, top = records[first:], records[first]
    near = [r for r in after if r.whole and _fits(r, width)]
    consistency = len(near) / len(after)
    if width == 1:
        return _Trial(dialect, records, 1, first, 0.3 - 0.01 * first)
    if first > _MOST_PREAMBLE:
        return None
    if consistency < _CONSISTENT:
        # Nearly all is bad, and still its first line is a header: what is wrong can be told then.
        named = first == 0 and all(cell.strip() for cell in records[0].cells) and not top.is_data
        return _Trial(dialect, records, width, 0, 0.35) if named else None
    has_header = not records[first].is_data
    score = consistency - 0.05 * min(first, 6) + 0.1 * has_header + 0.002 * min(width, 40)
    return _Trial(dialect, records, width, first, score)


def _near(cells: int, width: int) -> bool:
    """Whether a header may have so many cells: rows may have one more, or empty ones behind."""
    return cells in (width, width - 1) if width > 2 else cells == width  # noqa: PLR2004


def _fits(record: _Record, width: int) -> bool:
    cells = record.cells
    return len(cells) == width or (
        abs(len(cells) - width) <= _MOST_EXTRA
        and not any(cell.strip() for cell in cells[min(len(cells), width) :])
        and len(cells) > width
    )


def _is_comment(record: _Record, records: Sequence[_Record], index: int) -> bool:
    """Whether a line that begins like a comment is one: not if it is the table's only header."""
    text = record.cells[0].lstrip()
    if not text.startswith(_COMMENTS):
        return False
    following = next((r for r in records[index + 1 :] if not r.blank), None)
    return (
        following is None
        or len(following.cells) != len(record.cells)
        or not following.is_data
        or len(record.cells) == 1
    )


def _records(head: bytes, begin: int, dialect: Dialect, *, complete: bool) -> list[_Record]:
    """The first records that are not blank, the last one only if it is whole."""
    grammar = grammar_of(dialect)
    pattern = grammar.last_record if complete else grammar.record
    found: list[_Record] = []
    at = begin
    while at < len(head) and len(found) < _LOOKED_AT:
        ends = _LINE_ENDS.match(head, at)
        if ends is not None:
            at = ends.end()
            continue
        record = _record(head, at, pattern, dialect)
        if record is None:
            break
        if not record.blank:
            found.append(record)
        at = record.end
    return found


_LINE_ENDS = re.compile(rb"[\r\n]++")
_ANY_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r|\Z)")


def _record(data: bytes, at: int, pattern: re.Pattern[bytes], dialect: Dialect) -> _Record | None:
    matched = pattern.match(data, at)
    if matched is None or matched.end() == at:
        line = _ANY_LINE.match(data, at)
        if line is None or line.end() == at or line.end() == len(data):
            return None
        return _Record(at, line.end(), (data[at : line.end()].decode("latin-1"),), whole=False)
    text = data[at : matched.end()].decode("latin-1")
    cells = next(parsing.cells_by_grammar(text, dialect), [])
    return _Record(at, matched.end(), tuple(cells))


def _found(trial: _Trial, head: bytes, encoding: str, what: str) -> Found:
    records, first, dialect = trial.records, trial.first, trial.dialect
    preamble = [_text(head, record, encoding) for record in records[:first]]
    comment = next(
        (sign for sign in _COMMENTS for line in preamble if line.lstrip().startswith(sign)), ""
    )
    within = next(
        (
            sign
            for sign in _COMMENTS
            for record in records[first + 1 :]
            if len(record.cells) != trial.width and record.cells[0].lstrip().startswith(sign)
        ),
        "",
    )
    dialect = replace(dialect, comment=comment or within)
    top = records[first]
    if top.is_data:
        header, rows, begin = None, records[first:], top.begin
        units, ticker, below = list[str](), "", list[_Record]()
    else:
        header = [_decoded(cell, encoding).strip() for cell in top.cells]
        below = _below(records[first + 1 :])
        rows = records[first + 1 + len(below) :]
        begin = (below[-1] if below else top).end
        header, units, ticker = _with_second_headers(header, below, encoding)
    width, extra, header = _extra(header, rows, trial.width, what)
    if header is not None:
        lines = [_text(head, record, encoding) for record in (top, *below)]
        dialect = replace(dialect, not_rows=tuple(dict.fromkeys(line for line in lines if line)))
    return Found(replace(dialect, extra=extra), header, width, begin, preamble, units, ticker)


def _below(records: Sequence[_Record]) -> list[_Record]:
    """Rows directly below a header that are second headers, or name units."""
    if not any(record.is_data for record in records):
        return []
    found: list[_Record] = []
    for record in records[:_MOST_UNIT_ROWS]:
        if record.is_data or not record.whole or record.cells[0].lstrip().startswith(_COMMENTS):
            break
        found.append(record)
    else:
        if len(records) > len(found) and not records[len(found)].is_data:
            return []
    return found


def _with_second_headers(
    header: list[str], below: Sequence[_Record], encoding: str
) -> tuple[list[str], list[str], str]:
    """Names, units and a ticker, as yfinance and spreadsheets write them below each other."""
    units: list[str] = []
    ticker = ""
    for record in below:
        cells = [_decoded(cell, encoding).strip() for cell in record.cells]
        others = {cell for cell in cells[1:] if cell}
        if cells[0].lower() == "ticker" and len(others) == 1:
            ticker = others.pop()
        elif cells[0].lower() in _TIMES and not others:
            header = [cells[0], *header[1:]]
        else:
            units = cells
    return header, units, ticker


def _extra(
    header: list[str] | None, rows: Sequence[_Record], width: int, what: str
) -> tuple[int, int, list[str] | None]:
    """How many columns there are, and how many empty cells may stand behind them.

    Raises:
        FileRefused: rows have more cells than the header has names.
    """
    if header is None:
        return width, 0, None
    cells = [row.cells for row in rows if row.whole]
    while (
        len(header) > 1
        and not header[-1]
        and not any(len(row) >= len(header) and row[len(header) - 1].strip() for row in cells)
    ):
        header = header[:-1]
    names = len(header)
    behind = [row[names:] for row in cells if len(row) > names]
    empty = [rest for rest in behind if not any(map(str.strip, rest))]
    longer = len(behind) - len(empty)
    if cells and longer > len(cells) / 2:
        counted = [row[0].strip() for row in cells]
        if width == names + 1 and all(cell.isdigit() for cell in counted):
            # As R writes row numbers: in a column without a name, before the others.
            return names + 1, 0, ["", *header]
        raise FileRefused(
            f"{what} has a header of {names} names and rows of {width} cells, so it can't be told "
            "which cell belongs to which column. The header is "
            f"{', '.join(map(repr, header[:40]))}. "
            "Nothing was loaded. Give each column a name and upload it again."
        )
    extra = max(map(len, empty), default=0)
    return names, min(extra, _MOST_EXTRA), header


def _with_ends(found: Found, trial: _Trial, middle: bytes, tail: bytes, encoding: str) -> Found:
    """The same with what the middle and the end add: footers, comments, empty cells behind rows."""
    grammar = grammar_of(trial.dialect)
    extra = found.dialect.extra
    for part in (middle, tail):
        for record in _part(part, grammar, trial.dialect)[:_LOOKED_AT]:
            behind = record.cells[found.width :]
            if behind and not any(map(str.strip, behind)):
                extra = max(extra, min(len(behind), _MOST_EXTRA))
    footers = _footers(_part(tail, grammar, trial.dialect), found, trial)
    lines = [_text(tail, record, encoding) for record in footers]
    comment = found.dialect.comment
    not_rows = dict.fromkeys((*found.dialect.not_rows, *lines))
    return replace(
        found,
        dialect=replace(found.dialect, extra=extra, comment=comment, not_rows=tuple(not_rows)),
    )


def _part(part: bytes, grammar: Grammar, dialect: Dialect) -> list[_Record]:
    """The last records of a part; the first one, in which it may begin, is left out."""
    begin = max(0, len(part) - 32 * 1024)
    line = re.compile(rb"[\r\n]+").search(part, begin)
    at = line.end() if line is not None else len(part)
    found: list[_Record] = []
    while at < len(part):
        record = _record(part, at, grammar.last_record, dialect)
        if record is None:
            break
        if not record.blank:
            found.append(record)
        at = record.end
    return found


def _footers(records: Sequence[_Record], found: Found, trial: _Trial) -> list[_Record]:
    """Lines at the very end that are no rows: a total, a source, a remark.

    A row that was cut off is none of them: it begins as rows do, or has a number or a date.
    """
    footers: list[_Record] = []
    rows = [r for r in trial.records[trial.first + 1 :] if len(r.cells) == found.width]
    beginnings = {record.cells[0].strip() for record in rows}
    for record in reversed(records[-_MOST_FOOTERS:]):
        cells = [cell.strip() for cell in record.cells if cell.strip()]
        narrow = len(cells) < found.width and len(record.cells) != found.width
        few = len(record.cells) == found.width and len(cells) == 1
        if not (narrow or few) or not record.whole or not cells:
            break
        word = cells[0]
        wordy = (" " in word or ":" in word or word.lower() in _FOOTER_WORDS) and any(
            map(str.isalpha, word)
        )
        if not wordy or word in beginnings or _is_value(word):
            break
        footers.append(record)
    return footers


_FOOTER_WORDS = frozenset(
    ("total", "totals", "sum", "average", "mean", "source", "end", "eof", "count", "note", "notes")
)


def _text(data: bytes, record: _Record, encoding: str) -> str:
    return data[record.begin : record.end].rstrip(b"\r\n").decode(encoding, "replace")


def _decoded(cell: str, encoding: str) -> str:
    return cell.encode("latin-1").decode(encoding, "replace")
