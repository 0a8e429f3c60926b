"""`/uploads/{id}`, its answer, and `/answers`, over a real MongoDB."""

from __future__ import annotations

from typing import Any

import pytest

from marketdata.store.connection import Store
from tests.support.gateway import Gateway, Reply, make_gateway, ok
from tests.support.uploads import Bucket, carry_out

ASKS = "Date,Close\n2025-05-08,1.6\n2025-05-09,1.7\n"


def assert_error(answer: Reply, status: int, code: str) -> None:
    assert (answer.status, answer.json()["error"]["code"]) == (status, code), answer.text


@pytest.fixture
def gateway(store: Store) -> Gateway:
    return make_gateway(lambda: store)


@pytest.fixture
def upload_id(store: Store, bucket: Bucket, gateway: Gateway) -> str:
    carry_out(store, bucket.put("incoming/desk/prices.csv", ASKS))
    (listed,) = ok(gateway.get("/uploads", ("state", "waiting")))["data"]
    return str(listed["id"])


def test_a_waiting_file_is_listed_with_its_question(gateway: Gateway, upload_id: str) -> None:
    (listed,) = ok(gateway.get("/uploads", ("state", "waiting")))["data"]
    assert (listed["state"], listed["key"]) == ("waiting", "incoming/desk/prices.csv")
    (question,) = listed["questions"]
    assert question["about"] == "symbol"
    assert "x-amz-meta-symbol" in question["text"]
    assert f"POST /uploads/{upload_id}/answer" in listed["reason"]
    assert ok(gateway.get(f"/uploads/{upload_id}"))["data"] == listed
    assert_error(gateway.get("/uploads/csv-none"), 404, "not_found")


def test_a_run_tells_of_the_file_that_waits(gateway: Gateway, upload_id: str) -> None:
    (listed,) = ok(gateway.get("/uploads", ("state", "waiting")))["data"]
    run = ok(gateway.get(f"/runs/{listed['run_id']}"))
    (result,) = run["sources"]
    assert (run["status"], result["status"], result["error"]) == ("success", "waiting", None)
    assert result["reason"] == listed["reason"]
    assert upload_id in result["reason"]
    assert ok(gateway.get("/runs"))["data"][0]["status"] == "success"


def test_an_answer_starts_a_run_and_is_remembered_if_asked(
    gateway: Gateway, upload_id: str
) -> None:
    body = {"symbol": "MSFT", "remember": True}
    answer = ok(gateway.post(f"/uploads/{upload_id}/answer", body), 202)
    assert answer["started"]
    assert answer["answers"]["symbol"] == "MSFT"
    shown = ok(gateway.get(f"/uploads/{upload_id}"))["data"]
    assert (shown["state"], shown["questions"]) == ("taken", [])
    (kept,) = ok(gateway.get("/answers"))["data"]
    assert (kept["id"], kept["prefix"]) == (answer["remembered_as"], "incoming/desk/")
    assert kept["answers"]["symbol"] == "MSFT"
    # The same answer again starts nothing.
    again = gateway.post(f"/uploads/{upload_id}/answer", body)
    assert_error(again, 409, "state_conflict")
    assert ok(gateway.delete(f"/answers/{kept['id']}"))["data"]["id"] == kept["id"]
    assert ok(gateway.get("/answers"))["data"] == []
    assert_error(gateway.delete(f"/answers/{kept['id']}"), 404, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"remember": True},
        {"symbol": ""},
        {"symbol": 5},
        {"dates": "sideways"},
        {"interval": "often"},
        {"columns": {"Close": "prize"}},
        {"columns": {}},
        {"currency": "€"},
        {"colour": "red"},
    ],
)
def test_what_is_no_answer_is_refused_and_changes_nothing(
    gateway: Gateway, upload_id: str, body: dict[str, Any]
) -> None:
    assert_error(gateway.post(f"/uploads/{upload_id}/answer", body), 400, "invalid_input")
    assert ok(gateway.get(f"/uploads/{upload_id}"))["data"]["state"] == "waiting"


def test_what_changes_something_takes_the_token(gateway: Gateway, upload_id: str) -> None:
    for answer in (
        gateway.post(f"/uploads/{upload_id}/answer", {"symbol": "A"}, token="wrong"),
        gateway.delete("/answers/x", token="wrong"),
    ):
        assert answer.status == 401
