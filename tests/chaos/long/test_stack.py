"""The whole stack, broken again and again; one more run, and nothing is lost or doubled."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.support.chaos import assert_undisturbed, disturbing
from tests.support.chaos_stack import Chaos
from tests.support.waiting import wait_for

FUNCTION_KILLS, MONGOD_KILLS, STACK_KILLS = 100, 20, 10
KILLS_OF_A_RUN = {"functions": 40, "mongod": 6}


def test_a_run_that_nothing_disturbs_ends_as_the_control_does(chaos: Chaos) -> None:
    chaos.next_hour()
    assert chaos.run() == "SUCCEEDED"
    chaos.wait_until_quiet()
    assert_undisturbed(chaos.store, chaos.expected)


@pytest.mark.timeout(1200)
def test_functions_killed_at_random_moments(chaos: Chaos, seed: int, record_property: Any) -> None:
    runs = 0
    while chaos.log.killed < FUNCTION_KILLS:
        chaos.next_hour()
        runs += 1
        most = KILLS_OF_A_RUN["functions"]
        with disturbing(chaos.kill_function, seed=seed + runs, between=(0.1, 0.8), at_most=most):
            chaos.run()
            chaos.wait_until_quiet()
        chaos.recover()
        assert_undisturbed(chaos.store, chaos.expected)
        chaos.log.read()
    record_property("kills of functions", chaos.log.killed)
    record_property("sent", chaos.sent)
    record_property("runs", runs)


@pytest.mark.timeout(1200)
def test_mongod_killed_at_random_moments(chaos: Chaos, seed: int, record_property: Any) -> None:
    def kill(_chance: random.Random) -> bool:
        chaos.kill_mongod()
        return True

    runs = 0
    while chaos.mongod_kills < MONGOD_KILLS:
        chaos.next_hour()
        runs += 1
        most = KILLS_OF_A_RUN["mongod"]
        with disturbing(kill, seed=seed + runs, between=(0.5, 4), at_most=most):
            chaos.run()
            chaos.wait_until_quiet()
        chaos.recover()
        assert_undisturbed(chaos.store, chaos.expected)
    record_property("kills of mongod", chaos.mongod_kills)
    record_property("runs", runs)


@pytest.mark.timeout(1200)
def test_the_whole_stack_killed_at_random_moments(
    chaos: Chaos, seed: int, record_property: Any
) -> None:
    chance = random.Random(seed)
    while chaos.stack_kills < STACK_KILLS:
        chaos.next_hour()
        for _ in range(min(3, STACK_KILLS - chaos.stack_kills)):
            chaos.start()
            moment = chance.uniform(0, 8)
            begun = wait_for(chaos.busy_functions, what="the run has begun")
            assert begun
            chaos.pause(moment)
            chaos.kill_stack(mongod=chance.random() < 0.5)
        chaos.recover()
        assert_undisturbed(chaos.store, chaos.expected)
    record_property("kills of the stack", chaos.stack_kills)
