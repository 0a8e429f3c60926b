"""A race of extractors for the quota of one source."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from local.mongod import Mongod
from tests.support.chaos import (
    UNLIMITED,
    World,
    assert_conserved,
    assert_same,
    new_world,
    state_of,
)
from tests.support.events import hourly_event
from tests.support.simulator import PER_PAGE, Simulator

EXTRACTORS = 8


def extract_to_the_end(world: World, run: Any, start: threading.Barrier) -> str:
    """One of the extractors of a run: called again and again, as the state machine does."""
    payload = {**run["inputs"][0], "source": "coingecko"}
    start.wait()
    while True:
        answer = world.functions.invoke("extract_coingecko", payload)
        if answer["state"] not in ("throttled", "again", "unfinished"):
            return str(answer["state"])
        if answer["wait_seconds"]:
            threading.Event().wait(answer["wait_seconds"])


def race(
    mongod: Mongod,
    simulator: Simulator,
    log: Path,
    *,
    route: str,
    pages: int,
    rate: int,
    burst: int,
    quota: dict[str, float],
) -> list[float]:
    """Eight extractor processes fetch all pages of one run; when they asked, by the upstream.

    Args:
        mongod: where they have their state.
        simulator: the upstream.
        log: file for what they write.
        route: a route of this test's own.
        pages: how many there are.
        rate: requests a minute, by the settings.
        burst: requests at once, by the settings.
        quota: what the upstream really allows.
    """
    environment = {
        "SOURCES": "coingecko",
        "COINGECKO_API_URL": simulator.url + route,
        "COINGECKO_PAGES": str(pages),
        "COINGECKO_RATE_PER_MINUTE": str(rate),
        "COINGECKO_BURST": str(burst),
    }
    simulator.set(route, coins=pages * PER_PAGE)
    with new_world(mongod.uri, {**environment, **UNLIMITED}, log) as control:
        control.run_undisturbed()
        expected = state_of(control.store)
    asked = len(simulator.record(route))
    simulator.set(route, quota=quota)
    with new_world(mongod.uri, environment, log) as world, ThreadPoolExecutor(EXTRACTORS) as pool:
        run = world.functions.invoke(
            "open_run", {"event": hourly_event(), "execution": "arn:of:execution:test"}
        )
        start = threading.Barrier(EXTRACTORS)
        states = [pool.submit(extract_to_the_end, world, run, start) for _ in range(EXTRACTORS)]
        assert {state.result() for state in states} == {"extracted"}
        numbers = world.functions.invoke("extract_coingecko", run["inputs"][0])["numbers"]
        for number in numbers:
            world.functions.invoke("normalize_load", {**run["inputs"][0], "number": number})
        closed = world.functions.invoke("close_run", {"run_id": run["run_id"], "results": []})
        assert closed["status"] == "success"
        assert_same(state_of(world.store), expected)
        assert_conserved(world.store)
    record = simulator.record(route)[asked:]
    assert {one.outcome for one in record} <= {"ok", "unchanged"}
    assert {one.page for one in record} == set(range(1, pages + 1))
    return [one.at for one in record]
