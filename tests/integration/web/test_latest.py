"""`/latest` over a real MongoDB."""

from __future__ import annotations

from marketdata.store.connection import Store
from tests.support.gateway import Gateway, ok, walk
from tests.support.records import some_assets


def test_the_newest_prices(gateway: Gateway, store: Store) -> None:
    some_assets(store)
    body = ok(gateway.get("/latest"))
    assert [r["symbol"] for r in body["data"]] == ["AAVE", "BTC", "BTC", "BTC", "ETH"]
    assert {r["price_usd"] for r in body["data"]} == {6.0, 2.0, 3.0, 4.0, 5.0}
    for entry in body["data"]:
        assert ok(gateway.get(f"/data/{entry['id']}"))["data"] == entry
    assert len(ok(gateway.get("/latest", symbol="btc,aave"))["data"]) == 4
    (other,) = ok(gateway.get("/latest", symbol="btc", source="coinpaprika"))["data"]
    assert other["asset_id"] == "btc-bitcoin"
    for limit in (1, 2, 3):
        assert walk(gateway, "/latest", limit=limit) == body["data"]
        assert walk(gateway, "/latest", limit=limit, only_cursor=True) == body["data"]
        assert walk(gateway, "/latest", limit=limit, symbol="BTC") == body["data"][1:4]
