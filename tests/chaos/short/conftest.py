"""Two sources, a database, and the functions as processes: no deployed stack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.mongod import Mongod
from tests.support.chaos import (
    ROUTES,
    State,
    World,
    new_world,
    set_hour,
    states_by_hour,
    two_sources,
)
from tests.support.simulator import Simulator


@pytest.fixture(scope="module")
def expected(
    mongod: Mongod, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> list[State]:
    """The state after each hour, if nothing is disturbed."""
    simulator.set(ROUTES[0], kind="coingecko", coins=700)
    simulator.set(ROUTES[1], kind="coinpaprika", coins=700)
    log = tmp_path_factory.mktemp("control") / "functions.log"
    with new_world(mongod.uri, two_sources(simulator), log) as control:
        return states_by_hour(control, simulator)


@pytest.fixture
def world(
    mongod: Mongod, simulator: Simulator, tmp_path: Path, expected: list[State]
) -> Iterator[World]:
    """A world at the first hour, to be disturbed."""
    set_hour(simulator, 0)
    log = tmp_path / "functions.log"
    with new_world(mongod.uri, two_sources(simulator), log) as running:
        yield running
