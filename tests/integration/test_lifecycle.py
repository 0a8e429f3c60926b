"""The life of a run, from its trigger to its end."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from marketdata import clock
from marketdata.errors import InvalidInput, NotFound, StateConflict, TransientError
from marketdata.load.loader import load_batch
from marketdata.runs import lifecycle, triggers
from marketdata.runs.triggers import Asked
from marketdata.store import batches, queries, runs
from marketdata.store.batches import BatchKey
from marketdata.store.connection import Document, Store
from tests.support.pipeline import coin, line, put_rows

SOURCES = ["coingecko", "coinpaprika"]
RULE = {
    "version": "0",
    "id": "5c4e0c2a-0000-4000-8000-000000000000",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "time": "2025-05-09T06:00:00Z",
    "resources": [],
    "detail": {},
}


class FakeEngine:
    """Starts executions by writing them down; raises what Step Functions would."""

    def __init__(self, store: Store, *, broken: bool = False) -> None:
        self.started: list[tuple[str, Mapping[str, Any]]] = []
        self.found: list[Document] = []
        self._store = store
        self._broken = broken

    def start(self, run_id: str, envelope: Mapping[str, Any]) -> str:
        self.found.append(runs.get(self._store, run_id))
        if self._broken:
            raise TransientError("Step Functions does not answer.")
        self.started.append((run_id, envelope))
        return f"arn of {run_id}"


def open_rule(store: Store, event_id: str = RULE["id"], execution: str = "first") -> Document:  # type: ignore[assignment]
    return lifecycle.open_run(store, RULE | {"id": event_id}, execution, SOURCES)


def extracted(store: Store, run_id: str, name: str, **fields: Any) -> None:
    runs.set_input(store, run_id, name, {"status": "extracted", **fields})


def loaded(store: Store, run_id: str, name: str, rows: list[Any], number: int = 0) -> None:
    load_batch(store, put_rows(store, rows, run_id=run_id, number=number, source=name))


# --- starting ----------------------------------------------------------------------------


def test_a_run_exists_before_its_execution(store: Store) -> None:
    engine = FakeEngine(store)
    run_id, started = lifecycle.request(store, engine, SOURCES)
    assert started
    assert [i for i, _ in engine.started] == [run_id]
    assert engine.found[0]["status"] == "running"
    assert runs.get(store, run_id)["trigger"] == "refresh"


def test_the_execution_finds_the_run_that_was_requested(store: Store) -> None:
    engine = FakeEngine(store)
    run_id, _ = lifecycle.request(store, engine, SOURCES)
    opened = lifecycle.open_run(store, engine.started[0][1], "execution", SOURCES)
    assert opened == {
        "run_id": run_id,
        "proceed": True,
        "inputs": [{"run_id": run_id, "input": name, "source": name} for name in SOURCES],
    }
    assert store.runs.count_documents({}) == 1


def test_a_second_request_gets_the_id_of_the_run_under_way(store: Store) -> None:
    engine = FakeEngine(store)
    first, _ = lifecycle.request(store, engine, SOURCES)
    assert lifecycle.request(store, engine, SOURCES) == (first, False)
    # One that wants just one of its sources, too.
    assert lifecycle.request(store, engine, SOURCES[1:]) == (first, False)
    assert len(engine.started) == store.runs.count_documents({}) == 1


def test_the_rule_s_event_takes_the_sources_that_are_free(store: Store) -> None:
    engine = FakeEngine(store)
    busy, _ = lifecycle.request(store, engine, SOURCES, asked=Asked(("coingecko",)))
    opened = open_rule(store)
    assert [item["input"] for item in opened["inputs"]] == ["coinpaprika"]
    run = runs.get(store, opened["run_id"])
    assert (list(run["inputs"]), run["holds"]) == (["coinpaprika"], ["coinpaprika"])
    assert run["under_way"] == {"coingecko": busy}
    # The same event once more, also when the other source is free by then, is the same run.
    lifecycle.close(store, busy)
    second = open_rule(store, execution="second")
    assert second == {"run_id": opened["run_id"], "proceed": False, "inputs": []}
    assert list(runs.get(store, opened["run_id"])["inputs"]) == ["coinpaprika"]
    # It comes to its end as any other, but it was not one of all sources.
    extracted(store, opened["run_id"], "coinpaprika")
    assert lifecycle.close(store, opened["run_id"])["status"] == "success"
    assert queries.last_whole_success(store) is None


def test_an_event_that_finds_no_source_free_is_the_run_under_way(store: Store) -> None:
    engine = FakeEngine(store)
    first, _ = lifecycle.request(store, engine, SOURCES, asked=Asked(("coingecko",)))
    second, _ = lifecycle.request(store, engine, SOURCES, asked=Asked(("coinpaprika",)))
    assert open_rule(store) == {"run_id": first, "proceed": False, "inputs": []}
    asked = Asked(("coinpaprika",))
    assert lifecycle.request(store, engine, SOURCES, asked=asked) == (second, False)
    assert lifecycle.under_way(store, Asked(), SOURCES) == {
        "coingecko": first,
        "coinpaprika": second,
    }
    assert store.runs.count_documents({}) == 2


def test_uploads_are_looked_for_while_the_source_beside_them_is_taken(store: Store) -> None:
    engine = FakeEngine(store)
    busy, _ = lifecycle.request(store, engine, SOURCES, asked=Asked(("coingecko",)))
    asked = Asked(("coingecko", "csv"))
    run_id, started = lifecycle.request(store, engine, SOURCES, asked=asked)
    run = runs.get(store, run_id)
    assert (started, run["inputs"], run["under_way"]) == (True, {}, {"coingecko": busy})
    assert lifecycle.request(store, engine, SOURCES, asked=asked) == (run_id, False)
    assert lifecycle.under_way(store, asked, SOURCES) == {"coingecko": busy, "csv": run_id}
    assert lifecycle.close(store, run_id)["status"] == "success"


def test_a_source_that_is_let_go_meanwhile_is_taken(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, _ = lifecycle.request(store, FakeEngine(store), SOURCES, asked=Asked(("coingecko",)))
    real = runs.holders

    def late(*args: Any) -> dict[str, str]:
        lifecycle.close(store, busy)
        return real(*args)

    monkeypatch.setattr(runs, "holders", late)
    run = runs.get(store, open_rule(store)["run_id"])
    assert (list(run["inputs"]), run["under_way"]) == (SOURCES, {})


def test_requests_at_once_share_the_sources(store: Store) -> None:
    """Whoever comes first: each source has one run, and nobody takes what another has."""
    lifecycle.request(store, FakeEngine(store), SOURCES, asked=Asked(("coingecko",)))
    names, start = [*SOURCES, "third"], threading.Barrier(4)
    opened: list[Document] = []

    def one(number: int) -> None:
        start.wait()
        envelope = RULE | {"id": f"event {number % 2}"}
        opened.append(lifecycle.open_run(store, envelope, f"execution {number}", names))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [item["input"] for one in opened for item in one["inputs"]]
    assert sorted(taken) == ["coinpaprika", "third"]
    held = [name for run in store.runs.find({"status": "running"}) for name in run["holds"]]
    assert sorted(held) == sorted(names)


def test_requests_at_once_start_one_run(store: Store) -> None:
    engine, start = FakeEngine(store), threading.Barrier(4)
    answers: list[tuple[str, bool]] = []

    def one() -> None:
        start.wait()
        answers.append(lifecycle.request(store, engine, SOURCES))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run_id for run_id, _ in answers}) == 1
    assert sorted(started for _, started in answers) == [False, False, False, True]


def test_a_run_whose_execution_can_not_start_is_closed(store: Store) -> None:
    with pytest.raises(TransientError):
        lifecycle.request(store, FakeEngine(store, broken=True), SOURCES)
    run = store.runs.find_one({})
    assert run is not None
    assert run["status"] == "failed"
    assert "does not answer" in run["error"]["message"]
    assert lifecycle.request(store, FakeEngine(store), SOURCES)[1]


def test_the_rule_s_event_is_a_run(store: Store) -> None:
    opened = open_rule(store)
    run = runs.get(store, opened["run_id"])
    assert (run["trigger"], run["status"], run["execution"]) == ("schedule", "running", "first")
    assert opened["run_id"].startswith("20250509T060000Z-")
    assert list(run["inputs"]) == SOURCES


def test_an_event_that_comes_twice_is_one_run(store: Store) -> None:
    first = open_rule(store)
    second = open_rule(store, execution="second")
    assert first["proceed"]
    assert second == {"run_id": first["run_id"], "proceed": False, "inputs": []}
    lifecycle.close(store, first["run_id"])
    third = open_rule(store, execution="third")
    assert third == {"run_id": first["run_id"], "proceed": False, "inputs": []}
    assert store.runs.count_documents({}) == 1


def test_an_execution_that_asks_again_goes_on(store: Store) -> None:
    assert open_rule(store) == open_rule(store)


def test_another_event_gets_the_id_of_the_run_under_way(store: Store) -> None:
    first = open_rule(store)
    other = open_rule(store, event_id="another")
    assert other == {"run_id": first["run_id"], "proceed": False, "inputs": []}
    assert store.runs.count_documents({}) == 1
    lifecycle.close(store, first["run_id"])
    assert open_rule(store, event_id="another")["proceed"]


@pytest.mark.parametrize(
    "envelope",
    [
        {},
        RULE | {"source": "aws.ec2"},
        RULE | {"time": "soon"},
        {k: v for k, v in RULE.items() if k != "id"},
    ],
)
def test_what_is_no_trigger_starts_nothing(store: Store, envelope: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        lifecycle.open_run(store, envelope, "execution", SOURCES)
    assert store.runs.count_documents({}) == 0


def test_run_ids_sort_by_their_events_time() -> None:
    ids = [
        triggers.parse(RULE | {"time": time}).run_id
        for time in ("2025-05-09T06:00:00Z", "2025-05-09T09:00:00+02:00", "2025-05-10T00:00:00Z")
    ]
    assert ids == sorted(ids)
    assert ids[1].startswith("20250509T070000Z-")


# --- orphans -----------------------------------------------------------------------------


def test_a_run_without_a_sign_of_life_is_ended_by_the_next(store: Store) -> None:
    orphan = open_rule(store)["run_id"]
    loaded(store, orphan, "coingecko", [coin()])
    extracted(store, orphan, "coingecko")
    long_ago = clock.now() - timedelta(seconds=1)
    store.runs.update_one({"_id": orphan}, {"$set": {"expires_at": long_ago}})
    fresh = open_rule(store, event_id="another")
    assert fresh["proceed"]
    run = runs.get(store, orphan)
    assert (run["status"], run["error"]["code"]) == ("partial_success", "expired")
    assert line(run, "coingecko")["status"] == "success"
    assert line(run, "coinpaprika")["status"] == "failed"
    with pytest.raises(StateConflict, match=orphan):
        lifecycle.require_running(store, orphan)


def test_signs_of_life_keep_a_run(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    store.runs.update_one({"_id": run_id}, {"$set": {"expires_at": clock.now()}})
    lifecycle.require_running(store, run_id)
    assert runs.get(store, run_id)["expires_at"] > clock.now() + timedelta(minutes=10)
    assert runs.renew(store, run_id, pause_seconds=3600)
    assert runs.get(store, run_id)["expires_at"] > clock.now() + timedelta(minutes=70)


# --- closing -----------------------------------------------------------------------------


def test_a_run_of_which_everything_is_loaded_is_a_success(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    loaded(store, run_id, "coingecko", [coin("a"), coin("b"), coin("b"), coin("bad", name=1)])
    loaded(store, run_id, "coingecko", [coin("c")], number=1)
    loaded(store, run_id, "coinpaprika", [])
    for name in SOURCES:
        extracted(store, run_id, name, pages=1)
    run = lifecycle.close(store, run_id)
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
    first = lifecycle.close(store, run_id)
    second = lifecycle.close(store, run_id, errors=[{"code": "late", "message": "too late"}])
    assert second == first
    assert second["status"] == "success"


def test_a_closed_run_lets_its_sources_go(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    assert set(runs.get(store, run_id)["holds"]) == set(SOURCES)
    assert "holds" not in lifecycle.close(store, run_id)


def test_one_source_that_fails_makes_it_a_partial_success(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    loaded(store, run_id, "coingecko", [coin()])
    extracted(store, run_id, "coingecko")
    error = {"input": "coinpaprika", "code": "TransientError", "message": "it did not answer"}
    run = lifecycle.close(store, run_id, errors=[error])
    assert run["status"] == "partial_success"
    result = line(run, "coinpaprika")
    assert result["status"] == "failed"
    assert result["error"] == {"code": "TransientError", "message": "it did not answer"}
    assert "error" not in run


def test_all_sources_that_fail_make_it_failed(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    run = lifecycle.close(store, run_id)
    assert run["status"] == "failed"
    assert line(run, "coingecko")["error"]["code"] == "not_extracted"


def test_an_error_after_good_pages_is_told(store: Store) -> None:
    # What extraction noted after a page that came through is "no error": it hides nothing.
    run_id = open_rule(store)["run_id"]
    runs.set_input(store, run_id, "coingecko", {"status": "extracting", "pages": 1, "error": None})
    error = {"input": "coingecko", "code": "Sandbox.Timedout", "message": "timed out"}
    run = lifecycle.close(store, run_id, errors=[error])
    assert line(run, "coingecko")["error"] == {"code": "Sandbox.Timedout", "message": "timed out"}


def test_the_reason_that_the_source_gave_goes_before_the_engine_s(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    reason = {"code": "upstream_malformed", "type": "UpstreamMalformed", "message": "HTML came"}
    runs.set_input(store, run_id, "coingecko", {"status": "failed", "error": reason})
    error = {"input": "coingecko", "code": "TerminalError", "message": "stopped"}
    run = lifecycle.close(store, run_id, errors=[error])
    assert line(run, "coingecko")["error"] == reason


def test_a_batch_that_was_not_loaded_makes_its_source_partial(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    loaded(store, run_id, "coingecko", [coin("a")])
    put_rows(store, [coin("b")], run_id=run_id, number=1)
    for name in SOURCES:
        extracted(store, run_id, name)
    run = lifecycle.close(store, run_id)
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
    run = lifecycle.close(store, run_id)
    assert (line(run, "coingecko")["status"], run["status"]) == ("failed", "failed")


def test_an_error_of_no_source_in_particular_is_the_run_s(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    for name in SOURCES:
        extracted(store, run_id, name)
    run = lifecycle.close(store, run_id, errors=[{"code": "x", "message": "the engine died"}])
    assert run["status"] == "partial_success"
    assert run["error"] == {"code": "x", "message": "the engine died"}


def test_what_comes_after_the_end_is_refused_or_ignored(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    ended = lifecycle.close(store, run_id)
    with pytest.raises(StateConflict, match=run_id):
        lifecycle.require_running(store, run_id)
    runs.set_input(store, run_id, "coingecko", {"status": "extracted"})
    assert not runs.end(store, run_id, {"status": "success"})
    assert runs.get(store, run_id) == ended


def test_a_run_that_is_not_there(store: Store) -> None:
    with pytest.raises(NotFound, match="no-such-run"):
        lifecycle.close(store, "no-such-run")


def test_progress_is_visible_while_it_runs(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    loaded(store, run_id, "coingecko", [coin("a")])
    put_rows(store, [coin("b")], run_id=run_id, number=1)
    first, second = lifecycle.summarise_inputs(store, [runs.get(store, run_id)])[run_id]
    assert (first["status"], first["extracted"], first["inserted"]) == ("running", 2, 1)
    assert (second["status"], second["extracted"]) == ("running", 0)
    assert first["failed_batches"] == 0


def test_totals_count_a_retried_batch_once(store: Store) -> None:
    run_id = open_rule(store)["run_id"]
    key = put_rows(store, [coin("a")], run_id=run_id)
    for _ in range(3):
        batches.begin(store, key)
    load_batch(store, BatchKey(run_id, "coingecko", 0))
    extracted(store, run_id, "coingecko")
    assert line(lifecycle.close(store, run_id), "coingecko")["inserted"] == 1
