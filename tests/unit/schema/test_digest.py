"""Ids and digests of whole columns."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import pytest
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
    optional={
        "open": NUMBER,
        "high": NUMBER,
        "low": NUMBER,
        "volume": NUMBER,
        "base_volume": NUMBER,
        "quote": TEXT,
    },
)
NEW = ("volume", "base_volume", "quote")


@given(VALUES, VALUES)
def test_equal_digests_mean_equal_values(a: Document, b: Document) -> None:
    assert len(digest(a)) == DIGEST_BYTES
    if digest(a) == digest(b):
        assert same_values(a, b)


@given(VALUES, st.data())
def test_any_other_value_is_another_digest(a: Document, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(VALUE_FIELDS))
    text = field in ("symbol", "name", "quote")
    b = a | {field: data.draw(TEXT if text else NUMBER)}
    assert (digest(a) == digest(b)) == same_values(a, b) or 0.0 in (a.get(field), b[field])


def test_texts_do_not_run_into_each_other() -> None:
    numbers = dict.fromkeys(("price_usd", "volume_24h", "market_cap", "percent_change_24h"), 1.0)
    assert digest({"symbol": "AB", "name": "C", **numbers}) != digest(
        {"symbol": "A", "name": "BC", **numbers}
    )


def said(symbol: str, name: str | None, *numbers: float | None, **more: float) -> Document:
    fields = ("price_usd", "volume_24h", "market_cap", "percent_change_24h")
    return {"symbol": symbol, "name": name, **dict(zip(fields, numbers, strict=True)), **more}


@pytest.mark.parametrize(
    ("values", "known"),
    [
        (said("BTC", "Bitcoin", 103_000.5, None, 2.0e12, -0.5), "f52cc4960d77abb708e09333"),
        (said("ETH", None, 5e-324, 0.0, None, None), "db8c46dce28092ee196f36f1"),
        (
            said("SOL", "Solana", 150.25, 1.5, 2.5, 0.0, open=149.0, high=151.5, low=148.75),
            "ccf7e710bc16c7139bc06ce0",
        ),
        (
            said("X", "狗狗币 🐕", 1.7976931348623157e308, 1e-9, 1.0, -100.0, open=2.0),
            "69b0409b95e2a1b077c6e908",
        ),
        (
            said("USDC.E", "$money", 1.0, None, None, 1.5, high=1.01, low=0.99),
            "3e50faacd5e47ceb55f5cf84",
        ),
    ],
)
def test_a_digest_is_the_same_for_ever(values: Document, known: str) -> None:
    # Stored with records; these are from before there were volumes of candles and quotes.
    assert digest(values).hex() == known


def as_it_was(record: Document) -> bytes:
    """The digest as it was before there were volumes of candles and quotes."""
    fields = (
        "price_usd", "volume_24h", "market_cap", "percent_change_24h", "open", "high", "low"
    )  # fmt: skip
    numbers = [math.nan if record.get(f) is None else record[f] for f in fields]
    symbol, name = record["symbol"], record["name"] or ""
    text = f"{len(symbol)},{symbol}{name}".encode()
    return blake2b(struct.pack("<7d", *numbers) + text).digest()[:DIGEST_BYTES]


@given(VALUES, st.booleans())
def test_a_record_without_what_came_later_keeps_its_digest(row: Document, null: bool) -> None:
    old = {field: value for field, value in row.items() if field not in NEW}
    assert digest(old | dict.fromkeys(NEW) if null else old) == as_it_was(old)
    if old != row:
        assert digest(row) != as_it_was(old)


def test_what_came_later_is_told_apart() -> None:
    bare = said("BTC", "Bitcoin", 1.0, None, None, None)
    told: list[Document] = [
        {},
        {"volume": 1.0},
        {"base_volume": 1.0},
        {"volume": 1.0, "base_volume": 1.0},
        {"volume": 0.0},
        {"quote": "USDT"},
        {"quote": "USDC"},
        {"quote": "USDT", "volume": 1.0},
        {"name": "BitcoinUSDT"},
        {"name": "Bitcoin\xff"},
    ]
    assert len({digest(bare | more) for more in told}) == len(told)


def test_a_record_without_it_keeps_its_digest_beside_others_that_have_it() -> None:
    rows = [said("BTC", None, 1.0, None, None, None), said("ETH", None, 2.0, 1.0, None, None)]
    columns: Document = {f: [row[f] for row in rows] for f in rows[0]}
    assert digests(columns | {"quote": [None, "USDT"]}) == [
        as_it_was(rows[0]),
        digest(rows[1] | {"quote": "USDT"}),
    ]


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
