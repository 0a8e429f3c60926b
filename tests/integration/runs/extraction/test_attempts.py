"""The budget of a page: attempts and time belong to it within the run, whatever waits in between.

Sources fail by script, and quotas are the ones that users have. The time of waits passes for all
that counts it, without being waited for.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from marketdata.runs.extraction.outcome import ExtractionState
from marketdata.runs.extraction.policy import RETRY_POLICY
from marketdata.store import runs
from marketdata.store.connection import Store
from marketdata.store.sources import overview
from tests.support.documents import Document
from tests.support.pages import coins, note
from tests.support.pipeline import QUICK, Pipeline, coin, counts, let_pass, line
from tests.support.upstream import Reply, Seen, Upstream

COINS, TICKERS = "/coins", "/tickers"

TICKER = {
    "id": "btc-bitcoin",
    "name": "Bitcoin",
    "symbol": "BTC",
    "rank": 1,
    "last_updated": "2025-05-09T06:00:00Z",
    "quotes": {"USD": {"price": 1.0, "volume_24h": 1.0, "market_cap": 1.0}},
}
PATIENT = replace(QUICK, attempts=RETRY_POLICY.attempts, page_seconds=RETRY_POLICY.page_seconds)
"""As often and as long as for users; a source that is silent is left sooner."""

LASTING = {
    "500": Reply(b"Oops", status=500),
    "502 in HTML": Reply(b"<html>Bad gateway</html>", status=502, content_type="text/html"),
    "503": Reply(status=503),
    "a reset": Reply(coins(3), declared_length=100_000),
    "silence": Reply(hang=True),
    "truncated JSON": Reply(json.dumps(coins(3)).encode()[:-30]),
    "an empty body": Reply(b""),
}


@pytest.fixture
def both(store: Store, server: Upstream) -> Pipeline:
    server.replies[TICKERS] = Reply([TICKER])
    return Pipeline(
        store,
        {
            "COINGECKO_API_URL": server.url + COINS,
            "COINGECKO_PAGES": "9",
            "COINPAPRIKA_API_URL": server.url + TICKERS,
        },
        ["coingecko", "coinpaprika"],
        retry_policy=PATIENT,
    )


def asked(server: Upstream) -> int:
    return sum(seen.path == COINS for seen in server.seen)


@pytest.mark.parametrize("reply", LASTING.values(), ids=LASTING)
def test_a_source_that_fails_for_good_ends_soon_and_the_others_are_there(
    server: Upstream, both: Pipeline, reply: Reply
) -> None:
    server.replies[COINS] = reply
    run = both.run()
    assert asked(server) == RETRY_POLICY.attempts
    assert sum(both.pauses) == 0
    failed = line(run, "coingecko")
    assert (run["status"], failed["status"]) == ("partial_success", "failed")
    assert failed["error"]["code"] == "upstream_unavailable"
    assert f"tried {RETRY_POLICY.attempts} times" in failed["error"]["message"]
    assert counts(line(run, "coinpaprika")) == {"inserted": 1}


def test_waits_for_quota_do_not_begin_the_attempts_anew(server: Upstream, both: Pipeline) -> None:
    """The permits of the quota are used up by the first pages."""

    def answer(seen: Seen) -> Reply:
        page = int(seen.query["page"])
        return Reply(status=500) if page >= 5 else Reply([coin(f"{page} {n}") for n in range(250)])

    server.replies[COINS] = answer
    run = both.run()
    assert both.pauses, "the quota was not used up: this test shows nothing"
    assert pages_asked_of(server)[-RETRY_POLICY.attempts :] == ["5"] * RETRY_POLICY.attempts
    assert pages_asked_of(server).count("5") == RETRY_POLICY.attempts
    assert run["status"] == "partial_success"
    # What came before the failure is loaded.
    assert counts(line(run, "coingecko")) == {"inserted": 1_000}


def pages_asked_of(server: Upstream) -> list[str]:
    return [seen.query["page"] for seen in server.seen if seen.path == COINS]


def test_a_page_is_not_tried_for_longer_than_its_time(server: Upstream, both: Pipeline) -> None:
    """Another run uses up the quota: each further attempt would wait for a permit."""
    server.replies[COINS] = Reply(status=500)
    both.retry_policy = replace(PATIENT, attempts=50)
    run = both.run()
    waited = sum(both.pauses)
    assert 0 < waited <= RETRY_POLICY.page_seconds
    assert 5 < asked(server) < 12
    assert line(run, "coingecko")["error"]["code"] == "upstream_unavailable"


def test_attempts_of_calls_that_died_count(server: Upstream, both: Pipeline) -> None:
    server.replies[COINS] = Reply(status=500)
    run_id = both.open()["run_id"]

    class Died(Exception):
        pass

    def die(_seconds: float) -> None:
        raise Died

    for failures in (1, 2):
        both.retry_policy = replace(PATIENT, sleep=die)
        with pytest.raises(Died):
            both.extract(run_id, "coingecko")
        attempts = note(both, run_id)["attempts"]
        assert (attempts["page"], attempts["failures"]) == (1, failures)
        assert attempts["error"]["code"] == "upstream_unavailable"
    both.retry_policy = PATIENT
    assert both.extract(run_id, "coingecko").state == ExtractionState.FAILED
    assert asked(server) == RETRY_POLICY.attempts


def test_a_call_without_time_leaves_the_rest_to_the_next(server: Upstream, both: Pipeline) -> None:
    server.replies[COINS] = [Reply(status=500), Reply(coins(250))]
    both.environment = {**both.environment, "COINGECKO_PAGES": "1"}
    run_id = both.open()["run_id"]
    both.seconds = 0
    assert both.extract(run_id, "coingecko").state == ExtractionState.AGAIN
    both.seconds = 60
    assert both.extract(run_id, "coingecko").state == ExtractionState.EXTRACTED
    assert note(both, run_id)["error"] is None
    assert asked(server) == 2


def test_each_page_has_a_budget_of_its_own(server: Upstream, both: Pipeline) -> None:
    told: dict[str, int] = {}

    def answer(seen: Seen) -> Reply:
        page = seen.query["page"]
        told[page] = told.get(page, 0) + 1
        if told[page] < RETRY_POLICY.attempts:
            return Reply(status=500)
        return Reply([coin(f"{page} {n}") for n in range(250)])

    server.replies[COINS] = answer
    both.environment = {**both.environment, "COINGECKO_PAGES": "2"}
    run = both.run()
    assert run["status"] == "success"
    assert told == {"1": RETRY_POLICY.attempts, "2": RETRY_POLICY.attempts}


def test_a_run_of_its_own_begins_the_budget_anew(server: Upstream, both: Pipeline) -> None:
    server.replies[COINS] = Reply(status=500)
    both.run()
    server.seen.clear()
    both.run()
    assert asked(server) == RETRY_POLICY.attempts


def test_a_pause_that_the_source_asks_for_is_kept_and_added_to_the_time(
    server: Upstream, both: Pipeline
) -> None:
    down: Any = Reply(status=503, headers={"Retry-After": "150.5"})
    server.replies[COINS] = [down, down, Reply(coins(250)), Reply([])]
    run = both.run()
    assert run["status"] == "success"
    assert sum(both.pauses) >= 2 * 150
    (attempts,) = [note["attempts"] for note in run["inputs"].values() if "attempts" in note]
    assert (attempts["failures"], attempts["paused_seconds"]) == (2, 301)


def test_a_source_that_asks_for_pauses_for_ever_fails_by_its_attempts(
    server: Upstream, both: Pipeline
) -> None:
    server.replies[COINS] = Reply(status=503, headers={"Retry-After": "30"})
    run = both.run()
    assert asked(server) == RETRY_POLICY.attempts
    failed = line(run, "coingecko")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "upstream_unavailable")
    assert "pause of 30 s" in failed["error"]["message"]


# --- a source that refuses ------------------------------------------------------------------

REFUSING = {
    "429": Reply(status=429),
    "402": Reply(status=402),
    "429 in the body": Reply({"error": 429}),
    "words": Reply({"errors": ["Too many requests"]}),
    "a pause that can't be read": Reply(status=429, headers={"Retry-After": "soon"}),
}
TWO_MINUTES = 120


def assert_throttled(pipeline: Pipeline, run: Document, pages: int) -> str:
    """The input has ended as throttled, and the circuit breaker knows nothing of it."""
    result = line(run, "coingecko")
    assert (run["status"], result["status"], result["pages"]) == (
        "partial_success",
        "throttled",
        pages,
    )
    assert result["error"]["code"] == "throttled"
    found = overview.get(pipeline.store, "coingecko")
    assert found.get("breaker", {}).get("failures", 0) == 0
    kept: Document = runs.get(pipeline.store, run["_id"])["inputs"]["coingecko"]
    assert kept["throttling"]["since"] is None
    message: str = result["error"]["message"]
    return message


@pytest.mark.parametrize("page", [1, 3, 5])
@pytest.mark.parametrize("reply", REFUSING.values(), ids=REFUSING)
def test_a_source_that_refuses_for_good_ends_within_two_minutes(
    server: Upstream, both: Pipeline, reply: Reply, page: int
) -> None:
    """At the quota that users have. Page 5 waits some seconds for its permit."""

    def answer(seen: Seen) -> Reply:
        number = int(seen.query["page"])
        return reply if number >= page else Reply([coin(f"{number} {n}") for n in range(250)])

    server.replies[COINS] = answer
    run = both.run()
    assert 60 <= sum(both.pauses) < TWO_MINUTES
    assert pages_asked_of(server)[page - 1 :] == [str(page)] * 2
    message = assert_throttled(both, run, page - 1)
    assert f"POST /refresh with this run as `resume` goes on at page {page}" in message
    assert counts(line(run, "coinpaprika")) == {"inserted": 1}
    assert counts(line(run, "coingecko")) == ({"inserted": 250 * (page - 1)} if page > 1 else {})


@pytest.mark.parametrize("later", [0, 30, 90, 3600])
def test_the_runs_after_one_that_was_refused_end_as_soon(
    server: Upstream, both: Pipeline, later: int
) -> None:
    """A cooldown of our own that another run has begun is waited for no longer than one's own."""
    server.replies[COINS] = Reply(status=429)
    for _ in range(4):
        before = sum(both.pauses)
        run = both.run()
        assert sum(both.pauses) - before < TWO_MINUTES
        assert_throttled(both, run, 0)
        let_pass(both.store, "coingecko", later)
    server.replies[COINS] = Reply([coin(f"c{n}") for n in range(250)])
    both.environment = {**both.environment, "COINGECKO_PAGES": "1"}
    let_pass(both.store, "coingecko", 3600)
    assert both.run()["status"] == "success"


def test_a_source_that_refuses_once_is_waited_for(server: Upstream, both: Pipeline) -> None:
    both.environment = {**both.environment, "COINGECKO_PAGES": "1"}
    server.replies[COINS] = [Reply(status=429), Reply(coins(250))]
    run = both.run()
    assert (run["status"], both.pauses) == ("success", [60])
    assert asked(server) == 2


def test_refusals_cost_no_attempts_and_take_of_the_page_s_time(
    server: Upstream, both: Pipeline
) -> None:
    both.environment = {**both.environment, "COINGECKO_PAGES": "1"}
    server.replies[COINS] = [Reply(status=500), Reply(status=429), Reply(coins(250))]
    run = both.run()
    assert (run["status"], both.pauses) == ("success", [60])
    (attempts,) = [note["attempts"] for note in run["inputs"].values() if "attempts" in note]
    assert (attempts["failures"], attempts["error"]["code"]) == (1, "throttled")


def test_a_pause_that_the_source_names_is_waited_for_beyond_two_minutes(
    server: Upstream, both: Pipeline
) -> None:
    both.environment = {**both.environment, "COINGECKO_PAGES": "1"}
    slow = Reply(status=429, headers={"Retry-After": "300"})
    server.replies[COINS] = [slow, slow, slow, Reply(coins(250))]
    run = both.run()
    assert (run["status"], both.pauses) == ("success", [300, 300, 300])


def test_a_pause_that_the_source_named_to_another_run_is_waited_for(
    server: Upstream, both: Pipeline
) -> None:
    both.environment = {**both.environment, "COINGECKO_PAGES": "1", "MAX_WAIT_MINUTES": "5"}
    server.replies[COINS] = Reply(status=429, headers={"Retry-After": "400"})
    assert_throttled(both, both.run(), 0)
    assert both.pauses == []
    server.replies[COINS] = Reply(coins(250))
    both.environment = {**both.environment, "MAX_WAIT_MINUTES": "30"}
    assert both.run()["status"] == "success"
    (pause,) = both.pauses
    assert 390 < pause <= 400


def test_what_we_add_to_the_pauses_of_a_source_takes_of_the_page_s_time(
    server: Upstream, both: Pipeline
) -> None:
    server.replies[COINS] = Reply(status=429, headers={"Retry-After": "5"})
    assert_throttled(both, both.run(), 0)
    named = 5 * asked(server)
    assert sum(both.pauses) - named <= RETRY_POLICY.page_seconds


def test_a_page_beyond_the_last_that_is_refused_costs_nothing(
    server: Upstream, both: Pipeline
) -> None:
    both.environment = {**both.environment, "COINGECKO_PAGES": "1"}

    def answer(seen: Seen) -> Reply:
        return Reply(status=429) if seen.query["page"] == "2" else Reply(coins(3))

    server.replies[COINS] = answer
    run = both.run()
    assert sum(both.pauses) < TWO_MINUTES
    result = line(run, "coingecko")
    assert (result["status"], result["error"]["code"]) == ("partial_success", "incomplete")
    assert "whether more follow is not known" in result["error"]["message"]
    assert counts(result) == {"inserted": 3}
