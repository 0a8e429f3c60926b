"""A backfill, from the request over HTTP through Step Functions to the records."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pymongo.database import Database

from local.replay.samples import coingecko_markets
from tests.e2e.conftest import COINGECKO
from tests.support.backfills import chart, days_ago
from tests.support.stack import Answer, StackUnderTest
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

pytestmark = pytest.mark.timeout(300)

COINS = [row["id"] for row in coingecko_markets()[:2]]
"""Few enough that nobody waits for the quota that users have."""


def post(stack: StackUnderTest, path: str, body: dict[str, Any] | None = None) -> Answer:
    headers = {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"}
    return stack.request("POST", path, headers, json.dumps(body or {}).encode())


def ended(stack: StackUnderTest, run_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        document: dict[str, Any] = stack.get(f"/runs/{run_id}")
        return document if document["status"] != "running" else None

    return wait_for(look, what=f"run {run_id} ends")


def test_the_past_of_the_largest_coins(
    stack: StackUnderTest, sources: Upstream, database: Database[Any]
) -> None:
    sources.pages(COINGECKO, list(coingecko_markets()[:250]))
    for name in COINS:
        sources.replies[f"/api/v3/coins/{name}/market_chart/range"] = chart
    refresh = post(stack, "/refresh", {"sources": ["coingecko"]})
    assert ended(stack, refresh.body["run_id"])["status"] == "success"

    asked = {"source": "coingecko", "top": len(COINS), "start": days_ago(299), "end": days_ago(27)}
    answer = post(stack, "/backfills", asked)
    assert answer.status == 202, answer.body
    document = ended(stack, answer.body["run_id"])
    assert document["status"] == "success"
    (line,) = document["sources"]
    assert line["inserted"] == line["rows_in"] > 250 * len(COINS)
    assert document["backfill"]["percent"] == 100
    found = database["market_data"].count_documents({"interval": "1d"})
    assert found == line["inserted"]

    cancelled = post(stack, f"/runs/{answer.body['run_id']}/cancel")
    assert cancelled.status == 409
    gaps = post(stack, "/backfills", {**asked, "gaps": True})
    assert gaps.status == 400
    assert "nothing to do" in gaps.body["error"]["message"]
