"""The whole stack, killed again and again; one more run, and nothing is lost or doubled."""

from __future__ import annotations

import random
from math import ceil
from typing import Any

import pytest

from tests.support.chaos import assert_undisturbed, expire
from tests.support.chaos_stack import Chaos
from tests.support.waiting import wait_for

KILLS, KILLS_OF_AN_HOUR = 10, 3


@pytest.mark.timeout(1200)
def test_the_whole_stack_killed_at_random_moments(
    chaos: Chaos, seed: int, share: float, record_property: Any
) -> None:
    chance = random.Random(seed)
    kills = ceil(share * KILLS)
    while chaos.stack_kills < kills:
        chaos.next_hour()
        for _ in range(min(KILLS_OF_AN_HOUR, kills - chaos.stack_kills)):
            # What the last kill has left holds the sources until it is an orphan.
            expire(chaos.store)
            execution = chaos.start()
            assert wait_for(chaos.at_work, what="the run has begun", every=0.02)
            chaos.pause(chance.uniform(0, 6))
            if chaos.status_of(execution) == "RUNNING":
                chaos.kill_stack(mongod=chance.random() < 0.5)
        chaos.recover()
        assert_undisturbed(chaos.store, chaos.expected)
    record_property("kills of the stack, each in a run", chaos.stack_kills)
