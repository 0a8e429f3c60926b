from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata import clock
from marketdata.errors import InvalidInput, NotFound
from marketdata.web import cursor as cursors
from marketdata.web.parameters import MAX_MS, MAX_SYMBOLS, read_symbols, read_text, read_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-05-09T08:15:00Z", "2025-05-09T08:15:00.000Z"),
        ("2025-05-09T08:15:00.1239Z", "2025-05-09T08:15:00.123Z"),
        ("2025-05-09T08:15:00", "2025-05-09T08:15:00.000Z"),
        ("2025-05-09T10:15:00+02:00", "2025-05-09T08:15:00.000Z"),
        ("2025-05-09T10:15:00 02:00", "2025-05-09T08:15:00.000Z"),
        ("2025-05-09T06:15:00-02:00", "2025-05-09T08:15:00.000Z"),
        ("2025-05-09", "2025-05-09T00:00:00.000Z"),
        ("1746778500000", "2025-05-09T08:15:00.000Z"),
        ("0", "1970-01-01T00:00:00.000Z"),
        (" 2025-05-09 ", "2025-05-09T00:00:00.000Z"),
    ],
)
def test_times_are_read(text: str, expected: str) -> None:
    time = read_time("start", text)
    assert time is not None
    assert clock.iso(time) == expected


def test_a_date_as_end_is_its_whole_day() -> None:
    end = read_time("end", "2025-05-09", end=True)
    assert end == datetime(2025, 5, 9, 23, 59, 59, 999000, tzinfo=UTC)
    exact = read_time("end", "2025-05-09T00:00:00Z", end=True)
    assert exact == datetime(2025, 5, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1969-12-31T23:59:59Z", "1970-01-01T00:00:00.000Z"),
        ("0001-01-01T00:00:00+10:00", "1970-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59-10:00", "9999-12-31T23:59:59.999Z"),
        ("999999999999999", "9999-12-31T23:59:59.999Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
        ("2025-05-09t08:15:00z", "2025-05-09T08:15:00.000Z"),
    ],
)
def test_times_at_the_edges(text: str, expected: str) -> None:
    time = read_time("start", text)
    assert time is not None
    assert clock.iso(time) == expected


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "1746778500", "2025-13-01", "-1000000000000", "9" * 5_000, "000000000000",
     "\uff11" * 12, "\x00", "\ud800", "2025-05-09T24:61:00Z"],
)  # fmt: skip
def test_what_is_no_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^start: "):
        read_time("start", text)


def test_seconds_instead_of_milliseconds_are_named() -> None:
    with pytest.raises(InvalidInput, match="12 to 15 digits"):
        read_time("start", "1746778500")


@given(st.text(max_size=40))
def test_any_text_is_a_time_in_range_or_refused(text: str) -> None:
    try:
        time = read_time("end", text, end=True)
    except InvalidInput:
        return
    assert time is not None
    assert 0 <= clock.to_ms(time) <= MAX_MS


@given(st.integers(10**11, MAX_MS))
def test_milliseconds_come_back(milliseconds: int) -> None:
    time = read_time("start", str(milliseconds))
    assert time is not None
    assert clock.to_ms(time) == milliseconds
    assert read_time("start", clock.iso(time)) == time


def test_symbols_are_split_and_brought_to_upper_case() -> None:
    assert read_symbols(["btc, eth", "BTC", "Doge"]) == ("BTC", "ETH", "DOGE")
    assert read_symbols(None) == ()


@pytest.mark.parametrize("values", [[""], ["BTC,,ETH"], [","], ["A" * 65], [" "], ["\ud800"]])
def test_symbols_that_are_none_are_refused(values: list[str]) -> None:
    with pytest.raises(InvalidInput, match=r"^symbol: "):
        read_symbols(values)


def test_too_many_symbols_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 200"):
        read_symbols([",".join(f"S{i}" for i in range(MAX_SYMBOLS + 1))])


def test_texts_must_be_unicode() -> None:
    assert read_text("source", "coin gecko ₿\n") == "coin gecko ₿\n"
    with pytest.raises(InvalidInput, match=r"^source: "):
        read_text("source", "a\ud800")


_PARTS = st.lists(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    max_size=6,
)  # fmt: skip


@given(_PARTS)
def test_cursors_come_back(parts: list[object]) -> None:
    assert cursors.decode("data", cursors.encode("data", *parts), len(parts)) == parts


@given(st.text(max_size=60) | st.from_regex(cursors.PATTERN, fullmatch=True))
def test_what_is_no_cursor_leads_nowhere(text: str) -> None:
    with pytest.raises(NotFound, match=r"^cursor: "):
        cursors.decode("data", text, 3)


@given(_PARTS, st.data())
def test_a_cursor_with_another_character_leads_nowhere(
    parts: list[object], data: st.DataObject
) -> None:
    cursor = cursors.encode("data", *parts)
    assert re.fullmatch(cursors.PATTERN, cursor)
    place = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.sampled_from("abcdef0123456789"))
    if other != cursor[place]:
        with pytest.raises(NotFound):
            cursors.decode("data", cursor[:place] + other + cursor[place + 1 :], len(parts))


def test_a_cursor_belongs_to_its_list() -> None:
    cursor = cursors.encode("runs", "a", "b")
    with pytest.raises(NotFound):
        cursors.decode("data", cursor, 2)
    with pytest.raises(NotFound):
        cursors.decode("runs", cursor, 3)


@pytest.mark.parametrize("part", ["", "00", "g" * 24, "0" * 23, "A" * 24, 5, None, ["0" * 24]])
def test_ids_in_cursors_are_checked(part: object) -> None:
    with pytest.raises(NotFound):
        cursors.id_bytes(part, 12)
