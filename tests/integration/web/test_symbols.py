"""`/symbols` over a real MongoDB."""

from __future__ import annotations

from marketdata.store.connection import Store
from tests.support.gateway import Gateway, ok, walk
from tests.support.records import some_assets


def test_tickers_and_who_bears_them(gateway: Gateway, store: Store) -> None:
    some_assets(store)
    body = ok(gateway.get("/symbols"))
    assert [entry["symbol"] for entry in body["data"]] == ["AAVE", "BTC", "ETH"]
    btc = body["data"][1]
    assert {(a["source"], a["asset_id"]) for a in btc["assets"]} == {
        ("coingecko", "bitcoin"),
        ("coingecko", "batcat"),
        ("coinpaprika", "btc-bitcoin"),
    }
    assert body["data"][0]["assets"] == [
        {
            "asset_id": "aave",
            "name": None,
            "source": "coingecko",
            "dataset": "",
            "timestamp": "2025-05-09T08:17:00.000Z",
        }
    ]
    for limit in (1, 2):
        assert walk(gateway, "/symbols", limit=limit) == body["data"]
    (only,) = ok(gateway.get("/symbols", source="coinpaprika"))["data"]
    assert only["symbol"] == "BTC"
    cursor = ok(gateway.get("/symbols", limit=1))["pagination"]["next_cursor"]
    assert gateway.get("/symbols", cursor=cursor, source="coingecko").status == 400
