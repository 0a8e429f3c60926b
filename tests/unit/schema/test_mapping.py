"""Which column is which field: close names are used, close names of other things are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.csv_files.fields import claims_of
from marketdata.schema.mapping import (
    APPLIED_FROM,
    FIELDS,
    QUARANTINED_FROM,
    confidence,
)

SAME = [
    ("symbol", "SYMBOL Symbol ticker Ticker coin_symbol asset-symbol symbl symbols"),
    ("name", "Name coin_name CoinName"),
    ("asset_id", "id ID asset_id assetId coin_id asset.id"),
    (
        "price_usd",
        (
            "price_usd usd_price PriceUSD priceUsd Price(USD) price.usd prce_usd "
            "pricee_usd prices_usd "
            "price_in_usd current_price_usd pricusd price_$"
        ),
    ),
    (
        "volume_24h",
        (
            "volume_24h tx_volume Volume24h vol_24h 24h_volume volume_24hr volume_24_h "
            "volume_24h_usd "
            "total_volume_24h trading_volume_24h volme_24h Vol24H volume_1d"
        ),
    ),
    (
        "market_cap",
        (
            "market_cap MarketCap marketcap market-cap market_cap_usd marketcap(USD) mcap mkt_cap "
            "makret_cap market_capitalization market_capp"
        ),
    ),
    (
        "percent_change_24h",
        (
            "percent_change_24h pct_change_24h percentage_change_24h price_change_percentage_24h "
            "change_24h_% percent_chg_24h percent_change_24hr"
        ),
    ),
    (
        "timestamp",
        (
            "timestamp Timestamp time_stamp price_timestamp time created_at createdAt timestmp "
            "timestamp_utc timestamp_ms unix_timestamp"
        ),
    ),
    ("dataset", "source Source data_source dataset"),
]

OTHERS = [
    (
        "price_usd",
        (
            "price price_btc price_eur price_usdt price_usdc price_usdx priceusdt pricebtc price_€ "
            "price_change_usd high_price_usd oprice_usd cprice_usd open_price_usd "
            "average_price_usd "
            "price_usd_24h price_usd_1h_ago 1/price_usd price_usd_(thousands) price_usd_x1000 "
            "price/usd price_usd/eur ath_price_usd price_us price_aud min_price_usd Δ_price_usd "
            "priceusd_rank price_usd_change"
        ),
    ),
    (
        "volume_24h",
        (
            "volume volume_1h volume_7d volume_30d volume_btc volume_24h_btc volume_24h_eur "
            "volume_24h_change_24h volume_change_24h volume_24h_rank "
            "adjustedTxVolume(USD) qvolume_24h "
            "base_volume_24h quote_volume_24h volume_240h volume_4h volume24h_usdt"
        ),
    ),
    (
        "market_cap",
        (
            "market_cap_rank market_cap_change_24h market_cap_btc market_cap_eur market "
            "fully_diluted_market_cap realized_market_cap total_market_cap market_cap_dominance "
            "market_cap_percent marketcat"
        ),
    ),
    (
        "percent_change_24h",
        (
            "percent_change_7d percent_change_1h percent_change price_change_24h change_24h "
            "market_cap_change_percentage_24h volume_percent_change_24h percent_change_24h_btc "
            "percent_exchange_24h"
        ),
    ),
    ("symbol", "symbol_id symbol_name symbol_pair quote_symbol symbols_count ticket"),
    ("name", "exchange_name username filename name_id rename symbol_name"),
    ("asset_id", "row_id symbol_id trade_id exchange_id idx id_hash"),
    (
        "timestamp",
        (
            "timestamp_ns timestamp_us open_time close_time last_trade_timestamp datetime date "
            "updated_at uptime time_to_live block_time time_zone timestamp_local"
        ),
    ),
    ("dataset", "resource source_id source_url dataset_size"),
]


def _pairs(table: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(to, column) for to, columns in table for column in columns.split()]


@pytest.mark.parametrize(("to", "column"), _pairs(SAME))
def test_a_close_name_claims_its_field(to: str, column: str) -> None:
    claim, *_ = claims_of(column)
    assert claim.role == to
    assert APPLIED_FROM <= claim.confidence <= 1


@pytest.mark.parametrize(("to", "column"), _pairs(OTHERS))
def test_a_close_name_of_something_else_is_not_it(to: str, column: str) -> None:
    assert confidence(column, to) < APPLIED_FROM
    assert confidence(column.replace("_", " "), to) < APPLIED_FROM


@pytest.mark.parametrize(
    "column", ["price_usd/eur", "price_usd_x1000", "1/price_usd", "Date (EST)"]
)
def test_what_changes_the_meaning_is_never_certain(column: str) -> None:
    assert all(claim.confidence < APPLIED_FROM for claim in claims_of(column))


WORDS = "btc eur usdt 1h 7d 30d 12h rank change high low open close average adjusted id pair "
WORDS += "exchange ago delta min max diluted realized thousands million not previous predicted"


@given(
    to=st.sampled_from([name for name, spec in FIELDS.items() if spec.fuzzy]),
    word=st.sampled_from(WORDS.split()),
    before=st.booleans(),
    joint=st.sampled_from(["_", " ", "-", ".", " ("]),
)
def test_a_word_that_changes_the_meaning_is_never_overlooked(
    to: str, word: str, joint: str, *, before: bool
) -> None:
    for name in FIELDS[to].names:
        if (name, word) in {("asset_id", "id"), ("id", "id")}:
            continue
        column = f"{word}{joint}{name}" if before else f"{name}{joint}{word}"
        assert confidence(column, to) < APPLIED_FROM, column


@given(st.text(max_size=30))
def test_any_name_is_judged(column: str) -> None:
    for claim in claims_of(column):
        assert QUARANTINED_FROM <= claim.confidence <= 1
