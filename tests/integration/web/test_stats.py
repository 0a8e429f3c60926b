"""`/stats` over a real MongoDB."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from marketdata import clock
from marketdata.documents.errors import FailedInput, StoredError
from marketdata.runs import closing, opening
from marketdata.sources.base import Quota, Upstream
from marketdata.store import alerts
from marketdata.store.connection import Store
from marketdata.store.sources import breaker, limiter, overview
from tests.support.events import hourly_event
from tests.support.gateway import Gateway, ok
from tests.support.pipeline import let_pass
from tests.support.records import (
    make_batch,
    make_quarantined,
    make_record,
    make_run,
    put_records,
)


def test_figures_before_anything_happened(gateway: Gateway) -> None:
    body = ok(gateway.get("/stats"))
    assert body["counts"] == {"raw": 0, "normalized": 0, "quarantined": 0}
    assert body["incremental"] == {
        "last_run": None,
        "total": {"new": 0, "updated": 0, "unchanged": 0},
    }
    for name in ("last_run", "last_successful_run", "error_rate", "average_latency_ms", "run_id"):
        assert body[name] is None


def test_figures_come_from_closed_batches(gateway: Gateway, store: Store) -> None:
    runs = [
        make_run(1, inserted=10, seconds=4),
        make_run(2, unchanged=8, updated=2, seconds=8),
        make_run(3, status="failed", seconds=0),
        make_run(4, status="running"),
    ]
    store.runs.insert_many(runs)
    store.batches.insert_many(
        [
            make_batch(runs[0], inserted=10),
            make_batch(runs[1], unchanged=8, updated=2),
            make_batch(runs[2], state="failed"),
            make_batch(runs[3], 0, inserted=1, duplicate=2, quarantined=7),
            make_batch(runs[3], 1, state="loading"),
        ]
    )
    put_records(store, make_record())
    store.quarantine.insert_one(make_quarantined(1))
    store.database["raw_batches"].insert_one({"_id": "a", "rows": 50})
    body = ok(gateway.get("/stats"))
    assert body["counts"] == {"raw": 50, "normalized": 1, "quarantined": 1}
    assert body["totals"] == {
        "rows_in": 30,
        "inserted": 11,
        "updated": 2,
        "unchanged": 8,
        "duplicate": 2,
        "quarantined": 7,
        "resolved": 0,
    }
    assert body["incremental"] == {
        "last_run": {"run_id": runs[3]["_id"], "new": 1, "updated": 0, "unchanged": 0},
        "total": {"new": 11, "updated": 2, "unchanged": 8},
    }
    assert body["last_run"]["run_id"] == body["run_id"] == runs[3]["_id"]
    assert body["last_successful_run"]["run_id"] == runs[1]["_id"]
    assert body["error_rate"] == pytest.approx(1 / 3)
    assert body["average_latency_ms"] == 4000
    assert body["window"] == {"runs": 3, "success": 2, "partial_success": 0, "failed": 1}


UPSTREAM = Upstream("coingecko", "api.example.com", "identity")
QUOTA = Quota(per_minute=6, burst=10)


def source(gateway: Gateway, name: str = "coingecko") -> dict[str, Any]:
    found: dict[str, Any] = ok(gateway.get("/stats"))["sources"][name]
    return found


def test_the_bucket_of_a_source_is_told_as_it_is_now(gateway: Gateway, store: Store) -> None:
    for _ in range(3):
        assert limiter.take(store, UPSTREAM, QUOTA).granted
    told = source(gateway)["throttling"]
    # Half a token is the margin, 3 are taken, and one comes back each 10 seconds.
    assert 6.5 <= told.pop("tokens_left") < 7
    assert told == {
        "quota_per_minute": 6,
        "burst": 10,
        "rate_per_minute": 6,
        "throttle_events": 0,
        "last_throttle_event_at": None,
        "blocked_until": None,
        "retry_latency_seconds": None,
    }
    # No more than 10 go out within a minute, whatever has come back by then.
    let_pass(store, "coingecko", 20)
    assert source(gateway)["throttling"]["tokens_left"] == 7
    let_pass(store, "coingecko", 120)
    assert source(gateway)["throttling"]["tokens_left"] == 9.5

    refused = limiter.note_refusal(store, UPSTREAM, QUOTA, 100)
    told = source(gateway)["throttling"]
    assert (told["tokens_left"], told["rate_per_minute"], told["throttle_events"]) == (0, 3, 1)
    left = datetime.fromisoformat(told["blocked_until"]) - datetime.fromisoformat(
        told["last_throttle_event_at"]
    )
    assert refused.wait_seconds == pytest.approx(left.total_seconds(), abs=0.01)
    let_pass(store, "coingecko", 101)
    told = source(gateway)["throttling"]
    assert (told["blocked_until"], told["rate_per_minute"]) == (None, 3)
    assert 1 <= told["tokens_left"] < 2
    limiter.note_answer(store, UPSTREAM, retry_latency=101.5)
    assert source(gateway)["throttling"]["retry_latency_seconds"] == 101.5


def test_tokens_that_a_minute_has_no_room_for_are_not_told(gateway: Gateway, store: Store) -> None:
    quota = Quota(per_minute=6, burst=3)
    while limiter.take(store, UPSTREAM, quota).granted:
        let_pass(store, "coingecko", 10.5)
    assert source(gateway)["throttling"]["tokens_left"] < 1


def test_how_far_the_data_of_a_source_reaches_is_told(gateway: Gateway, store: Store) -> None:
    assert limiter.take(store, UPSTREAM, QUOTA).granted
    assert source(gateway)["watermark"] is None
    moment = datetime(2025, 5, 9, 7, 15, tzinfo=UTC)
    mark = {"timestamp": moment, "received_at": moment, "run_id": "run", "moved_at": moment}
    store.sources.update_one({"_id": "coingecko"}, {"$set": {"watermarks": mark}})
    told = "2025-05-09T07:15:00.000Z"
    assert source(gateway)["watermark"] == {
        "timestamp": told,
        "received_at": told,
        "run_id": "run",
        "moved_at": told,
    }


def test_the_circuit_and_the_failures_of_a_source_are_told(gateway: Gateway, store: Store) -> None:
    error: StoredError = {"code": "upstream_unavailable", "message": "no answer"}
    counted: FailedInput = {"code": error["code"], "message": error["message"], "run_id": "run"}
    cooldown = timedelta(minutes=15)
    assert limiter.take(store, UPSTREAM, QUOTA).granted
    assert source(gateway)["breaker"] == {"state": "closed", "until": None, "failures": 0}
    for number in range(2):
        breaker.note_failure(
            store, UPSTREAM, f"run {number}", error, most_failures=2, cooldown=cooldown
        )
        alerts.count_outcome(store, "coingecko", f"run {number}", counted)
    told = source(gateway)
    until = datetime.fromisoformat(told["breaker"].pop("until")) - clock.now()
    assert timedelta(minutes=14) < until <= cooldown
    assert told["breaker"] == {"state": "open", "failures": 2}
    assert (told["consecutive_failures"], told["last_success_at"]) == (2, None)
    assert told["last_failure_at"] is not None
    assert told["last_error"] == counted

    let_pass(store, "coingecko", 901)
    known = overview.get(store, "coingecko").get("breaker")
    assert breaker.admit(store, UPSTREAM, known, "probe", seconds=60).allowed
    assert source(gateway)["breaker"]["state"] == "half_open"
    assert source(gateway)["breaker"]["until"] is not None
    limiter.note_answer(store, UPSTREAM)
    alerts.count_outcome(store, "coingecko", "run 3", None)
    told = source(gateway)
    assert told["breaker"] == {"state": "closed", "until": None, "failures": 0}
    assert told["consecutive_failures"] == 0
    assert told["last_success_at"] > told["last_failure_at"]
    assert told["last_error"] == counted


def test_what_is_parked_is_told_until_it_is_loaded(gateway: Gateway, store: Store) -> None:
    told = ok(gateway.get("/stats"))
    assert (told["parked_batches"], told["sources"]) == (0, {})
    parked = {"state": "failed", "parked": True}
    owners = [make_run(n, status="partial_success") for n in range(1, 14)]
    batches = [make_batch(run, 0, state="failed") | parked for run in owners]
    batches += [make_batch(owners[0], 1) | {"parked": True}, make_batch(owners[0], 2)]
    batches += [make_batch(owners[0], 3, state="failed"), make_batch(owners[0], 4, state="pending")]
    of_file = {"_id": "a file's", "input": "csv-1f", "source": "csv", **parked}
    batches += [make_batch(owners[1], 5, state="failed") | of_file]
    store.runs.insert_many([*owners, make_run(20)])
    store.batches.insert_many(batches)
    for name in ("coingecko", "coinpaprika", "csv"):
        alerts.count_outcome(store, name, "run", None)
    told = ok(gateway.get("/stats"))
    assert told["parked_batches"] == 14
    shown = {
        name: (one["parked_batches"], one["parked_runs"]) for name, one in told["sources"].items()
    }
    last = [run["_id"] for run in reversed(owners)]
    assert shown == {
        "coingecko": (13, last[:10]),
        "coinpaprika": (0, []),
        "csv": (1, [owners[1]["_id"]]),
    }
    for run in owners[1:]:
        ok(gateway.post(f"/runs/{run['_id']}/retry"), 202)
        store.runs.delete_many({"status": "running"})
    told = ok(gateway.get("/stats"))
    assert told["parked_batches"] == 2
    assert told["sources"]["coingecko"]["parked_batches"] == 1
    assert told["sources"]["coingecko"]["parked_runs"] == [owners[0]["_id"]]


def test_the_lease_of_a_source_is_told_while_a_run_has_it(gateway: Gateway, store: Store) -> None:
    envelope = hourly_event()
    run_id = opening.open_run(store, envelope, "arn:x", ["coingecko"])["run_id"]
    told = source(gateway)["lease"]
    left = datetime.fromisoformat(told.pop("expires_at")) - clock.now()
    assert timedelta(minutes=19) < left <= timedelta(minutes=20)
    assert told == {"run_id": run_id, "number": 1}
    closing.close(store, run_id)
    assert source(gateway)["lease"] is None


def test_uploads_have_no_quota(gateway: Gateway, store: Store) -> None:
    assert ok(gateway.get("/stats"))["sources"] == {}
    alerts.count_outcome(store, "csv", "run 1", None)
    told = source(gateway, "csv")
    assert (told["throttling"], told["breaker"], told["last_error"]) == (None, None, None)
    assert told["last_success_at"] is not None
