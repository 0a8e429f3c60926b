"""The JSON array that is taken apart while it arrives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketdata.errors import UpstreamMalformed, UpstreamUnavailable
from marketdata.sources.json_stream import elements, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
SPACE = st.text(alphabet=" \t\n\r", max_size=3)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """The texts of some values, and an array of them with white space anywhere."""
    texts = [
        json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 2])))
        for value in draw(st.lists(JSON, max_size=6))
    ]
    # A lone surrogate has no UTF-8 form; the API that sends one escapes it.
    texts = [t if _is_utf8(t) else json.dumps(json.loads(t)) for t in texts]
    body = ",".join(draw(SPACE) + text + draw(SPACE) for text in texts)
    return texts, (draw(SPACE) + "[" + body + draw(SPACE) + "]" + draw(SPACE)).encode()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def cut(body: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(p, len(body)) for p in places), len(body)]
    return [body[a:b] for a, b in pairwise(bounds)]


def split(*chunks: bytes) -> list[str]:
    return list(elements(chunks, what="source"))


@given(arrays(), st.lists(st.integers(0, 400), max_size=12))
def test_any_chunking_gives_the_very_texts(
    array: tuple[list[str], bytes], places: list[int]
) -> None:
    texts, body = array
    assert split(*cut(body, places)) == texts


@given(arrays())
def test_byte_by_byte_gives_the_very_texts(array: tuple[list[str], bytes]) -> None:
    texts, body = array
    assert split(*(bytes([byte]) for byte in body)) == texts


@given(arrays(), st.data())
@example(([], b"[1.5e-7, true]"), None)
@example(([], b'["\\ud83d\\ude00", {"a": [null, -Infinity, NaN]}]'), None)
@example(([], '[{"Ünï😀": "ö"}]'.encode()), None)
def test_a_list_that_is_cut_anywhere_is_a_transfer_cut_off(
    array: tuple[list[str], bytes], data: st.DataObject | None
) -> None:
    body = array[1].rstrip()
    places = range(len(body)) if data is None else [data.draw(st.integers(0, len(body) - 1))]
    for place in places:
        with pytest.raises(UpstreamUnavailable):
            split(body[:place])
        # In two pieces, too: what was read before must not hide it.
        with pytest.raises(UpstreamUnavailable):
            split(body[: place // 2], body[place // 2 : place])


def test_rows_before_the_cut_are_given_out_first() -> None:
    rows = elements([b'[{"a": 1}, {"a": 2}, {"a"'], what="source")
    assert [next(rows), next(rows)] == ['{"a": 1}', '{"a": 2}']
    with pytest.raises(UpstreamUnavailable, match="within row 3"):
        next(rows)


def test_chunks_are_asked_for_only_when_needed() -> None:
    asked = 0

    def chunks() -> Iterator[bytes]:
        nonlocal asked
        for number in range(1000):
            asked += 1
            yield b"[" * (number == 0) + b"%d," % number
        yield b"1]"

    rows = elements(chunks(), what="source")
    assert next(rows) == "0"
    assert asked <= 4


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"error": "no such coin"}', "a JSON object where a JSON list"),
        (b" \n <!DOCTYPE html><html>", "markup"),
        (b'"rows"', "something else"),
        (b"null", "something else"),
        (b"Too many requests", "Too many requests"),
        (b"[1,]", "after row 1"),
        (b"[,1]", "after row 0"),
        (b"[1 2]", "a comma or the end"),
        (b"[1.x]", "a comma or the end"),
        (b"[1e5e]", "a comma or the end"),
        (b'[{"a" 1}]', "':' delimiter"),
        (b'[{"a": 1,}]', "trailing comma"),
        (b"[{'a': 1}]", "property name"),
        (b"[trux]", "Expecting value"),
        (b"[e", "Expecting value"),
        (b"[undefined]", "Expecting value"),
        (b'["\\x"]', "escape"),
        (b'["a\nb"]', "control character"),
        (b"[1] []", "more after the end"),
        (b"[],", "more after the end"),
        (b"[1, \xff]", "not UTF-8"),
        ("[1]".encode("utf-16-le"), "after row"),
    ],
)
def test_what_is_no_list_is_malformed_and_says_what_came(body: bytes, says: str) -> None:
    for chunks in ([body], cut(body, [1, 2, 5])):
        with pytest.raises(UpstreamMalformed, match=r"^source ") as caught:
            split(*chunks)
        assert says in str(caught.value)


@pytest.mark.parametrize("depth", [2_000, 9_995, 100_000])
@pytest.mark.parametrize(
    ("before", "after"), [("[", "]"), ('{"a]": "\\"}]", "b": ', "}"), ("[[1, {}], ", ', "["]')]
)
def test_a_row_that_is_nested_too_deeply_is_a_row(depth: int, before: str, after: str) -> None:
    deep = before * depth + "0" + after * depth
    body = f'[{{"a": 1}}, {deep} , {{"b": 2}}]'.encode()
    for chunks in ([body], [body[at : at + 65_536] for at in range(0, len(body), 65_536)]):
        assert split(*chunks) == ['{"a": 1}', deep, '{"b": 2}']
    with pytest.raises(UpstreamUnavailable, match="ends within row 2"):
        split(body[: len(body) // 2])


@pytest.mark.parametrize("body", [b"", b" \n", b"\xef\xbb\xbf", b"\xef"])
def test_an_empty_body_may_be_better_next_time(body: bytes) -> None:
    with pytest.raises(UpstreamUnavailable, match="empty body"):
        split(body)


def test_a_fault_is_told_at_once_not_after_the_rest_of_the_body() -> None:
    def chunks() -> Iterator[bytes]:
        yield b'[{"a" 1}, '
        raise AssertionError("the rest was asked for")

    with pytest.raises(UpstreamMalformed):
        list(elements(chunks(), what="source"))


def test_the_head_of_an_unexpected_answer_is_shown_and_no_more_than_that() -> None:
    page = b"<html>" + b"x" * 10_000
    with pytest.raises(UpstreamMalformed) as caught:
        split(page[:3], page[3:])
    assert caught.value.details["head"] == page[:200].decode()


def test_a_byte_order_mark_is_no_fault() -> None:
    assert split(b"\xef", b"\xbb\xbf[1]") == ["1"]


def test_nan_and_infinity_are_left_to_their_row() -> None:
    assert split(b'[NaN, {"a": -Infinity}]') == ["NaN", '{"a": -Infinity}']


def test_a_number_of_thousands_of_digits_is_left_to_its_row() -> None:
    huge = "9" * 6000
    assert split(f'[{{"a": {huge}}}, -{huge}]'.encode()) == [f'{{"a": {huge}}}', f"-{huge}"]


def test_a_large_element_is_scanned_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = 0

    class Counting(json.JSONDecoder):
        def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
            nonlocal scans
            scans += 1
            return super().raw_decode(s, idx)

    monkeypatch.setattr(json, "JSONDecoder", Counting)
    # 1 MiB in pieces of 1 KiB: scanning anew with each of them would read half a GiB.
    body = b'["' + b"x" * 2**20 + b'"]'
    pieces = [body[i : i + 1024] for i in range(0, len(body), 1024)]
    assert len(split(*pieces)[0]) == 2**20 + 2
    assert scans < 20


@pytest.mark.parametrize("text", ["1", "-0", "1" * 4000, '{"a": [1, 2.5, -3e9, "x", null]}'])
def test_parse_gives_what_json_gives(text: str) -> None:
    value: Any = parse(text)
    assert value == json.loads(text)


def test_parse_keeps_a_number_of_thousands_of_digits_as_text() -> None:
    huge = "9" * 6000
    assert parse(f"[1, {huge}, -{huge}]") == [1, huge, f"-{huge}"]
    assert parse(f'{{"a": {huge}}}'.encode()) == {"a": huge}
