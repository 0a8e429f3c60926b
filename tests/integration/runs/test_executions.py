"""Whole executions: the state machine's definition, the real functions, a source that refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marketdata.store import runs
from marketdata.store.connection import Store
from tests.support.chaos import (
    World,
    assert_conserved,
    assert_same,
    assert_settled,
    new_world,
    state_of,
)
from tests.support.documents import Document
from tests.support.gateway import WorkflowStarter, make_gateway
from tests.support.machine import FunctionFailed
from tests.support.pipeline import let_pass, without_quota
from tests.support.simulator import Simulator, running_simulator
from tests.support.upstream import Reply, upstream
from tests.support.waiting import wait_for

COINS, EXTRACT = "/coins", "extract_coingecko"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """An upstream with three pages; the last one is not full."""
    with running_simulator() as running:
        running.set(COINS, kind="coingecko", coins=750)
        yield running


@pytest.fixture
def environment(simulator: Simulator) -> dict[str, str]:
    return {
        "SOURCES": "coingecko",
        "COINGECKO_API_URL": simulator.url + COINS,
        "COINGECKO_PAGES": "3",
    }


@pytest.fixture
def world(mongodb_uri: str, environment: dict[str, str], tmp_path: Path) -> Iterator[World]:
    with new_world(mongodb_uri, environment, tmp_path / "functions.log") as running:
        yield running


class Pauses(threading.Event):
    """What an execution waits by: notes how long. Nobody sets it."""

    def __init__(self, passing: Store | None = None) -> None:
        """With a store, its source's limits see the time pass, and nobody waits for it."""
        super().__init__()
        self.seconds: list[float] = []
        self._passing = passing

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        if self._passing is None:
            return super().wait(timeout)
        let_pass(self._passing, "coingecko", timeout)
        return False


def noting_answers(world: World) -> list[Document]:
    """What the extractor answers from now on."""
    invoke, answers = world.machine.invoke, list[Document]()

    def noting(name: str, event: Any) -> Any:
        answer = invoke(name, event)
        if name == EXTRACT:
            answers.append(answer)
        return answer

    world.machine.invoke = noting
    return answers


def asked(simulator: Simulator) -> list[tuple[int, str]]:
    return [(each.page, each.outcome) for each in simulator.record(COINS)]


def only_run(world: World) -> Document:
    (run,) = world.store.runs.find({})
    return run


# --- waiting ------------------------------------------------------------------------------


def test_the_machine_waits_as_long_as_it_is_told_and_the_same_page_is_asked_for(
    world: World, simulator: Simulator
) -> None:
    # After a refusal, the page behind it would have to wait for its permit.
    world.functions.environment = {**world.functions.environment, **without_quota("coingecko")}
    simulator.set(COINS, faults=["ok", "429"], pause=2)
    answers, pauses = noting_answers(world), Pauses()
    assert world.run(aborted=pauses)["status"] == "success"
    assert asked(simulator) == [(1, "ok"), (2, "429"), (2, "ok"), (3, "ok")]
    assert [(a["state"], a["wait_seconds"]) for a in answers] == [
        ("throttled", 2),
        ("extracted", 0),
    ]
    assert pauses.seconds == [2]
    # The clocks are the real ones: this is what the upstream has seen of it.
    _, refused, again, _ = simulator.record(COINS)
    assert again.at - refused.at >= 2
    run = only_run(world)
    (result,) = run["results"]
    told = run["inputs"]["coingecko"]["throttling"]
    assert (told["events"], told["refusals"], told["waited_seconds"]) == (1, 1, 2)
    assert told["retry_latency_seconds"] >= 2
    assert (result["throttled"], result["throttling"]) == (1, told)
    assert (result["pages"], result["rows_in"]) == (3, 750)
    assert_settled(world.store)
    assert_conserved(world.store)


def test_the_machine_waits_for_each_token_of_a_small_quota(
    world: World, simulator: Simulator
) -> None:
    small = {"COINGECKO_RATE_PER_MINUTE": "1", "COINGECKO_BURST": "1"}
    world.functions.environment = {**world.functions.environment, **small}
    answers, pauses = noting_answers(world), Pauses(world.store)
    assert world.run(aborted=pauses)["status"] == "success"
    assert asked(simulator) == [(1, "ok"), (2, "ok"), (3, "ok")]
    assert pauses.seconds == [a["wait_seconds"] for a in answers if a["state"] == "throttled"]
    assert len(pauses.seconds) == 2
    # One a minute and a margin, less what the calls themselves took.
    assert all(30 < seconds <= 65 for seconds in pauses.seconds)
    told = only_run(world)["inputs"]["coingecko"]["throttling"]
    assert (told["events"], told["refusals"]) == (2, 0)
    assert told["waited_seconds"] == sum(pauses.seconds)


def test_the_machine_waits_ever_longer_for_a_source_that_keeps_refusing(
    world: World, simulator: Simulator
) -> None:
    # What it waits for is the source, and not a permit.
    world.functions.environment = {**world.functions.environment, **without_quota("coingecko")}
    simulator.set(COINS, faults=["ok", "429", "402", "429"], pause=1)
    answers, pauses = noting_answers(world), Pauses(world.store)
    assert world.run(aborted=pauses)["status"] == "success"
    assert [page for page, _ in asked(simulator)] == [1, 2, 2, 2, 2, 3]
    assert pauses.seconds == [1, 2, 4]
    assert [a["wait_seconds"] for a in answers] == [1, 2, 4, 0]
    told = only_run(world)["inputs"]["coingecko"]["throttling"]
    assert (told["events"], told["refusals"], told["waited_seconds"]) == (3, 3, 7)


class Meanwhile(Pauses):
    """What an execution waits by: time passes once the other source's rows are there."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._store = store
        self.found: list[int] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        of_others = {"source": "coinpaprika"}
        self.found.append(
            wait_for(
                lambda: self._store.market_data.count_documents(of_others),
                what="the other source is loaded while this one is waited for",
            )
        )
        since = "inputs.coingecko.attempts.since"
        self._store.runs.update_many(
            {since: {"$exists": True}},
            [{"$set": {since: {"$subtract": [f"${since}", int(timeout * 1000)]}}}],
        )
        return super().wait(timeout)


def test_a_source_that_refuses_for_good_ends_soon_and_the_others_are_there_meanwhile(
    environment: dict[str, str], simulator: Simulator, mongodb_uri: str, tmp_path: Path
) -> None:
    """At the quotas that users have. No pause is named, and no run waits for two minutes."""
    simulator.set("/tickers", kind="coinpaprika", coins=300)
    with upstream() as server:
        server.replies[COINS] = Reply({"error": "too many requests"}, status=429)
        both = {
            "SOURCES": "coingecko,coinpaprika",
            "COINGECKO_API_URL": server.url + COINS,
            "COINPAPRIKA_API_URL": simulator.url + "/tickers",
        }
        with new_world(mongodb_uri, environment | both, tmp_path / "functions.log") as world:
            pauses = Meanwhile(world.store)
            assert world.run(aborted=pauses)["status"] == "partial_success"
            assert pauses.seconds == [60]
            assert all(pauses.found)
            told = {result["source"]: result for result in only_run(world)["results"]}
            assert told["coinpaprika"]["status"] == "success"
            assert told["coingecko"]["status"] == "throttled"
            assert told["coingecko"]["error"]["code"] == "throttled"
            assert [seen.query["page"] for seen in server.seen] == ["1", "1"]
            assert_settled(world.store)
            assert_conserved(world.store)


# --- a pause that is too long -------------------------------------------------------------


def test_a_run_that_ended_as_throttled_is_resumed_behind_its_last_page(
    world: World,
    environment: dict[str, str],
    simulator: Simulator,
    mongodb_uri: str,
    tmp_path: Path,
) -> None:
    simulator.set(COINS, faults=["ok", "429"], pause=100_000)
    pauses = Pauses()
    first = world.run(aborted=pauses)
    assert (first["status"], first["totals"]["rows_in"]) == ("partial_success", 250)
    assert pauses.seconds == []
    (result,) = only_run(world)["results"]
    assert (result["status"], result["pages"]) == ("throttled", 1)
    assert result["throttling"]["tokens_left"] == 0
    let_pass(world.store, "coingecko", 100_000)

    engine = WorkflowStarter()
    gateway = make_gateway(lambda: world.store, engine=engine)
    answer = gateway.post("/refresh", {"resume": first["run_id"]})
    assert answer.status == 202
    ((run_id, execution_input),) = engine.started
    second = world.run(execution_input, aborted=Pauses(world.store))

    assert (second["run_id"], second["status"]) == (run_id, "success")
    assert answer.json()["run_id"] == run_id
    assert asked(simulator) == [(1, "ok"), (2, "429"), (2, "ok"), (3, "ok")]
    assert second["totals"]["rows_in"] == 500
    resumed = runs.get(world.store, run_id)
    assert resumed["resume_from"] == {"run_id": first["run_id"], "batches": 0}
    assert runs.get(world.store, first["run_id"])["inputs"]["coingecko"]["resumed_by"] == run_id
    assert_settled(world.store)
    assert_conserved(world.store)
    with new_world(mongodb_uri, environment, tmp_path / "control.log") as control:
        control.run_undisturbed()
        assert_same(state_of(world.store), state_of(control.store))
    # All of it is there by now.
    assert gateway.post("/refresh", {"resume": first["run_id"]}).status == 409


# --- a source that fails ------------------------------------------------------------------


def test_what_had_come_before_a_failure_is_loaded_in_the_same_run(
    world: World, simulator: Simulator
) -> None:
    simulator.set(COINS, faults=["ok", "429"], pause=1)
    invoke, calls = world.machine.invoke, list[str]()

    def failing(name: str, event: Any) -> Any:
        calls.append(name)
        if name == EXTRACT and calls.count(EXTRACT) > 1:
            raise FunctionFailed("TransientError", "upstream_unavailable: no answer")
        return invoke(name, event)

    world.machine.invoke = failing
    first = world.run(aborted=Pauses(world.store))
    assert (first["status"], first["totals"]["rows_in"]) == ("partial_success", 250)
    assert calls.count(EXTRACT) == 1 + 4
    (result,) = only_run(world)["results"]
    assert (result["status"], result["error"]["code"]) == (
        "partial_success",
        "upstream_unavailable",
    )
    assert result["failed_batches"] == 0

    world.machine.invoke = invoke
    second = world.run(aborted=Pauses(world.store))
    assert second["status"] == "success"
    assert_settled(world.store)
    assert_conserved(world.store)


@pytest.mark.parametrize(
    ("fault", "code"), [("shape", "upstream_refused"), ("503", "upstream_unavailable")]
)
def test_one_source_that_fails_is_in_no_other_ones_way(
    environment: dict[str, str],
    simulator: Simulator,
    mongodb_uri: str,
    tmp_path: Path,
    fault: str,
    code: str,
) -> None:
    """At once, or as the circuit opens by what the very run has met."""
    simulator.set("/tickers", kind="coinpaprika", coins=300)
    simulator.set(COINS, often=1, any_of=[fault])
    both = {
        "SOURCES": "coingecko,coinpaprika",
        "COINPAPRIKA_API_URL": simulator.url + "/tickers",
        "CIRCUIT_BREAKER_FAILURES": "1",
    }
    with new_world(mongodb_uri, environment | both, tmp_path / "functions.log") as world:
        assert world.run()["status"] == "partial_success"
        run = only_run(world)
        assert "error" not in run
        told = {result["source"]: (result["status"], result["error"]) for result in run["results"]}
        assert told["coinpaprika"] == ("success", None)
        assert told["coingecko"][0] == "failed"
        assert told["coingecko"][1]["code"] == code
        assert_settled(world.store)
