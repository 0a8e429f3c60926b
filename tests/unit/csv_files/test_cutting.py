"""Cutting a CSV: whatever the cuts, the pieces say what the whole says."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketdata.csv_files import cutting, parsing
from marketdata.csv_files.cutting import MAX_RECORD_BYTES, Piece, cut, grammar_of
from marketdata.csv_files.dialect import RFC_4180, Dialect
from marketdata.errors import FileRefused
from tests.support.csv_writing import write_row

CELLS = st.text(alphabet=st.sampled_from('ab1 ,"\r\n\té€'), max_size=8)
ROWS = st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=25)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def written(rows: list[list[str]], line_end: str = "\r\n", quoting: int = 0) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator=line_end, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return out.getvalue().encode()


def parts(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def cut_all(data: bytes, *, chunk: int = 7, rows: int = 3, size: int = 1000) -> list[Piece]:
    return list(cut(parts(data, chunk), rows=rows, size=size))


def parsed(pieces: list[Piece]) -> list[list[str] | str]:
    return [r for piece in pieces for r in parsing.parse(piece.data, piece.malformed)]


@given(
    rows=ROWS,
    line_end=LINE_ENDS,
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    chunk=st.integers(1, 60),
    per_piece=st.integers(1, 6),
    size=st.integers(1, 80),
)
def test_what_a_writer_wrote_comes_back_whatever_the_cuts(
    rows: list[list[str]], line_end: str, quoting: int, chunk: int, per_piece: int, size: int
) -> None:
    data = written(rows, line_end, quoting)

    pieces = cut_all(data, chunk=chunk, rows=per_piece, size=size)

    assert parsed(pieces) == [row for row in rows if "".join(row).strip(' ,"\r\n\t')]
    assert [piece.rows for piece in pieces] == [
        len([*parsing.parse(piece.data, piece.malformed)]) for piece in pieces
    ]
    assert all(0 < piece.rows <= per_piece for piece in pieces)
    assert all(data[piece.start : piece.end] == piece.data for piece in pieces)
    ends = [0, *(piece.end for piece in pieces)]
    assert all(piece.start >= end for piece, end in zip(pieces, ends, strict=False))


@given(
    data=st.text(alphabet=st.sampled_from('a,"\r\n'), max_size=120).map(str.encode),
    chunk=st.integers(1, 40),
    other=st.integers(1, 40),
    per_piece=st.integers(1, 5),
    size=st.integers(1, 60),
)
@example(data=b'a,"b\nc,"d",e\n', chunk=1, other=9, per_piece=2, size=60)
@example(data=b"a\r\ra", chunk=1, other=2, per_piece=2, size=1)
@example(data=b'\r\r\na\n"\n\r,\r"aa""\r"\n', chunk=1, other=8, per_piece=2, size=9)
def test_any_bytes_are_cut_the_same_however_they_arrive(
    data: bytes, chunk: int, other: int, per_piece: int, size: int
) -> None:
    pieces = cut_all(data, chunk=chunk, rows=per_piece, size=size)

    assert pieces == cut_all(data, chunk=other, rows=per_piece, size=size)
    # No byte is lost but those of lines that are no rows.
    places = [0, *(at for piece in pieces for at in (piece.start, piece.end)), len(data)]
    for begin, end in zip(places[::2], places[1::2], strict=True):
        assert not data[begin:end].strip(b',"\r\n')
    assert len(parsed(pieces)) == sum(piece.rows for piece in pieces)


@given(
    data=st.text(alphabet=st.sampled_from('a,"\r\n'), max_size=120).map(str.encode),
    per_piece=st.integers(1, 5),
    size=st.integers(1, 60),
)
def test_the_records_do_not_depend_on_the_cuts(data: bytes, per_piece: int, size: int) -> None:
    assert parsed(cut_all(data, rows=per_piece, size=size)) == parsed(
        cut_all(data, rows=10_000, size=10_000)
    )


def test_a_quote_within_an_unquoted_field_is_an_ordinary_character() -> None:
    data = b'a,5" disk,1\nb,x,2\n' * 3

    assert parsed(cut_all(data)) == [["a", '5" disk', "1"], ["b", "x", "2"]] * 3


def test_a_quote_that_is_never_closed_costs_one_row() -> None:
    data = b'BTC,"Bitcoin,1\nETH,Ether,2\nXRP,Ripple,3\n'

    (piece,) = cut_all(data, rows=10)

    assert piece.malformed == ((0, 15),)
    assert parsed([piece]) == [
        'BTC,"Bitcoin,1\n',
        ["ETH", "Ether", "2"],
        ["XRP", "Ripple", "3"],
    ]


def test_a_lost_quote_gives_no_row_another_rows_values() -> None:
    """Read leniently, the first three fields would be BTC, a long name, and the price 2."""
    data = b'BTC,"Bitcoin,1\nETH,"Ethereum",2\nXRP,"Ripple",3\n'

    assert parsed(cut_all(data, rows=10)) == [
        'BTC,"Bitcoin,1\n',
        ["ETH", "Ethereum", "2"],
        ["XRP", "Ripple", "3"],
    ]


def test_a_quote_that_is_closed_only_beyond_the_longest_record_is_taken_for_lost() -> None:
    data = b'a,"b\n' + b"x,y\n" * (MAX_RECORD_BYTES // 4) + b'c,"\n'

    pieces = cut_all(data, chunk=300_000, rows=10**9, size=10**9)

    assert pieces[0].malformed[0] == (0, 5)
    assert sum(piece.rows for piece in pieces) == 2 + MAX_RECORD_BYTES // 4


def test_a_field_may_be_longer_than_the_csv_modules_own_limit() -> None:
    rows = [["a", "x" * 300_000], ["b", "y\n" * 100_000]]

    assert parsed(cut_all(written(rows), chunk=100_000, size=10**6)) == rows


@pytest.mark.parametrize("data", [b"x" * (MAX_RECORD_BYTES + 2), b'"' + b"x" * MAX_RECORD_BYTES])
def test_a_line_without_end_is_refused_with_its_place(data: bytes) -> None:
    with pytest.raises(FileRefused, match="byte 4,") as refusal:
        cut_all(b"a,b\n" + data + b"\n" + b"c,d\n", chunk=2**18, rows=1)

    assert refusal.value.details == {"offset": 4}


def test_memory_stays_that_of_one_piece() -> None:
    cutter = cutting._Cutter(0, 100, 10_000, "The file", grammar_of(RFC_4180))
    longest = 0
    for chunk in parts(b'BTC,"Bit, coin",1\n' * 50_000, 4096):
        cutter.buffer += chunk
        for _ in cutter.pieces(last=False):
            pass
        longest = max(longest, len(cutter.buffer))

    assert longest <= 10_000 + 4096


# --- dialects -----------------------------------------------------------------------------------

SIGNS = "ab1 .'\"\\\r\n\té;|,#"
DIALECTS = st.builds(
    Dialect,
    encoding=st.sampled_from(["utf-8", "cp1252"]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    quote=st.sampled_from(['"', "'"]),
    escape=st.sampled_from(["", "\\"]),
    comment=st.sampled_from(["", "#"]),
    trim=st.booleans(),
)


@given(
    rows=st.lists(
        st.lists(st.text(alphabet=st.sampled_from(SIGNS), max_size=6), min_size=2, max_size=3),
        max_size=12,
    ),
    dialect=DIALECTS,
    line_end=LINE_ENDS,
    always=st.booleans(),
    chunk=st.integers(1, 60),
    per_piece=st.integers(1, 6),
    size=st.integers(1, 80),
)
def test_what_was_written_in_a_dialect_comes_back_whatever_the_cuts(
    rows: list[list[str]],
    dialect: Dialect,
    line_end: str,
    always: bool,
    chunk: int,
    per_piece: int,
    size: int,
) -> None:
    if dialect.trim and dialect.delimiter == "\t":
        dialect = replace(dialect, trim=False)
    text = "".join(write_row(row, dialect, always=always) + line_end for row in rows)
    data = text.encode(dialect.encoding)
    pieces = [
        *cut(parts(data, chunk), rows=per_piece, size=size, dialect=dialect),
    ]
    found = [r for p in pieces for r in parsing.parse(p.data, p.malformed, dialect)]
    expected = [
        [cell.strip() if dialect.trim else cell for cell in row]
        for row in rows
        if not is_no_row(row, dialect, always=always)
    ]
    assert [[cell.strip() if dialect.trim else cell for cell in row] for row in found] == expected
    assert sum(piece.rows for piece in pieces) == len(found)


def is_no_row(row: list[str], dialect: Dialect, *, always: bool) -> bool:
    line = write_row(row, dialect, always=always)
    blank = not line.strip(f"{dialect.delimiter}{dialect.quote} \t\r\n")
    return blank or bool(dialect.comment and line.lstrip(" \t").startswith(dialect.comment))


@given(
    lines=st.lists(
        st.sampled_from(["", ",,", " , ,", "a,b", "c,d", "h,i", "# x", '"",""']), max_size=40
    ),
    per_piece=st.integers(1, 5),
    size=st.integers(1, 60),
    end=LINE_ENDS,
)
def test_what_is_no_row_is_counted_by_nobody(
    lines: list[str], per_piece: int, size: int, end: str
) -> None:
    dialect = Dialect(comment="#", not_rows=("h,i",))
    data = "".join(line + end for line in lines).encode()
    pieces = [*cut(parts(data, 9), rows=per_piece, size=size, dialect=dialect)]
    rows = [line.split(",") for line in lines if line in ("a,b", "c,d")]
    read = [r for p in pieces for r in parsing.parse(p.data, p.malformed, dialect)]
    assert read == rows
    assert sum(piece.rows for piece in pieces) == len(rows)
    assert all(piece.rows for piece in pieces)
    plain = [parsing.plain_lines(piece.data, dialect) for piece in pieces]
    for piece, some in zip(pieces, plain, strict=True):
        assert some is None or len(some) == piece.rows


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b"\r", b",,,\r\n", b" \n", b'"",""\n'])
def test_lines_without_content_are_in_no_piece_and_cost_little(line: bytes) -> None:
    """Two rows, four million bytes apart: each in a piece of its own, which is no longer than "
    "any."""
    data = b"a,b,c,d\n" + line * (4_000_000 // len(line)) + b"e,f,g,h\n"
    pieces = [*cut(parts(data, 2**18), rows=100, size=100_000)]
    assert parsed(pieces) == [["a", "b", "c", "d"], ["e", "f", "g", "h"]]
    assert all(len(piece.data) <= 100_000 + 2**18 for piece in pieces)


def test_rows_may_have_empty_cells_behind() -> None:
    dialect = Dialect(extra=2)
    for lines in (["a,b,,", "c,d,,"], ["a,b", "c,d,"], ["a,b,x,", "c,d,,"]):
        columns = parsing.columns_of(lines, 2, dialect)
        records = [parsing.split(line, dialect) for line in lines]
        rows, _, faults = parsing.regular(records, 2, dialect)
        if columns is not None:
            assert [*zip(*columns, strict=True)] == [tuple(row) for row in rows]
        assert len(faults) == sum("x" in line for line in lines)
