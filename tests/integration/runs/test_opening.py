"""An execution opens its run: once, with the sources that are free."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from marketdata import clock
from marketdata.errors import InvalidInput, NotFound, StateConflict
from marketdata.runs import closing, heartbeat, opening, starting, triggers
from marketdata.runs.triggers import RunRequest
from marketdata.store import run_queries, runs
from marketdata.store.connection import Store
from tests.support.pipeline import coin, line
from tests.support.runs import (
    RULE,
    SOURCES,
    WorkflowStarter,
    extracted,
    loaded,
    open_rule,
    open_run,
    request_run,
)

OLD_REFRESH = RULE | {
    "id": "0b9e6f2e-0000-4000-8000-000000000000",
    "detail-type": "Refresh Requested",
    "source": "marketdata.control",
    "detail": {"sources": ["coinpaprika"]},
}
"""What version 0.1 started the execution of a run on demand with."""


def test_the_rule_s_event_takes_the_sources_that_are_free(store: Store) -> None:
    engine = WorkflowStarter(store)
    busy, _ = starting.request(store, engine, SOURCES, asked=RunRequest(("coingecko",)))
    opened = open_rule(store)
    assert [item["input"] for item in opened["inputs"]] == ["coinpaprika"]
    run = runs.get(store, opened["run_id"])
    assert (list(run["inputs"]), run["holds"]) == (["coinpaprika"], ["coinpaprika"])
    assert run["under_way"] == {"coingecko": busy}
    # The same event once more, also when the other source is free by then, is the same run.
    closing.close(store, busy)
    second = open_rule(store, execution="second")
    assert second == {"run_id": opened["run_id"], "proceed": False, "inputs": []}
    assert list(runs.get(store, opened["run_id"])["inputs"]) == ["coinpaprika"]
    # It comes to its end as any other, but it was not one of all sources.
    extracted(store, opened["run_id"], "coinpaprika")
    assert closing.close(store, opened["run_id"])["status"] == "success"
    assert run_queries.last_whole_success(store) is None


def test_an_event_that_finds_no_source_free_is_the_run_under_way(store: Store) -> None:
    engine = WorkflowStarter(store)
    first, _ = starting.request(store, engine, SOURCES, asked=RunRequest(("coingecko",)))
    second, _ = starting.request(store, engine, SOURCES, asked=RunRequest(("coinpaprika",)))
    assert open_rule(store) == {"run_id": first, "proceed": False, "inputs": []}
    asked = RunRequest(("coinpaprika",))
    assert starting.request(store, engine, SOURCES, asked=asked) == (second, False)
    assert starting.under_way(store, RunRequest(), SOURCES) == {
        "coingecko": first,
        "coinpaprika": second,
    }
    assert store.runs.count_documents({}) == 2


def test_uploads_are_looked_for_while_the_source_beside_them_is_taken(store: Store) -> None:
    engine = WorkflowStarter(store)
    busy, _ = starting.request(store, engine, SOURCES, asked=RunRequest(("coingecko",)))
    asked = RunRequest(("coingecko", "csv"))
    run_id, started = starting.request(store, engine, SOURCES, asked=asked)
    run = runs.get(store, run_id)
    assert (started, run["inputs"], run["under_way"]) == (True, {}, {"coingecko": busy})
    assert starting.request(store, engine, SOURCES, asked=asked) == (run_id, False)
    assert starting.under_way(store, asked, SOURCES) == {"coingecko": busy, "csv": run_id}
    assert closing.close(store, run_id)["status"] == "success"


def test_the_rule_s_event_is_a_run(store: Store) -> None:
    opened = open_rule(store)
    run = runs.get(store, opened["run_id"])
    assert (run["trigger"], run["status"], run["execution"]) == ("schedule", "running", "first")
    assert opened["run_id"].startswith("20250509T060000Z-")
    assert list(run["inputs"]) == SOURCES


def test_an_event_that_comes_twice_is_one_run(store: Store) -> None:
    first = open_rule(store)
    second = open_rule(store, execution="second")
    assert first["proceed"]
    assert second == {"run_id": first["run_id"], "proceed": False, "inputs": []}
    closing.close(store, first["run_id"])
    third = open_rule(store, execution="third")
    assert third == {"run_id": first["run_id"], "proceed": False, "inputs": []}
    assert store.runs.count_documents({}) == 1


def test_an_execution_that_asks_again_goes_on(store: Store) -> None:
    assert open_rule(store) == open_rule(store)


def test_another_event_gets_the_id_of_the_run_under_way(store: Store) -> None:
    first = open_rule(store)
    other = open_rule(store, event_id="another")
    assert other == {"run_id": first["run_id"], "proceed": False, "inputs": []}
    assert store.runs.count_documents({}) == 1
    closing.close(store, first["run_id"])
    assert open_rule(store, event_id="another")["proceed"]


def test_a_requested_run_is_opened_by_its_id_alone(store: Store) -> None:
    requested = request_run(store, RunRequest(("coinpaprika",)))
    assert requested == {"run_id": requested["run_id"]}
    opened = opening.open_run(store, requested, "execution", SOURCES)
    assert (opened["run_id"], opened["proceed"]) == (requested["run_id"], True)
    assert [i["input"] for i in opened["inputs"]] == ["coinpaprika"]
    assert opening.open_run(store, requested, "execution", SOURCES) == opened
    other = opening.open_run(store, requested, "another", SOURCES)
    assert other == {"run_id": opened["run_id"], "proceed": False, "inputs": []}
    assert store.runs.count_documents({}) == 1


def test_a_requested_run_ends_orphans_before_it_is_opened(store: Store) -> None:
    orphan = open_run(store, RunRequest(("coingecko",)))["run_id"]
    requested = request_run(store, RunRequest(("coinpaprika",)))
    store.runs.update_one({"_id": orphan}, {"$set": {"expires_at": clock.EPOCH}})
    assert opening.open_run(store, requested, "execution", SOURCES)["proceed"]
    assert runs.get(store, orphan)["status"] == "failed"


def test_an_execution_of_version_0_1_opens_the_run_that_was_created_for_it(store: Store) -> None:
    """It was started with an envelope, as a rule would deliver it; see `OLD_REFRESH`."""
    trigger = replace(
        triggers.on_demand(RunRequest(("coinpaprika",))), run_id="20250509T060000Z-910ed0f2e793"
    )
    starting.create(store, trigger, SOURCES)
    opened = opening.open_run(store, OLD_REFRESH, "execution", SOURCES)
    assert (opened["run_id"], opened["proceed"]) == (trigger.run_id, True)
    assert [i["input"] for i in opened["inputs"]] == ["coinpaprika"]
    closing.close(store, opened["run_id"])


@pytest.mark.parametrize("given", [{"run_id": "no-such-run"}, OLD_REFRESH])
def test_a_run_on_demand_that_is_not_there_is_not_opened(
    store: Store, given: dict[str, Any]
) -> None:
    with pytest.raises(NotFound):
        opening.open_run(store, given, "execution", SOURCES)
    assert store.runs.count_documents({}) == 0


@pytest.mark.parametrize(
    "envelope",
    [
        {},
        RULE | {"source": "aws.ec2"},
        RULE | {"time": "soon"},
        {k: v for k, v in RULE.items() if k != "id"},
    ],
)
def test_what_is_no_trigger_starts_nothing(store: Store, envelope: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        opening.open_run(store, envelope, "execution", SOURCES)
    assert store.runs.count_documents({}) == 0


def test_run_ids_sort_by_their_events_time() -> None:
    ids = [
        triggers.parse(RULE | {"time": time}).run_id
        for time in ("2025-05-09T06:00:00Z", "2025-05-09T09:00:00+02:00", "2025-05-10T00:00:00Z")
    ]
    assert ids == sorted(ids)
    assert ids[1].startswith("20250509T070000Z-")


def test_a_run_without_a_heartbeat_is_ended_by_the_next(store: Store) -> None:
    orphan = open_rule(store)["run_id"]
    loaded(store, orphan, "coingecko", [coin()])
    extracted(store, orphan, "coingecko")
    long_ago = clock.now() - timedelta(seconds=1)
    store.runs.update_one({"_id": orphan}, {"$set": {"expires_at": long_ago}})
    fresh = open_rule(store, event_id="another")
    assert fresh["proceed"]
    run = runs.get(store, orphan)
    assert (run["status"], run["error"]["code"]) == ("partial_success", "expired")
    assert line(run, "coingecko")["status"] == "success"
    assert line(run, "coinpaprika")["status"] == "failed"
    with pytest.raises(StateConflict, match=orphan):
        heartbeat.require_running(store, orphan)


def test_heartbeats_keep_a_run(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    store.runs.update_one({"_id": run_id}, {"$set": {"expires_at": clock.now()}})
    heartbeat.require_running(store, run_id)
    assert runs.get(store, run_id)["expires_at"] > clock.now() + timedelta(minutes=10)
    assert runs.heartbeat(store, run_id, pause_seconds=3600)
    assert runs.get(store, run_id)["expires_at"] > clock.now() + timedelta(minutes=70)
