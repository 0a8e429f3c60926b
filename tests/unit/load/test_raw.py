"""Raw batches: rows kept exactly as they came."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import UpstreamMalformed
from marketdata.load import raw
from marketdata.load.raw import Payload, pack_json, raw_id, unpack
from tests.support.documents import Document

ROWS = st.lists(st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=3))


def unpacked(data: bytes) -> bytes:
    raw: Document = {"data": data}
    return unpack(raw)


def packed(texts: list[str], rows_per_batch: int = 5000) -> list[Payload]:
    return list(pack_json(texts, rows_per_batch=rows_per_batch))


@given(ROWS, st.integers(1, 5))
def test_nothing_is_lost_added_or_reordered(rows: list[dict[str, float]], size: int) -> None:
    payloads = packed([json.dumps(row) for row in rows], size)
    found = [row for p in payloads for row in json.loads(unpacked(p.data))]
    assert found == rows
    assert sum(p.rows for p in payloads) == len(rows)
    assert [p.rows for p in payloads[:-1]] == [size] * (len(payloads) - 1)
    assert [p.size for p in payloads] == [len(zlib.decompress(p.data)) for p in payloads]


def test_the_source_s_own_text_stays() -> None:
    text = '{"price":  1.50000000000000000001e-7, "price": 2, "name": "\\ud800"}'
    assert text.encode() in unpacked(packed([text])[0].data)


def test_no_rows_are_one_empty_batch() -> None:
    (payload,) = packed([])
    assert (payload.rows, unpacked(payload.data)) == (0, b"[]")


def test_a_batch_ends_before_it_is_too_large_to_unpack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "MAX_UNPACKED_BYTES", 100)
    payloads = packed(["1" * 40] * 5)
    assert [p.rows for p in payloads] == [2, 2, 1]
    assert all(p.size <= 110 for p in payloads)


def test_a_batch_is_halved_until_the_database_can_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "MAX_COMPRESSED_BYTES", 400)
    texts = [json.dumps(raw_id("x", str(n), "")) for n in range(40)]
    payloads = packed(texts)
    assert len(payloads) > 1
    assert all(len(p.data) <= 400 for p in payloads)
    assert [row for p in payloads for row in json.loads(unpacked(p.data))] == [
        json.loads(text) for text in texts
    ]


def test_a_row_that_the_database_can_not_keep_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "MAX_COMPRESSED_BYTES", 20)
    with pytest.raises(UpstreamMalformed, match="One row alone"):
        packed([json.dumps(raw_id("x", "y", "z"))])


def test_the_digest_is_of_the_content() -> None:
    one, same, other = packed(["1", "2"]), packed(["1", "2"]), packed(["1", "3"])
    assert one[0].digest == same[0].digest != other[0].digest


def test_a_raw_batch_is_known_by_source_place_and_content() -> None:
    base = raw_id("a", "page 1", "d")
    assert base == raw_id("a", "page 1", "d")
    assert (
        len(
            {
                base,
                raw_id("b", "page 1", "d"),
                raw_id("a", "page 2", "d"),
                raw_id("a", "page 1", "e"),
                raw_id("ap", "age 1", "d"),
            }
        )
        == 5
    )
