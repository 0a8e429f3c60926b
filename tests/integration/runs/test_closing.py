"""A run is closed: what became of its inputs, and what comes too late."""

from __future__ import annotations

import pytest

from marketdata.documents.errors import FailedInput, StoredError
from marketdata.errors import NotFound, StateConflict
from marketdata.runs import closing, heartbeat
from marketdata.store import run_inputs, runs
from marketdata.store.connection import Store
from tests.support.documents import Document
from tests.support.pipeline import coin, line, put_rows
from tests.support.runs import (
    SOURCES,
    extracted,
    loaded,
    open_rule,
)

# --- closing -----------------------------------------------------------------------------


def test_a_run_of_which_everything_is_loaded_is_a_success(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    loaded(
        store, run_id, "coingecko", [coin("a"), coin("b"), coin("b"), coin("d", current_price=0)]
    )
    loaded(store, run_id, "coingecko", [coin("c")], number=1)
    loaded(store, run_id, "coinpaprika", [])
    for name in SOURCES:
        extracted(store, run_id, name, pages=1)
    run = closing.close(store, run_id)
    assert run["status"] == "success"
    assert run["ended_at"] is not None
    assert "error" not in run
    assert run["totals"] == {
        "extracted": 5,
        "rows_in": 5,
        "inserted": 3,
        "updated": 0,
        "unchanged": 0,
        "duplicate": 1,
        "quarantined": 1,
    }
    result = line(run, "coingecko")
    assert (result["status"], result["batches"], result["failed_batches"]) == ("success", 2, 0)
    assert (result["inserted"], result["error"]) == (3, None)
    assert line(run, "coinpaprika")["extracted"] == 0


def test_closing_twice_changes_nothing(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    for name in SOURCES:
        extracted(store, run_id, name)
    first = closing.close(store, run_id)
    second = closing.close(store, run_id, errors=[{"code": "late", "message": "too late"}])
    assert second == first
    assert second["status"] == "success"


def test_a_closed_run_lets_its_sources_go(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    assert set(runs.get(store, run_id)["holds"]) == set(SOURCES)
    assert "holds" not in closing.close(store, run_id)


def test_one_source_that_fails_makes_it_a_partial_success(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    loaded(store, run_id, "coingecko", [coin()])
    extracted(store, run_id, "coingecko")
    error: FailedInput = {
        "input": "coinpaprika",
        "code": "TransientError",
        "message": "it did not answer",
    }
    run = closing.close(store, run_id, errors=[error])
    assert run["status"] == "partial_success"
    result = line(run, "coinpaprika")
    assert result["status"] == "failed"
    assert result["error"] == {"code": "TransientError", "message": "it did not answer"}
    assert "error" not in run


def test_all_sources_that_fail_make_it_failed(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    run = closing.close(store, run_id)
    assert run["status"] == "failed"
    assert line(run, "coingecko")["error"]["code"] == "not_extracted"


def test_an_error_after_good_pages_is_told(store: Store) -> None:
    # What extraction noted after a page that came through is "no error": it hides nothing.
    run_id = open_rule(store)["run_id"]
    run_inputs.set_input(
        store, run_id, "coingecko", {"status": "extracting", "pages": 1, "error": None}
    )
    error: FailedInput = {"input": "coingecko", "code": "Sandbox.Timedout", "message": "timed out"}
    run = closing.close(store, run_id, errors=[error])
    assert line(run, "coingecko")["error"] == {"code": "Sandbox.Timedout", "message": "timed out"}


def test_the_reason_that_the_source_gave_goes_before_the_engine_s(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    reason: StoredError = {
        "code": "upstream_malformed",
        "type": "UpstreamMalformed",
        "message": "HTML came",
    }
    run_inputs.set_input(store, run_id, "coingecko", {"status": "failed", "error": reason})
    error: FailedInput = {"input": "coingecko", "code": "TerminalError", "message": "stopped"}
    run = closing.close(store, run_id, errors=[error])
    assert line(run, "coingecko")["error"] == reason


def test_a_batch_that_was_not_loaded_makes_its_source_partial(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    loaded(store, run_id, "coingecko", [coin("a")])
    put_rows(store, [coin("b")], run_id=run_id, number=1)
    for name in SOURCES:
        extracted(store, run_id, name)
    run = closing.close(store, run_id)
    assert run["status"] == "partial_success"
    result = line(run, "coingecko")
    assert (result["status"], result["failed_batches"]) == ("partial_success", 1)
    assert (result["extracted"], result["rows_in"], result["inserted"]) == (2, 1, 1)
    assert result["error"] == {
        "code": "batches_failed",
        "message": "1 of 2 batches were not loaded.",
    }


def test_no_batch_loaded_is_failed(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    put_rows(store, [coin("b")], run_id=run_id)
    extracted(store, run_id, "coingecko")
    run = closing.close(store, run_id)
    assert (line(run, "coingecko")["status"], run["status"]) == ("failed", "failed")


def test_an_error_of_no_source_in_particular_is_the_run_s(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    for name in SOURCES:
        extracted(store, run_id, name)
    run = closing.close(store, run_id, errors=[{"code": "x", "message": "the engine died"}])
    assert run["status"] == "partial_success"
    assert run["error"] == {"code": "x", "message": "the engine died"}


def test_what_comes_after_the_end_is_refused_or_ignored(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    ended = closing.close(store, run_id)
    with pytest.raises(StateConflict, match=run_id):
        heartbeat.require_running(store, run_id)
    run_inputs.set_input(store, run_id, "coingecko", {"status": "extracted"})
    ending: Document = {"status": "success"}
    assert not runs.end(store, run_id, ending)
    assert runs.get(store, run_id) == ended


def test_a_run_that_is_not_there(store: Store) -> None:
    with pytest.raises(NotFound, match="no-such-run"):
        closing.close(store, "no-such-run")
