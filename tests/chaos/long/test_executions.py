"""Executions that come twice, die or lose their lease, and a world around them that misbehaves."""

from __future__ import annotations

import random
from collections import Counter
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from tests.support.chaos import assert_undisturbed, disturbing, expire
from tests.support.chaos_stack import COINGECKO, COINPAPRIKA, STEPS, Chaos
from tests.support.documents import Document
from tests.support.events import hourly_event
from tests.support.simulator import FAULTS
from tests.support.waiting import wait_for

pytestmark = pytest.mark.timeout(600)

CLOCK = Path(__file__).parent / "clock"
MINUTES = 300.0
HOURS = 2


def newest_run(chaos: Chaos) -> Document:
    """The run of the sources that was opened last."""
    found = chaos.store.runs.find({"trigger": "schedule"}).sort("started_at", -1).limit(1)
    return next(iter(found), {})


def running(chaos: Chaos) -> Document | None:
    """The run of the sources that is under way."""
    return chaos.store.runs.find_one({"trigger": "schedule", "status": "running"})


def half_loaded(chaos: Chaos) -> bool:
    """Whether a run of the sources has loaded some of its batches, and not all."""
    run = running(chaos)
    states = [] if run is None else chaos.store.batches.distinct("state", {"run_id": run["_id"]})
    return "loaded" in states and len(states) > 1


def test_one_event_that_starts_four_executions_at_once_is_one_run(chaos: Chaos) -> None:
    chaos.next_hour()
    event = hourly_event()
    executions = [chaos.start_execution(event) for _ in range(4)]
    assert {chaos.wait_for_end(one) for one in executions} == {"SUCCEEDED"}
    chaos.wait_until_quiet()
    assert chaos.store.runs.count_documents({"event_id": event["id"]}) == 1
    assert_undisturbed(chaos.store, chaos.expected)


def test_steps_that_are_called_again_while_they_run(chaos: Chaos, record_property: Any) -> None:
    """As Lambda and Step Functions may, when an answer is lost on its way."""
    chaos.next_hour()
    execution = chaos.start()
    run = wait_for(lambda: running(chaos), what="the run is open")
    calls: Counter[str] = Counter()

    def call_again(chance: random.Random) -> bool:
        source = chance.choice(["coingecko", "coinpaprika"])
        payload = {"run_id": run["_id"], "input": source, "source": source}
        chaos.invoke(f"extract_{source}", payload)
        calls["extract"] += 1
        for batch in chaos.store.batches.aggregate([{"$sample": {"size": 2}}]):
            again = {name: batch[name] for name in ("run_id", "input", "number")}
            chaos.invoke("normalize_load", again)
            calls["normalize_load"] += 1
        return True

    with disturbing(call_again, seed=1, between=(0.2, 0.6)):
        assert chaos.wait_for_end(execution) == "SUCCEEDED"
    assert calls["extract"] > 0
    assert calls["normalize_load"] > 0
    record_property("steps called again", calls.total())
    chaos.recover()
    assert_undisturbed(chaos.store, chaos.expected)


def test_an_execution_that_is_aborted(chaos: Chaos) -> None:
    chaos.next_hour()
    execution = chaos.start()
    wait_for(lambda: half_loaded(chaos), what="a part is loaded", every=0.02)
    chaos.client("stepfunctions").stop_execution(executionArn=execution)
    # LocalStack calls an execution that is stopped within a map a failed one.
    status = chaos.wait_for_end(execution)
    assert status in ("ABORTED", "FAILED")
    aborted = wait_for(lambda: newest_run(chaos).get("ended_at") and newest_run(chaos), what="told")
    assert aborted["error"]["code"] == f"execution_{status.lower()}"
    chaos.recover()
    assert newest_run(chaos)["resume_from"]["run_id"] == aborted["_id"]
    assert_undisturbed(chaos.store, chaos.expected)


def test_an_execution_whose_time_is_up(chaos: Chaos) -> None:
    chaos.next_hour()
    chaos.upstream.set(COINGECKO, delay=12)

    def hurry(definition: Document) -> None:
        definition["TimeoutSeconds"] = 6

    with chaos.definition(hurry):
        assert chaos.run() == "TIMED_OUT"
    late = wait_for(lambda: newest_run(chaos).get("ended_at") and newest_run(chaos), what="told")
    assert late["error"]["code"] == "execution_timed_out"
    chaos.upstream.set(COINGECKO, delay=0)
    chaos.recover()
    assert_undisturbed(chaos.store, chaos.expected)


def test_a_run_that_nobody_closes(chaos: Chaos) -> None:
    chaos.next_hour()

    def forget(definition: Document) -> None:
        del definition["States"]["Inputs"]["Next"]
        definition["States"]["Inputs"]["End"] = True
        del definition["States"]["CloseRun"]
        definition["States"]["InputsFailed"] = {"Type": "Succeed"}

    with chaos.definition(forget):
        assert chaos.run() == "SUCCEEDED"
    orphan = running(chaos)
    assert orphan is not None
    chaos.recover()
    ended = chaos.store.runs.find_one({"_id": orphan["_id"]})
    assert ended is not None
    assert ended["error"]["code"] == "expired"
    assert_undisturbed(chaos.store, chaos.expected)


def test_a_run_whose_lease_is_stolen_while_its_source_is_silent(chaos: Chaos) -> None:
    chaos.next_hour()
    for route in (COINGECKO, COINPAPRIKA):
        chaos.upstream.set(route, delay=10)
    before = len(chaos.upstream.record())
    late = chaos.start()
    wait_for(lambda: len(chaos.upstream.record()) >= before + 2, what="the sources are asked")
    stolen = running(chaos)
    assert stolen is not None
    expire(chaos.store)
    for route in (COINGECKO, COINPAPRIKA):
        chaos.upstream.set(route, delay=0)
    assert chaos.run() == "SUCCEEDED"
    ended = chaos.store.runs.find_one({"_id": stolen["_id"]})
    assert ended is not None
    assert ended["error"]["code"] == "expired"
    chaos.wait_for_end(late)
    assert chaos.store.runs.find_one({"_id": stolen["_id"]}) == ended
    chaos.recover()
    assert_undisturbed(chaos.store, chaos.expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_functions_whose_clocks_are_minutes_apart(chaos: Chaos, sign: int) -> None:
    off = {
        name: {"PYTHONPATH": str(CLOCK), "CLOCK_AHEAD": str(sign * by)}
        for name, by in zip(STEPS, (-MINUTES, MINUTES) * 4, strict=True)
    }
    chaos.next_hour(upload=False)
    former = chaos.store.batches.distinct("run_id")
    with chaos.variables(off):
        chaos.put_csv()
        assert chaos.run() == "SUCCEEDED"
        chaos.wait_until_quiet()
    cut = {
        batch["source"]: batch["created_at"]
        for batch in chaos.store.batches.find({"run_id": {"$nin": former}, "number": 0})
    }
    apart = sign * (cut["coingecko"] - cut["coinpaprika"]).total_seconds()
    assert 2 * MINUTES - 60 < apart < 2 * MINUTES + 60
    chaos.learn()
    chaos.recover()
    assert_undisturbed(chaos.store, chaos.expected)


def test_every_fault_of_a_source(chaos: Chaos, record_property: Any) -> None:
    before = chaos.upstream.outcomes()
    chaos.next_hour()
    # Spread over both: some end a source's part of a run at once.
    for route, first in ((COINGECKO, 0), (COINPAPRIKA, 1)):
        chaos.upstream.set(route, faults=list(FAULTS)[first::2])
    runs = 0
    while not set(FAULTS) <= (met := chaos.upstream.outcomes() - before).keys():
        assert runs < len(FAULTS), met
        chaos.run()
        runs += 1
    chaos.recover()
    assert_undisturbed(chaos.store, chaos.expected)
    record_property("kinds of faults", len(FAULTS))
    record_property("runs", runs)


def test_sources_that_misbehave_at_random(
    chaos: Chaos, seed: int, share: float, record_property: Any
) -> None:
    before = chaos.upstream.outcomes()
    for hour in range(ceil(share * HOURS)):
        chaos.next_hour()
        for route in (COINGECKO, COINPAPRIKA):
            chaos.upstream.set(route, often=0.5, any_of=list(FAULTS), seed=seed + hour)
        chaos.run()
        for route in (COINGECKO, COINPAPRIKA):
            chaos.upstream.set(route, often=0)
        chaos.recover()
        assert_undisturbed(chaos.store, chaos.expected)
    met = chaos.upstream.outcomes() - before
    faults = sum(met[fault] for fault in FAULTS)
    assert faults > 0
    record_property("faults", faults)
