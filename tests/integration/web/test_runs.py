"""`/runs` over a real MongoDB."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from marketdata.runs import closing
from marketdata.store.connection import Store
from tests.support.gateway import Gateway, ok
from tests.support.pipeline import Pipeline, coin
from tests.support.records import (
    NOW,
    make_batch,
    make_run,
)
from tests.support.runs import extracted, loaded, open_run
from tests.support.upstream import Upstream as Server

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
        server.pages("/coins", list(rows))
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


def test_cells_that_were_not_understood_are_told_by_input(gateway: Gateway, store: Store) -> None:
    run_id = open_run(store, None, "coingecko")["run_id"]
    values_of: list[list[Any]] = [["much", -1], ["$$ROOT"]]
    for number, values in enumerate(values_of):
        rows = [coin(f"{number} {n}", total_volume=v) for n, v in enumerate(values)]
        loaded(store, run_id, "coingecko", rows, number)
    expected = [
        {
            "field": "volume_24h",
            "column": "volume_24h",
            "code": "float_parsing",
            "count": 2,
            "examples": ["much", "$$ROOT"],
        },
        {
            "field": "volume_24h",
            "column": "volume_24h",
            "code": "greater_than_equal",
            "count": 1,
            "examples": ["-1"],
        },
    ]
    (running,) = ok(gateway.get(f"/runs/{run_id}"))["sources"]
    assert running["findings"] == expected
    extracted(store, run_id, "coingecko")
    closing.close(store, run_id)
    (closed,) = ok(gateway.get(f"/runs/{run_id}"))["sources"]
    assert (closed["status"], closed["inserted"]) == ("success", 3)
    assert (closed["findings"], closed["warnings"]) == (expected, [])
    # What an earlier version has stored has none.
    store.runs.update_one({"_id": run_id}, {"$unset": {"results.0.findings": ""}})
    assert ok(gateway.get(f"/runs/{run_id}"))["sources"][0]["findings"] == []


def test_a_run_that_does_not_exist(gateway: Gateway) -> None:
    answer = gateway.get("/runs/nothing")
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "not_found"
