"""A run goes on with what another one left, because somebody asks for that."""

from __future__ import annotations

import pytest

from marketdata.errors import NotFound, StateConflict
from marketdata.load.loader import load_batch
from marketdata.runs import closing, starting
from marketdata.runs.triggers import RunRequest
from marketdata.store import run_inputs, runs
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from tests.support.pipeline import Pipeline, coin
from tests.support.runs import (
    SOURCES,
    WorkflowStarter,
    extracted,
    open_run,
)
from tests.support.upstream import Reply, Seen, Upstream


def test_a_resumed_run_asks_for_no_page_again(store: Store, server: Upstream) -> None:
    rows = [coin(f"c{n}") for n in range(750)]
    broken = {"3"}

    def answer(seen: Seen) -> Reply:
        page = int(seen.query["page"])
        if seen.query["page"] in broken:
            return Reply(status=401)
        return Reply(rows[(page - 1) * 250 : page * 250])

    server.replies["/coins"] = answer
    pipeline = Pipeline(
        store,
        {"COINGECKO_API_URL": server.url + "/coins", "COINGECKO_PAGES": "3"},
        ["coingecko"],
    )
    first = pipeline.run()
    assert first["status"] == "partial_success"
    assert first["totals"]["inserted"] == 500
    broken.clear()
    server.seen.clear()

    opened = open_run(store, RunRequest(resume=first["_id"]), "coingecko")

    run_id = opened["run_id"]
    found = pipeline.extract(run_id, "coingecko")
    assert [seen.query["page"] for seen in server.seen] == ["3"]
    for number in found.numbers:
        load_batch(store, BatchKey(run_id, "coingecko", number))
    run = closing.close(store, run_id)
    assert (run["status"], run["totals"]["inserted"]) == ("success", 250)
    assert run["resume_from"] == {"run_id": first["_id"], "batches": 0}
    # Who asks for the first one again is told that all of it is done by now.
    with pytest.raises(StateConflict, match="nothing to go on with"):
        open_run(store, RunRequest(resume=first["_id"]), "coingecko")


def test_an_extractor_that_outlives_its_run_writes_no_batch(store: Store, server: Upstream) -> None:
    pipeline = Pipeline(store, {"COINGECKO_API_URL": server.url + "/coins"}, ["coingecko"])
    run_id = pipeline.open()["run_id"]

    def answer(_seen: Seen) -> Reply:
        closing.close(store, run_id)
        return Reply([coin("late")])

    server.replies["/coins"] = answer
    with pytest.raises(StateConflict, match="has ended"):
        pipeline.extract(run_id, "coingecko")
    assert store.batches.count_documents({}) == 0


def test_resuming_what_can_not_be(store: Store) -> None:
    engine = WorkflowStarter()
    with pytest.raises(NotFound, match="no-such-run"):
        starting.request(store, engine, SOURCES, asked=RunRequest(resume="no-such-run"))
    run_id = open_run(store)["run_id"]
    # Whoever runs is told of, whatever was asked.
    assert starting.request(store, engine, SOURCES, asked=RunRequest(resume=run_id)) == (
        run_id,
        False,
    )
    extracted(store, run_id, "coingecko")
    run_inputs.set_input(store, run_id, "coinpaprika", {"status": "skipped"})
    assert closing.close(store, run_id)["status"] == "success"
    with pytest.raises(StateConflict, match="nothing to go on with"):
        starting.request(store, engine, SOURCES, asked=RunRequest(resume=run_id))
    with pytest.raises(NotFound, match="known are coingecko, coinpaprika"):
        starting.request(store, engine, SOURCES, asked=RunRequest(("csv",), resume=run_id))
    assert engine.started == []


def test_a_run_of_some_sources_leaves_the_others_free(store: Store) -> None:
    one = open_run(store, RunRequest(("coingecko",), force=True))
    assert [i["input"] for i in one["inputs"]] == ["coingecko"]
    assert runs.get(store, one["run_id"])["force"] is True
    assert [i["input"] for i in open_run(store, RunRequest(("coinpaprika",)))["inputs"]] == [
        "coinpaprika"
    ]
    # Uploads alone: nothing of the two is in the way, but another such run is.
    uploads = open_run(store, RunRequest(("csv",)))
    assert uploads["inputs"] == []
    again = starting.request(store, WorkflowStarter(), SOURCES, asked=RunRequest(("csv",)))
    assert again == (uploads["run_id"], False)
    assert closing.close(store, uploads["run_id"])["status"] == "success"
    with pytest.raises(NotFound, match="'nasdaq' is not known here; known are coingecko"):
        open_run(store, RunRequest(("nasdaq", "coingecko")))
