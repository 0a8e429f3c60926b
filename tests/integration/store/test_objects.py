"""What is known of an uploaded object, over all runs that have it."""

from __future__ import annotations

from typing import Any

import pytest

from marketdata import clock
from marketdata.documents.batches import Counts
from marketdata.documents.runs import FileProgress
from marketdata.documents.sources import ListingMarker
from marketdata.errors import StateConflict
from marketdata.objects import Ignored, Listed, ObjectVersion
from marketdata.runs import closing, opening
from marketdata.runs.triggers import RunRequest
from marketdata.store import leases, objects, run_inputs, runs
from marketdata.store.batches import queue, reclaiming
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from marketdata.store.objects import Claimed, NotClaimed
from tests.support.documents import Document
from tests.support.runs import (
    SOURCES,
    numbers,
    open_run,
    request_run,
)

VERSION = ObjectVersion("uploads", "incoming/a.csv", "v1", 100, "e", clock.now())


class Bucket:
    """A bucket with one object in it."""

    bucket = "uploads"

    def listed(self, marker: ListingMarker | None = None) -> Listed:
        assert marker is None
        return Listed([VERSION], [], None)

    def elsewhere(self) -> list[Ignored]:
        return []

    def locate(self, version: ObjectVersion) -> ObjectVersion:
        return version


def open_uploads(store: Store) -> str:
    requested = request_run(store, RunRequest(("csv",)))
    return opening.open_run(store, requested, "execution", SOURCES, Bucket())["run_id"]


def cut(store: Store, run_id: str, *numbers: int, first: int = 0) -> None:
    about: Document = {"source": "csv", "rows": 1, "received_at": VERSION.last_modified}
    queue.put_batches(
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


def test_an_object_version_is_claimed_once_and_reclaimed_from_its_owner_alone(
    store: Store,
) -> None:
    assert objects.claim(store, VERSION, "first") == Claimed()
    assert objects.claim(store, VERSION, "first") == Claimed()
    assert objects.claim(store, VERSION, "second") == NotClaimed("first")
    assert objects.reclaim(store, VERSION.id, "another", "second") == NotClaimed("first")
    for _ in range(2):
        assert objects.reclaim(store, VERSION.id, "first", "second") == Claimed()
    assert objects.settle(store, VERSION.id, "second")
    assert objects.reclaim(store, VERSION.id, "second", "third") == NotClaimed("second")
    assert objects.reclaim(store, "no such object", "first", "second") == NotClaimed(None)


def test_an_object_is_gone_on_with_where_the_former_run_stopped(store: Store) -> None:
    first = open_uploads(store)
    layout: Document = {"header": ["symbol"], "columns": {}, "dataset": "csv"}
    progress: Document = FileProgress(50, 2, 2, 2).document()
    cut(store, first, 0, 1)
    run_inputs.set_input(
        store,
        first,
        VERSION.id,
        {"status": "extracting", "layout": layout, "progress": progress, "warnings": ["w"]},
    )
    # Cut after the last note of how far it got: it will be cut again.
    cut(store, first, 2)
    assert closing.close(store, first)["status"] == "failed"
    assert state_of_object(store) == "taken"

    second = open_uploads(store)

    note = runs.get(store, second)["inputs"][VERSION.id]
    assert (note["layout"], note["warnings"]) == (layout, ["w"])
    assert note["progress"] == progress
    assert note["status"] == "pending"
    assert note["resume_from"] == [{"run_id": first, "batches": 2}]
    assert numbers(store, second, VERSION.id) == [0, 1]


@pytest.mark.parametrize("dies_at", ["acquire", "reclaim_batches", "note_resumed_by", "set_input"])
def test_who_dies_while_it_takes_an_object_over_loses_no_place(
    store: Store, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    first = open_uploads(store)
    layout: Document = {"header": ["symbol"], "columns": {}, "dataset": "csv"}
    progress: Document = FileProgress(50, 2, 2, 2).document()
    cut(store, first, 0, 1)
    noted: Document = {"status": "extracting", "started_at": clock.now()}
    run_inputs.set_input(store, first, VERSION.id, noted | {"layout": layout, "progress": progress})
    closing.close(store, first)
    module = {"acquire": leases, "reclaim_batches": reclaiming}.get(dies_at, run_inputs)
    works = getattr(module, dies_at)

    def dying(*given: Any) -> Any:
        # Of what it is taking over the batches are its own by then.
        if dies_at != "set_input" or "lease" in given[-1]:
            if dies_at == "reclaim_batches":
                works(*given)
            raise SystemExit
        return works(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, dies_at, dying)
        with pytest.raises(SystemExit):
            open_uploads(store)
    second = objects.owner(store, VERSION.id)
    assert second not in (None, first)
    closing.close(store, str(second))

    third = open_run(store, RunRequest(resume=first))["run_id"]

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
    run_inputs.set_input(store, first, VERSION.id, {"status": "extracted"})
    closing.close(store, first)
    assert state_of_object(store) == "done"
    with pytest.raises(StateConflict, match="nothing to go on with"):
        open_run(store, RunRequest(resume=first, retry=True))
    assert state_of_object(store) == "done"


def test_an_object_is_not_done_while_batches_of_it_are_left_by_whomever(store: Store) -> None:
    first = open_uploads(store)
    cut(store, "a stray", 0)
    run_inputs.set_input(store, first, VERSION.id, {"status": "extracted"})
    assert closing.close(store, first)["status"] == "success"
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
        run_inputs.set_input(store, run_id, VERSION.id, fields)
        closing.close(store, run_id)
        run_id = open_uploads(store)
    assert objects.owner(store, VERSION.id) == run_id


def test_an_object_is_done_refused_or_given_up(store: Store) -> None:
    first = open_uploads(store)
    cut(store, first, 0)
    run_id = first
    # The first of them gets to that place, and four more no further.
    for _ in range(5):
        got = {"position": 50, "batches": 1, "rows": 1, "packed": False}
        noted: Document = {"status": "extracting", "started_at": clock.now(), "progress": got}
        run_inputs.set_input(store, run_id, VERSION.id, noted)
        assert state_of_object(store) == "taken"
        run: Document = closing.close(store, run_id)
        last, run_id = run_id, open_uploads(store)
    assert state_of_object(store) == "refused"
    assert run["results"][0]["error"]["code"] == "given_up"
    assert runs.get(store, run_id)["inputs"] == {}
    closing.close(store, run_id)
    with pytest.raises(StateConflict, match="retry"):
        open_run(store, RunRequest(resume=last))
    run_id = open_run(store, RunRequest(resume=last, retry=True))["run_id"]
    assert objects.owner(store, VERSION.id) == run_id
    run_inputs.set_input(store, run_id, VERSION.id, {"status": "extracted"})
    assert closing.close(store, run_id)["status"] == "failed"  # the batch is not loaded
    run_id = open_uploads(store)
    (number,) = numbers(store, run_id, VERSION.id)
    key = BatchKey(run_id, VERSION.id, number)
    begun = queue.begin(store, key)
    assert begun is not None
    queue.finish(store, key, begun["attempts"], Counts(rows_in=1, inserted=1))
    assert closing.close(store, run_id)["status"] == "success"
    assert state_of_object(store) == "done"


def test_a_refused_object_is_read_anew_when_it_is_retried(store: Store) -> None:
    first = open_uploads(store)
    error: Document = {"code": "file_refused", "message": "no such columns"}
    layout: Document = {}
    run_inputs.set_input(
        store, first, VERSION.id, {"status": "failed", "error": error, "layout": layout}
    )
    closing.close(store, first)
    assert state_of_object(store) == "refused"
    assert runs.get(store, open_uploads(store))["inputs"] == {}
    retried = open_run(store, RunRequest(resume=first, retry=True))["run_id"]
    note = runs.get(store, retried)["inputs"][VERSION.id]
    assert "layout" not in note
    assert note["status"] == "pending"
