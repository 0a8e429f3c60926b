"""Small files of kinds that went wrong, each with a sibling that is made by hand."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from marketdata.errors import FileRefused
from marketdata.runs.previewing import Preview, preview
from tests.support.recorded import FOLDER

NOW = datetime(2025, 5, 20, tzinfo=UTC)
CASES = FOLDER.parent / "cases"
EXPECTED: dict[str, Any] = (
    json.loads((CASES / "expected.json").read_text("utf-8")) if CASES.exists() else {}
)
REFUSED = {"gzip_within_gzip.csv.gz": "packed twice"}
SET_ASIDE = {
    "epoch_zero.csv": {"timestamp_unknown": 3, "timestamp_too_early": 1},
    "low_above_high.csv": {"low_above_high": 1},
    "currency_column_says_eur.csv": {"quote_not_usd": 1},
    "pairs_as_symbols.csv": {"quote_not_usd": 2},
}
COUNTS = {
    "blank_optional_cells.csv": 5,
    "nul_padding.csv": 4,
    "utf16_without_bom.csv": 1,
    "sql_row_number_id_dumped_again.csv": 4,
}


def read(data: bytes, key: str = "incoming/file.csv") -> Preview:
    found = preview(data, key=key, answers={}, received_at=NOW, records=10**6)
    assert found is not None
    return found


def same(record: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    for name, value in expected.items():
        said = record.get(name)
        if name == "timestamp":
            assert isinstance(said, datetime)
            if said != datetime.fromisoformat(value):
                return False
        elif said != value:
            return False
    return True


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_becomes_what_is_right(name: str) -> None:
    expected, data = EXPECTED[name], (CASES / name).read_bytes()
    if name in REFUSED:
        with pytest.raises(FileRefused, match=REFUSED[name]):
            read(data, f"incoming/{name}")
        return
    found = read(data, f"incoming/{name}")
    assert not found.questions
    assert dict(found.reasons) == SET_ASIDE.get(name, {})
    if "records" in expected:
        assert len(found.records) == len(expected["records"])
        for record, right in zip(found.records, expected["records"], strict=True):
            assert same(record, right)
    else:
        assert len(found.records) == COUNTS[name]
    for record in found.records:
        for text in (record["symbol"], record["asset_id"], record["name"] or "x"):
            assert text.isprintable()
            assert '"' not in text


@dataclass(frozen=True)
class Sibling:
    """A file of the same kind as a case, in another dress."""

    text: str
    records: Sequence[Mapping[str, Any]] = ()
    set_aside: Mapping[str, int] = field(default_factory=dict)
    asks: str = ""
    refused: str = ""
    key: str = "incoming/file.csv"
    encoding: str = "utf-8"


def record(symbol: str, price: float, at: str = "2025-05-09T06:00:00Z", **more: Any) -> Any:
    return {"symbol": symbol, "price_usd": price, "timestamp": at, **more}


SIBLINGS = {
    "a document's _id beside the ticker": Sibling(
        "_id,ticker,close,date\n"
        "65a1b2c3d4e5f60718293a4b,AAA,10,2025-05-07\n65a1b2c3d4e5f60718293a4c,AAA,11,2025-05-08\n",
        [record("AAA", 10, "2025-05-07T00:00:00Z", asset_id="AAA"),
         record("AAA", 11, "2025-05-08T00:00:00Z", asset_id="AAA")],
    ),
    "a counting id in a snapshot": Sibling(
        "id,symbol,price,timestamp\n1,AAA,1,2025-05-09T06:00:00Z\n2,BBB,2,2025-05-09T06:00:00Z\n"
        "3,CCC,3,2025-05-09T06:00:00Z\n",
        [record("AAA", 1, asset_id="AAA"), record("BBB", 2), record("CCC", 3)],
    ),
    "slugs as ids": Sibling(
        "id,symbol,current_price,last_updated\nbitcoin,btc,9,2025-05-09T06:00:00Z\n"
        "wrapped-bitcoin,btc,8,2025-05-09T06:00:00Z\neth,eth,7,2025-05-09T06:00:00Z\n",
        [record("BTC", 9, asset_id="bitcoin"), record("BTC", 8, asset_id="wrapped-bitcoin"),
         record("ETH", 7, asset_id="eth")],
    ),
    "inserted_at beside price_ts": Sibling(
        "symbol,price_usd,inserted_at,price_ts\nAAA,1,2025-05-10T00:00:00Z,1746770400\n"
        "AAA,2,2025-05-10T00:00:00Z,1746774000\n",
        [record("AAA", 1), record("AAA", 2, "2025-05-09T07:00:00Z")],
    ),
    "updated_at beside timestamp_utc": Sibling(
        "timestamp_utc,updated_at,symbol,price_usd\n2025-05-09 06:00:00,2025-05-12,AAA,1.5\n",
        [record("AAA", 1.5)],
    ),
    "created_at alone is the time": Sibling(
        "symbol,price_usd,created_at\nAAA,1.5,2025-05-09T06:00:00Z\n", [record("AAA", 1.5)]
    ),
    "a market cap in dollars and one in coins": Sibling(
        "symbol,price_usd,market_cap_btc,market_cap_usd,timestamp\n"
        "AAA,1.5,20,30,2025-05-09T06:00:00Z\n",
        [record("AAA", 1.5, market_cap=30)],
    ),
    "a price in dollars and one in euros": Sibling(
        "symbol,price_eur,price_usd,timestamp\nAAA,1.4,1.5,2025-05-09T06:00:00Z\n",
        [record("AAA", 1.5)],
    ),
    "a price in euros alone": Sibling(
        "symbol,price_eur,timestamp\nAAA,1.4,2025-05-09T06:00:00Z\n",
        set_aside={"quote_not_usd": 1},
    ),
    "prices with a euro sign": Sibling(
        "symbol;price;timestamp\nAAA;€ 1.400,50;2025-05-09T06:00:00Z\n",
        set_aside={"quote_not_usd": 1},
    ),
    "dollar signs and euro signs": Sibling(
        "symbol;price;timestamp\nAAA;$ 1.400,50;2025-05-09T06:00:00Z\n"
        "BBB;€ 1.400,50;2025-05-09T06:00:00Z\n",
        [record("AAA", 1400.5)],
        set_aside={"quote_not_usd": 1},
    ),
    "a pair in a column of its own": Sibling(
        "pair,close,time\nETH/USDC,1.5,2025-05-09T06:00:00Z\nETH/EUR,1.4,2025-05-09T06:00:00Z\n",
        [record("ETH", 1.5, quote="USDC")],
        set_aside={"quote_not_usd": 1},
    ),
    "coins whose symbols end like pairs": Sibling(
        "symbol,price_usd,timestamp\nTUSD,1,2025-05-09T06:00:00Z\nSTETH,1810,2025-05-09T06:00:00Z\n"
        "BTC,97000,2025-05-09T06:00:00Z\n",
        [record("TUSD", 1), record("STETH", 1810), record("BTC", 97000)],
    ),
    "a share with a hyphen": Sibling(
        "symbol,close,date\nBRK-B,500.5,2025-05-09\n",
        [record("BRK-B", 500.5, "2025-05-09T00:00:00Z", interval="1d")],
    ),
    "nulls as databases write them": Sibling(
        "symbol,name,price_usd,market_cap,volume_24h,timestamp\n"
        "AAA,<NA>,1.5,#N/A,-,2025-05-09T06:00:00Z\nBBB,NULL,1.6,NaN, ,2025-05-09T06:00:00Z\n",
        [record("AAA", 1.5, name=None, market_cap=None, volume_24h=None),
         record("BBB", 1.6, name=None, market_cap=None, volume_24h=None)],
    ),
    "tabs and blanks around quotes": Sibling(
        'symbol ; "price_usd" ; timestamp\n"AAA" ; "1,5" ; "2025-05-09T06:00:00Z"\n',
        [record("AAA", 1.5)],
    ),
    "single quotes with semicolons": Sibling(
        "'symbol';'price_usd';'timestamp'\n'A;A';'1.5';'2025-05-09T06:00:00Z'\n"
        "'BBB';'1.6';'2025-05-09T06:00:00Z'\n",
        [record("A;A", 1.5), record("BBB", 1.6)],
    ),
    "escaped quotes": Sibling(
        'symbol,name,price_usd,timestamp\nAAA,"The \\"A\\", Inc",1.5,2025-05-09T06:00:00Z\n'
        'BBB,"B",1.6,2025-05-09T06:00:00Z\n',
        [record("AAA", 1.5, name='The "A", Inc'), record("BBB", 1.6, name="B")],
    ),
    "UTF-16 with its mark": Sibling(
        "symbol\tprice_usd\ttimestamp\nÄÖÜ\t1.5\t2025-05-09T06:00:00Z\n",
        [record("ÄÖÜ", 1.5)],
        encoding="utf-16",
    ),
    "UTF-16, the other way round, without one": Sibling(
        "symbol,price_usd,timestamp\nAAA,1.5,2025-05-09T06:00:00Z\n",
        [record("AAA", 1.5)],
        encoding="utf-16-be",
    ),
    "Windows-1252": Sibling(
        "symbol;name;price_usd;timestamp\nAAA;Börse € “x”;1,5;2025-05-09T06:00:00Z\n",
        [record("AAA", 1.5, name="Börse € “x”")],
        encoding="cp1252",
    ),
    "zero as a time in milliseconds": Sibling(
        "symbol,price_usd,timestamp\nAAA,1.5,0\nAAA,1.6,1746770400000\n",
        [record("AAA", 1.6)],
        set_aside={"timestamp_unknown": 1},
    ),
    "lines of semicolons and blanks": Sibling(
        "symbol;price_usd;timestamp\n;;\nAAA;1,5;2025-05-09T06:00:00Z\n ; ; \n\n;;\n",
        [record("AAA", 1.5)],
    ),
    "our own export as this service gives it": Sibling(
        "id,symbol,asset_id,price_usd,volume_24h,volume,base_volume,quote,interval,timestamp,"
        "source,dataset,revision\n"
        "77,BTC-USD,btc,1.5,500,7,3,USDT,1h,2025-05-09T06:00:00.000Z,csv,desk 7,2\n",
        [record("BTC-USD", 1.5, asset_id="btc", volume_24h=500, volume=7, base_volume=3,
                interval="1h", dataset="desk 7", quote="USDT")],
    ),
    "a point for thousands, settled by another column": Sibling(
        "symbol;price_usd;market_cap;timestamp\nAAA;1.810;1.234.567,5;2025-05-09T06:00:00Z\n",
        [record("AAA", 1810, market_cap=1234567.5)],
    ),
    "a point that nothing settles": Sibling(
        "symbol;price_usd;timestamp\nAAA;1.810;2025-05-09T06:00:00Z\n", asks="numbers"
    ),
    "a comma that nothing settles": Sibling(
        'symbol,price_usd,timestamp\nAAA,"1,810",2025-05-09T06:00:00Z\n', asks="numbers"
    ),
    "both conventions in one column": Sibling(
        'symbol,price_usd,timestamp\nAAA,"1,810.5",2025-05-09T06:00:00Z\n'
        'AAA,"1.810,5",2025-05-09T07:00:00Z\n',
        refused="decimal point and numbers with a decimal comma",
    ),
    "lakhs and crores": Sibling(
        'symbol,price_usd,timestamp\nAAA,"12,34,567.5",2025-05-09T06:00:00Z\n',
        [record("AAA", 1234567.5)],
    ),
    "more empty cells behind rows": Sibling(
        "symbol,price_usd,timestamp\nAAA,1.5,2025-05-09T06:00:00Z,,,\n"
        "BBB,1.6,2025-05-09T06:00:00Z\nCCC,1.7,2025-05-09T06:00:00Z,x\n",
        [record("AAA", 1.5), record("BBB", 1.6)],
        set_aside={"ragged_row": 1},
    ),
    "a header with an empty last name": Sibling(
        "symbol,price_usd,timestamp,\nAAA,1.5,2025-05-09T06:00:00Z,\n", [record("AAA", 1.5)]
    ),
    "a currency column that says USDT": Sibling(
        "symbol,price,currency,timestamp\nAAA,1.5,USDT,2025-05-09T06:00:00Z\n"
        "AAA,1.4,EUR,2025-05-09T07:00:00Z\n",
        [record("AAA", 1.5, quote="USDT")],
        set_aside={"quote_not_usd": 1},
    ),
    "a market cap of nothing in text": Sibling(
        "symbol,price_usd,market_cap,timestamp\nAAA,1.5,0.0,2025-05-09T06:00:00Z\n",
        [record("AAA", 1.5, market_cap=None)],
    ),
    "date and clock of half a day": Sibling(
        "Date;Time;symbol;close\n09.05.2025;06:00 PM;AAA;1,5\n",
        [record("AAA", 1.5, "2025-05-09T18:00:00Z")],
    ),
    "a comment after the header and a separator line": Sibling(
        "sep=;\nsymbol;price_usd;timestamp\n# paused\nAAA;1,5;2025-05-09T06:00:00Z\n",
        [record("AAA", 1.5)],
    ),
    "units in brackets below the header": Sibling(
        "symbol,price_usd,timestamp\n[-],[USD],[UTC]\nAAA,1.5,2025-05-09T06:00:00Z\n",
        [record("AAA", 1.5)],
    ),
    "a unit row that names euros": Sibling(
        "symbol,price,timestamp\n,EUR,UTC\nAAA,1.5,2025-05-09T06:00:00Z\n",
        set_aside={"quote_not_usd": 1},
    ),
    "a header that comes again, and a footer": Sibling(
        "Date,Symbol,Close\n2025-05-09,AAA,1.5\nDate,Symbol,Close\n2025-05-10,AAA,1.6\n"
        "Source: Example Data Ltd\n",
        [record("AAA", 1.5, "2025-05-09T00:00:00Z"), record("AAA", 1.6, "2025-05-10T00:00:00Z")],
    ),
    "day first, settled once": Sibling(
        "symbol,price_usd,date\nAAA,1,04/03/2025\nAAA,2,25/03/2025\n",
        [record("AAA", 1, "2025-03-04T00:00:00Z"), record("AAA", 2, "2025-03-25T00:00:00Z")],
    ),
    "day or month first": Sibling(
        "symbol,price_usd,date\nAAA,1,04/03/2025\nAAA,2,09/07/2025\n", asks="dates"
    ),
    "month first by its steps": Sibling(
        "symbol,price_usd,date\n"
        + "".join(f"AAA,{day},03/{day:02}/2025\n" for day in range(1, 12)),
        [record("AAA", day, f"2025-03-{day:02}T00:00:00Z") for day in range(1, 12)],
    ),
    "candles of five minutes": Sibling(
        "symbol,time,open,high,low,close,volume_usd\n"
        + "".join(f"AAA,{1746770400 + 300 * n},1,3,0.5,2,70\n" for n in range(4)),
        [record("AAA", 2, f"2025-05-09T06:{5 * n:02}:00Z", interval="5m", volume=70,
                volume_24h=None) for n in range(4)],
    ),
    "candles of a day": Sibling(
        "symbol,date,open,high,low,close,volume_usd\n"
        + "".join(f"AAA,2025-05-0{n},1,3,0.5,2,70\n" for n in range(1, 5)),
        [record("AAA", 2, f"2025-05-0{n}T00:00:00Z", interval="1d", volume_24h=70)
         for n in range(1, 5)],
    ),
    "one candle whose low is above its high": Sibling(
        "symbol,date,open,high,low,close\nAAA,2025-05-01,1,3,0.5,2\nAAA,2025-05-02,1,0.5,3,2\n"
        "AAA,2025-05-03,1,3,0.5,2\n",
        [record("AAA", 2, "2025-05-01T00:00:00Z"), record("AAA", 2, "2025-05-03T00:00:00Z")],
        set_aside={"low_above_high": 1},
    ),
    "a price that counts the rows": Sibling(
        "Price,Close,Symbol,Date\n0,10.5,AAA,2025-05-01\n1,11.5,AAA,2025-05-02\n"
        "2,10.9,AAA,2025-05-03\n",
        [record("AAA", 10.5, "2025-05-01T00:00:00Z"), record("AAA", 11.5, "2025-05-02T00:00:00Z"),
         record("AAA", 10.9, "2025-05-03T00:00:00Z")],
    ),
    "a name that holds a number": Sibling(
        "name,symbol,price_usd,timestamp\n17,AAA,1.5,2025-05-09T06:00:00Z\n",
        [record("AAA", 1.5, name=None)],
    ),
    "a screener": Sibling(
        'Rank,Name,Symbol,Price,Market Cap\n1,Bitcoin,BTC,"$97,000.50","$1,900"\n',
        refused="no column with the time",
    ),
    "epochs in four units": Sibling(
        "symbol,price_usd,timestamp\nAAA,1,1746770400\nAAA,2,1746774000000\n"
        "AAA,3,1746777600000000\nAAA,4,1746781200000000000\n",
        [record("AAA", n + 1, f"2025-05-09T0{6 + n}:00:00Z") for n in range(4)],
    ),
    "epochs that were rounded": Sibling(
        "symbol,price_usd,timestamp\nAAA,1,1.74677E+09\n", asks="times"
    ),
    "days of a spreadsheet": Sibling(
        "symbol,price_usd,date\nAAA,1,45786\nAAA,2,45787\n",
        [record("AAA", 1, "2025-05-09T00:00:00Z"), record("AAA", 2, "2025-05-10T00:00:00Z")],
    ),
    "a bad volume costs no price": Sibling(
        "symbol,price_usd,volume_24h,timestamp\nAAA,1.5,many,2025-05-09T06:00:00Z\n"
        "AAA,1.6,-5,2025-05-09T07:00:00Z\nAAA,1.7,5,2025-05-09T08:00:00Z\n",
        [record("AAA", 1.5, volume_24h=None),
         record("AAA", 1.6, "2025-05-09T07:00:00Z", volume_24h=None),
         record("AAA", 1.7, "2025-05-09T08:00:00Z", volume_24h=5)],
    ),
    "the asset from the folder": Sibling(
        "date,close\n2025-05-09,1.5\n",
        [record("MSFT", 1.5, "2025-05-09T00:00:00Z")],
        key="incoming/MSFT/prices.csv",
    ),
    "the pair from the file's name": Sibling(
        "date,close\n2025-05-09,1.5\n",
        [record("ETH", 1.5, "2025-05-09T00:00:00Z", quote="USDT")],
        key="incoming/Binance_ETHUSDT_d.csv",
    ),
    "a pair in the file's name that is not in dollars": Sibling(
        "date,close\n2025-05-09,1.5\n",
        set_aside={"quote_not_usd": 1},
        key="incoming/btc-eur-max.csv",
    ),
    "coins in a column that is called currency": Sibling(
        "Currency,Date,Closing Price (USD)\nBTC,2025-05-08,1.5\nBTC,2025-05-09,1.6\n",
        [record("BTC", 1.5, "2025-05-08T00:00:00Z"), record("BTC", 1.6, "2025-05-09T00:00:00Z")],
    ),
    "a volume beside the volume in the quote": Sibling(
        "open_time,open,high,low,close,volume,close_time,quote_volume\n"
        + "".join(f"{1746770400000 + 3600000 * n},1,3,0.5,2,7,{1746773999999 + 3600000 * n},14\n"
                  for n in range(3)),
        [record("ETH", 2, f"2025-05-09T0{6 + n}:00:00Z", base_volume=7, volume=14, interval="1h")
         for n in range(3)],
        key="incoming/ETHUSDT-1h.csv",
    ),
    "a name and a currency in the file's name": Sibling(
        "date,close\n2025-05-09,1.5\n",
        [record("BTC", 1.5, "2025-05-09T00:00:00Z")],
        key="incoming/bitcoin-usd.csv",
    ),
    "hours as an exchange's archive writes them": Sibling(
        "https://www.example.com\nDate,Symbol,Open,High,Low,Close,Volume BTC,Volume USD\n"
        "2019-11-26 12-AM,BTCUSD,1,3,0.5,2,7,14\n2019-11-25 11-PM,BTCUSD,1,3,0.5,2,7,14\n"
        "2019-11-25 10-PM,BTCUSD,1,3,0.5,2,7,14\n",
        [record("BTC", 2, "2019-11-26T00:00:00Z", interval="1h", volume=14, base_volume=7),
         record("BTC", 2, "2019-11-25T23:00:00Z"), record("BTC", 2, "2019-11-25T22:00:00Z")],
    ),
    "a price under a name that nobody knows": Sibling(
        "date,symbol,settled\n2025-05-08,AAA,1.5\n2025-05-09,AAA,1.6\n", asks="columns"
    ),
    "a time under a name that nobody knows": Sibling(
        "seen_by_bot,symbol,close\n2025-05-08,AAA,1.5\n2025-05-09,AAA,1.6\n", asks="columns"
    ),
    "shares in one file with coins": Sibling(
        "Date,Ticker,Open,High,Low,Close,Adj Close,Volume\n"
        + "".join(f"2025-05-0{n},BTC-USD,1,3,0.5,2,2,70\n" for n in range(1, 5)),
        [record("BTC", 2, f"2025-05-0{n}T00:00:00Z", volume_24h=70) for n in range(1, 5)],
    ),
    "a price for each asset in a column of its own": Sibling(
        "date,BTC,ETH,SOL\n2025-05-08,9,8,7\n2025-05-09,9,8,7\n", refused="melt"
    ),
    "a quarter is no asset": Sibling(
        "date,close\n2025-05-09,1.5\n", asks="symbol", key="incoming/Q1/prices-usd.csv"
    ),
    "no asset anywhere": Sibling("date,close\n2025-05-09,1.5\n", asks="symbol"),
}  # fmt: skip


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_sibling_becomes_what_is_right(name: str) -> None:
    sibling = SIBLINGS[name]
    data = sibling.text.encode(sibling.encoding)
    for packed in (data, gzip.compress(data)):
        if sibling.refused:
            with pytest.raises(FileRefused, match=sibling.refused):
                read(packed, sibling.key)
            continue
        found = read(packed, sibling.key)
        assert [question["about"] for question in found.questions] == (
            [sibling.asks] if sibling.asks else []
        )
        assert dict(found.reasons) == dict(sibling.set_aside)
        assert len(found.records) == len(sibling.records)
        for made, right in zip(found.records, sibling.records, strict=True):
            assert same(made, right), (made, right)


def test_a_mark_of_utf_8_is_no_part_of_the_header() -> None:
    text = "symbol,price_usd,timestamp\nAAA,1.5,2025-05-09T06:00:00Z\n"
    (made,) = read(codecs.BOM_UTF8 + text.encode()).records
    assert same(made, record("AAA", 1.5))
