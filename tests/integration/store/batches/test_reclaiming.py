"""What a run left undone is done by a later one, once, whoever dies, waits or comes too late."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from marketdata import clock
from marketdata.documents.batches import Counts, LoadProgress
from marketdata.errors import StateConflict, StoreUnavailable
from marketdata.load.loader import load_batch
from marketdata.runs import closing, starting, summary
from marketdata.runs.triggers import RunRequest
from marketdata.store import runs
from marketdata.store.batches import late_arrivals, queue, reclaiming
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from tests.support.documents import Document
from tests.support.pipeline import coin, line, put_rows
from tests.support.runs import (
    SOURCES,
    WorkflowStarter,
    extracted,
    fail_all,
    numbers,
    open_run,
)


def records(store: Store) -> list[Document]:
    return list(store.market_data.find().sort("_id"))


# --- reclaiming ------------------------------------------------------------------------------


def test_a_later_run_ends_in_the_very_documents_of_an_undisturbed_one(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    rows = [coin("a"), coin("b")]
    load_batch(store, put_rows(store, rows, run_id=run_id))
    undisturbed = records(store)
    store.market_data.delete_many({})
    store.batches.delete_many({})
    put_rows(store, rows, run_id=run_id)
    ended = closing.close(store, run_id)
    assert line(ended, "coingecko")["failed_batches"] == 1

    later = open_run(store)["run_id"]

    note = runs.get(store, later)
    assert note["resume_from"] == {"run_id": run_id, "batches": 1}
    assert note["inputs"]["coingecko"]["resume_from"] == [{"run_id": run_id, "batches": 1}]
    assert note["inputs"]["coingecko"]["batches"] == 1
    assert queue.reclaimed(store, later, "coingecko") == [0]
    load_batch(store, BatchKey(later, "coingecko", 0))
    assert records(store) == undisturbed
    extracted(store, later, *SOURCES)
    closed = closing.close(store, later)
    assert (closed["status"], closed["totals"]["inserted"]) == ("success", 2)
    # The former keeps what it had to say, and has none of the counts.
    assert runs.get(store, run_id)["failed_batches"][0]["number"] == 0
    assert summary.summarise_inputs(store, [ended])[run_id][0]["inserted"] == 0


def test_what_was_reclaimed_is_closed_by_its_new_owner_alone(store: Store) -> None:
    first = open_run(store)["run_id"]
    key = put_rows(store, [coin("a")], run_id=first)
    begun = queue.begin(store, key)
    assert begun is not None
    closing.close(store, first)
    second = open_run(store)["run_id"]
    mine = BatchKey(second, "coingecko", 0)
    again = queue.begin(store, mine)
    assert again is not None
    assert again["_id"] == begun["_id"]
    assert again["attempts"] > begun["attempts"]
    late = Counts(rows_in=1, inserted=1)
    attempts: list[Callable[[], object]] = [
        lambda: queue.finish(store, key, begun["attempts"], late),
        lambda: late_arrivals.note_key_range(store, key, b"a", b"b"),
        lambda: queue.note_progress(
            store, begun["_id"], begun["attempts"], LoadProgress("", 0, conflict_free=True)
        ),
        lambda: queue.pause(store, begun["_id"], begun["attempts"]),
        lambda: queue.begin(store, key),
    ]
    for too_late in attempts:
        with pytest.raises(StateConflict):
            too_late()
    queue.fail(store, key, begun["attempts"], ValueError("late"))
    # Nor does an extractor that comes late take it back.
    put_rows(store, [coin("other")], run_id=first)
    queue.finish(store, mine, again["attempts"], late)
    (found,) = store.batches.find()
    assert (found["run_id"], found["state"], found["first_run_id"]) == (second, "loaded", first)
    assert "progress" not in found


def test_reclaiming_may_stop_anywhere_and_be_done_again(store: Store) -> None:
    first = open_run(store)["run_id"]
    for number in range(5):
        put_rows(store, [coin(f"c{number}")], run_id=first, number=number)
    closing.close(store, first)
    second = starting.request(store, WorkflowStarter(), SOURCES)[0]
    # It died after the second of five.
    for number in (0, 1):
        store.batches.update_one(
            {"run_id": first, "number": number},
            {
                "$set": {
                    "run_id": second,
                    "resumed_from": {"run_id": first, "number": number},
                    "state": "pending",
                },
                "$inc": {"attempts": 1},
            },
        )
    assert reclaiming.reclaim_batches(store, "coingecko", second) == [
        {"run_id": first, "batches": 5}
    ]
    assert reclaiming.reclaim_batches(store, "coingecko", second) == [
        {"run_id": first, "batches": 5}
    ]
    assert numbers(store, second, "coingecko") == [0, 1, 2, 3, 4]


def test_a_loader_that_begins_while_its_run_is_closed_is_sent_away(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    key = put_rows(store, [coin("a")], run_id=run_id)
    assert runs.begin_closing(store, run_id)
    with pytest.raises(StateConflict, match=run_id):
        queue.begin(store, key)
    assert numbers(store, run_id, "coingecko") == [0]
    closing.close(store, run_id)
    with pytest.raises(StateConflict):
        queue.begin(store, key)
    (left,) = store.batches.find()
    assert left["state"] == "pending"


def test_a_batch_that_is_paused_has_not_failed(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    key = put_rows(store, [coin("a")], run_id=run_id)

    def reached(part: int) -> LoadProgress:
        return LoadProgress("cut", part, conflict_free=True, counts=Counts(inserted=part))

    for part in range(5):
        begun = queue.begin(store, key)
        assert begun is not None
        assert begun.get("progress") == (reached(part).document() if part else None)
        queue.note_progress(store, begun["_id"], begun["attempts"], reached(part + 1))
        queue.pause(store, begun["_id"], begun["attempts"])
    closing.close(store, run_id)
    later = open_run(store)["run_id"]
    begun = queue.begin(store, BatchKey(later, "coingecko", 0))
    assert begun is not None
    assert (begun["progress"], begun["resumptions"]) == (reached(5).document(), 0)


def test_a_batch_that_fails_again_and_again_is_dead_lettered_and_blocks_nothing(
    store: Store,
) -> None:
    run_id = open_run(store)["run_id"]
    put_rows(store, [coin("bad")], run_id=run_id)
    owners = []
    for _ in range(4):
        owners.append(run_id)
        fail_all(store, run_id, "coingecko")
        extracted(store, run_id, *SOURCES)
        run = closing.close(store, run_id)
        result = line(run, "coingecko")
        assert (result["status"], result["failed_batches"]) == ("failed", 1)
        assert [f["parked"] for f in run["failed_batches"]] == [len(owners) == 4]
        run_id = open_run(store)["run_id"]
    assert "resume_from" not in runs.get(store, run_id)
    load_batch(store, put_rows(store, [coin("good")], run_id=run_id))
    extracted(store, run_id, *SOURCES)
    assert closing.close(store, run_id)["status"] == "success"

    with pytest.raises(StateConflict, match="retry"):
        open_run(store, RunRequest(resume=owners[-1]))
    retried = open_run(store, RunRequest(resume=owners[-1], retry=True))
    assert [i["input"] for i in retried["inputs"]] == ["coingecko"]
    load_batch(store, BatchKey(retried["run_id"], "coingecko", 0))
    run = closing.close(store, retried["run_id"])
    assert (run["status"], run["totals"]["inserted"]) == ("success", 1)


def test_what_is_dead_lettered_can_be_retried_though_a_later_run_took_the_rest(
    store: Store,
) -> None:
    first = open_run(store)["run_id"]
    for number, name in enumerate(("bad", "good")):
        put_rows(store, [coin(name)], run_id=first, number=number)
    fail_all(store, first, "coingecko")
    closing.close(store, first)
    store.batches.update_one({"run_id": first, "number": 0}, {"$set": {"parked": True}})
    second = open_run(store, RunRequest(resume=first))["run_id"]
    assert numbers(store, second, "coingecko") == [0]
    load_batch(store, BatchKey(second, "coingecko", 0))
    extracted(store, second, *SOURCES)
    assert closing.close(store, second)["status"] == "success"

    with pytest.raises(StateConflict, match=r"1 dead-lettered batches .*/retry"):
        open_run(store, RunRequest(resume=first))
    third = open_run(store, RunRequest(resume=first, retry=True))["run_id"]
    load_batch(store, BatchKey(third, "coingecko", 0))
    extracted(store, third, "coingecko")
    assert closing.close(store, third)["status"] == "success"
    assert store.market_data.count_documents({}) == 2


def test_what_is_interrupted_is_tried_more_often_and_not_for_ever(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    put_rows(store, [coin("deadly")], run_id=run_id)
    for turn in range(10):
        (number,) = numbers(store, run_id, "coingecko")
        key = BatchKey(run_id, "coingecko", number)
        begun = queue.begin(store, key)
        assert begun is not None
        assert begun["resumptions"] == 0
        if turn % 2:  # else its loader is killed
            queue.fail(store, key, begun["attempts"], StoreUnavailable("no primary"))
        (told,) = closing.close(store, run_id)["failed_batches"]
        assert told["parked"] is (turn == 9)
        last, run_id = run_id, open_run(store)["run_id"]
    assert numbers(store, run_id, "coingecko") == []
    assert reclaiming.requeue_dead_lettered(store, [last], "coingecko") == 1
    assert reclaiming.reclaim_batches(store, "coingecko", run_id) == [
        {"run_id": last, "batches": 1}
    ]


def test_what_a_late_loader_changes_meanwhile_is_reclaimed_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_run(store)["run_id"]
    for number in range(3):
        put_rows(store, [coin(f"c{number}")], run_id=first, number=number)
    closing.close(store, first)
    take = reclaiming._take
    passes: list[int] = []

    def disturbed(given: Store, input_id: str, run_id: str, left: list[Document]) -> None:
        """A loader begins a batch between the look and the update, as long as it says."""
        if len(passes) < disturbances:
            state = "loading" if len(passes) % 2 == 0 else "pending"
            store.batches.update_one({"run_id": first, "number": 1}, {"$set": {"state": state}})
        passes.append(len(left))
        take(given, input_id, run_id, left)

    monkeypatch.setattr(reclaiming, "_take", disturbed)
    disturbances = 2
    second = open_run(store)["run_id"]
    assert passes == [3, 1, 1]
    assert len(numbers(store, second, "coingecko")) == 3

    put_rows(store, [coin("c")], run_id="stray", number=1)
    passes.clear()
    first, disturbances = "stray", 1_000
    with pytest.raises(StoreUnavailable, match="still being changed"):
        reclaiming.reclaim_batches(store, "coingecko", second)


def test_one_orphan_that_can_not_be_ended_is_in_nobody_elses_way(store: Store) -> None:
    broken = open_run(store, RunRequest(("coinpaprika",)))["run_id"]
    fine = open_run(store, None, "coingecko")["run_id"]
    store.runs.update_one({"_id": broken}, {"$set": {"inputs.coinpaprika": "?"}})
    store.runs.update_many({}, {"$set": {"expires_at": clock.EPOCH}})
    assert open_run(store, None, "coingecko")["proceed"]
    assert runs.get(store, fine)["error"]["code"] == "expired"
    assert runs.get(store, broken)["status"] == "running"


def test_who_asks_for_a_run_ends_orphans_by_the_setting(store: Store) -> None:
    orphan = open_run(store)["run_id"]
    put_rows(store, [coin("bad")], run_id=orphan)
    fail_all(store, orphan, "coingecko")
    store.runs.update_one({"_id": orphan}, {"$set": {"expires_at": clock.EPOCH}})
    starting.request(store, WorkflowStarter(), SOURCES, most_resumptions=0)
    assert reclaiming.count_dead_lettered(store, [orphan], "coingecko") == 1


def test_a_run_keeps_the_first_failures_and_how_many_there_are(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    about = {"source": "coingecko", "rows": 1, "received_at": clock.now(), "first_row": 0}
    made: list[Document] = [about | {"number": n, "raw_id": f"{n:032x}"} for n in range(130)]
    queue.put_batches(store, "coingecko", run_id, made)
    run = closing.close(store, run_id)
    assert run["failed_batches_total"] == 130
    assert [f["number"] for f in run["failed_batches"]] == list(range(100))


def test_new_batches_never_hide_behind_those_that_were_reclaimed(store: Store) -> None:
    first = open_run(store)["run_id"]
    put_rows(store, [coin("a")], run_id=first)
    closing.close(store, first)
    second = open_run(store)["run_id"]
    with pytest.raises(StateConflict, match="taken by a batch"):
        put_rows(store, [coin("b")], run_id=second, number=0)
