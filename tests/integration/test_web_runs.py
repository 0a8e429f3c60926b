"""`/runs`, `/refresh`, `/stats`, `/quarantine`, `/health` and `/uploads` over a real MongoDB."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
import requests
from moto import mock_aws

from marketdata import clock
from marketdata.aws.s3 import Uploads
from marketdata.aws.schedule import Rate, Rule, RuleState, timetable
from marketdata.documents.errors import FailedInput
from marketdata.errors import TransientError
from marketdata.runs import lifecycle, triggers
from marketdata.sources.base import Quota, Upstream
from marketdata.store import alerts, sources
from marketdata.store.connection import Store
from marketdata.store.server_time import ServerClock
from tests.support.gateway import Engine, Gateway, event, make_gateway
from tests.support.pipeline import Pipeline, coin, let_pass
from tests.support.records import (
    NOW,
    make_batch,
    make_quarantined,
    make_record,
    make_run,
    put_records,
)
from tests.support.upstream import Reply
from tests.support.upstream import Upstream as Server


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def gateway(store: Store, engine: Engine) -> Gateway:
    return make_gateway(lambda: store, engine=engine)


def ok(answer: Any, status: int = 200) -> dict[str, Any]:
    assert answer.status == status, answer.text
    body: dict[str, Any] = answer.json()
    return body


# --- refresh ------------------------------------------------------------------------------


def test_refresh_starts_one_run_at_a_time(gateway: Gateway, store: Store, engine: Engine) -> None:
    put_records(store, make_record(), make_record(minutes=1))
    store.raw_batches.insert_one({"_id": "a", "rows": 7})
    first = ok(gateway.post("/refresh"), 202)
    assert first["status"] == "running"
    assert first["pre_run_counts"] == {"raw": 7, "normalized": 2}
    assert [run_id for run_id, _ in engine.started] == [first["run_id"]]
    put_records(store, make_record(minutes=2))
    again = ok(gateway.post("/refresh", {}), 202)
    assert (again["run_id"], again["status"]) == (first["run_id"], "already_running")
    assert again["pre_run_counts"] == {"raw": 7, "normalized": 2}
    assert len(engine.started) == 1

    run = ok(gateway.get(f"/runs/{first['run_id']}"))
    assert run["status"] == "running"
    assert run["trigger"] == "refresh"
    assert run["ended_at"] is None
    assert run["duration"] is None
    assert run["pre_run_counts"] == {"raw": 7, "normalized": 2}
    assert [source["status"] for source in run["sources"]] == ["running"]


def test_refresh_leaves_sources_to_the_run_that_has_them(store: Store, engine: Engine) -> None:
    gateway = make_gateway(lambda: store, engine=engine, sources=("coingecko", "coinpaprika"))
    first = ok(gateway.post("/refresh", {"sources": ["coinpaprika"]}), 202)
    assert first["under_way"] == []
    second = ok(gateway.post("/refresh"), 202)
    left = [{"source": "coinpaprika", "run_id": first["run_id"]}]
    assert (second["status"], second["under_way"]) == ("running", left)
    assert second["run_id"] != first["run_id"]
    run = ok(gateway.get(f"/runs/{second['run_id']}"))
    assert [source["source"] for source in run["sources"]] == ["coingecko"]
    assert run["under_way"] == left
    third = ok(gateway.post("/refresh", {"sources": ["coinpaprika", "coingecko"]}), 202)
    assert third["status"] == "already_running"
    assert third["run_id"] in (first["run_id"], second["run_id"])
    assert {one["source"]: one["run_id"] for one in third["under_way"]} == {
        "coinpaprika": first["run_id"],
        "coingecko": second["run_id"],
    }
    assert len(engine.started) == 2


def test_a_run_that_could_not_be_started_is_closed(
    gateway: Gateway, store: Store, engine: Engine
) -> None:
    engine.failure = TransientError("Step Functions does not answer")
    assert gateway.post("/refresh").status == 503
    (run,) = store.runs.find({})
    body = ok(gateway.get(f"/runs/{run['_id']}"))
    assert body["status"] == "failed"
    assert body["error"]["code"] == "transient"
    engine.failure = None
    assert ok(gateway.post("/refresh"), 202)["status"] == "running"


def test_refresh_does_what_it_is_asked_for(gateway: Gateway, store: Store, engine: Engine) -> None:
    asked = {"sources": ["coingecko", "csv", "coingecko"], "force": True}
    first = ok(gateway.post("/refresh", asked), 202)
    assert engine.started[0][1]["detail"] == {"sources": ["coingecko", "csv"], "force": True}
    run = ok(gateway.get(f"/runs/{first['run_id']}"))
    assert run["force"] is True
    resumed = ok(gateway.post("/refresh", {"resume": first["run_id"]}), 202)
    assert (resumed["run_id"], resumed["status"]) == (first["run_id"], "already_running")
    lifecycle.close(store, first["run_id"])
    second = ok(gateway.post("/refresh", {"resume": first["run_id"]}), 202)
    assert second["status"] == "running"
    assert engine.started[1][1]["detail"] == {"resume": first["run_id"]}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"sources": ["nasdaq"]}, 404, "known are coingecko, csv"),
        ({"sources": []}, 400, "sources"),
        ({"sources": "coingecko"}, 400, "sources"),
        ({"source": ["coingecko"]}, 400, "source"),
        ({"force": "maybe"}, 400, "force"),
        ({"resume": "a run"}, 400, "is no id of a run"),
        ({"resume": "no-such-run"}, 404, "There is no run 'no-such-run'"),
    ],
)
def test_what_refresh_can_not_be_asked_for(
    gateway: Gateway, store: Store, body: dict[str, Any], status: int, message: str
) -> None:
    answer = gateway.post("/refresh", body)
    assert answer.status == status
    assert message in answer.json()["error"]["message"]
    assert store.runs.count_documents({}) == 0


def test_a_run_that_is_whole_is_not_resumed(gateway: Gateway, store: Store) -> None:
    run = make_run(1)
    store.runs.insert_one(run)
    for path, body in (("/refresh", {"resume": run["_id"]}), (f"/runs/{run['_id']}/retry", None)):
        answer = gateway.post(path, body)
        assert answer.status == 409
        assert "nothing to go on with" in answer.json()["error"]["message"]
    assert gateway.post("/runs/nothing/retry").status == 404
    assert gateway.post(f"/runs/{run['_id']}/retry", token="").status == 401


def test_what_was_parked_is_retried(gateway: Gateway, store: Store, engine: Engine) -> None:
    run = make_run(1, status="partial_success")
    parked = make_batch(run, state="failed", rows=7) | {"parked": True, "resumptions": 3}
    told = {
        "batch_id": parked["_id"],
        "source": "coingecko",
        "input": "coingecko",
        "number": 0,
        "rows": 7,
        "attempts": 20,
        "parked": True,
        "error": parked["error"],
    }
    store.runs.insert_one(run | {"failed_batches": [told], "failed_batches_total": 1})
    store.batches.insert_one(parked)
    assert gateway.post("/refresh", {"resume": run["_id"]}).status == 409
    shown = ok(gateway.get(f"/runs/{run['_id']}"))
    assert shown["failed_batches"] == [
        told
        | {"error": shown["failed_batches"][0]["error"]}
        | {"now": {"run_id": run["_id"], "state": "failed"}}
    ]
    started = ok(gateway.post(f"/runs/{run['_id']}/retry"), 202)
    lifecycle.open_run(store, engine.started[0][1], "x", ["coingecko"])
    again = ok(gateway.get(f"/runs/{started['run_id']}"))
    assert again["resume_from"] == {"run_id": run["_id"], "batches": 1}
    assert again["sources"][0]["resume_from"] == [{"run_id": run["_id"], "batches": 1}]
    # The old run still says what had failed there, and where it is now.
    (failed,) = ok(gateway.get(f"/runs/{run['_id']}"))["failed_batches"]
    assert failed["now"] == {"run_id": started["run_id"], "state": "pending"}
    assert failed["parked"] is False


# --- runs ---------------------------------------------------------------------------------


def test_a_run_that_ended(gateway: Gateway, store: Store) -> None:
    run = make_run(1, inserted=8, quarantined=2)
    store.runs.insert_one(run)
    store.batches.insert_many(
        [
            make_batch(run, 0, inserted=8, quarantined=2),
            make_batch(run, 1, state="failed", rows=5),
            make_batch(run, 2, state="pending", rows=4),
        ]
    )
    body = ok(gateway.get(f"/runs/{run['_id']}"))
    assert (body["run_id"], body["status"], body["trigger"]) == (run["_id"], "success", "schedule")
    assert (body["started_at"], body["ended_at"], body["duration"]) == (
        "2025-05-09T09:15:00.000Z",
        "2025-05-09T09:15:10.000Z",
        10.0,
    )
    assert body["totals"]["inserted"] == 8
    assert body["sources"][0]["quarantined"] == 2
    assert body["batch_states"] == {
        "total": 3,
        "pending": 1,
        "loading": 0,
        "loaded": 1,
        "failed": 1,
    }
    assert [(b["number"], b["state"]) for b in body["batches"]] == [
        (0, "loaded"),
        (1, "failed"),
        (2, "pending"),
    ]
    assert body["batches"][0]["counts"]["rows_in"] == 10
    assert [(b["number"], b["rows"]) for b in body["failed_batches"]] == [(1, 5), (2, 4)]
    assert body["failed_batches"][0]["error"]["code"] == "store_unavailable"
    for name in ("applied_mappings", "quarantined_mappings", "skipped_mappings"):
        assert body[name] == []
    assert body["resume_from"] is None


def test_what_was_new_updated_and_unchanged_in_each_run(
    gateway: Gateway, store: Store, server: Server
) -> None:
    pipeline = Pipeline(store, {"COINGECKO_API_URL": server.url + "/coins"}, ["coingecko"])

    def told(*rows: dict[str, Any]) -> dict[str, Any]:
        """A run of these rows, as the API tells of it by itself and in the list."""
        server.replies["/coins"] = Reply(list(rows))
        run = ok(gateway.get(f"/runs/{pipeline.run()['_id']}"))
        listed = ok(gateway.get("/runs"))["data"]
        (again,) = [one for one in listed if one["run_id"] == run["run_id"]]
        (source,) = run["sources"]
        for shown in (run, source, again, again["sources"][0]):
            assert shown["incremental"] == run["incremental"]
        for name in ("rows_in", "inserted", "updated", "unchanged", "duplicate", "quarantined"):
            assert source[name] == run["totals"][name], name
        assert run["status"] == "success"
        return run

    def incremental(new: int, updated: int, unchanged: int) -> dict[str, int]:
        return {"new": new, "updated": updated, "unchanged": unchanged}

    a, b, c, d = (coin(name) for name in "abcd")
    first = told(a, b, c, d)
    assert first["incremental"] == incremental(4, 0, 0)
    assert (first["sources"][0]["status"], first["sources"][0]["skipped_batches"]) == ("success", 0)

    same = told(a, b, c, d)
    assert same["incremental"] == incremental(0, 0, 4)
    assert (same["sources"][0]["status"], same["sources"][0]["skipped_batches"]) == ("skipped", 1)
    assert "Nothing had changed" in same["sources"][0]["reason"]

    changed = told(
        a,
        b | {"current_price": 2.5},
        c | {"current_price": 2.5},
        # Quoted anew is a record of its own, beside the former one.
        d | {"last_updated": "2025-05-09T07:00:00.000Z"},
        coin("e"),
        coin("e"),
        coin("f", current_price=-1),
    )
    assert changed["incremental"] == incremental(2, 2, 1)
    totals = changed["totals"]
    assert (totals["rows_in"], totals["duplicate"], totals["quarantined"]) == (7, 1, 1)
    assert changed["sources"][0]["status"] == "success"
    # Each run goes on telling what it did, whatever came after it.
    for run in (first, same):
        assert ok(gateway.get(f"/runs/{run['run_id']}"))["incremental"] == run["incremental"]
    total = ok(gateway.get("/stats"))["incremental"]["total"]
    assert total == incremental(6, 2, 5)
    assert store.market_data.count_documents({}) == 6


def test_what_is_pending_in_a_running_run_has_not_failed(gateway: Gateway, store: Store) -> None:
    run = make_run(1, status="running")
    store.runs.insert_one(run)
    store.batches.insert_many(
        [make_batch(run, 0, inserted=10), make_batch(run, 1, state="loading")]
    )
    body = ok(gateway.get(f"/runs/{run['_id']}"))
    assert body["failed_batches"] == []
    assert body["sources"][0]["inserted"] == 10
    assert body["totals"]["inserted"] == 10


def test_a_large_run_shows_its_first_batches(gateway: Gateway, store: Store) -> None:
    run = make_run(1)
    store.runs.insert_one(run)
    store.batches.insert_many([make_batch(run, n, inserted=10) for n in range(150)])
    body = ok(gateway.get(f"/runs/{run['_id']}"))
    assert len(body["batches"]) == 100
    assert body["batch_states"]["total"] == 150


def test_runs_are_listed_with_filters_and_cursors(gateway: Gateway, store: Store) -> None:
    runs = [
        make_run(
            number,
            status=("success", "failed", "partial_success")[number % 3],
            trigger=("schedule", "refresh")[number % 2],
            source=("coingecko", "coinpaprika")[number % 2],
            # Several at one time: the id decides.
            started=NOW + timedelta(hours=number // 4),
        )
        for number in range(20)
    ]
    runs.append(make_run(99, status="running"))
    store.runs.insert_many(runs)

    def found(**query: Any) -> list[str]:
        body = ok(gateway.get("/runs", **query, limit=3))
        assert body["run_id"] == runs[-1]["_id"]
        data = body["data"]
        while body["pagination"]["has_more"]:
            body = ok(gateway.get("/runs", limit=3, cursor=body["pagination"]["next_cursor"]))
            data += body["data"]
        return [run["run_id"] for run in data]

    def expected(**fields: str) -> list[str]:
        chosen = [
            run
            for run in runs
            if all(run[k] == v for k, v in fields.items() if k != "source")
            and fields.get("source") in (None, *run["inputs"])
        ]
        chosen.sort(key=lambda run: (run["started_at"], run["_id"]), reverse=True)
        return [run["_id"] for run in chosen]

    assert found() == expected()
    assert found(status="failed") == expected(status="failed")
    assert found(status="running") == [runs[-1]["_id"]]
    assert found(trigger="refresh") == expected(trigger="refresh")
    assert found(source="coinpaprika") == expected(source="coinpaprika")
    assert found(status="success", source="coingecko", trigger="schedule") == expected(
        status="success", source="coingecko", trigger="schedule"
    )
    assert found(trigger="upload") == []


def test_what_is_known_of_inputs(gateway: Gateway, store: Store) -> None:
    run = make_run(1, source="csv-1")
    run["inputs"]["csv-1"] |= {
        "source": "csv",
        "object": {"bucket": "b", "key": "incoming/a.csv", "version_id": "v", "size": 3},
        "layout": {"header": ["a"], "columns": {}, "dataset": "kaggle"},
        "warnings": ["Column 'a' is not used: no field of the record has a name like it."],
    }
    other = make_run(2)
    other["inputs"]["coingecko"]["left_out"] = 7
    bare = make_run(3, status="running")
    bare["inputs"]["coingecko"] = {"source": "coingecko", "status": "pending"}
    store.runs.insert_many([run, other, bare])

    (csv,) = ok(gateway.get(f"/runs/{run['_id']}"))["sources"]
    assert (csv["bucket"], csv["key"], csv["version_id"]) == ("b", "incoming/a.csv", "v")
    assert csv["dataset"] == "kaggle"
    assert len(csv["warnings"]) == 1
    assert csv["left_out"] == 0
    for made, left_out in ((other, 7), (bare, 0)):
        (api,) = ok(gateway.get(f"/runs/{made['_id']}"))["sources"]
        names = ("bucket", "key", "version_id", "dataset")
        assert [api[name] for name in names] == [None] * 4
        assert (api["warnings"], api["left_out"]) == ([], left_out)
    assert [r["sources"][0]["left_out"] for r in ok(gateway.get("/runs"))["data"]] == [0, 7, 0]


def test_a_run_that_does_not_exist(gateway: Gateway) -> None:
    answer = gateway.get("/runs/nothing")
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "not_found"


# --- stats --------------------------------------------------------------------------------


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
    store.raw_batches.insert_one({"_id": "a", "rows": 50})
    body = ok(gateway.get("/stats"))
    assert body["counts"] == {"raw": 50, "normalized": 1, "quarantined": 1}
    assert body["totals"] == {
        "rows_in": 30,
        "inserted": 11,
        "updated": 2,
        "unchanged": 8,
        "duplicate": 2,
        "quarantined": 7,
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
        assert sources.take(store, UPSTREAM, QUOTA).granted
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

    refused = sources.refused(store, UPSTREAM, QUOTA, 100)
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
    sources.answered(store, UPSTREAM, retry_latency=101.5)
    assert source(gateway)["throttling"]["retry_latency_seconds"] == 101.5


def test_tokens_that_a_minute_has_no_room_for_are_not_told(gateway: Gateway, store: Store) -> None:
    quota = Quota(per_minute=6, burst=3)
    while sources.take(store, UPSTREAM, quota).granted:
        let_pass(store, "coingecko", 10.5)
    assert source(gateway)["throttling"]["tokens_left"] < 1


def test_how_far_the_data_of_a_source_reaches_is_told(gateway: Gateway, store: Store) -> None:
    assert sources.take(store, UPSTREAM, QUOTA).granted
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
    error = {"code": "upstream_unavailable", "message": "no answer"}
    counted: FailedInput = {"code": error["code"], "message": error["message"], "run_id": "run"}
    rest = timedelta(minutes=15)
    assert sources.take(store, UPSTREAM, QUOTA).granted
    assert source(gateway)["breaker"] == {"state": "closed", "until": None, "failures": 0}
    for number in range(2):
        sources.failed(store, UPSTREAM, f"run {number}", error, most_failures=2, rest=rest)
        alerts.count_outcome(store, "coingecko", f"run {number}", counted)
    told = source(gateway)
    until = datetime.fromisoformat(told["breaker"].pop("until")) - clock.now()
    assert timedelta(minutes=14) < until <= rest
    assert told["breaker"] == {"state": "open", "failures": 2}
    assert (told["consecutive_failures"], told["last_success_at"]) == (2, None)
    assert told["last_failure_at"] is not None
    assert told["last_error"] == counted

    let_pass(store, "coingecko", 901)
    known = sources.get(store, "coingecko")
    assert sources.admit(store, UPSTREAM, known, "probe", seconds=60).allowed
    assert source(gateway)["breaker"]["state"] == "half_open"
    assert source(gateway)["breaker"]["until"] is not None
    sources.answered(store, UPSTREAM)
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
    envelope = triggers.refresh_envelope()
    run_id = lifecycle.open_run(store, envelope, "arn:x", ["coingecko"])["run_id"]
    told = source(gateway)["lease"]
    left = datetime.fromisoformat(told.pop("expires_at")) - clock.now()
    assert timedelta(minutes=19) < left <= timedelta(minutes=20)
    assert told == {"run_id": run_id, "number": 1}
    lifecycle.close(store, run_id)
    assert source(gateway)["lease"] is None


def test_uploads_have_no_quota(gateway: Gateway, store: Store) -> None:
    assert ok(gateway.get("/stats"))["sources"] == {}
    alerts.count_outcome(store, "csv", "run 1", None)
    told = source(gateway, "csv")
    assert (told["throttling"], told["breaker"], told["last_error"]) == (None, None, None)
    assert told["last_success_at"] is not None


# --- quarantine ---------------------------------------------------------------------------


def test_what_was_set_aside(gateway: Gateway, store: Store) -> None:
    rows = [
        make_quarantined(
            n,
            run_id=f"run{n % 3}",
            source=("coingecko", "coinpaprika")[n % 2],
            reason=("greater_than", "timestamp_in_future")[n % 4 // 2],
        )
        for n in range(20)
    ]
    rows.append(make_quarantined(20, row='"' + "x" * 9_000 + '"'))
    store.quarantine.insert_many(rows)
    for number, batch in enumerate(sorted({row["batch"] for row in rows})):
        run_id, source, _ = batch.split("/")
        run = make_run(number, source=source) | {"_id": run_id}
        # All rows are of one raw batch, that of number 0.
        store.batches.insert_one(make_batch(run, quarantined=10))

    def found(**query: Any) -> list[int]:
        body = ok(gateway.get("/quarantine", **query, limit=4))
        data = body["data"]
        while body["pagination"]["has_more"]:
            body = ok(gateway.get("/quarantine", limit=4, cursor=body["pagination"]["next_cursor"]))
            data += body["data"]
        return [row["row_number"] for row in data]

    assert found() == list(range(21))
    assert found(run_id="run1") == list(range(1, 20, 3))
    assert found(source="coinpaprika") == list(range(1, 20, 2))
    assert found(reason="timestamp_in_future") == [n for n in range(20) if n % 4 > 1]
    assert found(run_id="run0", source="coingecko", reason="greater_than") == [0, 12]
    whole = ok(gateway.get("/quarantine"))["data"]
    assert (whole[0]["row"], whole[0]["truncated"]) == ('{"id": "bad"}', False)
    assert (len(whole[20]["row"]), whole[20]["truncated"]) == (4_000, True)
    cursor = ok(gateway.get("/quarantine", limit=1))["pagination"]["next_cursor"]
    assert gateway.get("/quarantine", cursor=cursor, reason="other").status == 400


# --- health -------------------------------------------------------------------------------


class FixedRule(Rule):
    """A rule whose state is given, or that can't be asked."""

    def __init__(self, state: RuleState | None) -> None:
        super().__init__("test-hourly")
        self.fixed = state

    def state(self) -> RuleState:
        if self.fixed is None:
            raise TransientError("no answer")
        return self.fixed


HOURLY = RuleState(enabled=True, expression="rate(1 hour)")


def health(store: Store, rule: Rule | None) -> dict[str, Any]:
    return ok(make_gateway(lambda: store, rule=lambda: rule).get("/health"))


def test_health_with_a_rule_that_works(store: Store) -> None:
    started = clock.now() - timedelta(minutes=30)
    store.runs.insert_one(make_run(1, started=started))
    later = make_run(2, started=started + timedelta(minutes=5), trigger="refresh")
    store.runs.insert_one(later)
    body = health(store, FixedRule(HOURLY))
    assert body["status"] == "ok"
    assert body["mongodb"]["ping_ms"] > 0
    assert body["scheduler"] == {
        "status": "ok",
        "enabled": True,
        "expression": "rate(1 hour)",
        "last_run_at": clock.iso(started),
        "next_run_at": clock.iso(started + timedelta(hours=1)),
        "overdue": False,
        "message": None,
    }
    assert body["last_run"]["run_id"] == body["run_id"] == later["_id"]


@pytest.mark.parametrize(
    ("rule", "hours_ago", "status", "scheduler", "overdue"),
    [
        (None, 1, "ok", "unconfigured", False),
        (FixedRule(HOURLY), None, "ok", "ok", False),
        (FixedRule(HOURLY), 2, "ok", "ok", False),
        (FixedRule(RuleState(enabled=True, expression="cron(0 * * * ? *)")), 1, "ok", "ok", False),
        (FixedRule(RuleState(enabled=True, expression="at(2025-05-09)")), 9, "ok", "ok", False),
        (FixedRule(RuleState(enabled=False, expression="rate(1 hour)")), 9, "degraded",
         "disabled", False),
        (FixedRule(None), 1, "degraded", "unknown", False),
    ],
)  # fmt: skip
def test_health_of_the_scheduler(
    store: Store,
    rule: Rule | None,
    hours_ago: int | None,
    status: str,
    scheduler: str,
    overdue: bool,
) -> None:
    if hours_ago is not None:
        store.runs.insert_one(make_run(1, started=clock.now() - timedelta(hours=hours_ago)))
    body = health(store, rule)
    assert body["status"] == status
    assert body["scheduler"]["status"] == scheduler
    assert body["scheduler"]["overdue"] is overdue


def seen(store: Store, hours_ago: float, **changed: Any) -> None:
    """A first look at the rule so many hours ago, and the last one a minute ago."""
    now = clock.now()
    note = {
        "enabled": True,
        "expression": HOURLY.expression,
        "since": now - timedelta(hours=hours_ago),
        "seen_at": now - timedelta(minutes=1),
    }
    store.database["schedule"].replace_one({"_id": ""}, note | changed, upsert=True)


def scheduler(store: Store, state: RuleState = HOURLY) -> dict[str, Any]:
    found: dict[str, Any] = health(store, FixedRule(state))["scheduler"]
    next_run = found["next_run_at"]
    assert next_run is None or next_run > clock.iso(clock.now() - timedelta(seconds=5))
    return found


@pytest.mark.parametrize("ran", [True, False])
def test_a_rule_that_starts_no_runs_is_overdue_once_that_is_certain(
    store: Store, *, ran: bool
) -> None:
    if ran:
        store.runs.insert_one(make_run(1, started=clock.now() - timedelta(hours=9)))
    seen(store, 0.9)
    waiting = scheduler(store)
    assert (waiting["status"], waiting["overdue"]) == ("ok", False)
    assert waiting["next_run_at"] < clock.iso(clock.now() + timedelta(minutes=7))
    seen(store, 1.01)
    due = scheduler(store)
    assert (due["status"], due["next_run_at"]) == ("ok", None)
    seen(store, 1.2)
    late = scheduler(store)
    assert (late["status"], late["overdue"], late["next_run_at"]) == ("overdue", True, None)
    assert "should have started a run" in late["message"]
    assert health(store, FixedRule(HOURLY))["status"] == "degraded"


@pytest.mark.parametrize(
    "changed",
    [
        {"enabled": False},
        {"expression": "rate(5 minutes)"},
        {"seen_at": NOW},
        {"_id": "another deployment"},
    ],
    ids=["enabled again", "another schedule", "nobody looked", "deployed anew"],
)
def test_a_rule_that_changed_owes_no_run_of_before(store: Store, changed: dict[str, Any]) -> None:
    store.runs.insert_one(make_run(1, started=clock.now() - timedelta(hours=9)))
    seen(store, 9)
    assert scheduler(store)["overdue"]
    store.database["schedule"].delete_many({})
    note = {
        "_id": "",
        "enabled": True,
        "expression": HOURLY.expression,
        "since": NOW,
        "seen_at": clock.now(),
    }
    store.database["schedule"].insert_one(note | changed)
    found = scheduler(store)
    assert (found["status"], found["overdue"]) == ("ok", False)
    assert found["next_run_at"] > clock.iso(clock.now() + timedelta(minutes=59))


def test_looks_at_the_rule_add_up_by_deployment(store: Store) -> None:
    gateway = make_gateway(lambda: store, rule=lambda: FixedRule(HOURLY))
    made = event("GET", "/health")
    for api in ("one", "one", "two"):
        made["requestContext"]["apiId"] = api
        ok(gateway.call(made))
    notes = {note["_id"]: note for note in store.database["schedule"].find()}
    assert set(notes) == {"one", "two"}
    assert notes["one"]["since"] < notes["one"]["seen_at"] <= notes["two"]["since"]


@pytest.mark.parametrize(("trigger", "overdue"), [("refresh", False), ("upload", True)])
def test_an_event_that_met_a_run_under_way_is_not_missed(
    store: Store, trigger: str, *, overdue: bool
) -> None:
    now = clock.now()
    seen(store, 9)
    store.runs.insert_one(make_run(1, started=now - timedelta(minutes=70)))
    other = make_run(2, started=now - timedelta(minutes=13), trigger=trigger, seconds=300)
    store.runs.insert_one(other)
    assert scheduler(store)["overdue"] is overdue


OFFICE_HOURS = RuleState(enabled=True, expression="cron(0/30 9-17 ? * MON-FRI *)")
FRIDAY = datetime(2025, 5, 9, tzinfo=UTC)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets the time of the database, as far as health asks for it."""

    def set_to(told: datetime) -> None:
        monkeypatch.setattr(
            "marketdata.web.routes.health.server_clock",
            lambda _: ServerClock(told, time.monotonic()),
        )

    return set_to


@pytest.mark.parametrize(
    ("hours", "data", "scheduler", "next_run"),
    [
        (17.9, "ok", "ok", None),
        # Nothing is due on a weekend.
        (24 + 12, "ok", "ok", "2025-05-12T09:00:00.000Z"),
        (3 * 24 + 8.9, "ok", "ok", "2025-05-12T09:00:00.000Z"),
        (3 * 24 + 9.01, "ok", "ok", None),
        (3 * 24 + 9.1, "ok", "overdue", None),
        (3 * 24 + 9.5, "ok", "overdue", None),
        (3 * 24 + 9.6, "stale", "overdue", None),
    ],
)
def test_a_cron_expression_is_judged_by_its_own_firings(
    store: Store,
    at: Callable[[datetime], None],
    hours: float,
    data: str,
    scheduler: str,
    next_run: str | None,
) -> None:
    last = FRIDAY + timedelta(hours=17.5)
    # The database's clock is behind the rule's by a moment.
    run = make_run(1, started=last - timedelta(milliseconds=300)) | {"event_time": last}
    store.runs.insert_one(run)
    now = FRIDAY + timedelta(hours=hours)
    note = {"enabled": True, "expression": OFFICE_HOURS.expression, "since": NOW, "seen_at": now}
    store.database["schedule"].insert_one({"_id": "", **note})
    at(now)
    body = health(store, FixedRule(OFFICE_HOURS))
    assert (body["data"]["status"], body["scheduler"]["status"]) == (data, scheduler)
    if next_run is not None:
        assert body["scheduler"]["next_run_at"] == next_run
    elif hours > 24:
        assert body["scheduler"]["next_run_at"] is None
    assert body["status"] == ("ok" if (data, scheduler) == ("ok", "ok") else "degraded")


@pytest.mark.parametrize("hours", [-5, 5])
def test_the_function_s_own_clock_makes_nothing_old(
    store: Store, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    started = clock.now() - timedelta(minutes=30)
    store.runs.insert_one(make_run(1, started=started))
    off = clock.now() + timedelta(hours=hours)
    monkeypatch.setattr(clock, "now", lambda: off)
    body = health(store, FixedRule(HOURLY))
    assert (body["status"], body["data"]["status"]) == ("ok", "ok")
    assert body["scheduler"]["next_run_at"] == clock.iso(started + timedelta(hours=1))


def test_health_after_a_run_that_failed(store: Store) -> None:
    store.runs.insert_one(make_run(1, started=clock.now(), status=lifecycle.FAILED))
    assert health(store, None)["status"] == "degraded"


@pytest.mark.parametrize(
    ("hours_ago", "changes", "status"),
    [
        (1.9, {}, "ok"),
        (2.1, {}, "stale"),
        # Neither is one of everything.
        (1, {"trigger": "upload"}, "stale"),
        (1, {"asked": {"sources": ["coingecko"]}}, "stale"),
        (1, {"status": "partial_success"}, "stale"),
    ],
)
def test_data_is_stale_when_twice_the_interval_went_by_without_a_success(
    store: Store, hours_ago: float, changes: dict[str, Any], status: str
) -> None:
    now = clock.now()
    old = make_run(1, started=now - timedelta(hours=5))
    store.runs.insert_one(old)
    store.runs.insert_one(make_run(2, started=now - timedelta(hours=hours_ago)) | changes)
    # The rule goes on starting runs, so it alone would be fine.
    store.runs.insert_one(make_run(3, started=now, status="partial_success"))
    body = health(store, FixedRule(HOURLY))
    assert body["data"]["status"] == status
    assert body["scheduler"]["status"] == "ok"
    assert body["status"] == ("ok" if status == "ok" else "degraded")
    assert (body["data"]["last_success_at"] == clock.iso(old["started_at"])) is bool(changes)


def test_a_service_that_never_succeeded_is_stale_some_time_after_its_first_try(
    store: Store,
) -> None:
    assert health(store, FixedRule(HOURLY))["data"]["status"] == "ok"
    run = make_run(1, status="partial_success", started=clock.now() - timedelta(hours=3))
    store.runs.insert_one(run)
    body = health(store, FixedRule(HOURLY))
    assert (body["data"]["status"], body["data"]["last_success_at"]) == ("stale", None)
    assert health(store, None)["data"]["status"] == "unknown"


def test_health_names_the_sources_that_fail(store: Store) -> None:
    for number in range(2):
        alerts.count_outcome(store, "coingecko", f"run {number}", {"code": "x", "message": "x"})
    alerts.count_outcome(store, "coinpaprika", "run 1", None)
    assert health(store, None)["data"]["failing_sources"] == [
        {"source": "coingecko", "failures": 2, "alerted": False}
    ]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("rate(1 minute)", timedelta(minutes=1)),
        ("rate(5 minutes)", timedelta(minutes=5)),
        ("rate(1 hour)", timedelta(hours=1)),
        ("rate(2 days)", timedelta(days=2)),
        ("rate(5)", None),
        ("", None),
    ],
)
def test_the_interval_of_a_schedule(expression: str, expected: timedelta | None) -> None:
    assert timetable(expression) == (expected and Rate(expected))


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        yield


def test_a_rule_is_read_from_eventbridge(aws: None) -> None:
    events = boto3.client("events")
    events.put_rule(Name="hourly", ScheduleExpression="rate(1 hour)")
    rule = Rule("hourly")
    assert rule.state() == HOURLY
    events.disable_rule(Name="hourly")
    assert rule.state() == HOURLY, "asked at most once a minute"
    assert Rule("hourly").state().enabled is False
    with pytest.raises(TransientError, match="The rule nothing can't be read"):
        Rule("nothing").state()


# --- uploads ------------------------------------------------------------------------------


def upload_gateway(store: Store, limit: int = 1_000) -> Gateway:
    uploads = Uploads("uploads-test")
    return make_gateway(lambda: store, uploads=lambda: uploads, upload_max_bytes=limit)


def test_a_form_to_upload_with(store: Store, aws: None) -> None:
    boto3.client("s3").create_bucket(Bucket="uploads-test")
    before = clock.now()
    body = ok(
        upload_gateway(store).post("/uploads", {"filename": "prices.csv", "dataset": "kaggle"}), 201
    )
    assert body["key"] == body["fields"]["key"] == "incoming/prices.csv"
    assert body["fields"]["Content-Type"] == "text/csv"
    assert body["fields"]["x-amz-meta-dataset"] == "kaggle"
    assert body["max_bytes"] == 1_000
    assert before < clock.now()
    assert body["expires_at"] > clock.iso(before + timedelta(minutes=14))
    sent = requests.post(
        body["url"], data=body["fields"], files={"file": b"symbol,price\n"}, timeout=10
    )
    assert sent.status_code == 204
    found = boto3.client("s3").get_object(Bucket="uploads-test", Key="incoming/prices.csv")
    assert found["Body"].read() == b"symbol,price\n"
    assert found["Metadata"] == {"dataset": "kaggle"}


def test_what_a_form_fixes_is_in_its_policy(store: Store, aws: None) -> None:
    gateway = upload_gateway(store)
    for request, kind, smallest, largest in (
        ({"filename": "a.csv.gz"}, "application/gzip", 1, 1_000),
        ({"filename": "b c-1.csv", "size": 10}, "text/csv", 10, 10),
        ({"filename": "A.CSV"}, "text/csv", 1, 1_000),
        ({"filename": "A.Csv.GZ"}, "application/gzip", 1, 1_000),
    ):
        body = ok(gateway.post("/uploads", request), 201)
        policy = json.loads(b64decode(body["fields"]["policy"]))
        assert ["content-length-range", smallest, largest] in policy["conditions"]
        assert {"Content-Type": kind} in policy["conditions"]
        assert {"key": f"incoming/{request['filename']}"} in policy["conditions"]
        assert {"bucket": "uploads-test"} in policy["conditions"]


@pytest.mark.parametrize(
    ("region", "endpoint", "url"),
    [
        ("eu-central-1", None, "https://uploads-test.s3.eu-central-1.amazonaws.com/"),
        ("us-east-1", None, "https://uploads-test.s3.amazonaws.com/"),
        ("eu-central-1", "http://127.0.0.1:4566", "http://127.0.0.1:4566/uploads-test"),
        ("eu-central-1", "http://localstack:4566", "http://localstack:4566/uploads-test"),
    ],
)
def test_a_form_names_the_host_of_the_buckets_region(
    store: Store, aws: None, monkeypatch: pytest.MonkeyPatch, region: str, endpoint: str | None,
    url: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    body = ok(upload_gateway(store).post("/uploads", {"filename": "a.csv"}), 201)
    assert body["url"] == url
    assert body["fields"]["x-amz-algorithm"] == "AWS4-HMAC-SHA256"
    assert f"/{region}/s3/aws4_request" in body["fields"]["x-amz-credential"]


def test_a_file_that_is_too_large_is_refused_before(store: Store, aws: None) -> None:
    answer = upload_gateway(store).post("/uploads", {"filename": "a.csv", "size": 1_001})
    assert answer.status == 400
    assert answer.json()["error"]["message"].startswith("size: ")
