"""Quotas of sources: shared by all who ask, on the server's clock, slower after a refusal."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from marketdata.runs.extraction.outcome import Extracted, ExtractionState
from marketdata.runs.extraction.pages import extract
from marketdata.runs.extraction.policy import RetryPolicy
from marketdata.sources.base import PageRequest, Quota, Upstream
from marketdata.sources.coingecko import CoinGecko
from marketdata.store import runs
from marketdata.store.connection import Store, connect
from marketdata.store.sources import limiter, overview
from tests.support.documents import Document
from tests.support.pipeline import Pipeline, coin, let_pass, line
from tests.support.upstream import Reply, Seen
from tests.support.upstream import Upstream as Server

COINS = "/coins"
HERE = Upstream("coingecko", "api.example", "one")
QUOTA = Quota(per_minute=60, burst=20)


@pytest.fixture
def coingecko(store: Store, server: Server) -> Pipeline:
    environment = {"COINGECKO_API_URL": server.url + COINS, "COINGECKO_PAGES": "20"}
    return Pipeline(store, environment, ["coingecko"])


def with_quota(pipeline: Pipeline, per_minute: float, burst: int, **more: str) -> None:
    quota = {"COINGECKO_RATE_PER_MINUTE": str(per_minute), "COINGECKO_BURST": str(burst)}
    pipeline.environment = {**pipeline.environment, **quota, **more}


def bucket(store: Store) -> Document:
    found: Document = overview.get(store, "coingecko")["bucket"]
    return found


def throttling(pipeline: Pipeline, run: Document) -> Document:
    found: Document = runs.get(pipeline.store, run["_id"])["inputs"]["coingecko"]["throttling"]
    return found


@contextmanager
def several(uri: str, store: Store, count: int) -> Iterator[list[Store]]:
    """Clients of their own for as many functions."""
    with ExitStack() as opened:
        stores = [connect(uri, store.database.name) for _ in range(count)]
        for own in stores:
            opened.callback(own.client.close)
        yield stores


def take_all(store: Store, quota: Quota, here: Upstream = HERE) -> tuple[int, limiter.Permit]:
    """Take tokens until one is refused; how many, and the refusal."""
    taken = 0
    while (permit := limiter.take(store, here, quota)).granted:
        taken += 1
    return taken, permit


# --- the bucket ---------------------------------------------------------------------------


def test_a_full_bucket_holds_the_burst_less_a_margin(store: Store) -> None:
    taken, refusal = take_all(store, QUOTA)
    # Sixty a minute are one a second, and the margin is of five seconds.
    assert taken == 15
    assert 0.5 < refusal.wait_seconds <= 1.02
    assert refusal.blocked is False
    assert bucket(store)["taken"] == 15


def test_whoever_leaves_a_reserve_takes_no_more_than_that(store: Store) -> None:
    taken = 0
    while (permit := limiter.take(store, HERE, QUOTA, reserve=6)).granted:
        taken += 1
    assert taken == 9
    # Until the bucket is full again, as that makes fewer waits of the same quota.
    assert 8.5 < permit.wait_seconds < 9.2
    left, _ = take_all(store, QUOTA)
    assert left == 6


def test_a_reserve_that_the_bucket_never_holds_leaves_a_full_bucket(store: Store) -> None:
    quota = Quota(per_minute=3, burst=5)
    assert limiter.take(store, HERE, quota, reserve=40).granted
    refused = limiter.take(store, HERE, quota, reserve=40)
    assert not refused.granted
    # One is missing of a full bucket, which takes 20 s; of the last minute none may be left.
    assert 60 < refused.wait_seconds <= 65
    let_pass(store, "coingecko", refused.wait_seconds + 0.01)
    assert limiter.take(store, HERE, quota, reserve=40).granted


def test_a_reserve_counts_for_the_last_minute_as_well(store: Store) -> None:
    """More than `burst` within a minute is refused by the source, however full the bucket is."""
    quota = Quota(per_minute=3, burst=5)
    for _ in range(3):
        assert limiter.take(store, HERE, quota, reserve=1).granted
        let_pass(store, "coingecko", 12)
    assert limiter.take(store, HERE, quota, reserve=1).granted
    assert not limiter.take(store, HERE, quota, reserve=1).granted
    # The one that was left is there.
    assert limiter.take(store, HERE, quota).granted


def test_the_rate_that_a_reserve_leaves() -> None:
    assert limiter.spare_rate(Quota(3, 5), 1) == pytest.approx(3 * limiter.PACE)
    assert limiter.spare_rate(Quota(3, 5), 4) == pytest.approx(60 / limiter.WINDOW_SECONDS)
    assert limiter.spare_rate(Quota(100_000, 100_000), 1) == pytest.approx(99_000)


def test_it_is_refilled_at_the_rate_and_no_further_than_full(store: Store) -> None:
    take_all(store, QUOTA)
    let_pass(store, "coingecko", 7.2)
    assert take_all(store, QUOTA)[0] == 7
    let_pass(store, "coingecko", 10_000)
    assert take_all(store, QUOTA)[0] == 15


def test_waiting_as_long_as_told_is_enough(store: Store) -> None:
    for quota in (QUOTA, Quota(7, 3), Quota(0.5, 1), Quota(3, 5)):
        store.sources.delete_many({})
        _, refusal = take_all(store, quota)
        let_pass(store, "coingecko", refusal.wait_seconds)
        assert limiter.take(store, HERE, quota).granted, quota


@pytest.mark.parametrize("quota", [Quota(30, 30), Quota(30, 5), Quota(10, 15), Quota(3, 5)])
def test_no_minute_has_more_requests_than_quota_or_burst(store: Store, quota: Quota) -> None:
    moment, moments = 0.0, []
    while moment < 400:
        permit = limiter.take(store, HERE, quota)
        if permit.granted:
            moments.append(moment)
        else:
            # Times are cut to milliseconds, and the database's go on meanwhile.
            moment += permit.wait_seconds
            let_pass(store, "coingecko", permit.wait_seconds)
    most = max(quota.per_minute, quota.burst)
    within = [sum(first <= m < first + 60 for m in moments) for first in moments]
    assert most * 0.7 <= max(within) <= most
    # In the long run it is nearly the quota, not less than it had to be.
    assert len(moments) >= 0.85 * quota.per_minute * 400 / 60


def test_eight_at_once_take_no_more_than_there_is(mongodb_uri: str, store: Store) -> None:
    with several(mongodb_uri, store, 8) as stores, ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(8)

        def take(own: Store) -> int:
            barrier.wait()
            return sum(limiter.take(own, HERE, Quota(60, 35)).granted for _ in range(10))

        # All make the document at once, too.
        assert sum(pool.map(take, stores)) in (30, 31, 32, 33)


def test_another_quota_takes_effect_at_once(store: Store) -> None:
    take_all(store, QUOTA)
    _, refusal = take_all(store, Quota(600, 60))
    assert refusal.wait_seconds < 0.11
    limiter.note_refusal(store, HERE, Quota(600, 60), 1)
    assert bucket(store)["rate_per_minute"] == 300
    let_pass(store, "coingecko", 1)
    limiter.take(store, HERE, Quota(100, 60))
    assert bucket(store)["rate_per_minute"] == 100


def test_another_key_or_host_has_refusals_of_its_own(store: Store) -> None:
    take_all(store, QUOTA)
    assert limiter.note_refusal(store, HERE, QUOTA, 3600).wait_seconds == 3600
    assert limiter.take(store, HERE, QUOTA).blocked
    there = replace(HERE, identity="two")
    limiter.take(store, there, QUOTA)
    assert (bucket(store)["rate_per_minute"], bucket(store)["strikes"]) == (60, 0)
    assert bucket(store)["blocked_until"] is None


def test_an_upstream_is_its_host_and_its_key(store: Store) -> None:
    plain = PageRequest(1, "https://user:password@api.example/coins", {"page": "1"})
    found = Upstream.of("x", plain)
    assert found.host == "api.example"
    assert Upstream.of("x", replace(plain, page=2, params={"page": "2"})) == found
    keyed = Upstream.of("x", replace(plain, headers={"x-key": "SECRET"}))
    assert keyed != found
    assert "SECRET" not in repr(keyed)


# --- a source that refuses ----------------------------------------------------------------


def test_a_refusal_halves_the_rate_and_answers_bring_it_back(store: Store) -> None:
    take_all(store, QUOTA)
    limiter.note_refusal(store, HERE, QUOTA, 7)
    assert bucket(store)["rate_per_minute"] == 30
    # Those that were under way are refused, too; that is the same refusal.
    assert 7 < limiter.note_refusal(store, HERE, QUOTA, 9).wait_seconds <= 9
    assert (bucket(store)["rate_per_minute"], bucket(store)["strikes"]) == (30, 1)
    let_pass(store, "coingecko", 9)
    # One request may try at once, and the next has to wait as long as the lower rate says.
    assert limiter.take(store, HERE, QUOTA).granted
    assert 1.9 < limiter.take(store, HERE, QUOTA).wait_seconds <= 2.1
    for _ in range(9):
        limiter.note_answer(store, HERE)
    assert bucket(store)["rate_per_minute"] == 57
    limiter.note_answer(store, HERE)
    limiter.note_answer(store, HERE)
    assert (bucket(store)["rate_per_minute"], bucket(store)["strikes"]) == (60, 0)


def test_a_source_that_keeps_refusing_is_asked_ever_less(store: Store) -> None:
    limiter.take(store, HERE, QUOTA)
    pauses: list[float] = []
    for named in [None, None, None, 1, 1, 1]:
        if named and len(pauses) == 3:
            limiter.note_answer(store, HERE)
        wait = limiter.note_refusal(store, HERE, QUOTA, named).wait_seconds
        let_pass(store, "coingecko", wait)
        pauses.append(wait)
    assert pauses == [60, 120, 240, 1, 2, 4]
    for _ in range(20):
        let_pass(store, "coingecko", limiter.note_refusal(store, HERE, QUOTA, None).wait_seconds)
    assert bucket(store)["rate_per_minute"] == pytest.approx(6)
    assert limiter.note_refusal(store, HERE, QUOTA, None).wait_seconds == 3600


@pytest.mark.parametrize("status", [429, 402])
def test_a_pause_until_a_date_is_kept_by_the_run(
    server: Server, coingecko: Pipeline, status: int
) -> None:
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "1"}
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    server.replies[COINS] = [
        Reply(status=status, headers={"Retry-After": until}),
        Reply([coin(f"c{n}") for n in range(250)]),
    ]
    run = coingecko.run()
    (pause,) = coingecko.pauses
    assert 80 < pause <= 91
    assert line(run, "coingecko")["inserted"] == 250
    told = throttling(coingecko, run)
    assert (told["events"], told["refusals"], told["waited_seconds"]) == (1, 1, pause)
    assert told["quota_per_minute"] == 3
    assert told["retry_latency_seconds"] is not None
    assert bucket(coingecko.store)["events"] == 1


def test_what_was_learnt_survives_the_run(server: Server, coingecko: Pipeline) -> None:
    with_quota(coingecko, 60, 10, COINGECKO_PAGES="1")
    server.replies[COINS] = [
        Reply(status=429, headers={"Retry-After": "20"}),
        Reply([coin(f"c{n}") for n in range(250)]),
    ]
    coingecko.run()
    assert bucket(coingecko.store)["rate_per_minute"] == 33
    run = coingecko.run()
    assert throttling(coingecko, run)["rate_per_minute"] == 33
    assert bucket(coingecko.store)["rate_per_minute"] == 36


# --- many at once -------------------------------------------------------------------------


class Counting:
    """A source that counts requests, and refuses those beyond its quota."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second, self.burst = per_second, burst
        self.tokens, self.at = burst, time.monotonic()
        self.moments: deque[float] = deque()
        self.refused = 0
        self._lock = threading.Lock()

    def __call__(self, seen: Seen) -> Reply:
        with self._lock:
            now = time.monotonic()
            self.tokens = min(self.burst, self.tokens + (now - self.at) * self.per_second)
            self.at = now
            self.moments.append(now)
            if self.tokens < 1:
                self.refused += 1
                return Reply(status=429, headers={"Retry-After": "1"})
            self.tokens -= 1
        page = int(seen.query["page"])
        return Reply([coin(f"{page}-{n}") for n in range(250)])


@pytest.mark.timeout(120)
def test_eight_extractors_never_exceed_the_quota_and_get_every_page(
    mongodb_uri: str, store: Store, server: Server
) -> None:
    # The clock is the real one, and the quota so high that a minute's worth takes seconds.
    quota = {"COINGECKO_RATE_PER_MINUTE": "240", "COINGECKO_BURST": "30"}
    counting = Counting(per_second=4, burst=30)
    server.replies[COINS] = counting
    environment = {"COINGECKO_API_URL": server.url + COINS, "COINGECKO_PAGES": "6", **quota}
    for number in range(8):
        # One source has one run at a time; here the limit alone is on trial.
        run: Document = {
            "_id": f"run {number}",
            "status": "running",
            "holds": [f"nothing {number}"],
            "inputs": {"coingecko": {"source": "coingecko", "status": "pending"}},
        }
        runs.create(store, run)

    def whole(number: int) -> Extracted:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            extracted = extract(
                stores[number],
                f"run {number}",
                CoinGecko.from_environment(environment, {}),
                rows_per_batch=5000,
                remaining_seconds=lambda: 60,
                retry_policy=RetryPolicy(),
            )
            if extracted.state == "throttled":
                time.sleep(extracted.wait_seconds)
            elif extracted.state != "again":
                return extracted
        raise AssertionError("the time is over")

    began = time.monotonic()
    with several(mongodb_uri, store, 8) as stores, ThreadPoolExecutor(8) as pool:
        assert (
            list(pool.map(whole, range(8)))
            == [Extracted(ExtractionState.EXTRACTED, list(range(6)))] * 8
        )
    took = time.monotonic() - began
    assert (len(counting.moments), counting.refused) == (48, 0)
    # It was the quota that they waited for, and not much else.
    assert 5 < took < 60
