"""A CSV put into the bucket by an ordinary S3 client, and nobody calling anything."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
import pytest
from pymongo.database import Database

from local.replay.csv_sample import SAMPLE_ROWS, sample_csv
from tests.support.stack import StackUnderTest
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.timeout(300)


class Uploads:
    """The stack's bucket, as a client sees it."""

    def __init__(self, stack: StackUnderTest) -> None:
        self.client: S3Client = boto3.client("s3", **stack.boto3_options())  # type: ignore[call-overload]
        self.bucket = stack.description["bucket"]

    def put(self, key: str, body: bytes, **metadata: str) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, Metadata=metadata)


@pytest.fixture
def uploads(stack: StackUnderTest) -> Iterator[Uploads]:
    stack.empty_bucket()
    yield Uploads(stack)
    stack.empty_bucket()


def ended_runs(stack: StackUnderTest, database: Database[Any], count: int) -> list[dict[str, Any]]:
    """The upload runs, once so many of them have ended."""

    def ended() -> list[dict[str, Any]] | None:
        found = database["runs"].find({"trigger": "upload", "ended_at": {"$ne": None}})
        ids = [run["_id"] for run in found.sort("started_at")]
        return [stack.get(f"/runs/{run_id}") for run_id in ids] if len(ids) >= count else None

    return wait_for(ended, what=f"{count} uploads are loaded")


def test_a_csv_in_the_bucket_is_served(
    stack: StackUnderTest, database: Database[Any], uploads: Uploads
) -> None:
    uploads.put("incoming/sample prices+ü%20.csv", sample_csv())

    (run,) = ended_runs(stack, database, 1)
    assert run["status"] == "success"
    (line,) = run["sources"]
    assert (line["source"], line["extracted"], line["inserted"]) == (
        "csv",
        SAMPLE_ROWS,
        SAMPLE_ROWS,
    )
    assert {m["from"]: m["to"] for m in run["applied_mappings"]} == {
        "id": "asset_id",
        "ticker": "symbol",
        "name": "name",
        "usd_price": "price_usd",
        "tx_volume": "volume_24h",
        "market_cap": "market_cap",
        "percent_change_24h": "percent_change_24h",
        "time": "timestamp",
    }
    bitcoin = stack.get("/data?symbol=BTC&limit=100")["data"]
    assert len(bitcoin) == 12
    assert {record["asset_id"] for record in bitcoin} == {"bitcoin"}
    assert {record["dataset"] for record in bitcoin} == {"csv"}

    uploads.put("incoming/again.csv.gz", gzip.compress(sample_csv()))
    again = ended_runs(stack, database, 2)[1]["totals"]
    assert (again["inserted"], again["unchanged"]) == (0, SAMPLE_ROWS)

    uploads.put("incoming/AGAIN.CSV", sample_csv(), dataset="desk")
    desk = ended_runs(stack, database, 3)[2]["totals"]
    assert desk["inserted"] == SAMPLE_ROWS
    assert len(stack.get(f"/data?symbol={quote('BTC')}&limit=100")["data"]) == 24


def test_a_csv_that_is_not_understood_says_why(
    stack: StackUnderTest, database: Database[Any], uploads: Uploads
) -> None:
    uploads.put("incoming/odd.csv", b"Rank,Name,Price\n1,Bitcoin,1\n")

    (run,) = ended_runs(stack, database, 1)
    assert run["status"] == "failed"
    assert "no column with the time" in run["sources"][0]["error"]["message"]


def test_a_csv_that_asks_waits_is_answered_and_loads(
    stack: StackUnderTest, database: Database[Any], uploads: Uploads
) -> None:
    uploads.put("incoming/desk/asks.tsv", b"Date\tClose\n09.05.2025\t1,5\n10.05.2025\t1,6\n")

    (run,) = ended_runs(stack, database, 1)
    (line,) = run["sources"]
    assert (run["status"], line["status"]) == ("success", "waiting")
    (waiting,) = stack.get("/uploads?state=waiting")["data"]
    assert [question["about"] for question in waiting["questions"]] == ["symbol"]

    answer = stack.request(
        "POST",
        f"/uploads/{waiting['id']}/answer",
        {
            "Authorization": f"Bearer {stack.description['refresh_token']}",
            "Content-Type": "application/json",
        },
        b'{"symbol": "MSFT"}',
    )
    assert answer.status == 202, answer.body
    assert answer.body["started"]
    loaded = database["market_data"]
    wait_for(lambda: loaded.count_documents({}) == 2, what="the answered file is loaded")
    records = stack.get("/data?symbol=MSFT")["data"]
    assert sorted(record["price_usd"] for record in records) == [1.5, 1.6]


def test_what_lies_in_the_bucket_untaken_comes_with_the_next_run(
    stack: StackUnderTest, database: Database[Any], uploads: Uploads
) -> None:
    uploads.put("incoming/a.csv", b"symbol,price_usd,timestamp\nA,1,2025-05-09\n")
    ended_runs(stack, database, 1)
    # As if the event had got lost.
    for name in ("runs", "batches", "objects", "market_data", "raw_batches"):
        database[name].delete_many({})

    run = stack.refresh()

    line = next(line for line in run["sources"] if line["source"] == "csv")
    assert (line["status"], line["inserted"]) == ("success", 1)
