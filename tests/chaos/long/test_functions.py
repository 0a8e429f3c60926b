"""Functions of the deployed pipeline, killed again and again; one more run, and all is there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.chaos import assert_undisturbed, disturbing
from tests.support.chaos_stack import COINGECKO, COINPAPRIKA, Chaos

KILLS, KILLS_OF_A_RUN = 100, 40


def test_a_run_that_nothing_disturbs_ends_as_the_control_does(chaos: Chaos) -> None:
    chaos.next_hour()
    assert chaos.run() == "SUCCEEDED"
    chaos.wait_until_quiet()
    assert_undisturbed(chaos.store, chaos.expected)


@pytest.mark.timeout(1200)
def test_functions_killed_at_random_moments(
    chaos: Chaos, seed: int, share: float, record_property: Any
) -> None:
    runs = 0
    while chaos.killed_at_work().total() < share * KILLS:
        chaos.next_hour()
        for route in (COINGECKO, COINPAPRIKA):
            # Else extraction is over before it can be hit.
            chaos.upstream.set(route, delay=0.3)
        runs += 1
        with disturbing(
            chaos.kill_function, seed=seed + runs, between=(0, 0.1), at_most=KILLS_OF_A_RUN
        ):
            chaos.run()
            chaos.wait_until_quiet()
        chaos.recover()
        assert_undisturbed(chaos.store, chaos.expected)
    killed = chaos.killed_at_work()
    record_property("kills of functions at work", killed.total())
    for function, kills in killed.most_common():
        record_property(function, kills)
    record_property("runs", runs)
