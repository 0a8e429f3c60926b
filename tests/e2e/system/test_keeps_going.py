"""A run whose execution dies is closed and told of, and what it had received is not lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from pymongo.database import Database

from tests.support.stack import Answer, StackUnderTest
from tests.support.upstream import Reply, Seen, Upstream
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_stepfunctions import SFNClient

pytestmark = pytest.mark.timeout(300)

ROW = {
    "id": "phoenix",
    "symbol": "phx",
    "name": "Phoenix",
    "current_price": 3,
    "last_updated": "2025-01-01T00:00:00Z",
}
COINGECKO, COINPAPRIKA = "/api/v3/coins/markets", "/v1/tickers"


def client(stack: StackUnderTest, name: str) -> Any:
    return boto3.client(name, **stack.boto3_options())  # type: ignore[call-overload]


@pytest.fixture
def mailbox(stack: StackUnderTest) -> Iterator[tuple[Any, str]]:
    """A queue that is subscribed to the stack's alerts."""
    sns: SNSClient = client(stack, "sns")
    sqs = client(stack, "sqs")
    (topic,) = (
        one["TopicArn"]
        for one in sns.list_topics()["Topics"]
        if one["TopicArn"].endswith(f":{stack.settings['STACK_NAME']}-alerts")
    )
    url = sqs.create_queue(QueueName="alerts-mailbox")["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    subscription = sns.subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=found["QueueArn"], ReturnSubscriptionArn=True
    )["SubscriptionArn"]
    yield sqs, url
    sns.unsubscribe(SubscriptionArn=subscription)
    sqs.delete_queue(QueueUrl=url)


def subjects(mailbox: tuple[Any, str]) -> list[str]:
    sqs, url = mailbox
    got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
    return [json.loads(message["Body"])["Subject"] for message in got.get("Messages", [])]


def post(stack: StackUnderTest, path: str, **body: Any) -> Answer:
    headers = {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"}
    return stack.request("POST", path, headers, json.dumps(body).encode())


def test_a_run_whose_execution_is_aborted(
    stack: StackUnderTest,
    sources: Upstream,
    database: Database[Any],
    mailbox: tuple[Any, str],
) -> None:
    # CoinGecko answers, and what it said can't be loaded yet; CoinPaprika is silent.
    sources.pages(COINGECKO, [ROW])
    sources.replies[COINPAPRIKA] = Reply(hang=True)
    started = post(stack, "/refresh")
    assert started.status == 202, started.body
    run_id = started.body["run_id"]
    loaded = {"run_id": run_id, "input": "coingecko", "state": "loaded"}
    wait_for(lambda: database["batches"].find_one(loaded), what="CoinGecko's batch is loaded")
    assert post(stack, "/refresh").body["status"] == "already_running"

    # As if the loader had died: its batch is open again.
    database["batches"].update_one(loaded, {"$set": {"state": "loading"}, "$unset": {"counts": ""}})
    run = database["runs"].find_one({"_id": run_id})
    assert run is not None
    step_functions: SFNClient = client(stack, "stepfunctions")
    step_functions.stop_execution(executionArn=run["execution"], cause="a test")
    # The call that is under way goes on; the silence of one attempt is enough.
    sources.replies[COINPAPRIKA] = Reply(status=401)

    wait_for(lambda: stack.get(f"/runs/{run_id}")["status"] != "running", what="the run is closed")
    closed = stack.get(f"/runs/{run_id}")
    assert closed["status"] == "failed"
    # LocalStack tells FAILED of an execution that is stopped within a map; AWS tells ABORTED.
    assert closed["error"]["code"] in ("execution_aborted", "execution_failed")
    assert [(f["input"], f["error"]["code"]) for f in closed["failed_batches"]] == [
        ("coingecko", "interrupted")
    ]
    wait_for(lambda: f"Run {run_id} did not come to its end" in subjects(mailbox), what="the alert")

    # What is resumed is loaded without asking again.
    sources.replies[COINPAPRIKA] = Reply([])
    asked = len([seen for seen in sources.seen if seen.path == COINGECKO])
    resumed = post(stack, "/refresh", resume=run_id)
    assert resumed.status == 202, resumed.body
    later = resumed.body["run_id"]
    wait_for(lambda: stack.get(f"/runs/{later}")["ended_at"], what="the second run ends")
    told = stack.get(f"/runs/{later}")
    assert told["status"] == "success", told
    assert told["resume_from"] == {"run_id": run_id, "batches": 1}
    assert len([seen for seen in sources.seen if seen.path == COINGECKO]) == asked
    (record,) = stack.get("/data?symbol=PHX")["data"]
    assert record["asset_id"] == "phoenix"
    assert closed["failed_batches"][0]["now"] == {"run_id": run_id, "state": "failed"}
    now = stack.get(f"/runs/{run_id}")["failed_batches"][0]["now"]
    assert now == {"run_id": later, "state": "loaded"}
    assert post(stack, f"/runs/{run_id}/retry").status == 409


def test_a_run_finishes_first_what_an_earlier_one_left(
    stack: StackUnderTest, sources: Upstream, database: Database[Any]
) -> None:
    def answer(seen: Seen) -> Reply:
        row = ROW | {"current_price": len(sources.seen)}
        return Reply([row] if seen.query["page"] == "1" else [])

    sources.replies[COINGECKO] = answer
    first = post(stack, "/refresh", sources=["coingecko"]).body["run_id"]
    wait_for(lambda: stack.get(f"/runs/{first}")["ended_at"], what="the first run ends")
    # As if its loader had died when the run was closed.
    database["batches"].update_one(
        {"run_id": first}, {"$set": {"state": "failed"}, "$unset": {"counts": ""}}
    )

    second = post(stack, "/refresh", sources=["coingecko"], force=True).body["run_id"]

    wait_for(lambda: stack.get(f"/runs/{second}")["ended_at"], what="the second run ends")
    run = stack.get(f"/runs/{second}")
    assert run["status"] == "success", run
    assert run["resume_from"] == {"run_id": first, "batches": 1}
    assert [(b["number"], b["state"]) for b in run["batches"]] == [(0, "loaded"), (1, "loaded")]
    assert stack.get("/health")["data"]["status"] == "ok"


def test_an_event_that_starts_no_run_alerts(
    stack: StackUnderTest, mailbox: tuple[Any, str]
) -> None:
    step_functions: SFNClient = client(stack, "stepfunctions")
    arn = stack.description["state_machine_arn"]
    started = step_functions.start_execution(stateMachineArn=arn, input='{"no": "event"}')
    wait_for(
        lambda: (
            step_functions.describe_execution(executionArn=started["executionArn"])["status"]
            == "FAILED"
        ),
        what="the execution fails",
    )
    wait_for(
        lambda: "An execution ended before it became a run" in subjects(mailbox), what="the alert"
    )
