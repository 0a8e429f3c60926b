"""`/data` over a real MongoDB, and what all lists share: cursors, filters, empty pages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from marketdata import clock
from marketdata.store import record_queries
from marketdata.store.connection import Store
from marketdata.web import cursor as cursors
from tests.support.documents import Document
from tests.support.gateway import Gateway, ok, walk
from tests.support.records import NOW, make_record, make_run, put_records


def ids(documents: list[Document]) -> list[str]:
    return [bytes(document["_id"]).hex() for document in documents]


def test_nothing_is_an_empty_page(gateway: Gateway) -> None:
    body = ok(gateway.get("/data", symbol="NOTHING"))
    assert body["data"] == []
    assert body["pagination"] == {
        "limit": 100,
        "next_cursor": None,
        "has_more": False,
        "page": None,
    }
    assert body["run_id"] is None
    for path in ("/latest", "/symbols"):
        assert ok(gateway.get(path))["data"] == []


def test_a_record_as_it_is_told(gateway: Gateway, store: Store) -> None:
    record = make_record(price=103126.0, market_cap=0.0, percent_change_24h=-1.5)
    put_records(store, record)
    store.runs.insert_many(
        [make_run(1), make_run(2, status="failed"), make_run(3, status="running")]
    )
    body = ok(gateway.get("/data"))
    assert body["run_id"] == make_run(2)["_id"]
    told = {
        "id": ids([record])[0],
        "symbol": "BTC",
        "name": "Bitcoin",
        "asset_id": "bitcoin",
        "price_usd": 103126.0,
        "volume_24h": None,
        "market_cap": 0.0,
        "percent_change_24h": -1.5,
        "open": None,
        "high": None,
        "low": None,
        "volume": None,
        "base_volume": None,
        "quote": None,
        "interval": None,
        "timestamp": "2025-05-09T08:15:00.000Z",
        "source": "coingecko",
        "dataset": "",
        "run_id": record["run_id"],
        "received_at": "2025-05-09T08:15:00.000Z",
        "revision": 1,
    }
    assert body["data"] == [told]
    one = ok(gateway.get(f"/data/{told['id']}"))
    assert (one["data"], one["run_id"]) == (told, record["run_id"])


def test_filters(gateway: Gateway, store: Store) -> None:
    records = [
        make_record("bitcoin", symbol="BTC", minutes=0),
        make_record("ethereum", symbol="ETH", minutes=1),
        make_record("btc-bitcoin", symbol="BTC", minutes=2, source="coinpaprika"),
        make_record("dogecoin", symbol="DOGE", minutes=3),
    ]
    put_records(store, *records)
    btc, eth, other, doge = ids(records)

    def found(*pairs: tuple[str, str], **query: object) -> list[str]:
        return [r["id"] for r in ok(gateway.get("/data", *pairs, **query))["data"]]

    assert found() == [doge, other, eth, btc]
    assert found(symbol="btc") == [other, btc]
    assert found(symbol="btc,ETH") == [other, eth, btc]
    assert found(("symbol", "btc"), ("symbol", "doge")) == [doge, other, btc]
    assert found(source="coinpaprika") == [other]
    assert found(source="CoinPaprika") == []
    assert found(symbol="BTC", source="coingecko") == [btc]
    assert found(start=clock.iso(NOW + timedelta(minutes=2))) == [doge, other]
    assert found(end=clock.to_ms(NOW + timedelta(minutes=1))) == [eth, btc]
    assert found(start="2025-05-09", end="2025-05-09") == [doge, other, eth, btc]
    assert found(start="2025-05-10") == []
    assert found(end="9999-12-31") == [doge, other, eth, btc]
    assert found(limit=1) == [doge]
    assert found(sort_dir="asc") == [btc, eth, other, doge]
    assert found(start="2025-05-10", end="2025-05-08") == []


def test_orders_by_either_form(gateway: Gateway, store: Store) -> None:
    prices = {"A": 3.0, "B": 1.0, "C": 2.0}
    put_records(store, *[make_record(s, symbol=s, price=p) for s, p in prices.items()])

    def found(**query: object) -> str:
        return "".join(r["symbol"] for r in ok(gateway.get("/data", **query))["data"])

    assert found(sortBy="price_usd:desc") == "ACB"
    assert found(sortBy="price_usd:desc", sort_by="symbol", sort_dir="asc") == "ACB"
    assert found(sortBy="price_usd:asc") == "BCA"
    assert found(sortBy="price_usd") == "BCA"
    assert found(sortBy="price_usd", sort_dir="desc") == "ACB"
    assert found(sortBy="price_usd:asc", sort_dir="desc") == "BCA"
    assert found(sort_by="price_usd", sort_dir="desc") == "ACB"
    assert found(sort_by="price_usd") == "BCA"
    assert found(sortBy="symbol:desc") == "CBA"


def test_nulls_come_lowest(gateway: Gateway, store: Store) -> None:
    caps = {"A": 3.0, "B": None, "C": 0.0, "D": None}
    put_records(store, *[make_record(s, symbol=s, market_cap=c) for s, c in caps.items()])
    falling = walk(gateway, "/data", sortBy="market_cap:desc", limit=1)
    assert [r["market_cap"] for r in falling] == [3.0, 0.0, None, None]
    rising = walk(gateway, "/data", sortBy="market_cap:asc", limit=1)
    assert [r["id"] for r in rising] == [r["id"] for r in reversed(falling)]


@pytest.mark.parametrize("only_cursor", [False, True], ids=["all again", "cursor alone"])
@pytest.mark.parametrize(
    "query",
    [
        {},
        {"symbol": "S1,s2", "sortBy": "price_usd:desc"},
        {"source": "coingecko", "start": "2025-05-09T08:16Z", "end": "2025-05-09T08:30Z"},
        {"sortBy": "name:asc"},
        {"sort_by": "volume_24h", "sort_dir": "desc"},
        {"symbol": "S1,S2,S3", "sortBy": "symbol:desc"},
    ],
)
def test_cursors_keep_the_list(
    gateway: Gateway, store: Store, query: dict[str, Any], only_cursor: bool
) -> None:
    put_records(
        store,
        *[
            make_record(
                f"coin{n}", symbol=f"S{n % 4}", minutes=n % 5, price=float(1 + n % 3),
                source=("coingecko", "coinpaprika")[n % 2], name=(None, "a", "b")[n % 3],
            )
            for n in range(60)
        ],
    )  # fmt: skip
    whole = ok(gateway.get("/data", **query, limit=1000))["data"]
    assert len(whole) > 10
    assert walk(gateway, "/data", **query, limit=7, only_cursor=only_cursor) == whole


def test_pages_by_number(gateway: Gateway, store: Store) -> None:
    put_records(store, *[make_record(minutes=n) for n in range(7)])
    whole = ok(gateway.get("/data"))["data"]
    pages = [ok(gateway.get("/data", page=page, limit=3)) for page in (1, 2, 3, 4)]
    assert [r for page in pages for r in page["data"]] == whole
    assert [page["pagination"]["page"] for page in pages] == [1, 2, 3, 4]
    assert [page["pagination"]["has_more"] for page in pages] == [True, True, False, False]
    cursor = pages[1]["pagination"]["next_cursor"]
    assert ok(gateway.get("/data", cursor=cursor))["data"] == whole[6:]
    both = gateway.get("/data", cursor=cursor, page=2)
    assert both.status == 400
    assert both.json()["error"]["message"].startswith("page: ")


def test_a_cursor_of_another_list_is_refused(gateway: Gateway, store: Store) -> None:
    put_records(store, *[make_record(minutes=n) for n in range(3)])
    cursor = ok(gateway.get("/data", limit=1, symbol="BTC"))["pagination"]["next_cursor"]
    for name, value in (
        ("symbol", "ETH"),
        ("source", "coingecko"),
        ("start", "2025-05-09"),
        ("end", "2025-05-09"),
        ("sortBy", "price_usd:desc"),
        ("sortBy", "timestamp:asc"),
    ):
        answer = gateway.get("/data", (name, value), cursor=cursor)
        assert answer.status == 400, (name, value)
        assert answer.json()["error"]["message"].startswith(f"{name}: is not what")
    assert ok(gateway.get("/data", cursor=cursor, symbol="btc"))["data"]


GOOD = ["S", None, None, None, "price_usd", True, 1.0, "0" * 40]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "S"),
        (0, [1]),
        (0, {"$gt": ""}),
        (1, {"$ne": None}),
        (1, 5),
        (2, "2025"),
        (2, -1),
        (2, True),
        (3, 10**18),
        (4, "$where"),
        (4, None),
        (4, ["price_usd"]),
        (4, "timestamp"),
        (4, "name"),
        (5, "desc"),
        (6, None),
        (6, {"$gt": 0}),
        (6, "1"),
        (6, True),
        (6, 10**400),
        (7, "0" * 39),
        (7, "z" * 40),
        (7, None),
        (7, {"$gt": ""}),
    ],
)
def test_nothing_in_a_forged_cursor_reaches_the_database(
    gateway: Gateway, place: int, value: object
) -> None:
    parts: list[object] = [["BTC"], *GOOD[1:]]
    assert ok(gateway.get("/data", cursor=cursors.encode("data", *parts)))["data"] == []
    parts[place] = value
    answer = gateway.get("/data", cursor=cursors.encode("data", *parts))
    assert answer.status == 404, answer.text
    assert answer.json()["error"]["code"] == "unknown_cursor"


@pytest.mark.parametrize("value", ['{"$gt":""}', "$where", "[$ne]", "BTC'||1", "a.b", ".*"])
def test_values_that_look_like_operators_are_values(
    gateway: Gateway, store: Store, value: str
) -> None:
    put_records(store, make_record())
    for path in ("/data", "/latest"):
        assert ok(gateway.get(path, symbol=value))["data"] == []
    for path in ("/data", "/latest", "/symbols", "/quarantine", "/runs"):
        assert ok(gateway.get(path, source=value))["data"] == []


def test_an_order_that_needs_a_scan_is_refused(
    gateway: Gateway, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_records(store, *[make_record(minutes=n) for n in range(5)])
    monkeypatch.setattr(record_queries, "MAX_SORTED", 3)
    answer = gateway.get("/data", sortBy="volume_24h:desc")
    assert answer.status == 400
    assert "Add symbol, or start and end" in answer.json()["error"]["message"]
    assert [f["name"] for f in answer.json()["error"]["details"]["faults"]] == ["sortBy"]


def test_a_candle_as_it_is_told_everywhere(gateway: Gateway, store: Store) -> None:
    told: Document = {"volume": 1500.5, "base_volume": 12.0, "quote": "USDT"}
    old = {
        **{
            name: value
            for name, value in make_record(price=99.0).items()
            if name not in ("_id", "asset_id", "timestamp", "source", "dataset", "revision")
        },
        "volume": 1.0,
        "quote": "USDC",
    }
    record = make_record(dataset="mine", interval="1h", revision=2, history=[old], **told)
    put_records(store, record)
    answers = [
        ok(gateway.get("/data"))["data"][0],
        ok(gateway.get("/latest"))["data"][0],
        ok(gateway.get(f"/data/{ids([record])[0]}"))["data"],
    ]
    for answer in answers:
        assert {name: answer[name] for name in told} == told
    then, now = ok(gateway.get(f"/data/{ids([record])[0]}/history"))["data"]
    assert (then["volume"], then["base_volume"], then["quote"]) == (1.0, None, "USDC")
    assert {name: now[name] for name in told} == told


def test_the_history_of_a_record(gateway: Gateway, store: Store) -> None:
    old = {
        "symbol": "BTC",
        "name": "Bitcoin",
        "price_usd": 99.0,
        "volume_24h": None,
        "market_cap": None,
        "percent_change_24h": None,
        "run_id": "20250509T071500Z-000000000000",
        "raw_id": "1" * 32,
        "row": 0,
        "received_at": NOW - timedelta(hours=1),
    }
    record = make_record(price=100.0, revision=2, history=[old])
    put_records(store, record)
    body = ok(gateway.get(f"/data/{ids([record])[0]}/history"))
    assert [value["price_usd"] for value in body["data"]] == [99.0, 100.0]
    assert [value["run_id"] for value in body["data"]] == [old["run_id"], record["run_id"]]
    assert body["run_id"] == record["run_id"]
    upper = ids([record])[0].upper()
    assert ok(gateway.get(f"/data/{upper}"))["data"]["id"] == ids([record])[0]
    assert ok(gateway.get(f"/data/{upper}/history"))["id"] == ids([record])[0]
    assert gateway.get(f"/data/{'0' * 40}/history").status == 404
    assert gateway.get(f"/data/{'0' * 40}").status == 404
    listed = ok(gateway.get("/data"))["data"][0]
    assert "history" not in listed
