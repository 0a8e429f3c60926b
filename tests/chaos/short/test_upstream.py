"""Every fault of an upstream, one after the other and at random."""

from __future__ import annotations

from typing import Any

from tests.support.chaos import (
    ROUTES,
    State,
    World,
    assert_undisturbed,
)
from tests.support.simulator import FAULTS, Simulator

QUICK = [fault for fault in FAULTS if fault not in ("stall", "silence")]
"""Those that a client notices at once; it waits 15 seconds for the others."""


def test_every_fault_of_an_upstream_and_one_more_run(
    world: World, simulator: Simulator, expected: list[State], record_property: Any
) -> None:
    before = simulator.outcomes()
    # Spread over both: some end a source's part of a run at once.
    simulator.set(ROUTES[0], faults=QUICK[::2])
    simulator.set(ROUTES[1], faults=QUICK[1::2])
    world.machine.waiting = 1
    for _ in range(6):
        world.attempt()
    world.recover()
    assert_undisturbed(world.store, expected[0])
    met = simulator.outcomes() - before
    assert set(QUICK) <= met.keys()
    record_property("faults", sum(met[fault] for fault in QUICK))
