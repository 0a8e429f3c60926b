"""Settings reach a stack that is up, and the rule of EventBridge starts runs by itself."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.database import Database

from tests.support.stack import StackUnderTest
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

ROW = {
    "id": "clockwork",
    "symbol": "clk",
    "name": "Clockwork",
    "current_price": 2,
    "last_updated": "2025-01-01T00:00:00Z",
}


@pytest.mark.timeout(400)
@pytest.mark.changes_the_stack
def test_the_rule_lowered_to_a_minute_starts_a_run(
    stack: StackUnderTest, sources: Upstream, database: Database[Any]
) -> None:
    sources.pages("/elsewhere", [ROW])
    stack.up(SCHEDULE="rate(1 minute)", COINGECKO_API_URL=sources.url + "/elsewhere")
    wanted = {"trigger": "schedule", "status": {"$ne": "running"}}
    # The first one may come while functions are still being deployed; the next is a minute off.
    wait_for(
        lambda: database["runs"].find_one({**wanted, "inputs.coingecko.status": "extracted"}),
        what="a run that the rule started",
        seconds=240,
        every=1,
    )
    records = stack.get("/data?symbol=CLK")["data"]
    assert [record["asset_id"] for record in records] == ["clockwork"]
