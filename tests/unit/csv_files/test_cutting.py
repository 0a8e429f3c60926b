"""Cutting a CSV: whatever the cuts, the pieces say what the whole says."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketdata.csv_files import cutting, parsing
from marketdata.csv_files.cutting import MAX_RECORD_BYTES, Piece, cut, head
from marketdata.errors import FileRefused

CELLS = st.text(alphabet=st.sampled_from('ab1 ,"\r\n\té€\0'), max_size=8)
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

    assert parsed(pieces) == rows
    assert b"".join(piece.data for piece in pieces) == data
    assert [piece.rows for piece in pieces] == [
        len([*parsing.parse(piece.data, piece.malformed)]) for piece in pieces
    ]
    assert all(0 < piece.rows <= per_piece for piece in pieces)
    assert all(piece.end - piece.start <= size or piece.rows == 1 for piece in pieces)
    starts = [0, *(piece.end for piece in pieces)][:-1]
    assert [piece.start for piece in pieces] == starts[: len(pieces)]


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
    # No byte is lost but line ends after the last record.
    assert data.startswith(b"".join(piece.data for piece in pieces))
    end = pieces[-1].end if pieces else 0
    assert not data[end:].strip(b"\r\n")
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
    cutter = cutting._Cutter(0, 100, 10_000, "The file")
    longest = 0
    for chunk in parts(b'BTC,"Bit, coin",1\n' * 50_000, 4096):
        cutter.buffer += chunk
        for _ in cutter.pieces(last=False):
            pass
        longest = max(longest, len(cutter.buffer))

    assert longest <= 10_000 + 4096


@pytest.mark.parametrize(
    ("data", "header", "end"),
    [
        (b"a,b\n1,2\n", ["a", "b"], 4),
        (b"\xef\xbb\xbfa,b\r\n1,2\r\n", ["a", "b"], 8),
        (b'\n\r\n"a","b ""c"""\n', ["a", 'b "c"'], 17),
        (b'"a\nb",c', ["a\nb", "c"], 7),
        (b"a,b\r1,2\r", ["a", "b"], 4),
    ],
)
def test_the_header_is_the_first_record(data: bytes, header: list[str], end: int) -> None:
    found = head(data, complete=True)

    assert found is not None
    assert parsing.header_cells(found.header) == header
    assert found.end == end


@pytest.mark.parametrize("data", [b"", b"\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_an_empty_file_has_no_header(data: bytes) -> None:
    assert head(data, complete=True) is None


def test_a_header_that_may_go_on_is_waited_for() -> None:
    assert head(b"symbol,price", complete=False) is None
    assert head(b"symbol,price\r", complete=False) is None
    assert head(b"symbol,price\r", complete=True) is not None


def test_a_malformed_header_is_refused() -> None:
    with pytest.raises(FileRefused, match="quotes are wrong"):
        head(b'symbol,"price\nBTC,1\n', complete=True)
