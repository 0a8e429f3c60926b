"""MongoDB killed under the deployed pipeline, and the network before it lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import ceil
from typing import Any

import pytest

from tests.support.chaos import assert_undisturbed, disturbing
from tests.support.chaos_stack import Chaos
from tests.support.proxy import Manners

KILLS, KILLS_OF_A_RUN, HOURS = 20, 6, 3


@pytest.mark.timeout(1200)
def test_mongod_killed_at_random_moments(
    chaos: Chaos, seed: int, share: float, record_property: Any
) -> None:
    def kill(_chance: random.Random) -> bool:
        chaos.kill_mongod()
        return True

    runs = 0
    while chaos.mongod_kills < share * KILLS:
        chaos.next_hour()
        runs += 1
        with disturbing(kill, seed=seed + runs, between=(0.5, 4), at_most=KILLS_OF_A_RUN):
            chaos.run()
            chaos.wait_until_quiet()
        chaos.recover()
        assert_undisturbed(chaos.store, chaos.expected)
    record_property("kills of mongod", chaos.mongod_kills)
    record_property("runs", runs)


def lose_for_a_moment(chaos: Chaos) -> Callable[[random.Random], bool]:
    """Faults of the network before MongoDB, one after the other."""

    def lose(chance: random.Random) -> bool:
        manners = chance.choice(
            [
                Manners(delay=0.05),
                Manners(refuse=True),
                Manners(drop=True),
                Manners(cut_after=chance.randrange(1_000, 300_000)),
            ]
        )
        with chaos.proxy.behaving(manners):
            chaos.proxy.cut()
            chaos.pause(chance.uniform(0.2, 2))
        return True

    return lose


@pytest.mark.timeout(600)
def test_a_network_before_mongodb_that_delays_loses_and_cuts(
    chaos: Chaos, seed: int, share: float, record_property: Any
) -> None:
    before = chaos.proxy.resets
    for hour in range(ceil(share * HOURS)):
        chaos.next_hour()
        with disturbing(lose_for_a_moment(chaos), seed=seed + hour, between=(0.2, 2)):
            chaos.run()
            chaos.wait_until_quiet()
        chaos.recover()
        assert_undisturbed(chaos.store, chaos.expected)
    assert chaos.proxy.resets > before
    record_property("connections reset", chaos.proxy.resets - before)
