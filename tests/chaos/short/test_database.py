"""MongoDB that dies, and a network before it that delays, loses and cuts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.mongod import Mongod
from tests.support.chaos import (
    HOURS,
    State,
    World,
    assert_undisturbed,
    disturbing,
    new_world,
    set_hour,
    two_sources,
)
from tests.support.proxy import Manners, Proxy, running_proxy
from tests.support.simulator import Simulator


@pytest.fixture
def proxy(mongod: Mongod) -> Iterator[Proxy]:
    """Between the functions and MongoDB."""
    with running_proxy(mongod.port) as running:
        yield running


@pytest.fixture
def world(
    mongod: Mongod, proxy: Proxy, simulator: Simulator, tmp_path: Path, expected: list[State]
) -> Iterator[World]:
    """A world whose functions reach MongoDB through the proxy, and the test past it."""
    set_hour(simulator, 0)
    log = tmp_path / "functions.log"
    with new_world(proxy.uri, two_sources(simulator), log, past=mongod.uri) as running:
        yield running


def test_connections_to_mongodb_that_are_cut_in_the_middle_of_messages(
    world: World,
    proxy: Proxy,
    simulator: Simulator,
    expected: list[State],
    seed: int,
    record_property: Any,
) -> None:
    def cut(chance: random.Random) -> bool:
        if chance.random() < 0.5:
            proxy.cut()
        else:
            proxy.behave(Manners(cut_after=chance.randrange(500, 200_000)))
        return True

    for hour in range(HOURS):
        set_hour(simulator, hour)
        with disturbing(cut, seed=seed + hour, between=(0.05, 0.5)):
            world.attempt()
        proxy.heal()
        world.recover()
        assert_undisturbed(world.store, expected[hour])
    assert proxy.resets > 5
    record_property("connections reset", proxy.resets)


def test_a_network_that_is_slow_and_then_swallows_everything_for_a_while(
    world: World, proxy: Proxy, simulator: Simulator, expected: list[State]
) -> None:
    with proxy.behaving(Manners(delay=0.01)):
        run = world.start()

        def lose(_chance: random.Random) -> bool:
            proxy.behave(Manners(drop=True))
            return True

        with disturbing(lose, seed=0, between=(0.5, 0.5)):
            run.join(3)
    run.join()
    world.recover()
    assert_undisturbed(world.store, expected[0])
