"""Real files of twelve forms: what becomes of each, against figures read from them by eye.

Besides, each file is read a second time here, with the module csv and a few lines of its own.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from marketdata.documents.questions import Answers
from marketdata.errors import FileRefused
from marketdata.runs.previewing import Preview, preview
from tests.support.recorded import FOLDER

NOW = datetime(2025, 5, 10, tzinfo=UTC)
type Spot = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Golden:
    """What is right for one file."""

    rows: int
    spots: list[Spot]
    """The first record, three from within, and the last one: its time, and what it says."""
    set_aside: Mapping[str, int] = field(default_factory=dict)
    key: str = ""
    asks: str = ""
    """The question that it asks, as nothing in it or in its key answers it."""
    answers: Answers = field(default_factory=Answers)


def close(at: str, price: float, **more: Any) -> Spot:
    return at, {"price_usd": price, **more}


GOLDEN = {
    "binance_klines_btcusdt_1h_2023-01_noheader.csv": Golden(
        744,
        [
            close("2023-01-01 00:00", 16529.67, symbol="BTC", open=16541.77, high=16545.7,
                  low=16508.39, interval="1h", base_volume=4364.8357, quote="USDT",
                  volume=72146293.5867229, volume_24h=None),
            close("2023-01-08 17:00", 16928.5),
            close("2023-01-16 11:00", 20817.56, base_volume=7020.44092),
            close("2023-01-24 05:00", 23118.17),
            close("2023-01-31 23:00", 23125.13, volume=253328173.93766810),
        ],
    ),
    "coingecko_export_btc-usd-max.csv": Golden(
        3873,
        [
            close("2013-04-28 00:00", 135.3, symbol="BTC", market_cap=1500517590.0, volume_24h=0.0),
            close("2015-12-22 00:00", 436.2370000000001, volume_24h=1296402582.2604847),
            close("2017-04-02 00:00", 1098.0679999999998, market_cap=None),
            close("2018-08-17 00:00", 6309.385226218996),
            close("2023-12-06 00:00", 44105.94477259938, market_cap=863171503830.3232),
        ],
    ),
    "coingecko_markets_2021_pandas.csv": Golden(
        250,
        [
            close("2021-07-10 04:39:59.985", 33944.0, asset_id="bitcoin", symbol="BTC",
                  name="Bitcoin", volume_24h=23805813083.0, market_cap=636645844263.0,
                  percent_change_24h=2.6388100000000003),
            close("*", 9.72, asset_id="huobi-token", symbol="HT"),
            close("*", 16.32, asset_id="livepeer", market_cap=389675830.0),
            close("*", 0.290215, asset_id="fetch-ai", volume_24h=19566345.0),
            close("*", 0.287732, asset_id="keep-network", symbol="KEEP"),
        ],
    ),
    "coinmarketcap_export_btc_semicolon.csv": Golden(
        128,
        [
            close("2013-04-01 00:00", 139.0, symbol="BTC", open=135.3000030518, low=132.1000061035,
                  interval="1M", market_cap=1542813125.0, volume=0.0, volume_24h=None),
            close("2015-10-01 00:00", 314.1659851074, volume=48598100.0),
            close("2018-06-01 00:00", 6404.0),
            close("2021-02-01 00:00", 45137.77046805, high=58330.57214185),
            close("2023-11-01 00:00", 37712.7477716325, market_cap=737560917365.82),
        ],
    ),
    "coinmetrics_eth_2019.csv": Golden(
        1338,
        [
            close("2015-08-07 00:00", 2.83, symbol="ETH", volume_24h=164329.0),
            close("2016-06-26 00:00", 14.26, market_cap=1160973050.5703971, volume_24h=14747600.0),
            close("2017-05-27 00:00", 159.82, volume_24h=1217059968.0),
            close("2018-04-27 00:00", 662.11),
            close("2019-03-28 00:00", 141.01, market_cap=14866238269.652777),
        ],
        {"missing_value": 8},
    ),
    "cryptodatadownload_binance_btcusdt_d.csv": Golden(
        1698,
        [
            close("2022-04-09 00:00", 42340.01, symbol="BTC", open=42252.02, quote="USDT",
                  base_volume=1041.88489, volume_24h=44065221.3690702, interval="1d"),
            close("2021-02-11 00:00", 47969.51, low=43994.02),
            close("2019-12-14 00:00", 7064.05, volume_24h=211004228.01585397),
            close("2018-10-15 00:00", 6752.5, high=7680.0),
            close("2017-08-17 00:00", 4285.08, base_volume=647.86, volume_24h=2812379.11),
        ],
    ),
    "cryptodatadownload_gemini_btcusd_d_2019.csv": Golden(
        1511,
        [
            close("2019-11-26 00:00", 7143.79, symbol="BTC", base_volume=0.0, volume_24h=0.0),
            close("2018-11-16 00:00", 5515.77, volume_24h=25905830.17),
            close("2017-11-03 00:00", 7177.28, base_volume=8643.78),
            close("2016-10-21 00:00", 630.15, open=629.0),
            close("2015-10-08 00:00", 243.95, volume_24h=4595.84, interval="1d"),
        ],
    ),
    "investing_bitcoin.csv": Golden(
        4779,
        [
            close("2023-08-17 00:00", 28420.3, symbol="BTC", open=28726.1, base_volume=57320.0,
                  percent_change_24h=-1.07, interval="1d", volume_24h=None),
            close("2020-05-12 00:00", 8813.8, base_volume=1350000.0, percent_change_24h=2.73),
            close("2017-02-02 00:00", 1004.0, high=1009.1),
            close("2013-10-26 00:00", 188.6, low=187.0),
            close("2010-07-18 00:00", 0.1, base_volume=80.0, open=None),
        ],
    ),
    "kaggle_cmc_bitcoin_dayfirst.csv": Golden(
        2991,
        [
            close("2013-04-29 23:59", 144.5399933, symbol="BTC", name="Bitcoin", volume_24h=0.0,
                  market_cap=1603768865.0, open=134.4440002, interval="1d"),
            close("2015-05-15 23:59", 237.6049957, volume_24h=16329400.0),
            close("2017-06-01 23:59", 2407.879883, market_cap=39407633763.0),
            close("2019-06-19 23:59", 9273.521766, market_cap=1.65e11),
            close("2021-07-06 23:59", 34235.19345, low=33599.91617),
        ],
    ),
    "kaggle_cmc_ethereum.csv": Golden(
        2160,
        [
            close("2015-08-08 23:59:59", 0.7533249855041504, symbol="ETH", high=2.7988100051879883,
                  volume_24h=674188.0, market_cap=45486894.2408),
            close("2017-01-27 23:59:59", 10.537300109863281),
            close("2018-07-21 23:59:59", 462.4360046386719, volume_24h=1504310016.0),
            close("2020-01-12 23:59:59", 145.873931189),
            close("2021-07-06 23:59:59", 2324.67944917, market_cap=271028619181.2),
        ],
    ),
    "nasdaq_msft_dollar.csv": Golden(
        1257,
        [
            close("2025-05-09 00:00", 438.73, symbol="MSFT", open=440.0, low=435.88,
                  base_volume=15324230.0, volume_24h=None, interval="1d"),
            close("2024-02-09 00:00", 420.55, base_volume=22032840.0),
            close("2022-11-07 00:00", 227.87),
            close("2021-08-10 00:00", 286.44, high=289.25),
            close("2020-05-11 00:00", 186.74, open=183.15),
        ],
        asks="symbol",
        answers={"symbol": "MSFT"},
    ),
    "yahoo_btc-usd_2020_2021.csv": Golden(
        366,
        [
            close("2020-04-18 00:00", 7257.665039, symbol="BTC", volume_24h=32447188386.0,
                  open=7092.291504, interval="1d"),
            close("2020-07-16 00:00", 9132.227539),
            close("2020-10-16 00:00", 11322.123047, low=11223.012695),
            close("2021-01-15 00:00", 36825.367188, volume_24h=67760757881.0),
            close("2021-04-18 00:00", 59230.367188, high=60980.078125),
        ],
        {"missing_value": 3},
    ),
}  # fmt: skip


def read(path: Path, answers: Answers | None = None) -> Preview:
    found = preview(
        path.read_bytes(),
        key=GOLDEN[path.name].key or f"incoming/{path.name}",
        answers=answers or {},
        received_at=NOW,
        records=10**6,
    )
    assert found is not None
    return found


FILES = sorted(FOLDER.glob("*.csv"))


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_there_is_a_record_for_each_row_and_it_says_what_the_row_says(file: Path) -> None:
    golden = GOLDEN[file.name]
    found = read(file, golden.answers)

    assert not found.questions
    assert found.rows == golden.rows
    assert dict(found.reasons) == dict(golden.set_aside)
    assert len(found.records) == golden.rows - sum(golden.set_aside.values())
    first, *within, last = golden.spots
    assert says(found.records[0], first)
    assert says(found.records[-1], last)
    for spot in within:
        assert any(says(record, spot) for record in found.records), spot


def says(record: Mapping[str, Any], spot: Spot) -> bool:
    time, values = spot
    return time in ("*", str(record["timestamp"])[: len(time)]) and all(
        record.get(name) == value for name, value in values.items()
    )


def test_what_is_not_known_is_asked(file: Path) -> None:
    found = read(file)
    assert [question["about"] for question in found.questions] == (
        [GOLDEN[file.name].asks] if GOLDEN[file.name].asks else []
    )


def number(text: str) -> float:
    """Of these files, not of all: a second reading must not share the first one's code."""
    scale = {"K": 1e3, "M": 1e6, "B": 1e9}.get(text[-1:], 1.0)
    return float(text.strip("$KMB%").replace(",", "")) * scale


def epoch(text: str) -> datetime:
    value = float(text)
    return datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC)


SECOND: dict[str, tuple[int, str, int | str, int | str, Callable[[str], datetime]]] = {
    # Lines before the header, delimiter, columns of time and price, how times are read.
    "binance_klines_btcusdt_1h_2023-01_noheader.csv": (-1, ",", 0, 4, epoch),
    "coingecko_export_btc-usd-max.csv": (
        0, ",", "snapped_at", "price", lambda t: at(t.removesuffix(" UTC"))),
    "coingecko_markets_2021_pandas.csv": (
        0, ",", "last_updated", "current_price", datetime.fromisoformat),
    "coinmarketcap_export_btc_semicolon.csv": (
        0, ";", "timestamp", "close", datetime.fromisoformat),
    "coinmetrics_eth_2019.csv": (0, ",", "date", "price(USD)", at),
    "cryptodatadownload_binance_btcusdt_d.csv": (1, ",", "unix", "close", epoch),
    "cryptodatadownload_gemini_btcusd_d_2019.csv": (1, ",", "Date", "Close", at),
    "investing_bitcoin.csv": (
        0, ",", "Date", "Price", lambda t: datetime.strptime(t, "%b %d, %Y").replace(tzinfo=UTC)),
    "kaggle_cmc_bitcoin_dayfirst.csv": (
        0, ",", "Date", "Close",
        lambda t: datetime.strptime(t, "%d/%m/%Y %H:%M").replace(tzinfo=UTC)),
    "kaggle_cmc_ethereum.csv": (0, ",", "Date", "Close", at),
    "nasdaq_msft_dollar.csv": (
        0, ",", "Date", "Close/Last",
        lambda t: datetime.strptime(t, "%m/%d/%Y").replace(tzinfo=UTC)),
    "yahoo_btc-usd_2020_2021.csv": (0, ",", "Date", "Close", at),
}  # fmt: skip


def test_a_second_reading_finds_the_same_times_and_prices(file: Path) -> None:
    skip, delimiter, time, price, reading = SECOND[file.name]
    text = file.read_text("utf-8-sig")
    lines = text.splitlines(keepends=True)[max(skip, 0) :]
    rows: Any = (
        csv.reader(io.StringIO("".join(lines)))
        if skip < 0
        else csv.DictReader(io.StringIO("".join(lines)), delimiter=delimiter)
    )
    expected = [
        (reading(row[time]), number(row[price])) for row in rows if row[price] not in ("", "null")
    ]
    cut = [(when.replace(microsecond=when.microsecond // 1000 * 1000), p) for when, p in expected]

    found = read(file, GOLDEN[file.name].answers)

    assert [(record["timestamp"], record["price_usd"]) for record in found.records] == cut


def test_score(capsys: pytest.CaptureFixture[str]) -> None:
    """None is wrong, and at most one in twelve asks."""
    if not FILES:
        pytest.skip("the recorded files are not here")
    score = {"right": 0, "asked": 0, "wrong": 0}
    for path in FILES:
        golden = GOLDEN[path.name]
        try:
            found = read(path)
        except FileRefused:
            score["wrong"] += 1
            continue
        if found.questions:
            score["asked"] += 1
            continue
        good = (
            found.rows == golden.rows
            and dict(found.reasons) == dict(golden.set_aside)
            and says(found.records[0], golden.spots[0])
            and says(found.records[-1], golden.spots[-1])
        )
        score["right" if good else "wrong"] += 1
    with capsys.disabled():
        sys.stdout.write(f"\nrecorded files: {score}\n")
    assert score["wrong"] == 0
    assert score["asked"] * 12 <= len(FILES)
