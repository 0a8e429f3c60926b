"""Chaos: everything in here breaks something while the pipeline works, and looks what is left."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from local.mongod import Mongod
from tests.support.mongod import running_mongod
from tests.support.simulator import Simulator, running_simulator

_ORDER = ("test_stack.py", "test_functions.py", "test_quota.py", "test_executions.py")
"""So two workers have about the same to do: the first file goes to one, the second to the other."""
_SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
_SAMPLE = bool(os.environ.get("CHAOS_SAMPLE"))
"""Run some tests of the long form, chosen by CHAOS_SEED, and a fifth of their faults."""
_TESTS_OF_A_SAMPLE = 5


# Before the suite's own hook, whose groups are files: what shares the stack goes to one worker.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark all of it, so that `-m "not chaos"` leaves it out, and put it in order."""
    places: dict[str, int] = {}
    for item in items:
        if "chaos" in item.path.parts:
            item.add_marker(pytest.mark.chaos)
            if item.path.name in _ORDER:
                places[item.nodeid] = _ORDER.index(item.path.name)
    items.sort(key=lambda item: places.get(item.nodeid, len(_ORDER)))
    if _SAMPLE:
        chosen = {id(item) for item in random.Random(_SEED).sample(items, _TESTS_OF_A_SAMPLE)}
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in chosen])
        items[:] = [item for item in items if id(item) in chosen]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell what was done to the system: how often, and from which seeds it can be done again."""
    told = [
        f"  {report.nodeid.rpartition('::')[2].partition('@')[0]}: "
        + ", ".join(f"{name} {value}" for name, value in report.user_properties)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call" and report.user_properties
    ]
    if told:
        terminalreporter.section("faults")
        for line in told:
            terminalreporter.write_line(line)


@pytest.fixture
def seed(record_property: Any) -> int:
    """Of the moments and victims of a test: CHAOS_SEED, else another one each time."""
    record_property("seed", _SEED)
    return _SEED


@pytest.fixture
def share() -> float:
    """How much of a test's faults to cause."""
    return 0.2 if _SAMPLE else 1


@pytest.fixture(scope="session")
def simulator() -> Iterator[Simulator]:
    """An upstream that misbehaves as told; each test has routes of its own."""
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def mongod() -> Iterator[Mongod]:
    """A mongod that may be killed."""
    with running_mongod() as running:
        yield running
