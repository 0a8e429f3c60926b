"""Fetching pages of a source: retries, pauses and time limits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from marketdata import clock
from marketdata.runs.extraction.outcome import Extracted, ExtractionState
from marketdata.runs.extraction.policy import RETRY_POLICY
from marketdata.store import runs
from marketdata.store.connection import Store
from tests.support.pages import coins, note, pages_asked, raw_rows
from tests.support.pipeline import QUICK, Pipeline, counts, line, without_quota
from tests.support.upstream import Reply, Seen, Upstream

COINS = "/coins"


@pytest.fixture
def coingecko(store: Store, server: Upstream) -> Pipeline:
    return Pipeline(
        store,
        {"COINGECKO_API_URL": server.url + COINS, "COINGECKO_PAGES": "3"},
        ["coingecko"],
    )


def test_a_call_whose_time_is_over_still_asks_within_a_second(
    server: Upstream, coingecko: Pipeline
) -> None:
    server.pages(COINS, coins(250))
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "1"}
    coingecko.seconds = 0
    assert coingecko.extract(coingecko.open()["run_id"], "coingecko").state == "extracted"


def test_a_throttled_source_is_waited_for_by_the_state_machine(
    server: Upstream, coingecko: Pipeline
) -> None:
    rows, slow = coins(500), Reply(status=429, headers={"Retry-After": "7"})
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "2"}
    told = 0

    def answer(seen: Seen) -> Reply:
        nonlocal told
        if seen.query["page"] == "2" and told < 2:
            told += 1
            return slow
        start = (int(seen.query["page"]) - 1) * 250
        return Reply(rows[start : start + 250])

    server.replies[COINS] = answer
    run = coingecko.run()
    assert coingecko.pauses == [7, 7]
    assert pages_asked(server) == ["1", "2", "2", "2"]
    result = line(run, "coingecko")
    assert (result["status"], result["extracted"]) == ("success", 500)
    throttling = note(coingecko, run["_id"])["throttling"]
    assert (throttling["events"], throttling["refusals"], throttling["waited_seconds"]) == (
        2,
        2,
        14,
    )


@pytest.mark.parametrize(
    "body",
    [
        {"status": {"error_code": 429, "error_message": "You've exceeded the Rate Limit."}},
        {"error": "Too many requests"},
        {"status": {"error_code": 1015}},
    ],
)
def test_an_answer_that_tells_of_too_many_requests_is_one_with_a_pause(
    server: Upstream, coingecko: Pipeline, body: dict[str, Any]
) -> None:
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "1"}
    refusal = Reply(body, headers={"Retry-After": "40"})
    server.replies[COINS] = [refusal, refusal, Reply(coins(250))]
    run = coingecko.run()
    assert coingecko.pauses == [40, 40]
    assert (run["status"], counts(line(run, "coingecko"))) == ("success", {"inserted": 250})
    throttling = note(coingecko, run["_id"])["throttling"]
    assert (throttling["refusals"], throttling["waited_seconds"]) == (2, 80)


def test_a_run_that_waits_is_no_orphan(server: Upstream, coingecko: Pipeline) -> None:
    server.replies[COINS] = Reply(status=429, headers={"Retry-After": "1000"})
    run_id = coingecko.open()["run_id"]
    extracted = coingecko.extract(run_id, "coingecko")
    assert (extracted.state, extracted.wait_seconds) == ("throttled", 1000)
    left = runs.get(coingecko.store, run_id)["expires_at"] - clock.now()
    assert left.total_seconds() > 1100
    # Nor is it one later, whatever other steps of the run say meanwhile.
    runs.heartbeat(coingecko.store, run_id)
    left = runs.get(coingecko.store, run_id)["expires_at"] - clock.now()
    assert left.total_seconds() > 1000 + 19 * 60


def test_a_short_fault_is_tried_again_within_the_call(
    server: Upstream, coingecko: Pipeline
) -> None:
    server.replies[COINS] = [Reply(status=503), Reply(coins(250))]
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "1"}
    run_id = coingecko.open()["run_id"]
    assert coingecko.extract(run_id, "coingecko") == Extracted(ExtractionState.EXTRACTED, [0])
    assert len(server.seen) == 2
    assert note(coingecko, run_id)["error"] is None


def test_pauses_between_attempts_are_random_within_a_time_that_doubles(
    server: Upstream, coingecko: Pipeline
) -> None:
    """So many pauses are looked at that chance alone breaks this once in three million times."""
    server.replies[COINS] = Reply(status=503)
    coingecko.environment = {
        **coingecko.environment,
        **without_quota("coingecko"),
        "CIRCUIT_BREAKER_FAILURES": "1000",
    }
    pauses: list[float] = []
    coingecko.retry_policy = replace(
        QUICK,
        attempts=6,
        longest_pause_seconds=RETRY_POLICY.longest_pause_seconds,
        sleep=pauses.append,
    )
    calls = 25
    for _ in range(calls):
        coingecko.run()
    assert len(pauses) == calls * 5
    for attempt, longest in enumerate([0.5, 1, 2, 4, 5]):
        drawn = pauses[attempt::5]
        assert 0 <= min(drawn) < longest / 2 < max(drawn) <= longest, attempt
        assert len(set(drawn)) > calls / 2, attempt


def test_the_beginning_of_a_payload_that_is_none_is_kept_in_the_note(
    server: Upstream, coingecko: Pipeline
) -> None:
    said = {"status": {"error_code": 1006, "error_message": "x" * 5000}}
    server.replies[COINS] = Reply(said)
    error = note(coingecko, coingecko.run()["_id"])["error"]
    assert (error["code"], len(error["payload_head"])) == ("upstream_refused", 2048)
    assert error["payload_head"] == json.dumps(said)[:2048]
    server.replies[COINS] = Reply(json.dumps(coins(3)).encode()[:-30])
    error = note(coingecko, coingecko.run()["_id"])["error"]
    assert (error["code"], error["payload_head"][:9]) == ("upstream_unavailable", '[{"id": "')


def test_a_page_that_breaks_off_brings_nothing_until_it_is_whole(
    server: Upstream, coingecko: Pipeline
) -> None:
    whole = json.dumps(coins(3)).encode()
    server.replies[COINS] = [Reply(whole[:-20]), Reply(whole)]
    run = coingecko.run()
    assert line(run, "coingecko")["inserted"] == 3
    assert raw_rows(coingecko.store) == coins(3)


def test_a_silent_source_is_waited_for_no_longer_than_its_share(
    server: Upstream, coingecko: Pipeline
) -> None:
    server.replies[COINS] = Reply(hang=True)
    coingecko.retry_policy = replace(QUICK, attempts=3, page_seconds=3)
    result = line(coingecko.run(), "coingecko")
    assert result["status"] == "failed"
    assert "within 0.3 s" in result["error"]["message"]
    assert len(server.seen) == 3


KEY = "CG-0a1b2c3d4e5f6g7h8i9j"
STORED = ("runs", "sources", "raw_batches", "batches", "quarantine", "alerts")
ECHOES = {
    "a refusal": Reply({"error": f"invalid key {KEY}"}, status=401),
    "an error with status 200": Reply({"error": f"invalid key {KEY}"}),
    "too many requests": Reply({"error": f"{KEY} is over its limit"}, status=429),
    "a server error": Reply(f"<h1>no shard for {KEY}</h1>".encode(), status=500),
    "another object": Reply({"key": {"x" * 180: KEY}}),
    "a redirect": Reply(status=301, headers={"Location": f"/{KEY}/coins?key={KEY}"}),
}


@pytest.mark.parametrize("page", [1, 2], ids=["the first page", "a page beyond"])
@pytest.mark.parametrize("address", [f"{COINS}?x_cg_demo_api_key={KEY}", f"/{KEY}{COINS}"])
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_a_key_that_the_source_repeats_is_nowhere(
    store: Store,
    server: Upstream,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    echo: Reply,
    address: str,
    page: int,
) -> None:
    def answer(seen: Seen) -> Reply:
        return echo if int(seen.query["page"]) == page else Reply(coins(3))

    server.replies[address.partition("?")[0]] = answer
    pipeline = Pipeline(store, {"COINGECKO_API_URL": server.url + address}, ["coingecko"])
    run = pipeline.run()
    assert run["status"] == ("failed" if page == 1 else "partial_success")
    told = note(pipeline, run["_id"])
    said = str(told["error"] if page == 1 else told["warnings"])
    assert f"{server.url}" in said
    stored = [str(list(getattr(store, name).find({}))) for name in STORED]
    for text in (said, *stored, caplog.text, *capsys.readouterr()):
        # Not even a part of it, where a message shows the beginning of what came.
        assert KEY[:12] not in text
