"""What is told of a run: its inputs, their batches and counts."""

from __future__ import annotations

from marketdata.load.loader import load_batch
from marketdata.runs import closing, summary
from marketdata.store import runs
from marketdata.store.batches import queue
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from tests.support.pipeline import coin, line, put_rows
from tests.support.runs import (
    extracted,
    loaded,
    open_rule,
)


def test_progress_is_visible_while_it_runs(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    loaded(store, run_id, "coingecko", [coin("a")])
    put_rows(store, [coin("b")], run_id=run_id, number=1)
    first, second = summary.summarise_inputs(store, [runs.get(store, run_id)])[run_id]
    assert (first["status"], first["extracted"], first["inserted"]) == ("running", 2, 1)
    assert (second["status"], second["extracted"]) == ("running", 0)
    assert first["failed_batches"] == 0


def test_totals_count_a_retried_batch_once(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    key = put_rows(store, [coin("a")], run_id=run_id)
    for _ in range(3):
        queue.begin(store, key)
    load_batch(store, BatchKey(run_id, "coingecko", 0))
    extracted(store, run_id, "coingecko")
    assert line(closing.close(store, run_id), "coingecko")["inserted"] == 1
