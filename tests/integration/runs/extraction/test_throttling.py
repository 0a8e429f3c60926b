"""A run that is rate-limited: what its calls sit out, and what is left to the state machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from marketdata import clock
from marketdata.documents.runs import StoredThrottling
from marketdata.runs.extraction.outcome import Extracted, ExtractionState
from marketdata.runs.extraction.throttling import Throttling
from marketdata.store import run_inputs, runs
from marketdata.store.connection import Store
from marketdata.store.sources import overview
from tests.support.documents import Document
from tests.support.pipeline import QUICK, Pipeline, coin, let_pass, line
from tests.support.upstream import Reply, Seen
from tests.support.upstream import Upstream as Server

COINS = "/coins"


@pytest.fixture
def coingecko(store: Store, server: Server) -> Pipeline:
    environment = {"COINGECKO_API_URL": server.url + COINS, "COINGECKO_PAGES": "20"}
    return Pipeline(store, environment, ["coingecko"])


def with_quota(pipeline: Pipeline, per_minute: float, burst: int, **more: str) -> None:
    quota = {"COINGECKO_RATE_PER_MINUTE": str(per_minute), "COINGECKO_BURST": str(burst)}
    pipeline.environment = {**pipeline.environment, **quota, **more}


def throttling(pipeline: Pipeline, run: Document) -> Document:
    found: Document = runs.get(pipeline.store, run["_id"])["inputs"]["coingecko"]["throttling"]
    return found


@pytest.mark.parametrize("stored", [None, {}, {"events": 2, "of another version": 1}])
def test_what_is_not_stored_of_throttling_begins_at_nothing(
    stored: StoredThrottling | None,
) -> None:
    found = Throttling.of(stored)
    assert found == Throttling(events=2 if stored else 0)
    assert Throttling.of(found.document()) == found


def test_the_state_machine_waits_for_a_permit_and_the_page_follows(
    server: Server, coingecko: Pipeline
) -> None:
    with_quota(coingecko, 3, 5, COINGECKO_PAGES="7")
    server.pages(COINS, [coin(f"c{n}") for n in range(1750)])
    run = coingecko.run()
    assert line(run, "coingecko")["inserted"] == 1750
    assert [seen.query["page"] for seen in server.seen] == ["1", "2", "3", "4", "5", "6", "7"]
    # Four and three quarters of a permit are there at once, and five may go out within a minute.
    assert coingecko.pauses == [5, 60]
    told = throttling(coingecko, run)
    assert told["events"] == 2
    assert told["refusals"] == 0
    assert told["waited_seconds"] == sum(coingecko.pauses)
    assert (told["quota_per_minute"], told["rate_per_minute"]) == (3, 3)


def test_a_short_wait_is_sat_out(server: Server, coingecko: Pipeline) -> None:
    # Of one permit at a time the next one comes after half a second.
    with_quota(coingecko, 120, 1, COINGECKO_PAGES="3")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        let_pass(coingecko.store, "coingecko", seconds)

    coingecko.retry_policy = replace(QUICK, sleep=sleep)
    server.pages(COINS, [coin(f"c{n}") for n in range(750)])
    run = coingecko.run()
    assert line(run, "coingecko")["pages"] == 3
    assert coingecko.pauses == []
    assert len(waits) == 2
    assert all(0.3 < wait < 0.7 for wait in waits)
    told = throttling(coingecko, run)
    assert (told["events"], told["refusals"]) == (2, 0)
    assert told["waited_seconds"] == pytest.approx(sum(waits), abs=0.01)


@pytest.mark.parametrize("seconds", [11, 100])
def test_a_call_sits_out_no_more_than_its_time_and_ten_seconds(
    server: Server, coingecko: Pipeline, seconds: float
) -> None:
    with_quota(coingecko, 40, 1)
    coingecko.seconds = seconds
    waits: list[float] = []

    def sleep(wait: float) -> None:
        waits.append(wait)
        let_pass(coingecko.store, "coingecko", wait)

    coingecko.retry_policy = replace(QUICK, sleep=sleep)
    server.pages(COINS, [coin(f"c{n}") for n in range(20 * 250)])
    run_id = coingecko.open()["run_id"]
    while (extracted := coingecko.extract(run_id, "coingecko")).state == "again":
        pass
    assert extracted.state == "throttled"
    assert 1 <= extracted.wait_seconds <= 2
    assert sum(waits) <= (0 if seconds == 11 else 10)
    assert (sum(waits) > 7) == (seconds == 100)


@pytest.mark.parametrize("pause", ["100000", "9" * 400])
def test_a_pause_beyond_what_a_run_waits_ends_it_as_throttled(
    server: Server, coingecko: Pipeline, pause: str
) -> None:
    server.replies[COINS] = [
        Reply([coin(f"c{n}") for n in range(250)]),
        Reply(status=429, headers={"Retry-After": pause}),
    ]
    run = coingecko.run()
    assert coingecko.pauses == []
    note: Document = runs.get(coingecko.store, run["_id"])["inputs"]["coingecko"]
    assert (note["status"], note["pages"], note["error"]["code"]) == ("throttled", 1, "throttled")
    assert "page 2" in note["error"]["message"]
    assert "MAX_WAIT_MINUTES" in note["error"]["message"]
    # What had come is loaded all the same.
    assert coingecko.store.market_data.count_documents({}) == 250


def test_a_source_that_throttles_for_ever_is_left_to_another_run(
    server: Server, coingecko: Pipeline
) -> None:
    with_quota(coingecko, 60, 10, MAX_WAIT_MINUTES="2")
    server.replies[COINS] = Reply(status=429, headers={"Retry-After": "10"})
    run = coingecko.run()
    assert coingecko.pauses == [10, 10, 10, 10, 16, 32]
    note: Document = runs.get(coingecko.store, run["_id"])["inputs"]["coingecko"]
    assert (note["status"], note["throttling"]["refusals"]) == ("throttled", 7)
    # Called once more, as Lambda may, nobody is asked.
    asked = len(server.seen)
    coingecko.store.runs.update_one(
        {"_id": run["_id"]},
        {"$set": {"status": "running"}, "$unset": {"closing": ""}},
    )
    assert coingecko.extract(run["_id"], "coingecko") == Extracted(ExtractionState.THROTTLED, [])
    assert len(server.seen) == asked


def test_what_was_throttled_is_gone_on_with_at_its_page(
    server: Server, coingecko: Pipeline
) -> None:
    rows = [coin(f"c{n}") for n in range(600)]
    server.pages(COINS, rows)
    answer: Any = server.replies[COINS]
    slow = Reply(status=429, headers={"Retry-After": "9999"})

    def throttled(seen: Seen) -> Reply:
        return slow if seen.query["page"] == "2" else answer(seen)

    server.replies[COINS] = throttled
    first = coingecko.run()
    server.replies[COINS] = answer
    let_pass(coingecko.store, "coingecko", 9999)
    before = len(server.seen)
    opened = coingecko.open()
    note: Document = runs.get(coingecko.store, first["_id"])["inputs"]["coingecko"]
    kept: Document = {name: note[name] for name in ("pages", "last_rows", "left_out")}
    run_inputs.set_input(coingecko.store, opened["run_id"], "coingecko", kept)
    told = coingecko.extract(opened["run_id"], "coingecko")
    assert told.state == ExtractionState.THROTTLED
    let_pass(coingecko.store, "coingecko", told.wait_seconds)
    coingecko.extract(opened["run_id"], "coingecko")
    assert [seen.query["page"] for seen in server.seen[before:]] == ["2", "3"]


# --- a pause that a failure asks for --------------------------------------------------------


def blocked_seconds(pipeline: Pipeline) -> float:
    """For how long nobody asks the source."""
    until = overview.get(pipeline.store, "coingecko")["bucket"].get("blocked_until")
    return (until - clock.now()).total_seconds() if until else 0


DOWN = {
    "503": Reply(status=503, headers={"Retry-After": "400"}),
    "a redirect": Reply(status=302, headers={"Retry-After": "400", "Location": "/moved"}),
    "an error with status 200": Reply({"error": "we move"}, headers={"Retry-After": "400"}),
}


@pytest.mark.parametrize("reply", DOWN.values(), ids=DOWN)
def test_the_pause_of_a_page_s_last_failure_is_kept(
    server: Server, coingecko: Pipeline, reply: Reply
) -> None:
    coingecko.retry_policy = replace(QUICK, attempts=1)
    server.replies[COINS] = reply
    run = coingecko.run()
    assert line(run, "coingecko")["error"]["code"] == "upstream_unavailable"
    assert 390 < blocked_seconds(coingecko) <= 400
    assert throttling(coingecko, run)["since"] is None
    # So the next run asks nothing before.
    server.replies[COINS] = Reply([coin()])
    asked = len(server.seen)
    told = coingecko.extract(coingecko.open()["run_id"], "coingecko")
    assert (told.state, len(server.seen)) == ("throttled", asked)
    assert 390 < told.wait_seconds <= 400


def test_the_pause_that_a_probe_is_told_is_kept(server: Server, coingecko: Pipeline) -> None:
    coingecko.environment = {**coingecko.environment, "CIRCUIT_BREAKER_FAILURES": "1"}
    server.replies[COINS] = Reply(status=500)
    coingecko.run()
    let_pass(coingecko.store, "coingecko", 3600)
    server.replies[COINS] = DOWN["503"]
    asked = len(server.seen)
    run = coingecko.run()
    assert len(server.seen) == asked + 1
    assert line(run, "coingecko")["status"] == "failed"
    assert 390 < blocked_seconds(coingecko) <= 400


@pytest.mark.parametrize("reply", DOWN.values(), ids=DOWN)
def test_the_pause_of_a_page_that_is_asked_again_is_kept(
    server: Server, coingecko: Pipeline, reply: Reply
) -> None:
    """Page 1 is asked again, as ranks are missing; page 3 waits for the pause."""
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "3"}
    pages = [
        [coin(f"c{rank}", market_cap_rank=rank) for rank in range(first, first + 250)]
        for first in (1, 260, 510)
    ]

    def answer(seen: Seen) -> Reply:
        page = int(seen.query["page"])
        if page == 1 and len(server.seen) > 1:
            return reply
        return Reply(pages[page - 1])

    server.replies[COINS] = answer
    run = coingecko.run()
    assert [seen.query["page"] for seen in server.seen] == ["1", "2", "1", "3"]
    (pause,) = coingecko.pauses
    assert 390 < pause <= 400
    assert line(run, "coingecko")["inserted"] == 750


def test_half_a_second_is_a_pause(server: Server, coingecko: Pipeline) -> None:
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "1"}
    down = Reply(status=503, headers={"Retry-After": ".5"})
    server.replies[COINS] = [down, Reply([coin(f"c{n}") for n in range(250)])]
    run = coingecko.run()
    assert (run["status"], coingecko.pauses) == ("success", [1])
