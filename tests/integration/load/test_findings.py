"""Values of optional fields that nobody understands: their rows are loaded, and they are told."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from marketdata import clock
from marketdata.documents.batches import Counts
from marketdata.documents.questions import KINDS, Finding
from marketdata.load.loader import load_batch
from marketdata.load.raw import digest_of
from marketdata.load.rebuild import rebuild
from marketdata.runs.replaying import replay
from marketdata.sources.coingecko import CoinGecko
from marketdata.store import raw_batches
from marketdata.store.batches import queue, reports
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from marketdata.store.quarantine import Selection
from tests.support.documents import Document, assert_declared
from tests.support.pipeline import coin, load_minute, put_rows

INPUT = ("run", "coingecko")


def batch(store: Store, id_: str) -> Document:
    found = store.batches.find_one({"_id": id_})
    assert found is not None
    return found


def record(store: Store, asset_id: str) -> Document:
    found = store.market_data.find_one({"asset_id": asset_id})
    assert found is not None
    return found


def told(findings: list[Finding]) -> list[tuple[str, str, int, list[str]]]:
    return [(f["field"], f["code"], f["count"], f["examples"]) for f in findings]


BAD = [
    coin("surrogate", name="\ud800"),
    coin("deep", name={"a": [{"b": [[[[[]]]]]}]}),
    coin("long", name="x" * 300),
    coin("negative", total_volume=-1),
    coin("text", total_volume="much", market_cap="more"),
    coin("operator", total_volume="$$ROOT"),
    coin("zero", market_cap=0, total_volume=0),
]


def test_rows_with_a_bad_optional_value_are_loaded_without_it(store: Store) -> None:
    key = put_rows(store, [coin("good"), *BAD, coin("bad", current_price=0, total_volume=-1)])
    assert load_batch(store, key) == Counts(rows_in=9, inserted=8, quarantined=1)
    assert told(batch(store, key.id)["findings"]) == [
        ("name", "string_unicode", 1, ["\\ud800"]),
        ("name", "string_type", 1, ["{'a': [{'b': [[[[[]]]]]}]}"]),
        ("name", "string_too_long", 1, ["x" * 80]),
        ("volume_24h", "greater_than_equal", 1, ["-1"]),
        ("volume_24h", "float_parsing", 2, ["much", "$$ROOT"]),
        ("market_cap", "float_parsing", 1, ["more"]),
    ]
    assert record(store, "deep")["name"] is None
    assert (record(store, "text")["volume_24h"], record(store, "text")["price_usd"]) == (None, 1.5)
    zero = record(store, "zero")
    assert (zero["volume_24h"], zero["market_cap"]) == (0.0, None)
    # Again, as a retry would.
    assert load_batch(store, key).rows_in == 9
    assert_declared(store)


def test_a_batch_without_any_has_no_such_key(store: Store) -> None:
    key = put_rows(store, [coin()])
    load_batch(store, key)
    assert "findings" not in batch(store, key.id)
    assert reports.findings(store, ["run"]) == {}


def test_those_of_an_input_are_added_up_over_its_batches(store: Store) -> None:
    batches = [["a"], ["b", "a", "b"], ["c", "d"]]
    for number, values in enumerate(batches):
        rows = [coin(f"{number} {n}", total_volume=v) for n, v in enumerate(values)]
        load_batch(store, put_rows(store, [*rows, coin(name=1)], number=number, page=number + 1))
    found = reports.findings(store, ["run", "another"])
    assert list(found) == [INPUT]
    assert told(found[INPUT]) == [
        ("volume_24h", "float_parsing", 6, ["a", "b", "c"]),
        ("name", "string_type", 3, ["1"]),
    ]


def test_an_input_tells_only_so_many(store: Store) -> None:
    key = put_rows(store, [coin()])
    load_batch(store, key)
    many = [
        {"field": "volume", "column": f"c{n}", "code": "x", "count": 100 - n, "examples": ["1"]}
        for n in range(KINDS + 5)
    ]
    store.batches.update_one({"_id": key.id}, {"$set": {"findings": many}})
    assert reports.findings(store, ["run"])[INPUT] == many[:KINDS]


def test_content_that_is_known_tells_what_it_told(store: Store) -> None:
    rows = [coin("a", total_volume=-1), coin("b", current_price=0)]
    first, second = load_minute(store, rows, 0), load_minute(store, rows, 1)
    assert second["skipped"]
    assert second["findings"] == first["findings"]
    assert second["findings"][0]["count"] == 1


def test_a_replay_tells_of_the_rows_that_it_loads_and_a_rebuild_ends_in_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CoinGecko.map_row

    def lenient(row: Mapping[str, Any]) -> dict[str, Any]:
        price = row["current_price"]
        return real({**row, "current_price": abs(price)})

    key = put_rows(
        store,
        [
            coin("a", total_volume=-1),
            coin("b", current_price=-2.0, total_volume=-2),
            coin("c", current_price=-3.0),
        ],
    )
    assert load_batch(store, key) == Counts(rows_in=3, inserted=1, quarantined=2)
    assert told(batch(store, key.id)["findings"]) == [
        ("volume_24h", "greater_than_equal", 1, ["-1"])
    ]
    monkeypatch.setattr(CoinGecko, "map_row", staticmethod(lenient))
    replay(store, Selection())
    assert store.quarantine.count_documents({}) == 0
    again = store.batches.find_one({"resolves": {"$exists": True}})
    assert again is not None
    assert told(again["findings"]) == [("volume_24h", "greater_than_equal", 1, ["-2"])]
    assert again["counts"]["inserted"] == 2
    assert batch(store, key.id)["findings"][0]["count"] == 1
    before = list(store.market_data.find({}).sort("_id"))
    rebuild(store, loader_seconds=60)
    assert list(store.market_data.find({}).sort("_id")) == before
    assert batch(store, key.id)["findings"][0]["count"] == 1


CSV = b"""Symbol,Date,Close,Vol.,Quote volume,Traded in
BTC,2025-05-09T06:00:00Z,100,12.5,1250,USDT
BTC,2025-05-09T07:00:00Z,101,lots,1300,USDT
BTC,2025-05-09T08:00:00Z,102,-4,,USDT
BTC,2025-05-09T09:00:00Z,nothing,-4,,USDT
"""
LAYOUT: Any = {
    "columns": {"symbol": 0, "timestamp": 1, "price_usd": 2, "base_volume": 3, "volume": 4},
    "currency_column": 5,
    "constants": {"interval": "1h"},
    "dataset": "mine",
}


def put_csv(
    store: Store,
    data: bytes,
    *,
    run_id: str = "run",
    minute: int = 0,
    layout: Mapping[str, Any] = LAYOUT,
) -> BatchKey:
    """A file as a batch, with its raw batch."""
    head, body = data.split(b"\n", 1)
    about: Document = {
        "source": "csv",
        "rows": body.count(b"\n"),
        "received_at": clock.from_ms(1_746_800_000_000 + minute * 60_000),
        "first_row": 0,
        "header": head.decode().split(","),
        "layout": dict(layout),
        "malformed": [],
        "digest": digest_of(body),
    }
    raw_id = f"raw of {run_id}"
    document: Document = {
        "_id": raw_id,
        "format": "csv",
        "origin": {
            "bucket": "b",
            "key": "incoming/a.csv",
            "version_id": f"v{minute}",
            "etag": None,
            "size": len(data),
            "range": [0, len(body)],
        },
        "version": f"v{minute}",
        "size": len(body),
        "data": zlib.compress(body),
    }
    key = BatchKey(run_id, "csv-1", 0)
    raw_batches.save_raw(store, [about | document])
    queue.put_batches(store, key.input, key.run_id, [about | {"number": 0, "raw_id": raw_id}])
    return key


def test_candles_of_a_file_have_volumes_and_a_quote_and_their_columns_are_named(
    store: Store,
) -> None:
    key = put_csv(store, CSV)
    assert load_batch(store, key) == Counts(rows_in=4, inserted=3, quarantined=1)
    found = list(store.market_data.find({}).sort("_id"))
    assert [(r.get("volume"), r.get("base_volume"), r.get("quote")) for r in found] == [
        (1250.0, 12.5, "USDT"),
        (1300.0, None, "USDT"),
        (None, None, "USDT"),
    ]
    assert [{"volume", "base_volume", "quote"} - r.keys() for r in found] == [
        set(),
        {"base_volume"},
        {"volume", "base_volume"},
    ]
    assert {r["volume_24h"] for r in found} == {None}
    findings = batch(store, key.id)["findings"]
    assert told(findings) == [
        ("base_volume", "float_parsing", 1, ["lots"]),
        ("base_volume", "greater_than_equal", 1, ["-4"]),
    ]
    assert {f["column"] for f in findings} == {"Vol."}
    (newest,) = store.latest_prices.find({})
    assert (newest["quote"], newest["timestamp"]) == ("USDT", found[-1]["timestamp"])


def test_another_volume_or_quote_is_another_revision(store: Store) -> None:
    load_batch(store, put_csv(store, CSV))
    same = put_csv(store, CSV, run_id="same", minute=1)
    assert load_batch(store, same) == Counts(rows_in=4, unchanged=3, quarantined=1)
    later = CSV.replace(b"1250,USDT", b"1251,USDT").replace(b"1300,USDT", b"1300,USDC")
    counts = load_batch(store, put_csv(store, later, run_id="later", minute=2))
    assert counts == Counts(rows_in=4, updated=2, unchanged=1, quarantined=1)
    first, second, _ = store.market_data.find({}).sort("_id")
    assert (first["volume"], first["revision"]) == (1251.0, 2)
    (earlier,) = first["history"]
    assert (earlier["volume"], earlier["base_volume"], earlier["quote"]) == (1250.0, 12.5, "USDT")
    assert (second["quote"], second["history"][0]["quote"]) == ("USDC", "USDT")
    before = list(store.market_data.find({}).sort("_id"))
    rebuild(store, loader_seconds=60)
    assert list(store.market_data.find({}).sort("_id")) == before
    # The records are declared; a file's batch, as this test makes it, has not all that one has.
    store.batches.delete_many({})
    store.raw_batches.delete_many({})
    assert_declared(store)


def test_a_candle_that_contradicts_itself_is_set_aside(store: Store) -> None:
    data = (
        b"Symbol,Date,Close,High,Low\n"
        b"BTC,2025-05-09T06:00:00Z,100,101,99\n"
        b"BTC,2025-05-09T07:00:00Z,100,99,101\n"
        b"BTC,2025-05-09T08:00:00Z,110,101,99\n"
    )
    names = ("symbol", "timestamp", "price_usd", "high", "low")
    layout = {"columns": {name: n for n, name in enumerate(names)}, "dataset": "mine"}
    counts = load_batch(store, put_csv(store, data, layout=layout))
    assert counts == Counts(rows_in=3, inserted=2, quarantined=1)
    reasons = [d["reason"] for d in store.quarantine.find({}).sort("row_number")]
    assert reasons == ["low_above_high"]
