"""`POST /backfills`: what a request may say."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from marketdata import clock
from marketdata.store.connection import Store
from tests.support.backfills import END, START, Backfills, days_ago, know
from tests.support.gateway import ok

BODY = {"source": "coingecko", "top": 1, "start": START, "end": END}


@pytest.fixture
def world(store: Store) -> Backfills:
    know(store, "bitcoin")
    return Backfills(store, {})


def milliseconds(date: str) -> int:
    return clock.to_ms(datetime.fromisoformat(f"{date}T00:00:00+00:00"))


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"top": True}, "top"),
        ({"top": "5"}, "top"),
        ({"top": 1.5}, "top"),
        ({"gaps": "yes"}, "gaps"),
        ({"gaps": 1}, "gaps"),
        ({"gaps": None}, "gaps"),
        ({"source": 1}, "source"),
        ({"top": None, "assets": [1]}, "assets"),
        ({"top": None, "assets": "bitcoin"}, "assets"),
        ({"start": True}, "start"),
        ({"start": 1.5}, "start"),
        ({"start": None}, "start"),
        # Seconds, as it seems.
        ({"start": 1_735_689_600}, "start"),
        ({"start": -1}, "start"),
        ({"start": 10**15}, "start"),
        ({"end": False}, "end"),
        ({"interval": 1}, "interval"),
    ],
)
def test_a_value_of_another_type_is_refused(
    world: Backfills, asked: dict[str, Any], named: str
) -> None:
    answer = world.gateway.post("/backfills", BODY | asked)
    assert answer.status == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == "invalid_input"
    assert {fault["name"].partition(".")[0] for fault in error["details"]["faults"]} == {named}
    assert all(fault["in"] == "body" for fault in error["details"]["faults"])
    assert not list(world.store.runs.find())


def test_json_has_one_kind_of_number(world: Backfills) -> None:
    asked = {"top": 1.0, "start": float(milliseconds(START))}
    assert ok(world.gateway.post("/backfills", BODY | asked), 202)["assets"] == 1


def test_seconds_are_told_apart_from_milliseconds(world: Backfills) -> None:
    answer = world.gateway.post("/backfills", BODY | {"start": 1_735_689_600})
    assert "12 to 15 digits" in answer.json()["error"]["message"]


@pytest.mark.parametrize("form", [str, int], ids=["text", "number"])
def test_times_may_be_milliseconds(world: Backfills, form: type[str | int]) -> None:
    start, end = START, days_ago(10)
    asked = {"start": form(milliseconds(start)), "end": form(milliseconds(end) - 1)}
    answer = ok(world.gateway.post("/backfills", BODY | asked), 202)
    assert answer["start"] == f"{start}T00:00:00.000Z"
    assert answer["end"] == f"{end}T00:00:00.000Z"


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/uploads", {"filename": "a.csv", "size": True}, "size"),
        ("/uploads", {"filename": "a.csv", "size": "5"}, "size"),
        ("/uploads", {"filename": 5}, "filename"),
        ("/refresh", {"force": "yes"}, "force"),
        ("/refresh", {"force": 1}, "force"),
        ("/refresh", {"sources": [5]}, "sources"),
        ("/quarantine/replay", {"source": 5}, "source"),
        ("/quarantine/replay", {"ids": [True]}, "ids"),
    ],
)
def test_other_bodies_are_as_strict(
    world: Backfills, path: str, body: dict[str, Any], named: str
) -> None:
    answer = world.gateway.post(path, body)
    assert answer.status == 400, answer.text
    faults = answer.json()["error"]["details"]["faults"]
    assert {fault["name"].partition(".")[0] for fault in faults} == {named}
