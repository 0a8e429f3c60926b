"""`/gaps` over a real MongoDB."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from marketdata import clock
from marketdata.aws import schedule
from marketdata.aws.schedule import Rule, RuleState
from marketdata.store import asked_ranges
from marketdata.store.connection import Store
from marketdata.web.routes import gaps
from tests.support.gateway import Gateway, make_gateway, ok
from tests.support.records import NOW, make_record, put_records

BEGIN = datetime(2025, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = {"start": "2025-05-01", "end": "2025-05-01"}


def put_hours(store: Store, *numbers: int, **fields: Any) -> None:
    """Records of full hours."""
    times = [BEGIN + number * HOUR for number in numbers]
    records = [make_record(minutes=(t - NOW) // timedelta(minutes=1), **fields) for t in times]
    put_records(store, *records)


def get(gateway: Gateway, **query: Any) -> Any:
    return ok(gateway.get("/gaps", **{"source": "coingecko", "asset": "bitcoin", **query}))


def test_the_holes_of_a_history(gateway: Gateway, store: Store) -> None:
    put_hours(store, *range(10), *range(12, 24), interval="1h")
    asked_ranges.note(
        store,
        "coingecko",
        "bitcoin",
        "1h",
        {
            "start": BEGIN + 11 * HOUR,
            "end": BEGIN + 24 * HOUR,
            "run_id": "20250509T081500Z-3f2a9c41d07e",
            "asked_at": NOW,
        },
    )
    body = get(gateway, interval="1h", **DAY)
    assert body["data"] == [
        {
            "start": "2025-05-01T10:00:00.000Z",
            "end": "2025-05-01T11:00:00.000Z",
            "missing": 1,
            "at_source": False,
            "asked_at": None,
            "run_id": None,
        },
        {
            "start": "2025-05-01T11:00:00.000Z",
            "end": "2025-05-01T12:00:00.000Z",
            "missing": 1,
            "at_source": True,
            "asked_at": clock.iso(NOW),
            "run_id": "20250509T081500Z-3f2a9c41d07e",
        },
    ]
    assert body["totals"] == {
        "expected": 24,
        "found": 22,
        "missing": 2,
        "missing_at_source": 1,
        "holes": 2,
        "holes_left_off": 0,
    }
    assert (body["start"], body["end"]) == ("2025-05-01T00:00:00.000Z", "2025-05-02T00:00:00.000Z")
    assert (body["asset_id"], body["symbol"], body["series"]) == ("bitcoin", "BTC", "history")
    assert (body["interval"], body["measured_seconds"]) == ("1h", 3600)
    assert (body["measured_by"], body["left_off"]) == ("interval", 0)


def test_a_list_has_an_end_and_says_so(gateway: Gateway, store: Store) -> None:
    put_hours(store, *range(0, 24, 2), interval="1h")
    body = get(gateway, interval="1h", limit=5, **DAY)
    assert len(body["data"]) == 5
    assert body["totals"]["holes"] == 12
    assert body["totals"]["holes_left_off"] == 7
    assert body["totals"]["missing"] == 12


def test_a_range_that_is_too_long_is_gone_on_with(
    gateway: Gateway, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaps, "MOST_POINTS", 10)
    put_hours(store, *range(24), interval="1h")
    missing, start, times = 0, "2025-05-01", 0
    while True:
        body = get(gateway, interval="1h", start=start, end="2025-05-02T01:59:59.999Z")
        missing += body["totals"]["missing"]
        times += 1
        if not body["left_off"]:
            break
        start = body["end"]
    assert (missing, times) == (2, 3)


def test_what_is_not_over_yet_is_not_missing(gateway: Gateway, store: Store) -> None:
    put_hours(store, 0, interval="1h")
    now = clock.now()
    body = get(gateway, interval="1h", start=clock.iso(now - 3 * HOUR), end="2999-01-01")
    assert body["totals"]["expected"] in (2, 3)
    assert datetime.fromisoformat(body["end"]) <= now + timedelta(minutes=5)
    assert get(gateway, interval="1h", start="2999-01-01")["data"] == []
    assert get(gateway, interval="1h", start="9999-12-31")["data"] == []


def test_the_last_month_by_default(gateway: Gateway, store: Store) -> None:
    put_hours(store, 0, interval="1d")
    body = get(gateway, series="history")
    assert body["interval"] == "1d"
    assert body["totals"]["expected"] in (29, 30)


def scheduled(store: Store, expression: str, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setattr(schedule, "_describe", lambda name: RuleState(bool(name), expression))
    rule = Rule("hourly")
    return make_gateway(lambda: store, rule=lambda: rule)


@pytest.mark.parametrize(
    ("expression", "seconds", "by", "missing"),
    [
        ("rate(2 hours)", 7200, "schedule", 0),
        ("rate(30 minutes)", 1800, "schedule", 24),
        ("cron(0 * * * ? *)", 3600, "schedule", 12),
        ("once in a while", 3600, "default", 12),
    ],
)
def test_snapshots_are_measured_against_the_schedule(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    expression: str,
    seconds: int,
    by: str,
    missing: int,
) -> None:
    gateway = scheduled(store, expression, monkeypatch)
    put_hours(store, *range(0, 25, 2))
    body = get(gateway, start="2025-05-01", end="2025-05-02T00:00:00Z")
    assert (body["series"], body["interval"]) == ("snapshots", None)
    assert (body["measured_seconds"], body["measured_by"]) == (seconds, by)
    assert body["totals"]["missing"] == missing * (1 if seconds > 1800 else 1.5)


def test_snapshots_can_be_measured_against_an_interval(gateway: Gateway, store: Store) -> None:
    put_hours(store, 0, 1, 5)
    body = get(gateway, series="snapshots", interval="1h", start="2025-05-01", end="2025-05-01T05")
    assert [(hole["start"][11:16], hole["missing"]) for hole in body["data"]] == [("02:00", 3)]
    assert (body["interval"], body["measured_by"]) == (None, "interval")
    by_default = get(gateway, start="2025-05-01", end="2025-05-01T05")
    assert by_default["measured_by"] == "default"


def test_a_ticker_stands_for_its_asset(gateway: Gateway, store: Store) -> None:
    put_hours(store, 0)
    assert get(gateway, asset="btc", **DAY)["asset_id"] == "bitcoin"
    put_hours(store, 0, asset_id="batcat")
    refused = gateway.get("/gaps", source="coingecko", asset="btc")
    assert refused.status == 400
    assert "give one of batcat, bitcoin" in refused.text


def test_an_asset_that_there_is_not(gateway: Gateway, store: Store) -> None:
    put_hours(store, 0)
    for asset, source in (("nothing", "coingecko"), ("bitcoin", "coinbingo"), ("btc", "csv")):
        found = gateway.get("/gaps", source=source, asset=asset)
        assert found.status == 404
        assert "GET /symbols" in found.text


@pytest.mark.parametrize("query", [{}, {"source": "coingecko"}, {"interval": "2h"}, {"x": "1"}])
def test_a_request_that_says_too_little_or_something_else(
    gateway: Gateway, query: dict[str, str]
) -> None:
    assert gateway.get("/gaps", **query).status == 400
