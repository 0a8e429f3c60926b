"""Loading points of a series: records of their own, beside what the source says of now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from marketdata import clock, sources
from marketdata.documents.batches import Counts
from marketdata.load.loader import load_batch
from marketdata.load.rebuild import rebuild
from marketdata.sources.history import Asset, Interval, Window
from marketdata.store import latest_prices
from marketdata.store.connection import Store
from tests.support.documents import Document, assert_declared
from tests.support.pipeline import coin, load, put_rows

BITCOIN = Asset("bitcoin", "btc", "Bitcoin")
BEGIN = datetime(2025, 5, 1, tzinfo=UTC)
HOURS = 5


def coingecko(prices: Sequence[Any]) -> bytes:
    """An answer with a point each hour."""
    times = [clock.to_ms(BEGIN + timedelta(hours=n)) for n in range(len(prices))]
    lists = {
        "prices": [[t, p] for t, p in zip(times, prices, strict=True) if p is not None],
        "market_caps": [[t, 100.5] for t in times],
        "total_volumes": [[t, 7] for t in times],
    }
    return json.dumps(lists).encode()


def coinpaprika(prices: Sequence[Any]) -> bytes:
    """An answer with a point each hour."""
    times = [(BEGIN + timedelta(hours=n)).isoformat() for n in range(len(prices))]
    points = [
        {"timestamp": t, "price": p, "volume_24h": 7, "market_cap": 100.5}
        for t, p in zip(times, prices, strict=True)
    ]
    return json.dumps(points).encode()


ANSWERS = {"coingecko": coingecko, "coinpaprika": coinpaprika}


def rows(name: str, prices: Sequence[Any]) -> list[Any]:
    source = sources.load_with_history(name).from_environment({}, {})
    window = Window(BEGIN, BEGIN + timedelta(hours=len(prices)))
    body = [ANSWERS[name](prices)]
    texts = source.history_rows(BITCOIN, window, Interval.HOUR, body, what=name)
    return [json.loads(text) for text in texts]


def put(store: Store, name: str, prices: Sequence[Any], **place: Any) -> Counts:
    found = rows(name, prices)
    return load_batch(store, put_rows(store, found, source=name, form="history", **place))


def records(store: Store) -> list[Document]:
    return list(store.database["market_data"].find({}).sort("_id"))


@pytest.mark.parametrize("name", sources.with_history())
def test_points_become_records_with_their_interval(store: Store, name: str) -> None:
    assert put(store, name, [10, 11.5, 12]) == Counts(rows_in=3, inserted=3)
    found = records(store)
    assert [record["price_usd"] for record in found] == [10.0, 11.5, 12.0]
    assert [record["timestamp"] for record in found] == [
        BEGIN + timedelta(hours=n) for n in range(3)
    ]
    first = found[0]
    assert (first["symbol"], first["name"], first["asset_id"]) == ("BTC", "Bitcoin", "bitcoin")
    assert (first["interval"], first["source"], first["dataset"]) == ("1h", name, "")
    assert (first["volume_24h"], first["market_cap"]) == (7.0, 100.5)
    assert first["percent_change_24h"] is None
    assert_declared(store)


@pytest.mark.parametrize("name", sources.with_history())
def test_the_same_range_twice_inserts_nothing(store: Store, name: str) -> None:
    put(store, name, [10, 11, 12])
    before = records(store)
    again = put(store, name, [10, 11, 12], run_id="again", minute=1)
    assert again == Counts(rows_in=3, unchanged=3)
    longer = put(store, name, [10, 11, 12, 13], run_id="longer", minute=2)
    assert longer == Counts(rows_in=4, inserted=1, unchanged=3)
    assert records(store)[:3] == before


@pytest.mark.parametrize("name", sources.with_history())
def test_a_point_without_a_price_is_set_aside(store: Store, name: str) -> None:
    assert put(store, name, [10, None, 12]) == Counts(rows_in=3, inserted=2, quarantined=1)
    aside = store.quarantine.find_one({})
    assert aside is not None
    assert "100.5" in aside["row"]


def test_what_stands_in_a_list_and_is_no_point_is_set_aside(store: Store) -> None:
    counts = load(
        store,
        [{"id": "bitcoin", "symbol": "btc", "interval": "1h", "list": "prices", "point": None}],
        form="history",
    )
    assert counts == Counts(rows_in=1, quarantined=1)


def test_the_past_changes_no_present_price(store: Store) -> None:
    """Neither a past that is older than the snapshot nor one that reaches beyond it."""
    present = coin("bitcoin", symbol="btc", last_updated="2025-05-01T02:00:00Z", current_price=99)
    load(store, [present], run_id="now")
    latest = list(store.latest_prices.find())
    snapshot = records(store)
    assert put(store, "coingecko", [10] * HOURS, minute=5) == Counts(rows_in=HOURS, inserted=HOURS)
    assert list(store.latest_prices.find()) == latest
    assert [r for r in records(store) if "interval" not in r] == snapshot
    # A point at the very time of the snapshot is a record of its own.
    assert len(records(store)) == HOURS + 1
    (shown,) = latest_prices.find_latest(store, limit=9)
    assert shown["price_usd"] == 99.0
    ((ticker, assets),) = latest_prices.find_symbols(store, limit=9)
    assert (ticker, [asset["timestamp"].hour for asset in assets]) == ("BTC", [2])


def test_a_rebuild_reads_the_past_from_its_raw_batches(store: Store) -> None:
    load(store, [coin("bitcoin", symbol="btc", current_price=99)], run_id="now")
    for number, name in enumerate(ANSWERS):
        put(store, name, [10, None, 12], minute=number)
    put(store, "coingecko", [10, 11, 12.5], run_id="again", minute=9)
    before, latest = records(store), list(store.latest_prices.find())
    assert [r["revision"] for r in before if r["price_usd"] == 12.5] == [2]
    rebuild(store)
    assert records(store) == before
    assert list(store.latest_prices.find()) == latest
