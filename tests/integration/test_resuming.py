"""What a run left undone is done by a later one, once, whoever dies, waits or comes too late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from marketdata import clock
from marketdata.errors import NotFound, StateConflict, StoreUnavailable
from marketdata.load.loader import load_batch
from marketdata.objects import ObjectVersion
from marketdata.runs import lifecycle, triggers
from marketdata.runs.triggers import Asked
from marketdata.store import batches, leases, objects, runs
from marketdata.store.batches import BatchKey, Counts
from marketdata.store.connection import Document, Store
from tests.support.pipeline import Pipeline, coin, line, put_rows
from tests.support.upstream import Reply, Seen, Upstream, upstream

SOURCES = ["coingecko", "coinpaprika"]


class Engine:
    """Starts executions by writing them down."""

    def __init__(self) -> None:
        self.started: list[tuple[str, Mapping[str, Any]]] = []

    def start(self, run_id: str, envelope: Mapping[str, Any]) -> str:
        self.started.append((run_id, envelope))
        return f"arn of {run_id}"


def numbers(store: Store, run_id: str, input_id: str) -> list[int]:
    """The numbers of all batches of an input that are to be loaded yet."""
    return batches.numbers(store, run_id, input_id, 1_000)


def open_run(store: Store, asked: Asked | None = None, *names: str) -> Document:
    """A run on demand, opened by its execution."""
    engine = Engine()
    run_id, started = lifecycle.request(store, engine, names or SOURCES, asked=asked)
    assert started
    return lifecycle.open_run(store, engine.started[0][1], f"arn:{run_id}", names or SOURCES)


def fail_all(store: Store, run_id: str, name: str) -> None:
    """Every batch of an input fails."""
    for number in numbers(store, run_id, name):
        key = BatchKey(run_id, name, number)
        begun = batches.begin(store, key)
        assert begun is not None
        batches.fail(store, key, begun["attempts"], ValueError("no luck"))


def extracted(store: Store, run_id: str, *names: str) -> None:
    for name in names:
        runs.set_input(store, run_id, name, {"status": "extracted"})


def records(store: Store) -> list[Document]:
    return list(store.market_data.find().sort("_id"))


# --- taking over ------------------------------------------------------------------------------


def test_a_later_run_ends_in_the_very_documents_of_an_undisturbed_one(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    rows = [coin("a"), coin("b")]
    load_batch(store, put_rows(store, rows, run_id=run_id))
    undisturbed = records(store)
    store.market_data.delete_many({})
    store.batches.delete_many({})
    put_rows(store, rows, run_id=run_id)
    ended = lifecycle.close(store, run_id)
    assert line(ended, "coingecko")["failed_batches"] == 1

    later = open_run(store)["run_id"]

    note = runs.get(store, later)
    assert note["resume_from"] == {"run_id": run_id, "batches": 1}
    assert note["inputs"]["coingecko"]["resume_from"] == [{"run_id": run_id, "batches": 1}]
    assert note["inputs"]["coingecko"]["batches"] == 1
    assert batches.resumed(store, later, "coingecko") == [0]
    load_batch(store, BatchKey(later, "coingecko", 0))
    assert records(store) == undisturbed
    extracted(store, later, *SOURCES)
    closed = lifecycle.close(store, later)
    assert (closed["status"], closed["totals"]["inserted"]) == ("success", 2)
    # The former keeps what it had to say, and has none of the counts.
    assert runs.get(store, run_id)["failed_batches"][0]["number"] == 0
    assert lifecycle.summarise_inputs(store, [ended])[run_id][0]["inserted"] == 0


def test_what_was_taken_over_is_closed_by_its_new_owner_alone(store: Store) -> None:
    first = open_run(store)["run_id"]
    key = put_rows(store, [coin("a")], run_id=first)
    begun = batches.begin(store, key)
    assert begun is not None
    lifecycle.close(store, first)
    second = open_run(store)["run_id"]
    mine = BatchKey(second, "coingecko", 0)
    again = batches.begin(store, mine)
    assert again is not None
    assert again["_id"] == begun["_id"]
    assert again["attempts"] > begun["attempts"]
    late = Counts(rows_in=1, inserted=1)
    attempts: list[Callable[[], object]] = [
        lambda: batches.finish(store, key, begun["attempts"], late),
        lambda: batches.note_cover(store, key, b"a", b"b"),
        lambda: batches.note_progress(store, begun["_id"], begun["attempts"], {}),
        lambda: batches.pause(store, begun["_id"], begun["attempts"]),
        lambda: batches.begin(store, key),
    ]
    for too_late in attempts:
        with pytest.raises(StateConflict):
            too_late()
    batches.fail(store, key, begun["attempts"], ValueError("late"))
    # Nor does an extractor that comes late take it back.
    put_rows(store, [coin("other")], run_id=first)
    batches.finish(store, mine, again["attempts"], late)
    (found,) = store.batches.find()
    assert (found["run_id"], found["state"], found["first_run_id"]) == (second, "loaded", first)
    assert "progress" not in found


def test_taking_over_may_stop_anywhere_and_be_done_again(store: Store) -> None:
    first = open_run(store)["run_id"]
    for number in range(5):
        put_rows(store, [coin(f"c{number}")], run_id=first, number=number)
    lifecycle.close(store, first)
    second = lifecycle.request(store, Engine(), SOURCES)[0]
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
    assert batches.take_over(store, "coingecko", second) == [{"run_id": first, "batches": 5}]
    assert batches.take_over(store, "coingecko", second) == [{"run_id": first, "batches": 5}]
    assert numbers(store, second, "coingecko") == [0, 1, 2, 3, 4]


def test_a_loader_that_begins_while_its_run_is_closed_is_sent_away(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    key = put_rows(store, [coin("a")], run_id=run_id)
    assert runs.begin_closing(store, run_id)
    with pytest.raises(StateConflict, match=run_id):
        batches.begin(store, key)
    assert numbers(store, run_id, "coingecko") == [0]
    lifecycle.close(store, run_id)
    with pytest.raises(StateConflict):
        batches.begin(store, key)
    (left,) = store.batches.find()
    assert left["state"] == "pending"


def test_a_batch_that_is_paused_has_not_failed(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    key = put_rows(store, [coin("a")], run_id=run_id)
    for part in range(5):
        begun = batches.begin(store, key)
        assert begun is not None
        assert begun.get("progress") == ({"parts": part} if part else None)
        batches.note_progress(store, begun["_id"], begun["attempts"], {"parts": part + 1})
        batches.pause(store, begun["_id"], begun["attempts"])
    lifecycle.close(store, run_id)
    later = open_run(store)["run_id"]
    begun = batches.begin(store, BatchKey(later, "coingecko", 0))
    assert begun is not None
    assert (begun["progress"], begun["resumptions"]) == ({"parts": 5}, 0)


def test_a_batch_that_fails_again_and_again_is_parked_and_blocks_nothing(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    put_rows(store, [coin("bad")], run_id=run_id)
    owners = []
    for _ in range(4):
        owners.append(run_id)
        fail_all(store, run_id, "coingecko")
        extracted(store, run_id, *SOURCES)
        run = lifecycle.close(store, run_id)
        result = line(run, "coingecko")
        assert (result["status"], result["failed_batches"]) == ("failed", 1)
        assert [f["parked"] for f in run["failed_batches"]] == [len(owners) == 4]
        run_id = open_run(store)["run_id"]
    assert "resume_from" not in runs.get(store, run_id)
    load_batch(store, put_rows(store, [coin("good")], run_id=run_id))
    extracted(store, run_id, *SOURCES)
    assert lifecycle.close(store, run_id)["status"] == "success"

    with pytest.raises(StateConflict, match="retry"):
        open_run(store, Asked(resume=owners[-1]))
    retried = open_run(store, Asked(resume=owners[-1], retry=True))
    assert [i["input"] for i in retried["inputs"]] == ["coingecko"]
    load_batch(store, BatchKey(retried["run_id"], "coingecko", 0))
    run = lifecycle.close(store, retried["run_id"])
    assert (run["status"], run["totals"]["inserted"]) == ("success", 1)


def test_what_is_parked_can_be_retried_though_a_later_run_took_the_rest(store: Store) -> None:
    first = open_run(store)["run_id"]
    for number, name in enumerate(("bad", "good")):
        put_rows(store, [coin(name)], run_id=first, number=number)
    fail_all(store, first, "coingecko")
    lifecycle.close(store, first)
    store.batches.update_one({"run_id": first, "number": 0}, {"$set": {"parked": True}})
    second = open_run(store, Asked(resume=first))["run_id"]
    assert numbers(store, second, "coingecko") == [0]
    load_batch(store, BatchKey(second, "coingecko", 0))
    extracted(store, second, *SOURCES)
    assert lifecycle.close(store, second)["status"] == "success"

    with pytest.raises(StateConflict, match=r"1 parked batches .*/retry"):
        open_run(store, Asked(resume=first))
    third = open_run(store, Asked(resume=first, retry=True))["run_id"]
    load_batch(store, BatchKey(third, "coingecko", 0))
    extracted(store, third, "coingecko")
    assert lifecycle.close(store, third)["status"] == "success"
    assert store.market_data.count_documents({}) == 2


def test_what_is_interrupted_is_tried_more_often_and_not_for_ever(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    put_rows(store, [coin("deadly")], run_id=run_id)
    for turn in range(10):
        (number,) = numbers(store, run_id, "coingecko")
        key = BatchKey(run_id, "coingecko", number)
        begun = batches.begin(store, key)
        assert begun is not None
        assert begun["resumptions"] == 0
        if turn % 2:  # else its loader is killed
            batches.fail(store, key, begun["attempts"], StoreUnavailable("no primary"))
        (told,) = lifecycle.close(store, run_id)["failed_batches"]
        assert told["parked"] is (turn == 9)
        last, run_id = run_id, open_run(store)["run_id"]
    assert numbers(store, run_id, "coingecko") == []
    assert batches.unpark(store, [last], "coingecko") == 1
    assert batches.take_over(store, "coingecko", run_id) == [{"run_id": last, "batches": 1}]


def test_what_a_late_loader_changes_meanwhile_is_taken_over_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_run(store)["run_id"]
    for number in range(3):
        put_rows(store, [coin(f"c{number}")], run_id=first, number=number)
    lifecycle.close(store, first)
    take = batches._take
    passes: list[int] = []

    def disturbed(given: Store, input_id: str, run_id: str, left: list[Document]) -> None:
        """A loader begins a batch between the look and the update, as long as it says."""
        if len(passes) < disturbances:
            state = "loading" if len(passes) % 2 == 0 else "pending"
            store.batches.update_one({"run_id": first, "number": 1}, {"$set": {"state": state}})
        passes.append(len(left))
        take(given, input_id, run_id, left)

    monkeypatch.setattr(batches, "_take", disturbed)
    disturbances = 2
    second = open_run(store)["run_id"]
    assert passes == [3, 1, 1]
    assert len(numbers(store, second, "coingecko")) == 3

    put_rows(store, [coin("c")], run_id="stray", number=1)
    passes.clear()
    first, disturbances = "stray", 1_000
    with pytest.raises(StoreUnavailable, match="still being changed"):
        batches.take_over(store, "coingecko", second)


def test_one_orphan_that_can_not_be_ended_is_in_nobody_elses_way(store: Store) -> None:
    broken = open_run(store, Asked(("coinpaprika",)))["run_id"]
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
    lifecycle.request(store, Engine(), SOURCES, most_resumptions=0)
    assert batches.parked(store, [orphan], "coingecko") == 1


def test_a_run_keeps_the_first_failures_and_how_many_there_are(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    about = {"source": "coingecko", "rows": 1, "received_at": clock.now(), "first_row": 0}
    made = [about | {"number": n, "raw_id": f"{n:032x}"} for n in range(130)]
    batches.put_batches(store, "coingecko", run_id, made)
    run = lifecycle.close(store, run_id)
    assert run["failed_batches_total"] == 130
    assert [f["number"] for f in run["failed_batches"]] == list(range(100))


def test_new_batches_never_hide_behind_those_that_were_taken_over(store: Store) -> None:
    first = open_run(store)["run_id"]
    put_rows(store, [coin("a")], run_id=first)
    lifecycle.close(store, first)
    second = open_run(store)["run_id"]
    with pytest.raises(StateConflict, match="taken by a batch"):
        put_rows(store, [coin("b")], run_id=second, number=0)


# --- asked for ---------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


def test_a_resumed_run_asks_for_no_page_again(store: Store, server: Upstream) -> None:
    rows = [coin(f"c{n}") for n in range(600)]
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

    opened = open_run(store, Asked(resume=first["_id"]), "coingecko")

    run_id = opened["run_id"]
    found = pipeline.extract(run_id, "coingecko")
    assert [seen.query["page"] for seen in server.seen] == ["3"]
    for number in found.numbers:
        load_batch(store, BatchKey(run_id, "coingecko", number))
    run = lifecycle.close(store, run_id)
    assert (run["status"], run["totals"]["inserted"]) == ("success", 100)
    assert run["resume_from"] == {"run_id": first["_id"], "batches": 0}
    # Who asks for the first one again is told that all of it is done by now.
    with pytest.raises(StateConflict, match="nothing to go on with"):
        open_run(store, Asked(resume=first["_id"]), "coingecko")


def test_an_extractor_that_outlives_its_run_writes_no_batch(store: Store, server: Upstream) -> None:
    pipeline = Pipeline(store, {"COINGECKO_API_URL": server.url + "/coins"}, ["coingecko"])
    run_id = pipeline.open()["run_id"]

    def answer(_seen: Seen) -> Reply:
        lifecycle.close(store, run_id)
        return Reply([coin("late")])

    server.replies["/coins"] = answer
    with pytest.raises(StateConflict, match="has ended"):
        pipeline.extract(run_id, "coingecko")
    assert store.batches.count_documents({}) == 0


def test_resuming_what_can_not_be(store: Store) -> None:
    engine = Engine()
    with pytest.raises(NotFound, match="no-such-run"):
        lifecycle.request(store, engine, SOURCES, asked=Asked(resume="no-such-run"))
    run_id = open_run(store)["run_id"]
    # Whoever runs is told of, whatever was asked.
    assert lifecycle.request(store, engine, SOURCES, asked=Asked(resume=run_id)) == (run_id, False)
    extracted(store, run_id, "coingecko")
    runs.set_input(store, run_id, "coinpaprika", {"status": "skipped"})
    assert lifecycle.close(store, run_id)["status"] == "success"
    with pytest.raises(StateConflict, match="nothing to go on with"):
        lifecycle.request(store, engine, SOURCES, asked=Asked(resume=run_id))
    with pytest.raises(NotFound, match="known are coingecko, coinpaprika"):
        lifecycle.request(store, engine, SOURCES, asked=Asked(("csv",), resume=run_id))
    assert engine.started == []


def test_a_run_of_some_sources_leaves_the_others_free(store: Store) -> None:
    one = open_run(store, Asked(("coingecko",), force=True))
    assert [i["input"] for i in one["inputs"]] == ["coingecko"]
    assert runs.get(store, one["run_id"])["force"] is True
    assert [i["input"] for i in open_run(store, Asked(("coinpaprika",)))["inputs"]] == [
        "coinpaprika"
    ]
    # Uploads alone: nothing of the two is in the way, but another such run is.
    uploads = open_run(store, Asked(("csv",)))
    assert uploads["inputs"] == []
    again = lifecycle.request(store, Engine(), SOURCES, asked=Asked(("csv",)))
    assert again == (uploads["run_id"], False)
    assert lifecycle.close(store, uploads["run_id"])["status"] == "success"
    with pytest.raises(NotFound, match="'nasdaq' is not known here; known are coingecko"):
        open_run(store, Asked(("nasdaq", "coingecko")))


def test_an_execution_started_by_hand_does_what_its_event_asks_for(store: Store) -> None:
    envelope = triggers.refresh_envelope(Asked(("coinpaprika",)))
    opened = lifecycle.open_run(store, envelope, "by hand", SOURCES)
    assert [i["input"] for i in opened["inputs"]] == ["coinpaprika"]
    assert lifecycle.open_run(store, envelope, "by hand", SOURCES) == opened


# --- uploaded objects --------------------------------------------------------------------------

VERSION = ObjectVersion("uploads", "incoming/a.csv", "v1", 100, "e", clock.now())


class Bucket:
    """A bucket with one object in it."""

    bucket = "uploads"

    def versions(self) -> Iterator[ObjectVersion]:
        yield VERSION

    def locate(self, version: ObjectVersion) -> ObjectVersion:
        return version


def open_uploads(store: Store) -> str:
    envelope = triggers.refresh_envelope(Asked(("csv",)))
    run_id: str = lifecycle.open_run(store, envelope, envelope["id"], SOURCES, Bucket())["run_id"]
    return run_id


def cut(store: Store, run_id: str, *numbers: int, first: int = 0) -> None:
    about = {"source": "csv", "rows": 1, "received_at": VERSION.last_modified}
    batches.put_batches(
        store,
        VERSION.id,
        run_id,
        [about | {"number": n, "raw_id": f"{first + n:032x}", "first_row": n} for n in numbers],
    )


def state_of_object(store: Store) -> str:
    found = store.objects.find_one({"_id": VERSION.id})
    assert found is not None
    state: str = found["state"]
    return state


def test_an_object_is_gone_on_with_where_the_former_run_stopped(store: Store) -> None:
    first = open_uploads(store)
    layout = {"header": ["symbol"], "columns": {}, "dataset": "csv"}
    progress = {"position": 50, "batches": 2, "rows": 2, "packed": False}
    cut(store, first, 0, 1)
    runs.set_input(
        store,
        first,
        VERSION.id,
        {"status": "extracting", "layout": layout, "progress": progress, "warnings": ["w"]},
    )
    # Cut after the last note of how far it got: it will be cut again.
    cut(store, first, 2)
    assert lifecycle.close(store, first)["status"] == "failed"
    assert state_of_object(store) == "taken"

    second = open_uploads(store)

    note = runs.get(store, second)["inputs"][VERSION.id]
    assert (note["layout"], note["warnings"]) == (layout, ["w"])
    assert note["progress"] == progress
    assert note["status"] == "pending"
    assert note["resume_from"] == [{"run_id": first, "batches": 2}]
    assert numbers(store, second, VERSION.id) == [0, 1]


@pytest.mark.parametrize("dies_at", ["acquire", "take_over", "note_resumed_by", "set_input"])
def test_who_dies_while_it_takes_an_object_over_loses_no_place(
    store: Store, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    first = open_uploads(store)
    layout = {"header": ["symbol"], "columns": {}, "dataset": "csv"}
    progress = {"position": 50, "batches": 2, "rows": 2, "packed": False}
    cut(store, first, 0, 1)
    noted = {"status": "extracting", "started_at": clock.now()}
    runs.set_input(store, first, VERSION.id, {**noted, "layout": layout, "progress": progress})
    lifecycle.close(store, first)
    module = {"acquire": leases, "take_over": batches}.get(dies_at, runs)
    works = getattr(module, dies_at)

    def dying(*given: Any) -> Any:
        # Of what it is taking over the batches are its own by then.
        if dies_at != "set_input" or "lease" in given[-1]:
            if dies_at == "take_over":
                works(*given)
            raise SystemExit
        return works(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, dies_at, dying)
        with pytest.raises(SystemExit):
            open_uploads(store)
    second = objects.owner(store, VERSION.id)
    assert second not in (None, first)
    lifecycle.close(store, str(second))

    third = open_run(store, Asked(resume=first))["run_id"]

    note = runs.get(store, third)["inputs"][VERSION.id]
    assert (note["layout"], note["progress"]) == (layout, progress)
    assert numbers(store, third, VERSION.id) == [0, 1]
    assert store.batches.count_documents({}) == 2
    found = store.objects.find_one({"_id": VERSION.id})
    assert found is not None
    # The first had got on with it, and the second never began.
    assert (found["run_id"], found["resumptions"]) == (third, 0)


def test_a_retry_leaves_alone_what_is_done(store: Store) -> None:
    first = open_uploads(store)
    runs.set_input(store, first, VERSION.id, {"status": "extracted"})
    lifecycle.close(store, first)
    assert state_of_object(store) == "done"
    with pytest.raises(StateConflict, match="nothing to go on with"):
        open_run(store, Asked(resume=first, retry=True))
    assert state_of_object(store) == "done"


def test_an_object_is_not_done_while_batches_of_it_are_left_by_whomever(store: Store) -> None:
    first = open_uploads(store)
    cut(store, "a stray", 0)
    runs.set_input(store, first, VERSION.id, {"status": "extracted"})
    assert lifecycle.close(store, first)["status"] == "success"
    assert state_of_object(store) == "taken"
    second = open_uploads(store)
    assert numbers(store, second, VERSION.id) == [0]


@pytest.mark.parametrize(
    "noted",
    [
        {"progress": {"position": 60, "batches": 1, "rows": 1, "packed": False}},
        {"error": {"code": "transient", "message": "S3 did not answer."}},
    ],
)
def test_what_gets_on_or_meets_an_outage_is_not_given_up(store: Store, noted: Document) -> None:
    run_id = open_uploads(store)
    for turn in range(6):
        fields: Document = {"status": "extracting", "started_at": clock.now(), **noted}
        if "progress" in noted:
            fields["progress"] = {**noted["progress"], "position": 60 + turn}
        runs.set_input(store, run_id, VERSION.id, fields)
        lifecycle.close(store, run_id)
        run_id = open_uploads(store)
    assert objects.owner(store, VERSION.id) == run_id


def test_an_object_is_done_refused_or_given_up(store: Store) -> None:
    first = open_uploads(store)
    cut(store, first, 0)
    run_id = first
    # The first of them gets to that place, and four more no further.
    for _ in range(5):
        got = {"position": 50, "batches": 1, "rows": 1, "packed": False}
        noted = {"status": "extracting", "started_at": clock.now(), "progress": got}
        runs.set_input(store, run_id, VERSION.id, noted)
        assert state_of_object(store) == "taken"
        run = lifecycle.close(store, run_id)
        last, run_id = run_id, open_uploads(store)
    assert state_of_object(store) == "refused"
    assert run["results"][0]["error"]["code"] == "given_up"
    assert runs.get(store, run_id)["inputs"] == {}
    lifecycle.close(store, run_id)
    with pytest.raises(StateConflict, match="retry"):
        open_run(store, Asked(resume=last))
    run_id = open_run(store, Asked(resume=last, retry=True))["run_id"]
    assert objects.owner(store, VERSION.id) == run_id
    runs.set_input(store, run_id, VERSION.id, {"status": "extracted"})
    assert lifecycle.close(store, run_id)["status"] == "failed"  # the batch is not loaded
    run_id = open_uploads(store)
    (number,) = numbers(store, run_id, VERSION.id)
    key = BatchKey(run_id, VERSION.id, number)
    begun = batches.begin(store, key)
    assert begun is not None
    batches.finish(store, key, begun["attempts"], Counts(rows_in=1, inserted=1))
    assert lifecycle.close(store, run_id)["status"] == "success"
    assert state_of_object(store) == "done"


def test_a_refused_object_is_read_anew_when_it_is_retried(store: Store) -> None:
    first = open_uploads(store)
    error = {"code": "file_refused", "message": "no such columns"}
    runs.set_input(store, first, VERSION.id, {"status": "failed", "error": error, "layout": {}})
    lifecycle.close(store, first)
    assert state_of_object(store) == "refused"
    assert runs.get(store, open_uploads(store))["inputs"] == {}
    retried = open_run(store, Asked(resume=first, retry=True))["run_id"]
    note = runs.get(store, retried)["inputs"][VERSION.id]
    assert "layout" not in note
    assert note["status"] == "pending"


# --- leases and clocks -------------------------------------------------------------------------


def lease(store: Store, name: str = "coingecko") -> Document:
    found = store.sources.find_one({"_id": name})
    assert found is not None
    granted: Document = found["lease"]
    return granted


def test_a_lease_has_a_number_that_grows_and_a_time_that_is_renewed(store: Store) -> None:
    first = open_run(store)["run_id"]
    one = lease(store)
    assert (one["run_id"], runs.get(store, first)["inputs"]["coingecko"]["lease"]) == (
        first,
        one["number"],
    )
    soon = clock.now() + timedelta(minutes=1)
    store.runs.update_one({"_id": first}, {"$set": {"expires_at": soon}})
    lifecycle.require_running(store, first, "coingecko")
    assert runs.expiries(store, [first])[first] > clock.now() + timedelta(minutes=19)
    lifecycle.close(store, first)
    assert runs.expiries(store, [first]) == {}
    second = open_run(store)["run_id"]
    assert (lease(store)["run_id"], lease(store)["number"]) == (second, one["number"] + 1)


def test_who_lost_a_lease_closes_no_batch_and_ends_no_run(store: Store) -> None:
    run_id = open_run(store)["run_id"]
    key = put_rows(store, [coin("a")], run_id=run_id)
    begun = batches.begin(store, key)
    assert begun is not None
    stolen = {"$set": {"lease.run_id": "a thief"}, "$inc": {"lease.number": 1}}
    store.sources.update_one({"_id": "coingecko"}, stolen)
    attempts: list[Callable[[], object]] = [
        lambda: batches.finish(store, key, begun["attempts"], Counts(rows_in=1, inserted=1)),
        lambda: lifecycle.close(store, run_id),
        lambda: lifecycle.require_running(store, run_id, "coingecko"),
    ]
    for refused in attempts:
        with pytest.raises(StateConflict, match="lost the lease of coingecko"):
            refused()
    assert runs.get(store, run_id)["status"] == "running"
    # What gives no sign of life is ended all the same, or it would hold its sources for ever.
    store.runs.update_one({"_id": run_id}, {"$set": {"expires_at": clock.EPOCH}})
    open_run(store)
    assert runs.get(store, run_id)["error"]["code"] == "expired"


@pytest.mark.parametrize("step", ["acquire", "take_over"])
def test_a_run_that_ended_while_it_was_opened_takes_nothing_from_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its execution is aborted, and its function goes on."""
    left = open_run(store)["run_id"]
    put_rows(store, [coin("a")], run_id=left)
    lifecycle.close(store, left)
    engine = Engine()
    late, _ = lifecycle.request(store, engine, SOURCES)
    module: Any = leases if step == "acquire" else batches
    real = getattr(module, step)
    following: list[str] = []

    def held_up(*args: Any) -> Any:
        monkeypatch.setattr(module, step, real)
        lifecycle.close(store, late)
        following.append(open_run(store)["run_id"])
        return real(*args)

    monkeypatch.setattr(module, step, held_up)
    opened = lifecycle.open_run(store, engine.started[0][1], f"arn:{late}", SOURCES)
    assert not opened["proceed"]
    (next_one,) = following
    assert lease(store)["run_id"] == next_one
    assert store.batches.distinct("run_id") == [next_one]
    assert lifecycle.close(store, next_one)["status"] != "running"


@pytest.mark.parametrize("minutes", [-5, 5])
def test_the_clocks_of_functions_do_not_matter(
    store: Store, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    true_now = clock.now
    wrong = timedelta(minutes=minutes)
    monkeypatch.setattr(clock, "now", lambda: true_now() + wrong)
    run_id = open_run(store)["run_id"]
    run = runs.get(store, run_id)
    for time in (run["started_at"], run["expires_at"] - runs.LEASE):
        assert abs(time - true_now()) < timedelta(minutes=1)
    # Four minutes of life are left by the server's clock: to a fast one it would seem expired.
    soon = true_now() + timedelta(minutes=4)
    store.runs.update_one({"_id": run_id}, {"$set": {"expires_at": soon}})
    assert runs.expired(store) == []
    # And one that is over by that clock is over, however slow the function's is.
    store.runs.update_one(
        {"_id": run_id}, {"$set": {"expires_at": true_now() - timedelta(minutes=1)}}
    )
    assert [orphan["_id"] for orphan in runs.expired(store)] == [run_id]
    ended = lifecycle.close(store, run_id)
    assert abs(ended["ended_at"] - true_now()) < timedelta(minutes=1)
