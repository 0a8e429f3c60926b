"""Sources that answer, and whose newest observation does not move."""

from __future__ import annotations

from typing import Any

import pytest

from marketdata.documents.sources import Source
from marketdata.handlers.ending import RunEnding
from marketdata.store.connection import Store
from marketdata.store.sources import overview
from tests.support.documents import Document
from tests.support.gateway import make_gateway, ok
from tests.support.pipeline import Pipeline, coin, let_pass
from tests.support.upstream import Reply, Upstream

HOUR = 3600
COINS = "/coins"


@pytest.fixture
def coingecko(store: Store, server: Upstream) -> Pipeline:
    return Pipeline(store, {"COINGECKO_API_URL": server.url + COINS}, ["coingecko"])


@pytest.fixture(autouse=True)
def hourly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDULE", "rate(1 hour)")


def rows(hour: int, price: float = 1.0) -> list[Document]:
    """A full page, of which the newest row is of this hour."""
    old = [coin(f"c{n}", current_price=price) for n in range(249)]
    return [*old, coin("new", last_updated=f"2025-06-01T{hour:02}:00:00Z", current_price=price)]


def hourly_run(pipeline: Pipeline) -> Document:
    """A run, an hour after the one before, and what close_run does after it, twice."""
    let_pass(pipeline.store, "coingecko", HOUR)
    run = pipeline.run()
    for _ in range(2):
        RunEnding.from_environment().send_alerts(pipeline.store)
    return run


def source(store: Store) -> Source:
    return overview.get(store, "coingecko")


def alerts(store: Store) -> list[Document]:
    found: list[Document] = list(store.database["alerts"].find({}).sort("made_at"))
    return found


def health(store: Store) -> dict[str, Any]:
    return ok(make_gateway(lambda: store).get("/health"))


def test_a_source_that_stands_still_is_told_once_and_once_when_it_moves_again(
    server: Upstream, coingecko: Pipeline
) -> None:
    store = coingecko.store
    server.replies[COINS] = Reply(rows(1))
    for _ in range(3):
        assert hourly_run(coingecko)["status"] == "success"
        assert not source(store).get("frozen")
        assert health(store)["status"] == "ok"
    # Other rows change; the newest observation is still the same.
    server.replies[COINS] = Reply(rows(1, price=2.0))
    for _ in range(3):
        assert hourly_run(coingecko)["status"] == "success"
        answer = health(store)
        assert answer["status"] == "degraded"
        (frozen,) = answer["data"]["frozen_sources"]
        assert (frozen["source"], frozen["newest"]) == ("coingecko", "2025-06-01T01:00:00.000Z")
        (alert,) = alerts(store)
        assert alert["kind"] == "source_frozen"
        assert "2025-06-01T01:00:00.000Z" in alert["text"]
        assert alert["sent_at"] is not None

    server.replies[COINS] = Reply(rows(2))
    hourly_run(coingecko)
    assert health(store)["data"]["frozen_sources"] == []
    assert health(store)["status"] == "ok"
    assert [alert["kind"] for alert in alerts(store)] == ["source_frozen", "source_moving"]
    # A second time is another alert.
    for _ in range(3):
        hourly_run(coingecko)
    assert [alert["kind"] for alert in alerts(store)][2:] == ["source_frozen"]


def test_a_source_that_does_not_answer_is_failing_and_not_frozen(
    server: Upstream, coingecko: Pipeline
) -> None:
    server.replies[COINS] = Reply(rows(1))
    hourly_run(coingecko)
    server.replies[COINS] = Reply(status=401)
    for _ in range(5):
        assert hourly_run(coingecko)["status"] == "failed"
    assert not source(coingecko.store).get("frozen")
    assert [alert["kind"] for alert in alerts(coingecko.store)] == ["source_failing"]


def test_runs_on_demand_in_between_do_not_count(server: Upstream, coingecko: Pipeline) -> None:
    server.replies[COINS] = Reply(rows(1))
    hourly_run(coingecko)
    for _ in range(5):
        let_pass(coingecko.store, "coingecko", 60)
        coingecko.run()
        RunEnding.from_environment().send_alerts(coingecko.store)
    assert not source(coingecko.store).get("frozen")


@pytest.mark.parametrize(
    ("setting", "hours"),
    [("1", 1), ("5", 5), ("3,coingecko=2", 2), ("1,coinpaprika=7", 1)],
)
def test_after_how_many_firings_is_a_setting(
    server: Upstream,
    coingecko: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    hours: int,
) -> None:
    monkeypatch.setenv("FROZEN_AFTER", setting)
    server.replies[COINS] = Reply(rows(1))
    for hour in range(hours + 2):
        hourly_run(coingecko)
        assert bool(source(coingecko.store).get("frozen")) == (hour >= hours)


@pytest.mark.parametrize(
    "settings",
    [
        {"FROZEN_AFTER": "0"},
        {"FROZEN_AFTER": "3,coingecko=0"},
        {"SOURCES": "coinpaprika"},
        {"SCHEDULE": "at(2025-06-01T00:00:00)"},
        {"SCHEDULE": "cron(0 0 1 * ? *)"},
    ],
)
def test_nothing_is_frozen_where_it_is_off_or_no_firing_was_due(
    server: Upstream,
    coingecko: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    server.replies[COINS] = Reply(rows(1))
    for _ in range(5):
        hourly_run(coingecko)
    assert not source(coingecko.store).get("frozen")


def test_a_watermark_of_before_is_judged_by_when_it_was_moved(
    server: Upstream, coingecko: Pipeline
) -> None:
    server.replies[COINS] = Reply(rows(1))
    hourly_run(coingecko)
    coingecko.store.sources.update_one(
        {"_id": "coingecko"}, {"$unset": {"watermarks.advanced_at": ""}}
    )
    for _ in range(4):
        hourly_run(coingecko)
    assert source(coingecko.store).get("frozen")
