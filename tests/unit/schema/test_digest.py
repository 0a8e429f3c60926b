"""Ids and digests of whole columns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from marketdata.load.merge import same_values
from marketdata.schema.identity import DIGEST_BYTES, digest, digests, record_id, record_ids
from marketdata.schema.record import VALUE_FIELDS
from tests.support.documents import Document

NUMBER = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(min_size=1, max_size=4)
VALUES = st.fixed_dictionaries(
    {
        "symbol": TEXT,
        "name": st.none() | TEXT,
        "price_usd": NUMBER,
        "volume_24h": st.none() | NUMBER,
        "market_cap": st.none() | NUMBER,
        "percent_change_24h": st.none() | NUMBER,
    },
    optional={"open": NUMBER, "high": NUMBER, "low": NUMBER},
)


@given(VALUES, VALUES)
def test_equal_digests_mean_equal_values(a: Document, b: Document) -> None:
    assert len(digest(a)) == DIGEST_BYTES
    if digest(a) == digest(b):
        assert same_values(a, b)


@given(VALUES, st.data())
def test_any_other_value_is_another_digest(a: Document, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(VALUE_FIELDS))
    text = field in ("symbol", "name")
    b = a | {field: data.draw(TEXT if text else NUMBER)}
    assert (digest(a) == digest(b)) == same_values(a, b) or 0.0 in (a.get(field), b[field])


def test_texts_do_not_run_into_each_other() -> None:
    numbers = dict.fromkeys(("price_usd", "volume_24h", "market_cap", "percent_change_24h"), 1.0)
    assert digest({"symbol": "AB", "name": "C", **numbers}) != digest(
        {"symbol": "A", "name": "BC", **numbers}
    )


def test_a_digest_is_the_same_for_ever() -> None:
    values = {
        "symbol": "BTC", "name": "Bitcoin", "price_usd": 103_000.5, "volume_24h": None,
        "market_cap": 2.0e12, "percent_change_24h": -0.5,
    }  # fmt: skip
    assert digest(values).hex() == "f52cc4960d77abb708e09333"


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_columns_give_what_rows_give(rows: list[Document]) -> None:
    columns = {field: [row.get(field) for row in rows] for field in VALUE_FIELDS}
    assert digests(columns) == [digest(row) for row in rows]


TIME = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
ROW = st.tuples(TEXT, TEXT, TEXT, st.none() | TEXT, TIME)


@given(st.lists(ROW, min_size=1, max_size=6))
def test_ids_of_columns_are_those_of_their_rows(rows: list[tuple[Any, ...]]) -> None:
    names = ("source", "dataset", "asset_id", "interval", "timestamp")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    expected = [record_id(s, d, a, i or "", t) for s, d, a, i, t in rows]
    assert record_ids(columns) == expected
    del columns["interval"]
    assert record_ids(columns) == [record_id(s, d, a, "", t) for s, d, a, _, t in rows]
