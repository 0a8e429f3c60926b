"""Single functions under ``sam local invoke``, with each of the sample events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pymongo.database import Database

from local.replay.csv_sample import SAMPLE_ROWS
from local.settings import ROOT
from tests.e2e.conftest import COINGECKO
from tests.support.containers import ApiUnderSam
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("empty_bucket")]

COIN = {
    "id": "sam",
    "symbol": "sam",
    "name": "Sam",
    "current_price": 10_000_000,
    "last_updated": "2025-01-01T00:00:00Z",
}


def invoke(stack: ApiUnderSam, function: str, event: str) -> Any:
    """What the function returns."""
    answer = stack.command("sam-invoke", function, str(ROOT / "events" / event))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return json.loads(answer.stdout[answer.stdout.index("\n{") :])


def test_a_source_is_extracted_for_the_hourly_event(
    stack: ApiUnderSam, sources: Upstream, database: Database[Any]
) -> None:
    sources.pages(COINGECKO, [COIN])
    extracted = invoke(stack, "extract_coingecko", "hourly.json")
    assert (extracted["state"], extracted["numbers"]) == ("extracted", [0])
    (run,) = database["runs"].find()
    assert run["trigger"] == "schedule"
    assert run["status"] != "running"
    assert database["batches"].count_documents({"run_id": run["_id"]}) == 1


def test_an_upload_is_cut_into_batches(stack: ApiUnderSam, database: Database[Any]) -> None:
    extracted = invoke(stack, "extract_csv", "s3-object-created.json")
    assert (extracted["state"], extracted["numbers"]) == ("extracted", [0])
    (run,) = database["runs"].find()
    assert run["trigger"] == "upload"
    (batch,) = database["batches"].find({"run_id": run["_id"]})
    assert batch["rows"] == SAMPLE_ROWS


def test_the_requests_of_the_api(
    stack: ApiUnderSam, sources: Upstream, database: Database[Any]
) -> None:
    sources.pages(COINGECKO, [{**COIN, "symbol": "btc"}])
    answer = invoke(stack, "control", "api-post-refresh.json")
    assert answer["statusCode"] == 202
    run_id = json.loads(answer["body"])["run_id"]
    wait_for(
        lambda: database["runs"].find_one({"_id": run_id, "ended_at": {"$ne": None}}),
        what="the run, which Step Functions carries out, ends",
    )
    answer = invoke(stack, "api", "api-get-data.json")
    assert answer["statusCode"] == 200
    assert [one["asset_id"] for one in json.loads(answer["body"])["data"]] == ["sam"]
