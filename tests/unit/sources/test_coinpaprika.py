"""CoinPaprika: what is asked, which rows are wanted, and what a row means."""

from __future__ import annotations

from typing import Any

import pytest

from marketdata import sources
from marketdata.errors import SettingsError
from marketdata.sources.coinpaprika import CoinPaprika

ROW: dict[str, Any] = {
    "id": "btc-bitcoin",
    "symbol": "BTC",
    "name": "Bitcoin",
    "rank": 1,
    "circulating_supply": 18_784_088,
    "last_updated": "2021-08-12T19:06:04Z",
    "quotes": {
        "USD": {
            "price": 44_456.5,
            "volume_24h": 42_325_120_266.7,
            "market_cap": 835_075_076_863,
            "percent_change_24h": -4.01,
        }
    },
}


def source(key: str = "", **environment: str) -> CoinPaprika:
    return CoinPaprika.from_environment(environment, {"coinpaprika_api_key": key} if key else {})


def quoted(**usd: Any) -> dict[str, Any]:
    return CoinPaprika.map_row(ROW | {"quotes": {"USD": ROW["quotes"]["USD"] | usd}})


def test_the_source_is_found_by_its_name() -> None:
    assert sources.load("coinpaprika") is CoinPaprika


def test_there_is_one_page_with_everything() -> None:
    asked = source()
    request = asked.page(1)
    assert request.url == "https://api.coinpaprika.com/v1/tickers"
    assert (request.page, request.params, request.headers) == (1, {"quotes": "USD"}, {})
    assert (asked.pages, asked.page_size) == (1, None)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("https://api-pro.coinpaprika.com/v1/tickers", {"Authorization": "KEY"}),
        ("https://api.coinpaprika.com/v1/tickers", {}),
        ("http://127.0.0.1:1/api-pro.coinpaprika.com", {}),
    ],
)
def test_the_key_is_for_the_paid_host_alone(url: str, headers: dict[str, str]) -> None:
    request = source("KEY", COINPAPRIKA_API_URL=url).page(1)
    assert request.headers == headers
    assert "KEY" not in repr(request)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COINPAPRIKA_TOP", "-1"),
        ("COINPAPRIKA_TOP", "all"),
        ("COINPAPRIKA_API_URL", "api.coinpaprika.com"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        source(**{name: value})


def test_a_row_under_canonical_names() -> None:
    assert CoinPaprika.map_row(ROW) == {
        "symbol": "BTC",
        "name": "Bitcoin",
        "asset_id": "btc-bitcoin",
        "price_usd": 44_456.5,
        "volume_24h": 42_325_120_266.7,
        "market_cap": 835_075_076_863,
        "percent_change_24h": -4.01,
        "timestamp": "2021-08-12T19:06:04Z",
    }


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_a_market_cap_of_zero_is_an_unknown_one(zero: float) -> None:
    assert quoted(market_cap=zero)["market_cap"] is None


def test_a_volume_or_change_of_zero_is_a_number_and_a_price_of_zero_is_left_to_validation() -> None:
    candidate = quoted(volume_24h=0, percent_change_24h=0, price=0)
    assert (candidate["volume_24h"], candidate["percent_change_24h"]) == (0, 0)
    assert candidate["price_usd"] == 0


@pytest.mark.parametrize(
    "quotes",
    [None, {}, [], "USD", {"USD": None}, {"USD": [1]}, {"BTC": {"price": 1, "volume_24h": 2}}],
)
def test_without_a_quote_in_dollars_there_is_no_number(quotes: Any) -> None:
    candidate = CoinPaprika.map_row(ROW | {"quotes": quotes})
    assert candidate["asset_id"] == "btc-bitcoin"
    assert candidate["price_usd"] is candidate["volume_24h"] is candidate["market_cap"] is None


def test_an_empty_row_says_nothing() -> None:
    assert set(CoinPaprika.map_row({}).values()) == {None}


def test_true_is_no_number() -> None:
    assert quoted(price=True)["price_usd"] == "True"
    assert quoted(market_cap=False)["market_cap"] == "False"


def test_without_a_limit_rows_are_not_even_looked_at() -> None:
    assert source().row_filter() is None
    assert source(COINPAPRIKA_TOP="0").row_filter() is None


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"rank": 1}, True),
        ({"rank": 10}, True),
        ({"rank": 11}, False),
        ({"rank": 0}, False),
        ({"rank": None}, False),
        ({}, False),
        ({"rank": -1}, False),
        # What can't be read is for validation to judge.
        ({"rank": "first"}, True),
        (["btc-bitcoin", 1], True),
        ("btc-bitcoin", True),
        (None, True),
    ],
)
def test_a_limit_is_by_rank_and_without_one_a_coin_is_beyond_it(row: Any, wanted: bool) -> None:
    keep = source(COINPAPRIKA_TOP="10").row_filter()
    assert keep is not None
    assert keep(row) is wanted
