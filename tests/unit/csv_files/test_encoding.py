"""The bytes of an object as those of a CSV."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.csv_files.encoding import checked, peek, unpack
from marketdata.errors import FileRefused

FILE = "s3://bucket/incoming/a.csv"


def parts(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@given(data=st.binary(max_size=300), size=st.integers(1, 50))
def test_what_was_packed_comes_out(data: bytes, size: int) -> None:
    packed = gzip.compress(data)

    assert b"".join(unpack(parts(packed, size), limit=300, what=FILE)) == data


def test_members_count_as_one_file_and_filling_zeros_as_nothing() -> None:
    packed = gzip.compress(b"a,b\n") + gzip.compress(b"1,2\n") + b"\0" * 20

    assert b"".join(unpack(parts(packed, 9), limit=100, what=FILE)) == b"a,b\n1,2\n"


def test_a_cut_off_file_is_refused() -> None:
    packed = gzip.compress(b"a,b\n" * 100)[:-5]

    with pytest.raises(FileRefused, match=f"{FILE} is cut off"):
        list(unpack(parts(packed, 16), limit=1000, what=FILE))


def test_a_damaged_file_is_refused() -> None:
    packed = bytearray(gzip.compress(bytes(range(256)) * 4))
    packed[40] ^= 0xFF

    with pytest.raises(FileRefused, match="damaged"):
        list(unpack(parts(bytes(packed), 16), limit=10_000, what=FILE))


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    packed = gzip.compress(b"0" * 50_000_000)
    sizes = map(len, unpack(iter([packed]), limit=2**20, what=FILE))
    with pytest.raises(FileRefused, match="unpacks to more than 1 MiB") as refusal:
        sum(sizes)

    assert "CSV_GZIP_MAX_BYTES" in str(refusal.value)


@given(text=st.text(max_size=100), size=st.integers(1, 10))
def test_utf8_passes_however_it_is_split(text: str, size: int) -> None:
    data = text.encode()
    assert b"".join(checked(parts(b"a" + data, size), what=FILE)) == b"a" + data


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("start", [0, 1000])
def test_the_first_byte_that_is_not_utf8_is_named(size: int, start: int) -> None:
    data = "name\nEthéré".encode() + b"um \xe9\xe9\n"
    offset = start + data.index(b"\xe9")

    with pytest.raises(FileRefused, match=rf"not UTF-8: byte {offset} is 0xe9") as refusal:
        list(checked(parts(data, size), start=start, what=FILE))

    assert refusal.value.details == {"offset": offset}


def test_half_a_character_at_the_end_is_not_utf8() -> None:
    with pytest.raises(FileRefused, match="byte 2 is 0xc3"):
        list(checked(iter([b"ab", b"\xc3"]), what=FILE))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("a,b\n".encode("utf-32"), "UTF-32"),
        (b"PK\x03\x04rest", "an Excel workbook"),
        (b"BZh91AY", "bzip2"),
    ],
)
def test_other_formats_are_named(data: bytes, name: str) -> None:
    with pytest.raises(FileRefused, match=name):
        list(checked(iter([data]), what=FILE))


def test_peeking_loses_nothing() -> None:
    first, everything = peek(iter([b"a", b"b", b"c" * 13, b"def", b"g"]))

    assert first == b"ab" + b"c" * 13 + b"def"
    assert b"".join(everything) == first + b"g"
    assert [*peek(iter([]))[1]] == []
