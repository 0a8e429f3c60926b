"""Which column is which field: close names are used, close names of other things are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import FileRefused
from marketdata.schema.mapping import (
    APPLIED_FROM,
    FIELDS,
    QUARANTINED_FROM,
    confidence,
    map_columns,
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
def test_a_close_name_is_mapped(to: str, column: str) -> None:
    mapping = map_columns([column])

    assert mapping.columns == {to: 0}
    assert not mapping.quarantined
    if column == to:
        assert not mapping.applied
    else:
        (applied,) = mapping.applied
        assert applied["from"] == column
        assert applied["to"] == to
        assert APPLIED_FROM <= applied["confidence"] <= 1


@pytest.mark.parametrize(("to", "column"), _pairs(OTHERS))
def test_a_close_name_of_something_else_is_not_mapped(to: str, column: str) -> None:
    assert confidence(column, to) < APPLIED_FROM
    assert not map_columns([column]).columns
    assert not map_columns([column.replace("_", " ")]).columns


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
        assert to not in map_columns([column]).columns, column


@given(st.text(max_size=30))
def test_any_name_has_one_fate(column: str) -> None:
    mapping = map_columns([column])

    fates = len(mapping.columns) + len(mapping.quarantined) + len(mapping.skipped)
    assert fates == (1 if column.strip() or mapping.columns else 0)
    for question in mapping.quarantined:
        assert QUARANTINED_FROM <= question["confidence"] < APPLIED_FROM
    for skipped in mapping.skipped:
        assert skipped["confidence"] <= QUARANTINED_FROM


@given(st.permutations(["symbol", "ticker", "usd_price", "timestamp", "created_at", "foo"]))
def test_the_order_of_columns_does_not_matter(header: list[str]) -> None:
    mapping = map_columns(header)

    assert {to: header[index] for to, index in mapping.columns.items()} == {
        "symbol": "symbol",
        "price_usd": "usd_price",
        "timestamp": "timestamp",
    }


def test_all_that_is_said_of_columns() -> None:
    mapping = map_columns(["ticker", "price_usd", "time", "price_btc", "fees", "created_at"])

    assert mapping.columns == {"symbol": 0, "price_usd": 1, "timestamp": 2}
    assert mapping.applied == [
        {"from": "ticker", "to": "symbol", "confidence": 1.0},
        {"from": "time", "to": "timestamp", "confidence": 1.0},
    ]
    assert [q["from"] for q in mapping.quarantined] == ["price_btc"]
    assert {s["from"]: s["reason"] for s in mapping.skipped} == {
        "fees": "no field of the record has a name like it",
        "created_at": "column 'time' says it more exactly",
    }
    assert mapping.missing == []
    mapping.require_usable("the file")


@pytest.mark.parametrize(
    "header", [["price_usd", "price_usd"], ["price_usd", "Price USD"], ["prce_usd", "prce usd"]]
)
def test_columns_that_claim_a_field_equally_are_ambiguous(header: list[str]) -> None:
    mapping = map_columns([*header, "symbol", "time"])

    assert "price_usd" not in mapping.columns
    assert [q["from"] for q in mapping.quarantined] == header
    with pytest.raises(FileRefused, match="2 columns claim it, which is ambiguous"):
        mapping.require_usable("the file")


def test_other_columns_may_share_a_name() -> None:
    mapping = map_columns(["symbol", "price_usd", "time", "fees", "fees", "", ""])

    mapping.require_usable("the file")
    assert len(mapping.skipped) == 2


def test_a_refusal_says_what_is_missing_and_what_there_is() -> None:
    mapping = map_columns(["Date", "Price", "Open", "Vol."])

    with pytest.raises(FileRefused) as refusal:
        mapping.require_usable("s3://bucket/incoming/investing.csv")

    message = str(refusal.value)
    assert message.startswith("s3://bucket/incoming/investing.csv has no usable symbol")
    assert "price_usd (a column price_usd or usd_price)" in message
    assert "'Date', 'Price', 'Open', 'Vol.'" in message
    assert refusal.value.details["missing"] == ["symbol", "price_usd", "timestamp"]


def test_a_refusal_of_a_file_with_other_separators_says_so() -> None:
    with pytest.raises(FileRefused, match="separated by ';'"):
        map_columns(["open;high;low;close"]).require_usable("the file")


def test_candle_fields_are_taken_under_their_exact_names_only() -> None:
    assert map_columns(["open", "High", "low", "interval"]).columns == {
        "open": 0,
        "high": 1,
        "low": 2,
        "interval": 3,
    }
    assert not map_columns(["opens", "high_24h", "lows", "intervals", "open_usd"]).columns
