"""CoinGecko, from the API's answer through Step Functions to the records that HTTP serves."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from pymongo.database import Database

from tests.e2e.conftest import COINGECKO
from tests.support.recorded import recorded
from tests.support.stack import StackUnderTest
from tests.support.upstream import Reply, Upstream
from tests.support.waiting import wait_for

pytestmark = pytest.mark.timeout(300)


def run(stack: StackUnderTest) -> dict[str, Any]:
    """POST /refresh, then GET /runs/{id} until the run has ended."""
    answer = stack.request("POST", "/refresh", {"Authorization": f"Bearer {stack.token}"})
    assert answer.status == 202, answer.body
    run_id = answer.body["run_id"]
    # The run exists from the moment that its id is given out.
    first: dict[str, Any] = stack.get(f"/runs/{run_id}")
    assert first["status"] in {"running", "success", "partial_success", "failed"}

    def ended() -> dict[str, Any] | None:
        document: dict[str, Any] = stack.get(f"/runs/{run_id}")
        return document if document["status"] != "running" else None

    return wait_for(ended, what=f"run {run_id} ends")


def coingecko(document: dict[str, Any]) -> dict[str, Any]:
    """The run's line on CoinGecko."""
    return next(line for line in document["sources"] if line["source"] == "coingecko")


def test_every_coin_is_one_record_though_tickers_repeat(
    stack: StackUnderTest, sources: Upstream, database: Database[Any]
) -> None:
    rows = recorded("coingecko_markets_2025-05-09.json")
    sources.pages(COINGECKO, rows)

    first = coingecko(run(stack))
    assert (first["extracted"], first["inserted"]) == (250, 250)
    assert database["market_data"].count_documents({"source": "coingecko"}) == 250

    second = coingecko(run(stack))
    assert (second["inserted"], second["updated"], second["unchanged"]) == (0, 0, 250)
    assert (second["status"], second["error"]) == ("skipped", None)
    assert "had changed" in second["reason"]
    assert database["market_data"].count_documents({"source": "coingecko"}) == 250

    tether = stack.get("/data?symbol=USDT&limit=100")["data"]
    assert len(tether) == sum(row["symbol"].upper() == "USDT" for row in rows) > 1
    assert {record["symbol"] for record in tether} == {"USDT"}


def test_three_changed_rows_are_three_new_records(
    stack: StackUnderTest, sources: Upstream, database: Database[Any]
) -> None:
    sources.pages(COINGECKO, recorded("coingecko_markets_2022-02-23T113145Z.json"))
    assert coingecko(run(stack))["inserted"] == 250
    sources.pages(COINGECKO, recorded("coingecko_markets_2022-02-23T113146Z.json"))
    second = coingecko(run(stack))
    assert (second["inserted"], second["updated"], second["unchanged"]) == (3, 0, 247)


def test_a_row_that_is_no_record_is_set_aside_whole(
    stack: StackUnderTest, sources: Upstream, database: Database[Any]
) -> None:
    good = {
        "id": "a",
        "symbol": "a",
        "name": "A",
        "current_price": 1.5,
        "last_updated": "2025-01-01T00:00:00Z",
    }
    sources.pages(COINGECKO, [good, {**good, "id": "b", "current_price": -1}])
    line = coingecko(run(stack))
    assert (line["inserted"], line["quarantined"]) == (1, 1)
    aside = database["quarantine"].find_one({})
    assert aside is not None
    assert aside["field"] == "price_usd"
    assert '"current_price": -1' in aside["row"]
    record = stack.get("/data?symbol=a")["data"][0]
    assert record["volume_24h"] is None
    assert record["market_cap"] is None


def test_a_source_that_fails_says_why(
    stack: StackUnderTest, sources: Upstream, database: Database[Any]
) -> None:
    sources.replies[COINGECKO] = Reply(
        b"<html><body>maintenance</body></html>", content_type="text/html"
    )
    document = run(stack)
    line = coingecko(document)
    assert line["status"] == "failed"
    assert "markup" in line["error"]["message"]
    assert document["status"] in {"failed", "partial_success"}


def test_a_step_that_can_not_even_note_why_it_failed(
    stack: StackUnderTest, sources: Upstream, database: Database[Any]
) -> None:
    """It refuses its settings before it has a run's note; Step Functions has the cause."""
    lambdas = boto3.client("lambda", **stack.boto3_options())  # type: ignore[call-overload]
    function = f"{stack.settings['STACK_NAME']}-extract_coingecko"

    def configure(variables: dict[str, str]) -> None:
        lambdas.update_function_configuration(
            FunctionName=function, Environment={"Variables": variables}
        )
        lambdas.get_waiter("function_updated_v2").wait(FunctionName=function)

    right = lambdas.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
    configure({**right, "COINGECKO_PAGES": "many"})
    try:
        line = coingecko(run(stack))
    finally:
        configure(right)
    assert (line["status"], line["error"]["code"]) == ("failed", "settings")
    assert "COINGECKO_PAGES" in line["error"]["message"]


def test_health_and_the_document_of_the_api(stack: StackUnderTest) -> None:
    assert stack.get("/health")["status"] in {"ok", "degraded"}
    document = stack.get("/openapi.json")
    assert {"/data", "/refresh", "/runs/{run_id}", "/health"} <= document["paths"].keys()


def test_refresh_needs_the_token(stack: StackUnderTest) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = stack.request("POST", "/refresh", headers)
        assert answer.status == 401
        assert answer.body["error"]["code"] == "unauthorized"
        assert answer.body["request_id"]
