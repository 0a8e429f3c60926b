"""`POST /csv/preview`, and that it tells what a run does."""

from __future__ import annotations

import gzip
from base64 import b64encode
from typing import Any

import pytest

from marketdata.aws.s3_objects import S3Objects
from marketdata.store.connection import Store
from tests.support.gateway import Gateway, Reply, make_gateway, ok
from tests.support.uploads import BUCKET, Bucket, carry_out

TEXT = (
    "symbol;date;close;volume_24h\nBTC/USDT;09.05.2025;97.000,50;x\nETH/EUR;09.05.2025;1.800,50;5\n"
)


def assert_error(answer: Reply, status: int, code: str) -> None:
    assert (answer.status, answer.json()["error"]["code"]) == (status, code), answer.text


@pytest.fixture
def gateway(store: Store) -> Gateway:
    return make_gateway(lambda: store, objects=lambda: S3Objects(BUCKET))


def previewed(gateway: Gateway, **body: Any) -> dict[str, Any]:
    return ok(gateway.post("/csv/preview", body))


def test_a_preview_shows_what_the_file_would_become(gateway: Gateway, store: Store) -> None:
    found = previewed(gateway, text=TEXT, key="incoming/x.csv")
    assert found["refused"] is None
    assert found["dialect"]["delimiter"] == ";"
    assert found["reading"]["times"]["order"] == "day_first"
    assert [(c["column"], c["to"]) for c in found["applied"]][:2] == [
        ("symbol", "symbol"),
        ("date", "timestamp"),
    ]
    (record,) = found["records"]
    assert (record["symbol"], record["price_usd"]) == ("BTC", 97000.5)
    assert record["timestamp"] == "2025-05-09T00:00:00.000Z"
    assert (record["quote"], record["volume_24h"]) == ("USDT", None)
    (aside,) = found["set_aside"]
    assert (aside["row"], aside["code"]) == (1, "quote_not_usd")
    assert (found["rows"], found["reasons"]) == (2, {"quote_not_usd": 1})
    assert store.market_data.count_documents({}) == store.runs.count_documents({}) == 0


def test_a_packed_file_an_uploaded_one_and_its_text_are_read_alike(
    gateway: Gateway, bucket: Bucket
) -> None:
    bucket.put("incoming/x.csv", TEXT)
    packed = b64encode(gzip.compress(TEXT.encode(), mtime=0)).decode()
    same = [
        previewed(gateway, text=TEXT, key="incoming/x.csv"),
        previewed(gateway, base64=packed, key="incoming/x.csv"),
        previewed(gateway, key="incoming/x.csv"),
    ]
    told = [
        {k: v for k, v in one.items() if k not in ("packed", "request_id", "api_latency_ms")}
        for one in same
    ]
    assert told[0] == told[1] == told[2]


def test_a_preview_asks_what_a_run_asks_and_takes_answers(gateway: Gateway) -> None:
    text = "date,close\n03/04/2025,1\n09/07/2025,2\n"
    found = previewed(gateway, text=text)
    assert {question["about"] for question in found["questions"]} == {"symbol", "dates"}
    assert (found["rows"], found["records"]) == (0, [])
    found = previewed(gateway, text=text, symbol="A", dates="day_first")
    assert [record["timestamp"][:10] for record in found["records"]] == ["2025-04-03", "2025-07-09"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"text": "symbol,price_usd\nA,1\n"}, "no column with the time"),
        ({"text": ""}, "empty"),
        ({"base64": "%%%"}, "no base64"),
        ({"base64": b64encode(b"PK\x03\x04").decode()}, "Excel"),
        ({"text": "a", "asset_id": "\ue000"}, "asset_id is '\\ue000'"),
    ],
)
def test_what_a_run_would_refuse_is_told(gateway: Gateway, body: dict[str, str], told: str) -> None:
    assert told in previewed(gateway, **body)["refused"]


@pytest.mark.parametrize("body", [{}, {"text": "x" * 1_000_001}, {"text": "a", "dates": "never"}])
def test_what_can_not_be_previewed_is_a_400(gateway: Gateway, body: dict[str, str]) -> None:
    assert_error(gateway.post("/csv/preview", body), 400, "invalid_input")


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("key", ["incoming/none.csv", "elsewhere/x.csv"])
def test_an_object_that_is_not_there_is_a_404(gateway: Gateway, key: str) -> None:
    assert_error(gateway.post("/csv/preview", {"key": key}), 404, "not_found")


def test_a_file_of_a_megabyte_is_read_whole(gateway: Gateway) -> None:
    rows = "".join(f"A,{n + 0.5},{1_600_000_000 + n}\n" for n in range(45_000))
    found = previewed(gateway, text="symbol,price_usd,timestamp\n" + rows)
    assert (found["rows"], len(found["records"])) == (45_000, 20)


def test_a_preview_says_what_a_run_does(gateway: Gateway, store: Store, bucket: Bucket) -> None:
    found = previewed(gateway, text=TEXT, key="incoming/x.csv")
    run = carry_out(store, bucket.put("incoming/x.csv", TEXT))
    assert run["totals"]["rows_in"] == found["rows"]
    assert run["totals"]["quarantined"] == sum(found["reasons"].values())
    (stored,) = store.market_data.find()
    (record,) = found["records"]
    assert {name: stored.get(name) for name in ("symbol", "price_usd", "quote", "asset_id")} == {
        name: record.get(name) for name in ("symbol", "price_usd", "quote", "asset_id")
    }
    (result,) = run["results"]
    (finding,) = result["findings"]
    assert (finding["column"], finding["count"], finding["examples"]) == ("volume_24h", 1, ["x"])
