"""Functions that die, come twice, have lost their lease, or whose clocks are wrong."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.chaos import (
    HOURS,
    ROUTES,
    State,
    World,
    assert_undisturbed,
    disturbing,
    set_hour,
)
from tests.support.documents import Document
from tests.support.events import hourly_event
from tests.support.machine import FunctionFailed
from tests.support.simulator import Simulator
from tests.support.waiting import wait_for

KILLS_OF_AN_HOUR = 3


def test_functions_killed_at_random_moments_and_one_more_run(
    world: World,
    simulator: Simulator,
    expected: list[State],
    seed: int,
    record_property: Any,
) -> None:
    for hour in range(HOURS):
        set_hour(simulator, hour)
        enough = world.functions.kills.total() + KILLS_OF_AN_HOUR
        with disturbing(world.functions.kill_one, seed=seed + hour, between=(0.02, 0.4)):
            # An execution may be lucky, or end at the first kill: then there is another one.
            while world.functions.kills.total() < enough:
                world.attempt()
                world.expire()
        world.recover()
        assert_undisturbed(world.store, expected[hour])
    record_property("kills of functions", world.functions.kills.total())


def test_one_event_that_starts_eight_executions_at_once_is_one_run(
    world: World, expected: list[State]
) -> None:
    event = hourly_event()
    threads = [world.start(event) for _ in range(8)]
    for thread in threads:
        thread.join()
    assert world.faults == []
    assert world.store.runs.count_documents({}) == 1
    assert_undisturbed(world.store, expected[0])


def test_every_function_called_twice_at_once_and_once_more(
    world: World, expected: list[State]
) -> None:
    """As Lambda may do with a call that it takes for lost."""
    once = world.functions.invoke

    def twice(name: str, event: Any) -> Any:
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(once, name, event) for _ in range(2)]
        answers = [call.result() for call in calls if call.exception() is None]
        try:
            return once(name, event)
        except FunctionFailed:
            if answers:
                return answers[0]
            raise

    world.machine.invoke = twice
    world.run()
    assert world.statuses() == {"success": 1}
    assert_undisturbed(world.store, expected[0])


def test_a_run_whose_lease_was_stolen_changes_nothing_any_more(
    world: World, simulator: Simulator, expected: list[State]
) -> None:
    """An execution is held up for longer than its lease; another run takes over; it wakes up."""
    for route in ROUTES:
        simulator.set(route, delay=600)
    before = len(simulator.record())
    late = world.start()
    wait_for(lambda: len(simulator.record()) >= before + 2, what="both sources are asked")
    (stolen,) = world.store.runs.find({})
    world.expire()
    for route in ROUTES:
        simulator.set(route, delay=0)
    world.run()
    thief = world.store.runs.find_one({"_id": {"$ne": stolen["_id"]}})
    assert thief is not None
    assert thief["status"] == "success"
    ended = world.store.runs.find_one({"_id": stolen["_id"]})
    simulator.release()
    late.join()
    assert world.store.runs.find_one({"_id": stolen["_id"]}) == ended
    # What the late one received is there all the same; the next run loads it, and finds it known.
    world.run()
    assert_undisturbed(world.store, expected[0])


@pytest.mark.parametrize("ahead", [300, -300])
def test_functions_whose_clocks_are_minutes_apart(
    world: World, simulator: Simulator, expected: list[State], ahead: float
) -> None:
    world.functions.clocks = {
        "open_run": -ahead,
        "extract_coingecko": ahead,
        "extract_coinpaprika": -ahead,
        "normalize_load": -ahead,
        "close_run": ahead,
        "note_failure": -ahead,
    }
    for hour in range(HOURS):
        set_hour(simulator, hour)
        world.run()
        # The next hour's functions are wrong the other way round.
        world.functions.clocks = {n: -by for n, by in world.functions.clocks.items()}
        assert_undisturbed(world.store, expected[hour])
    assert world.statuses() == {"success": HOURS}


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "not even noted"])
def test_what_failed_is_told_though_the_step_could_not_note_it(
    world: World, expected: list[State], noted: bool
) -> None:
    """One function refuses its settings before it reads its note; the other one is killed."""
    right, invoke = world.functions.environment, world.functions.invoke
    world.functions.environment = {**right, "COINGECKO_PAGES": "many"}
    last_words = f"RequestId: 7 {'x' * 30_000}"

    def failing(name: str, event: Any) -> Any:
        if name == "extract_coinpaprika":
            raise FunctionFailed("Runtime.ExitError", last_words)
        if "caught" in event and not noted:
            raise FunctionFailed("TerminalError", "store_unavailable: no primary")
        return invoke(name, event)

    world.machine.invoke = failing
    assert world.run()["status"] == "failed"
    (run,) = world.store.runs.find({})
    errors: Document = {result["source"]: result["error"] for result in run["results"]}
    coingecko, coinpaprika = errors["coingecko"], errors["coinpaprika"]
    assert coinpaprika["code"] == "Runtime.ExitError"
    if noted:
        assert coingecko["code"] == "settings"
        assert "COINGECKO_PAGES" in coingecko["message"]
        assert coinpaprika["message"] == last_words[:2000]
    else:
        assert coingecko["code"] == "TerminalError"
        assert "log of its function" in coingecko["message"]
    world.functions.environment, world.machine.invoke = right, invoke
    world.run()
    assert_undisturbed(world.store, expected[0])


def test_an_execution_aborted_at_its_worst_moment(world: World, expected: list[State]) -> None:
    """Pages are fetched, one batch is loaded, and nobody closes the run."""
    stop = threading.Event()
    invoke = world.functions.invoke

    def stopping(name: str, event: Any) -> Any:
        answer = invoke(name, event)
        if name == "normalize_load":
            stop.set()
        return answer

    world.machine.invoke = stopping
    world.attempt(aborted=stop)
    assert world.statuses() == {"running": 1}
    assert world.store.batches.count_documents({"state": {"$ne": "loaded"}}) > 0
    world.machine.invoke = invoke
    world.recover()
    first, second = world.store.runs.find({}).sort("started_at")
    assert first["error"]["code"] == "expired"
    assert second["resume_from"]["run_id"] == first["_id"]
    assert_undisturbed(world.store, expected[0])
