"""What is set aside: one row for all batches that met it, and which runs count it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from marketdata import clock
from marketdata.load.loader import load_batch
from marketdata.runs.replaying import replay
from marketdata.store import quarantine
from marketdata.store.batches import queue, reports
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from marketdata.store.migrations import MIGRATIONS, migrate
from marketdata.store.quarantine import Selection
from tests.support.documents import Document
from tests.support.pipeline import coin, load, put_rows
from tests.support.records import NOW, make_quarantined

BAD = [coin("good"), coin("bad", current_price=0)]
AHEAD = (clock.now() - timedelta(minutes=1)).isoformat()
"""Far ahead of when the batches here were received, and past today."""


def rows(store: Store) -> list[Document]:
    return list(store.quarantine.find({}).sort("_id"))


def shown(store: Store, run_id: str) -> int:
    """How many rows a run's filter finds, page by page."""
    found, after = 0, None
    while page := quarantine.find_quarantined(store, limit=2, run_id=run_id, after=after):
        found, after = found + len(page), page[-1]["_id"]
    assert found == quarantine.count(store, Selection(run_id=run_id), after=None, limit=1_000)
    return found


def counted(store: Store, run_id: str) -> int:
    """How many rows a run's batches count as quarantined."""
    loaded = store.batches.find({"run_id": run_id, "state": "loaded"})
    return sum(batch["counts"]["quarantined"] for batch in loaded)


# --- what a row says --------------------------------------------------------------------------


def said(number: int, **fields: Any) -> Document:
    """What batch `number` says of one row; they were received in the order of numbers."""
    received = {"received_at": NOW + timedelta(minutes=number)}
    about = {"message": f"${number}", "row": '{"$x": "$row"}', "field": "$price"}
    row = {**make_quarantined(0, run_id=f"run{number}"), **received, **about, **fields}
    del row["batches"]
    return row


LATER_BY_NAME = said(2, batch="z", run_id="run0")
TAKEN_OVER = LATER_BY_NAME | {"run_id": "run9", "message": "of the run that took it over"}


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))), ids=str)
def test_a_row_says_what_was_received_last(store: Store, order: Sequence[int]) -> None:
    for number in order:
        quarantine.put_quarantine(store, [said(number)])
    (row,) = rows(store)
    assert row == said(3) | {"batches": [said(n)["batch"] for n in (1, 2, 3)]}


@pytest.mark.parametrize(
    ("one", "other"),
    [(said(2), LATER_BY_NAME), (LATER_BY_NAME, TAKEN_OVER)],
    ids=["two batches of one moment", "a batch that was taken over"],
)
def test_of_one_moment_the_order_is_the_same_whoever_was_first(
    store: Store, one: Document, other: Document
) -> None:
    for first, second in ((one, other), (other, one)):
        store.quarantine.delete_many({})
        quarantine.put_quarantine(store, [first])
        quarantine.put_quarantine(store, [second])
        (row,) = rows(store)
        assert row == other | {"batches": sorted({one["batch"], other["batch"]})}


def test_the_same_batch_says_it_anew(store: Store) -> None:
    quarantine.put_quarantine(store, [said(1)])
    later = {"reason": "other", "last_at": NOW + timedelta(hours=1), "first_at": clock.now()}
    quarantine.put_quarantine(store, [said(1) | later])
    (row,) = rows(store)
    assert (row["reason"], row["first_at"], row["last_at"]) == ("other", NOW, later["last_at"])


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_known_content_has_its_place_in_the_order(store: Store, order: Sequence[int]) -> None:
    quarantine.put_quarantine(store, [said(0)])
    raw_id = said(0)["raw_id"]
    for number in order:
        batch = said(number)
        known: Document = {name: batch[name] for name in ("run_id", "received_at")} | {
            "_id": batch["batch"]
        }
        quarantine.put_again(store, raw_id, known)
    (row,) = rows(store)
    names = ("run_id", "batch", "received_at")
    assert [row[name] for name in names] == [said(2)[name] for name in names]
    assert (row["message"], row["batches"]) == ("$0", [said(0)["batch"]])


@pytest.mark.parametrize("backwards", [False, True])
def test_loading_in_any_order_ends_in_the_same_row(store: Store, backwards: bool) -> None:
    keys = [put_rows(store, BAD, run_id=f"run{n}", minute=n) for n in range(3)]
    for key in keys[::-1] if backwards else keys:
        load_batch(store, key)
    (row,) = rows(store)
    assert (row["run_id"], row["batch"]) == ("run2", keys[2].id)


# --- which rows a run counts ------------------------------------------------------------------


def test_each_run_that_met_a_row_finds_it(store: Store) -> None:
    """The second and the third run bring known content and are skipped, the fourth is not."""
    for number in range(3):
        load(store, [*BAD, coin("bad 2", current_price="x")], run_id=f"run{number}", minute=number)
    load(store, [*BAD, coin("other", current_price=-1)], run_id="run3", minute=3)
    assert store.batches.count_documents({"skipped": True}) == 2
    assert store.batches.count_documents({"known_root": "run0/coingecko/0"}) == 2
    runs = [f"run{number}" for number in range(4)]
    assert [shown(store, run_id) for run_id in runs] == [2, 2, 2, 2]
    assert [counted(store, run_id) for run_id in runs] == [2, 2, 2, 2]
    assert shown(store, "another") == 0
    assert len(rows(store)) == 4


def test_a_replayed_row_leaves_all_runs_that_met_it(store: Store) -> None:
    ahead = [coin("ahead", last_updated=AHEAD), coin("bad", current_price=0)]
    for number in range(2):
        load(store, ahead, run_id=f"run{number}", minute=number)
    assert [shown(store, f"run{n}") for n in range(2)] == [2, 2]
    done = replay(store, Selection(run_id="run0"))
    assert (done.total("loaded"), done.total("still_quarantined")) == (1, 1)
    resolved = reports.resolved_counts(store, ["run0", "run1"])
    for run_id in ("run0", "run1"):
        assert resolved[run_id, "coingecko"] == 1
        assert shown(store, run_id) == counted(store, run_id) - 1 == 1


def test_a_batch_that_changes_hands_takes_its_rows_along(store: Store) -> None:
    key = put_rows(store, BAD, run_id="old")
    load_batch(store, put_rows(store, BAD, run_id="between", minute=1))
    load_batch(store, key)
    assert shown(store, "old") == counted(store, "old") == 1
    store.batches.update_one({"_id": key.id}, {"$set": {"run_id": "new", "number": 7}})
    assert shown(store, "old") == counted(store, "old") == 0
    assert shown(store, "new") == counted(store, "new") == 1


def test_what_is_not_loaded_is_not_counted_yet(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise RuntimeError

    key = put_rows(store, BAD)
    with monkeypatch.context() as patch:
        patch.setattr(queue, "finish", die)
        with pytest.raises(RuntimeError):
            load_batch(store, key)
    assert len(rows(store)) == 1
    assert shown(store, key.run_id) == counted(store, key.run_id) == 0
    load_batch(store, key)
    assert shown(store, key.run_id) == counted(store, key.run_id) == 1


def test_rows_of_many_batches_come_page_by_page_in_order(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "_RAW_TOGETHER", 2)
    for page in range(5):
        bad = [coin(f"{page} {n}", current_price=0) for n in range(12)]
        load(store, bad, run_id="run", number=page, page=page)
        load(store, bad, run_id="other", number=page, page=page, minute=1)
    mine = [row["_id"] for row in rows(store)]
    assert len(mine) == 60
    found: list[str] = []
    while True:
        after = found[-1] if found else None
        page_ = quarantine.find_quarantined(store, limit=7, run_id="run", after=after)
        left = quarantine.count(store, Selection(run_id="run"), after=after, limit=20)
        assert left == min(20, 60 - len(found))
        if not page_:
            break
        found += [row["_id"] for row in page_]
    assert found == mine
    nothing = quarantine.find_quarantined(store, limit=7, run_id="run", reason="other")
    assert nothing == []
    chosen = Selection(run_id="run", ids=(mine[3], mine[50], "none/1"))
    selected = quarantine.select(store, chosen, after=mine[3], limit=5)
    assert [row["_id"] for row in selected] == [mine[50]]


def test_only_the_rows_of_a_run_are_looked_at(empty_store: Store) -> None:
    store = empty_store
    migrate(store)
    for number in range(30):
        bad = [coin(f"{number} {n}", current_price=0) for n in range(3)]
        load(store, bad, run_id="run" if number % 10 == 0 else "other", number=number, page=number)
    store.database.command("profile", 2)
    try:
        assert (
            len(quarantine.find_quarantined(store, limit=100, run_id="run", source="coingecko"))
            == 9
        )
    finally:
        store.database.command("profile", 0)
    asked = {"command.find": "quarantine"}
    (entry,) = store.database["system.profile"].find(asked)
    assert entry["docsExamined"] == 9
    assert set(entry["planSummary"].split(", ")) == {"IXSCAN { _id: 1 }"}
    assert not entry.get("hasSortStage")


def test_skipped_batches_from_before_get_what_they_count(empty_store: Store) -> None:
    store = empty_store
    migrate(store)
    for number in range(4):
        load(store, BAD, run_id=f"run{number}", minute=number)
    chain = [b["known_as"] for b in store.batches.find({"skipped": True}).sort("received_at")]
    assert chain == [BatchKey(f"run{n}", "coingecko", 0).id for n in range(3)]
    store.batches.update_many({}, {"$unset": {"known_root": True}})
    store.quarantine.create_index([("run_id", 1), ("_id", 1)], name="run")
    store.migrations.delete_one({"_id": 10})
    assert [m.number for m in migrate(store)] == [m.number for m in MIGRATIONS if m.number == 10]
    assert [shown(store, f"run{n}") for n in range(4)] == [1, 1, 1, 1]
    assert store.quarantine.index_information().keys() == {"_id_", "reason", "source"}
