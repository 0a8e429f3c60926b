"""Backfills whose functions are killed, that are cancelled, and that hourly runs take the quota of.

Whatever happens, in the end there is what an undisturbed backfill would have left.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from local.mongod import Mongod
from local.replay.samples import coingecko_markets
from marketdata.runs import backfills, starting
from marketdata.sources.coingecko import CoinGecko
from marketdata.sources.history import Interval
from marketdata.store import runs
from marketdata.store.backfills import execution_name
from tests.support.backfills import MARKETS, TODAY, chart, path_of
from tests.support.chaos import (
    UNLIMITED,
    State,
    World,
    assert_undisturbed,
    disturbing,
    new_world,
    state_of,
)
from tests.support.documents import Document
from tests.support.gateway import WorkflowStarter
from tests.support.machine import FunctionFailed, Invoke
from tests.support.upstream import Reply, Seen, Upstream, upstream
from tests.support.waiting import wait_for

ASSETS = [row["id"] for row in coingecko_markets()[:10]]
START, END = TODAY - timedelta(days=300), TODAY - timedelta(days=119)
"""By the hour in windows of 90 days: three for each asset."""
REQUESTS = 30
KILLS = 20
HOUR_SECONDS = 2.0
ANSWER_SECONDS = 0.1
"""Else it is over before it can be hit."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def source() -> Iterator[Upstream]:
    """CoinGecko with a present and a past."""
    silence = threading.Event()

    def slowly(seen: Seen) -> Reply:
        silence.wait(ANSWER_SECONDS)
        return chart(seen)

    with upstream() as server:
        server.pages(MARKETS, list(coingecko_markets()[:250]))
        for name in ASSETS:
            server.replies[path_of(name)] = slowly
        yield server


def variables(source: Upstream) -> Mapping[str, str]:
    return {"SOURCES": "coingecko", "COINGECKO_API_URL": source.url + MARKETS, **UNLIMITED}


@pytest.fixture(scope="module")
def expected(mongod: Mongod, source: Upstream, tmp_path_factory: pytest.TempPathFactory) -> State:
    """The state after an hourly run and a backfill that nothing disturbs."""
    log = tmp_path_factory.mktemp("control") / "functions.log"
    with new_world(mongod.uri, variables(source), log) as control:
        control.run_undisturbed()
        assert carry_out(control, request(control))["status"] == "success"
        assert len(control.store.asked_ranges.distinct("_id")) == len(ASSETS)
        return state_of(control.store)


@pytest.fixture
def world(mongod: Mongod, source: Upstream, tmp_path: Path, expected: State) -> Iterator[World]:
    """A world whose hourly run has told of the assets."""
    assert expected
    with new_world(mongod.uri, variables(source), tmp_path / "functions.log") as running:
        running.run_undisturbed()
        yield running


def request(world: World) -> str:
    """Request the backfill; its run."""
    asked = backfills.BackfillRequest(ASSETS, None, START, END, Interval.HOUR)
    given = CoinGecko.from_environment({}, {})
    return backfills.request(world.store, WorkflowStarter(), given, asked).run_id


def carry_out(world: World, run_id: str) -> Document:
    """Executions one after the other until the run has ended, as each hour starts the next."""
    while (run := runs.get(world.store, run_id))["status"] == "running":
        execution = f"arn:aws:states:us-east-1:000000000000:execution:test:{execution_name(run)}"
        try:
            world.machine.execute({"run_id": run_id}, execution=execution)
        except FunctionFailed:
            # What an hour later is found of it.
            world.expire()
            starting.end_orphans(world.store)
    found: Document = dict(run)
    return found


def done(world: World, run_id: str) -> int:
    """Requests that are done."""
    inputs: Document = dict(runs.get(world.store, run_id)["inputs"])
    return int(inputs["backfill:coingecko"].get("pages", 0))


def test_functions_killed_at_twenty_moments(
    world: World, expected: State, seed: int, record_property: Any
) -> None:
    ended: list[str] = []

    def kills() -> int:
        """Calls that died of it; one that was just over is none."""
        return world.functions.kills.total()

    def kill(chance: random.Random) -> bool:
        return kills() < KILLS and world.functions.kill_one(chance)

    with disturbing(kill, seed=seed, between=(0.05, 0.35)):
        while not ended or ended[-1] != "success" or kills() < KILLS:
            # One that got nowhere three times ends as failed, and is asked for again. So is one
            # that came to its end before all of the kills: that changes nothing.
            ended.append(carry_out(world, request(world))["status"])
    assert kills() >= KILLS
    record_property("kills of functions", kills())
    assert_undisturbed(world.store, expected)


def test_every_function_called_twice_at_once(world: World, expected: State) -> None:
    """As Lambda may do with a call that it takes for lost."""
    once = world.functions.invoke

    def twice(name: str, event: object) -> object:
        again = threading.Thread(target=_ignoring_errors, args=(once, name, event))
        again.start()
        try:
            return once(name, event)
        finally:
            again.join()

    world.machine.invoke = twice
    run = carry_out(world, request(world))
    assert run["status"] == "success"
    assert_undisturbed(world.store, expected)


def _ignoring_errors(once: Invoke, name: str, event: object) -> None:
    try:
        once(name, event)
    except FunctionFailed:
        # The other call tells what matters.
        return


def test_one_that_is_cancelled_and_asked_for_again(
    world: World, source: Upstream, expected: State
) -> None:
    run_id = request(world)
    before = len(source.seen)
    ended: list[Document] = []
    thread = threading.Thread(target=lambda: ended.append(carry_out(world, run_id)), daemon=True)
    thread.start()
    wait_for(lambda: done(world, run_id) >= 3, what="some is received", every=0.02)
    backfills.cancel(world.store, run_id)
    thread.join()
    assert ended[0]["status"] == "cancelled"
    assert 3 <= len(source.seen) - before < REQUESTS
    received = world.store.market_data.count_documents({"interval": "1h"})
    assert received > 0
    assert ended[0]["totals"]["inserted"] == received
    again = carry_out(world, request(world))
    assert again["status"] == "success"
    assert again["totals"]["unchanged"] == received
    assert_undisturbed(world.store, expected)


def test_hourly_runs_take_the_quota_and_never_wait(
    mongod: Mongod, source: Upstream, expected: State, tmp_path: Path
) -> None:
    quota = {"COINGECKO_RATE_PER_MINUTE": "120", "COINGECKO_BURST": "20"}
    environment = {**variables(source), **quota}
    # Waits are asked for by the database's clock: sooner than that they are only asked for again.
    with new_world(mongod.uri, environment, tmp_path / "functions.log", waiting=0.05) as world:
        world.run_undisturbed()
        run_id = request(world)
        ended: list[Document] = []
        thread = threading.Thread(
            target=lambda: ended.append(carry_out(world, run_id)), daemon=True
        )
        thread.start()
        hours = 0
        while thread.is_alive():
            world.run()
            hours += 1
            # At two a second: what is left for a run is left for one, and has to come back.
            threading.Event().wait(HOUR_SECONDS)
        thread.join()
        assert ended[0]["status"] == "success"
        assert hours > 3
        for run in world.store.runs.find({"trigger": "schedule"}):
            (result,) = run["results"]
            assert (run["status"], result["throttled"]) == ("success", 0)
        assert_undisturbed(world.store, expected)
