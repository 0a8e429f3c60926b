"""All three sources in one run, with what they really answered once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import boto3
import pytest
from pymongo.database import Database

from local.replay.csv_sample import SAMPLE_ROWS, sample_csv
from tests.e2e.conftest import COINGECKO, COINPAPRIKA
from tests.support.recorded import recorded, recorded_bytes
from tests.support.stack import StackUnderTest
from tests.support.upstream import Reply, Upstream
from tests.support.waiting import wait_for


@pytest.mark.timeout(300)
def test_each_source_leaves_its_records_and_a_second_run_none(
    stack: StackUnderTest, sources: Upstream, database: Database[Any]
) -> None:
    sources.pages(COINGECKO, recorded("coingecko_markets_2025-05-09.json"))
    sources.replies[COINPAPRIKA] = Reply(
        recorded_bytes("coinpaprika_tickers_2021-08-12_part1.json")
    )
    s3 = boto3.client("s3", **stack.boto3_options())  # type: ignore[call-overload]
    s3.put_object(
        Bucket=stack.description["bucket"], Key="incoming/three-sources.csv", Body=sample_csv()
    )

    first = stack.refresh()
    assert first["status"] == "success"
    # Whichever was faster, the event of the upload or the run: the file is loaded once.
    wait_for(
        lambda: (
            database["runs"].count_documents({"status": "running"}) == 0
            and database["market_data"].count_documents({"source": "csv"}) == SAMPLE_ROWS
        ),
        what="the file is loaded",
    )
    loaded = Counter(record["source"] for record in database["market_data"].find({}))
    assert loaded == {"coingecko": 250, "coinpaprika": 600, "csv": SAMPLE_ROWS}

    second = stack.refresh()
    assert second["status"] == "success"
    assert second["totals"]["inserted"] == second["totals"]["updated"] == 0
    assert second["totals"]["unchanged"] == 850
    assert database["market_data"].count_documents({}) == 850 + SAMPLE_ROWS


@pytest.mark.timeout(300)
def test_one_source_that_fails_does_not_stop_the_other(
    stack: StackUnderTest, sources: Upstream, database: Database[Any]
) -> None:
    sources.replies[COINGECKO] = Reply(b'{"status": {"error_code": 1006}}')
    sources.replies[COINPAPRIKA] = Reply(
        recorded_bytes("coinpaprika_tickers_2021-10-22_top15.json")
    )
    run = stack.refresh()
    assert run["status"] == "partial_success"
    lines = {line["source"]: line for line in run["sources"]}
    assert lines["coingecko"]["status"] == "failed"
    assert "a JSON object" in lines["coingecko"]["error"]["message"]
    assert (lines["coinpaprika"]["status"], lines["coinpaprika"]["inserted"]) == ("success", 15)
    assert stack.get("/health")["status"] in {"ok", "degraded"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "broken",
    [
        Reply(b"Oops", status=500),
        Reply(b'[{"id": "btc", "symbol": "b', declared_length=100),
        Reply(b"<html>Bad gateway</html>", status=502, content_type="text/html"),
    ],
    ids=["500", "broken off", "HTML"],
)
def test_a_source_that_fails_for_good_ends_soon_and_the_command_says_so(
    stack: StackUnderTest, sources: Upstream, database: Database[Any], broken: Reply
) -> None:
    """At the quotas that users have."""
    sources.replies[COINGECKO] = broken
    sources.replies[COINPAPRIKA] = Reply(
        recorded_bytes("coinpaprika_tickers_2021-10-22_top15.json")
    )
    answer = stack.command("refresh")
    assert answer.returncode == 3, answer.stdout + answer.stderr
    assert "partial_success" in answer.stderr
    assert "coingecko" in answer.stderr
    assert "tried 3 times" in answer.stderr
    (run,) = database["runs"].find()
    assert run["status"] == "partial_success"
    assert (run["ended_at"] - run["started_at"]).total_seconds() < 120
    assert database["market_data"].count_documents({"source": "coinpaprika"}) == 15
