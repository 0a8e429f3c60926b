"""CoinGecko: what is asked, and what a row means."""

from __future__ import annotations

import pytest

from marketdata import sources
from marketdata.errors import SettingsError
from marketdata.sources.base import PageRequest
from marketdata.sources.coingecko import CoinGecko

ROW = {
    "id": "bitcoin",
    "symbol": "btc",
    "name": "Bitcoin",
    "current_price": 103_000,
    "total_volume": 5.5,
    "market_cap": 2_000_000_000_000,
    "price_change_percentage_24h": -1.25,
    "last_updated": "2025-05-09T06:00:07.123Z",
    "ath": 109_000,
}


def source(key: str = "", **environment: str) -> CoinGecko:
    return CoinGecko.from_environment(environment, {"coingecko_api_key": key} if key else {})


def first(asked: CoinGecko) -> PageRequest:
    return asked.page(1)


def test_the_source_is_found_by_its_name() -> None:
    assert sources.load("coingecko") is CoinGecko


def test_the_first_page_is_asked_for_by_market_cap_in_dollars() -> None:
    request = first(source())
    assert request.url == "https://api.coingecko.com/api/v3/coins/markets"
    assert request.page == 1
    assert request.params == {
        "vs_currency": "usd",
        "order": "market_cap_desc",
        "per_page": "250",
        "page": "1",
        "price_change_percentage": "24h",
    }
    assert request.headers == {}


def test_each_page_is_asked_for_by_its_number() -> None:
    coins = source(COINGECKO_PAGES="3")
    assert (coins.pages, coins.page_size) == (3, 250)
    # One more shows that the list ends with a page that is not full.
    assert coins.most_requests == 4
    for number in (1, 3, 4):
        request = coins.page(number)
        assert (request.page, request.params["page"]) == (number, str(number))


@pytest.mark.parametrize("rank", [1, 250, None, "7", True, 2.5])
def test_a_rank_is_a_whole_number(rank: object) -> None:
    known = rank if rank in (250, 1) and rank is not True else None
    assert CoinGecko.rank_of({"market_cap_rank": rank}) == known
    assert CoinGecko.rank_of({}) is None


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("https://api.coingecko.com/api/v3/coins/markets", "x-cg-demo-api-key"),
        ("https://pro-api.coingecko.com/api/v3/coins/markets", "x-cg-pro-api-key"),
        ("http://127.0.0.1:1/pro-api.x", "x-cg-demo-api-key"),
    ],
)
def test_the_key_goes_into_the_header_of_its_plan(url: str, header: str) -> None:
    request = first(source("KEY", COINGECKO_API_URL=url))
    assert request.url == url
    assert request.headers == {header: "KEY"}
    assert "KEY" not in repr(request)
    assert "KEY" not in str(request.params)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COINGECKO_PAGES", "0"),
        ("COINGECKO_PAGES", "101"),
        ("COINGECKO_PAGES", "all"),
        ("COINGECKO_API_URL", "api.coingecko.com"),
        ("COINGECKO_API_URL", "ftp://api.coingecko.com/"),
        ("COINGECKO_API_URL", "https://api.coingecko.com/a b"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        source(**{name: value})


def test_a_row_under_canonical_names() -> None:
    assert CoinGecko.map_row(ROW) == {
        "symbol": "btc",
        "name": "Bitcoin",
        "asset_id": "bitcoin",
        "price_usd": 103_000,
        "volume_24h": 5.5,
        "market_cap": 2_000_000_000_000,
        "percent_change_24h": -1.25,
        "timestamp": "2025-05-09T06:00:07.123Z",
    }


def test_what_the_row_does_not_say_is_null() -> None:
    assert set(CoinGecko.map_row({}).values()) == {None}
    assert CoinGecko.map_row(ROW | {"market_cap": None})["market_cap"] is None


def test_zero_is_a_number_here() -> None:
    row = ROW | {"market_cap": 0, "total_volume": 0, "price_change_percentage_24h": 0}
    candidate = CoinGecko.map_row(row)
    assert (candidate["market_cap"], candidate["volume_24h"]) == (0, 0)
    assert candidate["percent_change_24h"] == 0


def test_true_is_no_number() -> None:
    assert CoinGecko.map_row(ROW | {"current_price": True})["price_usd"] == "True"


def test_all_rows_are_wanted() -> None:
    assert source().row_filter() is None


def test_an_unknown_source_is_told_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="coingecko"):
        sources.load("coinbingo")
    with pytest.raises(SettingsError, match="There is no source 'http'"):
        sources.load("http")
