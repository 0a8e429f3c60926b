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
from marketdata.store.connection import Store
from tests.support.pages import coins, note
from tests.support.pipeline import QUICK, Pipeline, coin, counts, line
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
    server.replies[COINS] = [down, down, Reply(coins(3))]
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
