"""`/refresh` and `/runs/{run_id}/retry` over a real MongoDB."""

from __future__ import annotations

from typing import Any

import pytest

from marketdata.errors import TransientError
from marketdata.runs import closing, opening
from marketdata.store import runs
from marketdata.store.connection import Store
from tests.support.gateway import Gateway, WorkflowStarter, make_gateway, ok
from tests.support.records import (
    make_batch,
    make_record,
    make_run,
    put_records,
)


def test_refresh_starts_one_run_at_a_time(
    gateway: Gateway, store: Store, engine: WorkflowStarter
) -> None:
    put_records(store, make_record(), make_record(minutes=1))
    store.database["raw_batches"].insert_one({"_id": "a", "rows": 7})
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


def test_refresh_leaves_sources_to_the_run_that_has_them(
    store: Store, engine: WorkflowStarter
) -> None:
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
    gateway: Gateway, store: Store, engine: WorkflowStarter
) -> None:
    engine.failure = TransientError("Step Functions does not answer")
    assert gateway.post("/refresh").status == 503
    (run,) = store.runs.find({})
    body = ok(gateway.get(f"/runs/{run['_id']}"))
    assert body["status"] == "failed"
    assert body["error"]["code"] == "transient"
    engine.failure = None
    assert ok(gateway.post("/refresh"), 202)["status"] == "running"


def test_refresh_does_what_it_is_asked_for(
    gateway: Gateway, store: Store, engine: WorkflowStarter
) -> None:
    asked = {"sources": ["coingecko", "csv", "coingecko"], "force": True}
    first = ok(gateway.post("/refresh", asked), 202)
    assert engine.started == [(first["run_id"], {"run_id": first["run_id"]})]
    kept = runs.get(store, first["run_id"])
    assert kept["asked"] == {"sources": ["coingecko", "csv"], "force": True}
    run = ok(gateway.get(f"/runs/{first['run_id']}"))
    assert run["force"] is True
    resumed = ok(gateway.post("/refresh", {"resume": first["run_id"]}), 202)
    assert (resumed["run_id"], resumed["status"]) == (first["run_id"], "already_running")
    closing.close(store, first["run_id"])
    second = ok(gateway.post("/refresh", {"resume": first["run_id"]}), 202)
    assert second["status"] == "running"
    assert engine.started[1] == (second["run_id"], {"run_id": second["run_id"]})
    assert runs.get(store, second["run_id"])["asked"] == {"resume": first["run_id"]}


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


def test_what_was_parked_is_retried(
    gateway: Gateway, store: Store, engine: WorkflowStarter
) -> None:
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
    opening.open_run(store, engine.started[0][1], "x", ["coingecko"])
    again = ok(gateway.get(f"/runs/{started['run_id']}"))
    assert again["resume_from"] == {"run_id": run["_id"], "batches": 1}
    assert again["sources"][0]["resume_from"] == [{"run_id": run["_id"], "batches": 1}]
    # The old run still says what had failed there, and where it is now.
    (failed,) = ok(gateway.get(f"/runs/{run['_id']}"))["failed_batches"]
    assert failed["now"] == {"run_id": started["run_id"], "state": "pending"}
    assert failed["parked"] is False
