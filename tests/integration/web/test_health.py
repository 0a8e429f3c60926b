"""`/health` over a real MongoDB."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from marketdata import clock
from marketdata.aws.schedule import Rule, RuleState
from marketdata.documents.runs import RunStatus
from marketdata.errors import TransientError
from marketdata.store import alerts
from marketdata.store.connection import Store
from marketdata.store.server_time import ServerClock
from tests.support.gateway import event, make_gateway, ok
from tests.support.records import (
    NOW,
    make_run,
)


class FixedRule(Rule):
    """A rule whose state is given, or that can't be asked."""

    def __init__(self, state: RuleState | None) -> None:
        super().__init__("test-hourly")
        self.fixed = state

    def state(self) -> RuleState:
        if self.fixed is None:
            raise TransientError("no answer")
        return self.fixed


HOURLY = RuleState(enabled=True, expression="rate(1 hour)")


def health(store: Store, rule: Rule | None) -> dict[str, Any]:
    return ok(make_gateway(lambda: store, rule=lambda: rule).get("/health"))


def test_health_with_a_rule_that_works(store: Store) -> None:
    started = clock.now() - timedelta(minutes=30)
    store.runs.insert_one(make_run(1, started=started))
    later = make_run(2, started=started + timedelta(minutes=5), trigger="refresh")
    store.runs.insert_one(later)
    body = health(store, FixedRule(HOURLY))
    assert body["status"] == "ok"
    assert body["mongodb"]["ping_ms"] > 0
    assert body["scheduler"] == {
        "status": "ok",
        "enabled": True,
        "expression": "rate(1 hour)",
        "last_run_at": clock.iso(started),
        "next_run_at": clock.iso(started + timedelta(hours=1)),
        "overdue": False,
        "message": None,
    }
    assert body["last_run"]["run_id"] == body["run_id"] == later["_id"]


@pytest.mark.parametrize(
    ("rule", "hours_ago", "status", "scheduler", "overdue"),
    [
        (None, 1, "ok", "unconfigured", False),
        (FixedRule(HOURLY), None, "ok", "ok", False),
        (FixedRule(HOURLY), 2, "ok", "ok", False),
        (FixedRule(RuleState(enabled=True, expression="cron(0 * * * ? *)")), 1, "ok", "ok", False),
        (FixedRule(RuleState(enabled=True, expression="at(2025-05-09)")), 9, "ok", "ok", False),
        (FixedRule(RuleState(enabled=False, expression="rate(1 hour)")), 9, "degraded",
         "disabled", False),
        (FixedRule(None), 1, "degraded", "unknown", False),
    ],
)  # fmt: skip
def test_health_of_the_scheduler(
    store: Store,
    rule: Rule | None,
    hours_ago: int | None,
    status: str,
    scheduler: str,
    overdue: bool,
) -> None:
    if hours_ago is not None:
        store.runs.insert_one(make_run(1, started=clock.now() - timedelta(hours=hours_ago)))
    body = health(store, rule)
    assert body["status"] == status
    assert body["scheduler"]["status"] == scheduler
    assert body["scheduler"]["overdue"] is overdue


def seen(store: Store, hours_ago: float, **changed: Any) -> None:
    """A first look at the rule so many hours ago, and the last one a minute ago."""
    now = clock.now()
    note = {
        "enabled": True,
        "expression": HOURLY.expression,
        "since": now - timedelta(hours=hours_ago),
        "seen_at": now - timedelta(minutes=1),
    }
    store.database["schedule"].replace_one({"_id": ""}, note | changed, upsert=True)


def scheduler(store: Store, state: RuleState = HOURLY) -> dict[str, Any]:
    found: dict[str, Any] = health(store, FixedRule(state))["scheduler"]
    next_run = found["next_run_at"]
    assert next_run is None or next_run > clock.iso(clock.now() - timedelta(seconds=5))
    return found


@pytest.mark.parametrize("ran", [True, False])
def test_a_rule_that_starts_no_runs_is_overdue_once_that_is_certain(
    store: Store, *, ran: bool
) -> None:
    if ran:
        store.runs.insert_one(make_run(1, started=clock.now() - timedelta(hours=9)))
    seen(store, 0.9)
    waiting = scheduler(store)
    assert (waiting["status"], waiting["overdue"]) == ("ok", False)
    assert waiting["next_run_at"] < clock.iso(clock.now() + timedelta(minutes=7))
    seen(store, 1.01)
    due = scheduler(store)
    assert (due["status"], due["next_run_at"]) == ("ok", None)
    seen(store, 1.2)
    late = scheduler(store)
    assert (late["status"], late["overdue"], late["next_run_at"]) == ("overdue", True, None)
    assert "should have started a run" in late["message"]
    assert health(store, FixedRule(HOURLY))["status"] == "degraded"


@pytest.mark.parametrize(
    "changed",
    [
        {"enabled": False},
        {"expression": "rate(5 minutes)"},
        {"seen_at": NOW},
        {"_id": "another deployment"},
    ],
    ids=["enabled again", "another schedule", "nobody looked", "deployed anew"],
)
def test_a_rule_that_changed_owes_no_run_of_before(store: Store, changed: dict[str, Any]) -> None:
    store.runs.insert_one(make_run(1, started=clock.now() - timedelta(hours=9)))
    seen(store, 9)
    assert scheduler(store)["overdue"]
    store.database["schedule"].delete_many({})
    note = {
        "_id": "",
        "enabled": True,
        "expression": HOURLY.expression,
        "since": NOW,
        "seen_at": clock.now(),
    }
    store.database["schedule"].insert_one(note | changed)
    found = scheduler(store)
    assert (found["status"], found["overdue"]) == ("ok", False)
    assert found["next_run_at"] > clock.iso(clock.now() + timedelta(minutes=59))


def test_looks_at_the_rule_add_up_by_deployment(store: Store) -> None:
    gateway = make_gateway(lambda: store, rule=lambda: FixedRule(HOURLY))
    made = event("GET", "/health")
    for api in ("one", "one", "two"):
        made["requestContext"]["apiId"] = api
        ok(gateway.call(made))
    notes = {note["_id"]: note for note in store.database["schedule"].find()}
    assert set(notes) == {"one", "two"}
    assert notes["one"]["since"] < notes["one"]["seen_at"] <= notes["two"]["since"]


@pytest.mark.parametrize(("trigger", "overdue"), [("refresh", False), ("upload", True)])
def test_an_event_that_met_a_run_under_way_is_not_missed(
    store: Store, trigger: str, *, overdue: bool
) -> None:
    now = clock.now()
    seen(store, 9)
    store.runs.insert_one(make_run(1, started=now - timedelta(minutes=70)))
    other = make_run(2, started=now - timedelta(minutes=13), trigger=trigger, seconds=300)
    store.runs.insert_one(other)
    assert scheduler(store)["overdue"] is overdue


OFFICE_HOURS = RuleState(enabled=True, expression="cron(0/30 9-17 ? * MON-FRI *)")
FRIDAY = datetime(2025, 5, 9, tzinfo=UTC)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets the time of the database, as far as health asks for it."""

    def set_to(told: datetime) -> None:
        monkeypatch.setattr(
            "marketdata.web.routes.health.server_clock",
            lambda _: ServerClock(told, time.monotonic()),
        )

    return set_to


@pytest.mark.parametrize(
    ("hours", "data", "scheduler", "next_run"),
    [
        (17.9, "ok", "ok", None),
        # Nothing is due on a weekend.
        (24 + 12, "ok", "ok", "2025-05-12T09:00:00.000Z"),
        (3 * 24 + 8.9, "ok", "ok", "2025-05-12T09:00:00.000Z"),
        (3 * 24 + 9.01, "ok", "ok", None),
        (3 * 24 + 9.1, "ok", "overdue", None),
        (3 * 24 + 9.5, "ok", "overdue", None),
        (3 * 24 + 9.6, "stale", "overdue", None),
    ],
)
def test_a_cron_expression_is_judged_by_its_own_firings(
    store: Store,
    at: Callable[[datetime], None],
    hours: float,
    data: str,
    scheduler: str,
    next_run: str | None,
) -> None:
    last = FRIDAY + timedelta(hours=17.5)
    # The database's clock is behind the rule's by a moment.
    run = make_run(1, started=last - timedelta(milliseconds=300)) | {"event_time": last}
    store.runs.insert_one(run)
    now = FRIDAY + timedelta(hours=hours)
    note = {"enabled": True, "expression": OFFICE_HOURS.expression, "since": NOW, "seen_at": now}
    store.database["schedule"].insert_one({"_id": "", **note})
    at(now)
    body = health(store, FixedRule(OFFICE_HOURS))
    assert (body["data"]["status"], body["scheduler"]["status"]) == (data, scheduler)
    if next_run is not None:
        assert body["scheduler"]["next_run_at"] == next_run
    elif hours > 24:
        assert body["scheduler"]["next_run_at"] is None
    assert body["status"] == ("ok" if (data, scheduler) == ("ok", "ok") else "degraded")


@pytest.mark.parametrize("hours", [-5, 5])
def test_the_function_s_own_clock_makes_nothing_old(
    store: Store, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    started = clock.now() - timedelta(minutes=30)
    store.runs.insert_one(make_run(1, started=started))
    off = clock.now() + timedelta(hours=hours)
    monkeypatch.setattr(clock, "now", lambda: off)
    body = health(store, FixedRule(HOURLY))
    assert (body["status"], body["data"]["status"]) == ("ok", "ok")
    assert body["scheduler"]["next_run_at"] == clock.iso(started + timedelta(hours=1))


def test_health_after_a_run_that_failed(store: Store) -> None:
    store.runs.insert_one(make_run(1, started=clock.now(), status=RunStatus.FAILED))
    assert health(store, None)["status"] == "degraded"


@pytest.mark.parametrize(
    ("hours_ago", "changes", "status"),
    [
        (1.9, {}, "ok"),
        (2.1, {}, "stale"),
        # Neither is one of everything.
        (1, {"trigger": "upload"}, "stale"),
        (1, {"asked": {"sources": ["coingecko"]}}, "stale"),
        (1, {"status": "partial_success"}, "stale"),
    ],
)
def test_data_is_stale_when_twice_the_interval_went_by_without_a_success(
    store: Store, hours_ago: float, changes: dict[str, Any], status: str
) -> None:
    now = clock.now()
    old = make_run(1, started=now - timedelta(hours=5))
    store.runs.insert_one(old)
    store.runs.insert_one(make_run(2, started=now - timedelta(hours=hours_ago)) | changes)
    # The rule goes on starting runs, so it alone would be fine.
    store.runs.insert_one(make_run(3, started=now, status="partial_success"))
    body = health(store, FixedRule(HOURLY))
    assert body["data"]["status"] == status
    assert body["scheduler"]["status"] == "ok"
    assert body["status"] == ("ok" if status == "ok" else "degraded")
    assert (body["data"]["last_success_at"] == clock.iso(old["started_at"])) is bool(changes)


def test_a_service_that_never_succeeded_is_stale_some_time_after_its_first_try(
    store: Store,
) -> None:
    assert health(store, FixedRule(HOURLY))["data"]["status"] == "ok"
    run = make_run(1, status="partial_success", started=clock.now() - timedelta(hours=3))
    store.runs.insert_one(run)
    body = health(store, FixedRule(HOURLY))
    assert (body["data"]["status"], body["data"]["last_success_at"]) == ("stale", None)
    assert health(store, None)["data"]["status"] == "unknown"


def test_health_names_the_sources_that_fail(store: Store) -> None:
    for number in range(2):
        alerts.count_outcome(store, "coingecko", f"run {number}", {"code": "x", "message": "x"})
    alerts.count_outcome(store, "coinpaprika", "run 1", None)
    assert health(store, None)["data"]["failing_sources"] == [
        {"source": "coingecko", "failures": 2, "alerted": False}
    ]
