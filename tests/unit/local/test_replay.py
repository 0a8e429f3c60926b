"""The replay server's samples: shaped like the real answers, and the same every time."""

import json
from collections import Counter
from typing import Any

import pytest

from local.replay.samples import coingecko_markets, coinpaprika_tickers
from local.replay.server import BadQueryError, answer, markets
from tests.support.recorded import recorded

USD = {"vs_currency": "usd"}


def kinds(value: Any) -> str:
    """Name a JSON value's kind; the APIs mix whole numbers and decimals freely."""
    return {bool: "bool", int: "number", float: "number"}.get(type(value), type(value).__name__)


def shape(rows: list[Any] | tuple[Any, ...]) -> dict[str, set[str]]:
    """Return which kinds of values each field takes, with nested objects spelled out."""
    found: dict[str, set[str]] = {}

    def visit(prefix: str, row: dict[str, Any]) -> None:
        for name, value in row.items():
            found.setdefault(prefix + name, set()).add(kinds(value))
            if isinstance(value, dict):
                visit(f"{prefix}{name}.", value)

    for row in rows:
        visit("", row)
    return found


def test_markets_are_many_unique_and_ranked() -> None:
    rows = coingecko_markets()
    assert len(rows) > 250
    assert len({row["id"] for row in rows}) == len(rows)
    assert [row["market_cap_rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["id"] == "bitcoin"


def test_markets_have_what_makes_real_ones_hard() -> None:
    rows = coingecko_markets()
    assert max(Counter(row["symbol"] for row in rows).values()) > 1
    assert any(row["total_volume"] is None for row in rows)
    assert any("e-" in json.dumps(row["current_price"]) for row in rows)
    assert {type(row["current_price"]) for row in rows} == {int, float}
    assert all(row["current_price"] > 0 for row in rows)


def test_tickers_have_what_makes_real_ones_hard() -> None:
    rows = coinpaprika_tickers()
    assert len(rows) > 500
    assert len({row["id"] for row in rows}) == len(rows)
    assert max(Counter(row["symbol"] for row in rows).values()) > 1
    assert [row["rank"] for row in rows] != sorted(row["rank"] for row in rows)
    assert any(row["quotes"]["USD"]["market_cap"] == 0 for row in rows)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("coingecko_markets_2025-05-09.json", coingecko_markets()),
        ("coinpaprika_tickers_2021-08-12_part1.json", coinpaprika_tickers()),
    ],
)
def test_samples_have_the_shape_of_recorded_answers(
    name: str, rows: tuple[dict[str, Any], ...]
) -> None:
    real = shape(recorded(name))
    ours = shape(rows)
    assert ours.keys() == real.keys()
    # Where the real answer once had a value of another kind, the samples may; never the reverse
    # for what must be there.
    for field, found in ours.items():
        assert found & real[field], field
        assert found - real[field] <= {"NoneType"}, field


def test_pages_follow_one_another_without_gap_or_overlap() -> None:
    everything = [row["id"] for row in coingecko_markets()]
    paged: list[str] = []
    for page in range(1, 5):
        rows = markets({**USD, "per_page": "100", "page": str(page)})
        paged.extend(row["id"] for row in rows)
    assert paged == everything
    assert markets({**USD, "per_page": "250", "page": "9"}) == []
    assert len(markets({**USD, "per_page": "1000"})) == 250


def test_order_and_ids_are_honoured() -> None:
    ascending = markets({**USD, "order": "market_cap_asc", "per_page": "250"})
    assert ascending[0]["market_cap_rank"] == len(coingecko_markets())
    by_volume = [row["total_volume"] for row in markets({**USD, "order": "volume_desc"})]
    assert by_volume == sorted(by_volume, reverse=True)
    some = markets({**USD, "ids": "ethereum,bitcoin"})
    assert [row["id"] for row in some] == ["bitcoin", "ethereum"]


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"vs_currency": "eur"},
        {**USD, "page": "0"},
        {**USD, "per_page": "x"},
        {**USD, "order": "best"},
    ],
)
def test_queries_that_the_api_refuses(query: dict[str, str]) -> None:
    with pytest.raises(BadQueryError):
        markets(query)


def test_the_same_question_has_the_same_answer_byte_for_byte() -> None:
    first, second = (answer("/api/v3/coins/markets", USD) for _ in range(2))
    assert first is not None
    assert first == second
    other = answer("/api/v3/coins/markets", {**USD, "page": "2"})
    assert other is not None
    assert other.etag != first.etag
    assert answer("/nothing", {}) is None
