"""The circuit breaker: a source that keeps failing is let alone, and then tried by one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta

import pytest

from marketdata import clock
from marketdata.runs.extraction.outcome import Extracted
from marketdata.runs.extraction.pages import extract
from marketdata.sources.base import Upstream
from marketdata.sources.coingecko import CoinGecko
from marketdata.store import runs
from marketdata.store.connection import Store, connect
from marketdata.store.sources import breaker, overview
from tests.support.documents import Document
from tests.support.pipeline import QUICK, Pipeline, coin, let_pass, line, without_quota
from tests.support.upstream import Reply, Seen, upstream
from tests.support.upstream import Upstream as Server

COINS = "/coins"
DOWN = Reply(b"Oops", status=503)
REST = 15 * 60
HERE = Upstream("coingecko", "api.example", "one")


@pytest.fixture
def coingecko(store: Store, server: Server) -> Pipeline:
    environment = {
        "COINGECKO_API_URL": server.url + COINS,
        "CIRCUIT_BREAKER_FAILURES": "3",
        # Several runs within a moment: what stops them must be the breaker.
        **without_quota("coingecko"),
    }
    return Pipeline(store, environment, ["coingecko"])


def stored(pipeline: Pipeline) -> Document:
    found: Document = overview.get(pipeline.store, "coingecko").get("breaker", {})
    return found


def note(pipeline: Pipeline, run: Document) -> Document:
    found: Document = runs.get(pipeline.store, run["_id"])["inputs"]["coingecko"]
    return found


def break_it(server: Server, pipeline: Pipeline, reply: Reply = DOWN) -> None:
    server.replies[COINS] = reply
    for _ in range(3):
        assert line(pipeline.run(), "coingecko")["status"] == "failed"
    assert stored(pipeline)["state"] == "open"
    server.seen.clear()


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (DOWN, "upstream_unavailable"),
        (Reply(status=403), "upstream_refused"),
        (Reply({"status": 1}), "upstream_malformed"),
        (Reply(b"<html>", content_type="text/html"), "upstream_malformed"),
    ],
)
def test_a_source_that_failed_several_runs_is_not_asked(
    server: Server, coingecko: Pipeline, reply: Reply, code: str
) -> None:
    break_it(server, coingecko, reply)
    run = coingecko.run()
    assert server.seen == []
    found = note(coingecko, run)
    assert (found["status"], found["error"]["code"]) == ("skipped", "circuit_open")
    message = found["error"]["message"]
    assert "the last 3 runs" in message
    assert code in message
    left = found["error"]["next_probe_at"] - clock.now()
    assert timedelta(minutes=14) < left <= timedelta(minutes=15, seconds=1)
    assert clock.iso(found["error"]["next_probe_at"]) in message


def test_one_run_counts_once_however_often_it_tries(server: Server, coingecko: Pipeline) -> None:
    server.replies[COINS] = DOWN
    run = coingecko.run()
    assert len(server.seen) == QUICK.attempts
    assert (stored(coingecko)["state"], stored(coingecko)["failures"]) == ("closed", 1)
    assert stored(coingecko)["last_failed_run"] == run["_id"]


def test_the_run_that_opens_it_has_failed_and_was_not_skipped(
    server: Server, coingecko: Pipeline
) -> None:
    server.replies[COINS] = DOWN
    coingecko.run()
    coingecko.run()
    server.seen.clear()
    found = note(coingecko, coingecko.run())
    assert (found["status"], found["error"]["code"]) == ("failed", "upstream_unavailable")
    assert len(server.seen) == QUICK.attempts


def test_an_answer_in_between_begins_the_count_anew(server: Server, coingecko: Pipeline) -> None:
    for _ in range(2):
        server.replies[COINS] = DOWN
        coingecko.run()
        coingecko.run()
        server.pages(COINS, [coin("a")])
        assert line(coingecko.run(), "coingecko")["error"] is None
        assert stored(coingecko)["failures"] == 0


def second_page(server: Server, reply: Reply | None) -> None:
    """Let the first page be a good one, and the second what is told, or none at all."""
    full = Reply([coin(f"c{n}") for n in range(250)])
    short = Reply([coin("short")])

    def answer(seen: Seen) -> Reply:
        page = seen.query.get("page")
        if page == "1":
            return short if reply is None else full
        return Reply([]) if reply is None or page == "3" else reply

    server.replies[COINS] = answer


def asked(server: Server) -> list[str]:
    """The pages that were asked for since the last time."""
    pages = [seen.query["page"] for seen in server.seen]
    server.seen.clear()
    return pages


@pytest.mark.parametrize("healed", [Reply([coin("late")]), None])
def test_a_good_page_before_the_one_that_failed_closes_nothing(
    server: Server, coingecko: Pipeline, healed: Reply | None
) -> None:
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "2"}
    second_page(server, DOWN)
    for failures in (1, 2, 3):
        assert line(coingecko.run(), "coingecko")["status"] == "partial_success"
        assert stored(coingecko)["failures"] == failures
    assert stored(coingecko)["state"] == "open"
    asked(server)
    assert note(coingecko, coingecko.run())["error"]["code"] == "circuit_open"
    assert asked(server) == []

    # The probe goes as far as the page that failed, and asks for each page once.
    let_pass(coingecko.store, "coingecko", REST)
    assert line(coingecko.run(), "coingecko")["error"]["code"] == "upstream_unavailable"
    assert asked(server) == ["1", "2"]
    assert (stored(coingecko)["state"], stored(coingecko)["failures"]) == ("open", 4)

    # With that page answered, or none any more, it is closed.
    let_pass(coingecko.store, "coingecko", REST)
    second_page(server, healed)
    assert line(coingecko.run(), "coingecko")["error"] is None
    assert (stored(coingecko)["state"], stored(coingecko)["failures"]) == ("closed", 0)
    assert {"page", "probe", "reason"} & stored(coingecko).keys() == set()


def test_a_failure_of_an_earlier_page_does_not_hide_that_of_a_later_one(
    server: Server, coingecko: Pipeline
) -> None:
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "2"}
    second_page(server, DOWN)
    coingecko.run()
    server.replies[COINS] = DOWN
    coingecko.run()
    second_page(server, DOWN)
    coingecko.run()
    assert (stored(coingecko)["state"], stored(coingecko)["failures"]) == ("open", 3)


def test_a_probe_that_runs_out_of_time_is_given_back(server: Server, coingecko: Pipeline) -> None:
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "3"}
    second_page(server, DOWN)
    for _ in range(3):
        coingecko.run()
    let_pass(coingecko.store, "coingecko", REST)
    second_page(server, Reply([coin("late")]))
    run_id = coingecko.open()["run_id"]
    coingecko.seconds = 12
    calls = 0

    def slowly(seen: Seen) -> Reply:
        nonlocal calls
        calls += 1
        coingecko.seconds = 0
        return Reply([coin(f"c{n}") for n in range(250)])

    server.replies[COINS] = slowly
    assert coingecko.extract(run_id, "coingecko").state == "again"
    assert calls == 1
    assert stored(coingecko)["state"] == "open"
    assert stored(coingecko)["next_probe_at"] <= clock.now()


def test_a_probe_that_succeeds_closes_it(server: Server, coingecko: Pipeline) -> None:
    break_it(server, coingecko)
    let_pass(coingecko.store, "coingecko", REST)
    server.pages(COINS, [coin("a")])
    assert line(coingecko.run(), "coingecko")["inserted"] == 1
    assert stored(coingecko)["state"] == "closed"
    assert "reason" not in stored(coingecko)
    assert line(coingecko.run(), "coingecko")["error"] is None


def test_a_probe_that_fails_opens_it_again_after_one_request(
    server: Server, coingecko: Pipeline
) -> None:
    break_it(server, coingecko)
    let_pass(coingecko.store, "coingecko", REST)
    found = note(coingecko, coingecko.run())
    assert (found["status"], found["error"]["code"]) == ("failed", "upstream_unavailable")
    assert len(server.seen) == 1
    assert (stored(coingecko)["state"], stored(coingecko)["failures"]) == ("open", 4)
    assert stored(coingecko)["next_probe_at"] > clock.now() + timedelta(minutes=14)
    assert note(coingecko, coingecko.run())["status"] == "skipped"


def test_a_throttled_source_has_not_failed(server: Server, coingecko: Pipeline) -> None:
    server.replies[COINS] = Reply(status=429, headers={"Retry-After": "99999"})
    for _ in range(4):
        assert note(coingecko, coingecko.run())["status"] == "throttled"
        let_pass(coingecko.store, "coingecko", 99_999)
    assert stored(coingecko).get("failures", 0) == 0


def test_a_probe_that_is_throttled_is_given_back(server: Server, coingecko: Pipeline) -> None:
    break_it(server, coingecko)
    let_pass(coingecko.store, "coingecko", REST)
    server.replies[COINS] = [
        Reply(status=429, headers={"Retry-After": "9"}),
        Reply([coin("a")]),
        Reply([]),
    ]
    assert line(coingecko.run(), "coingecko")["status"] == "success"
    assert coingecko.pauses == [9]
    assert stored(coingecko)["state"] == "closed"


def test_another_address_has_a_circuit_of_its_own(server: Server, coingecko: Pipeline) -> None:
    break_it(server, coingecko)
    with upstream() as other:
        other.replies[COINS] = Reply([coin("a")])
        coingecko.environment = {
            **coingecko.environment,
            "COINGECKO_API_URL": other.url + COINS,
        }
        assert line(coingecko.run(), "coingecko")["inserted"] == 1


@pytest.mark.timeout(60)
def test_of_eight_that_come_at_once_one_probes(
    mongodb_uri: str, server: Server, coingecko: Pipeline
) -> None:
    with ExitStack() as opened:
        stores = [connect(mongodb_uri, coingecko.store.database.name) for _ in range(8)]
        for own in stores:
            opened.callback(own.client.close)
        one_of_eight_probes(stores, server, coingecko)


def one_of_eight_probes(stores: list[Store], server: Server, coingecko: Pipeline) -> None:
    break_it(server, coingecko)
    let_pass(coingecko.store, "coingecko", REST)
    ready, answer = threading.Barrier(8), threading.Event()

    def slowly(_: Seen) -> Reply:
        answer.wait(20)
        return Reply([coin(f"c{n}") for n in range(250)])

    server.replies[COINS] = slowly
    left = threading.Semaphore(0)
    # One source has one run at a time; here the circuit alone is on trial.
    coingecko.store.sources.update_one({"_id": "coingecko"}, {"$unset": {"lease": ""}})
    for number in range(8):
        run: Document = {
            "_id": f"run {number}",
            "status": "running",
            "holds": [f"nothing {number}"],
            "inputs": {"coingecko": {"source": "coingecko", "status": "pending"}},
        }
        runs.create(coingecko.store, run)
    environment = coingecko.environment

    def ask(number: int) -> Extracted:
        ready.wait()
        try:
            return extract(
                stores[number],
                f"run {number}",
                CoinGecko.from_environment(environment, {}),
                rows_per_batch=5000,
                remaining_seconds=lambda: 60,
            )
        finally:
            left.release()

    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(ask, number) for number in range(8)]
        for _ in range(7):
            assert left.acquire(timeout=30)
        answer.set()
        states = sorted(result.result().state for result in results)
    assert states == ["extracted", *["skipped"] * 7]
    assert len(server.seen) == 1


def test_a_probe_that_is_never_heard_of_again_does_not_keep_others_off(
    server: Server, coingecko: Pipeline
) -> None:
    break_it(server, coingecko)
    let_pass(coingecko.store, "coingecko", REST)
    store = coingecko.store
    here = Upstream("coingecko", "", stored(coingecko)["identity"])
    dead = breaker.admit(
        store, here, overview.get(store, "coingecko").get("breaker"), "dead", seconds=60
    )
    assert (dead.allowed, dead.probe) == (True, "dead")
    found = note(coingecko, coingecko.run())
    assert (found["status"], found["error"]["code"]) == ("skipped", "circuit_open")
    let_pass(store, "coingecko", 61)
    server.replies[COINS] = Reply([coin("a")])
    assert line(coingecko.run(), "coingecko")["inserted"] == 1
