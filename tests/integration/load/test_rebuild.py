"""A rebuild from raw batches gives the live collections, document by document."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from marketdata import clock
from marketdata.errors import StateConflict, StoreUnavailable
from marketdata.load import loader
from marketdata.load import rebuild as rebuilding
from marketdata.load.loader import load_batch
from marketdata.load.rebuild import Report, rebuild
from marketdata.runs.replaying import replay
from marketdata.sources.coingecko import CoinGecko
from marketdata.store import market_data, rebuilds
from marketdata.store.batches import queue
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store, store_errors
from marketdata.store.migrations import migrate
from marketdata.store.quarantine import Selection
from marketdata.store.retention import RetentionSettings, apply
from tests.support.documents import Document
from tests.support.dying import do_rebuild, live
from tests.support.pipeline import coin, load, put_rows
from tests.support.waiting import wait_for

TIMES = [f"2025-05-09T0{hour}:00:00.000Z" for hour in range(5)]
AHEAD = "2025-06-20T06:00:00.000Z"
QUICK = 0.3
"""A lease, in seconds."""

rebuild_quickly = partial(rebuild, lease_seconds=QUICK, loader_seconds=60)


def documents(store: Store, collection: str = "market_data") -> list[Document]:
    return list(store.database[collection].find({}).sort("_id"))


def latest_of_records(store: Store) -> list[Document]:
    """The latest prices as the records have them."""
    newest: dict[bytes, Document] = {}
    for record in documents(store):
        newest[record["_id"][8:]] = record
    return [
        {"_id": key, "record_id": record["_id"]}
        | {k: v for k, v in record.items() if k not in ("_id", "history", "digest")}
        for key, record in sorted(newest.items())
    ]


def shape(store: Store) -> dict[str, Any]:
    return {
        c["name"]: (c.get("options"), store.database[c["name"]].index_information())
        for c in store.database.list_collections()
        if c["name"] != "rebuilds"
    }


def unchanged(store: Store) -> dict[str, list[Document]]:
    """What a rebuild has no business with."""
    return {name: documents(store, name) for name in ("batches", "quarantine", "raw_batches")}


def check(store: Store, before: list[Document]) -> None:
    """The records are what they were, and the latest prices follow from them."""
    assert documents(store) == before
    assert documents(store, "latest_prices") == latest_of_records(store)
    names = store.database.list_collection_names()
    assert [name for name in names if f"_{rebuilds.MARK}_" in name] == []


def history(store: Store, seed: int = 1, batches: int = 24) -> list[BatchKey]:
    """Batches that repeat, correct and contradict one another, loaded in any order.

    Some rows are set aside, and some of those are replayed; some records lie far apart.
    """
    chance = random.Random(seed)
    keys = []
    for number in range(batches):
        rows = [
            coin(
                chance.choice(["bitcoin", "ethereum", "dogecoin"]),
                last_updated=chance.choice(TIMES),
                current_price=chance.choice([1.0, 2.0, 3.0, 0.0]),
            )
            for _ in range(chance.randrange(1, 8))
        ]
        rows += [coin(f"only {number}"), coin(f"late {number}", last_updated=AHEAD)]
        place: dict[str, Any] = {"run_id": f"run {number}", "minute": number, "page": number % 3}
        keys.append(put_rows(store, rows, **place))
    for key in chance.sample(keys, len(keys)):
        load_batch(store, key)
    some = [d["_id"] for d in documents(store, "quarantine")][::2]
    replay(store, Selection(ids=tuple(some)))
    assert store.market_data.count_documents({"asset_id": {"$regex": "^late"}})
    assert store.quarantine.count_documents({})
    assert batches < 10 or store.market_data.count_documents({"revision": {"$gt": 2}})
    return keys


def test_the_result_is_the_live_one_document_by_document(store: Store) -> None:
    keys = history(store)
    before, rest, made = documents(store), unchanged(store), shape(store)
    latest = documents(store, "latest_prices")
    lines: list[str] = []
    report = rebuild_quickly(store, lines.append)
    batches = store.batches.count_documents({})
    assert batches > len(keys), "no replay batch to be read"
    assert (report.batches, report.unavailable, report.kept) == (batches, 0, 0)
    assert report.records == len(before)
    assert report.rows == sum(batch["rows"] for batch in rest["batches"])
    check(store, before)
    assert documents(store, "latest_prices") == latest
    assert unchanged(store) == rest
    assert shape(store) == made
    assert any("exchanging" in line for line in lines)
    assert any(" rows/s" in line for line in report.lines())
    # And once more, from what it has made.
    rebuild_quickly(store)
    check(store, before)


def test_records_that_were_lost_or_spoiled_come_back(store: Store) -> None:
    history(store)
    before = documents(store)
    store.market_data.delete_many({"asset_id": "bitcoin"})
    store.market_data.update_many({}, {"$set": {"price_usd": 99.0}, "$unset": {"history": ""}})
    store.latest_prices.delete_many({})
    rebuild_quickly(store)
    after = documents(store)
    for document in (*before, *after):
        # Who inserted what is gone nobody knows any more.
        document.pop("inserted_by")
    assert after == before


def test_what_came_from_expired_raw_batches_is_kept(store: Store) -> None:
    history(store)
    before = documents(store)
    expired = [d["_id"] for d in documents(store, "raw_batches")][::3]
    store.raw_batches.delete_many({"_id": {"$in": expired}})
    report = rebuild_quickly(store)
    assert report.unavailable == len(expired)
    assert report.kept > 0
    check(store, before)
    # All of them.
    store.raw_batches.delete_many({})
    report = rebuild_quickly(store)
    assert report.batches == 0
    assert report.kept == len(before)
    check(store, before)


def test_what_an_attempt_that_failed_has_written_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(store, [coin("before")])
    key = put_rows(store, [coin("before", current_price=3), coin("new")], run_id="2", minute=5)
    real = market_data.insert_new

    def half(at: Store, made: Any) -> Any:
        real(at, made[:1])
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(market_data, "insert_new", half)
        with pytest.raises(RuntimeError):
            load_batch(store, key)
    before = documents(store)
    assert len(before) > 1
    rebuild_quickly(store)
    check(store, before)
    load_batch(store, key)
    assert {d["asset_id"]: d["revision"] for d in documents(store)} == {"before": 2, "new": 1}


def test_rows_that_are_in_quarantine_stay_there_though_they_could_be_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(store, [coin("good"), coin("zero", current_price=0.0)])
    before = documents(store)
    real = CoinGecko.map_row

    def lenient(row: Mapping[str, Any]) -> dict[str, Any]:
        return real({**row, "current_price": row["current_price"] or 7.0})

    monkeypatch.setattr(CoinGecko, "map_row", staticmethod(lenient))
    rebuild_quickly(store)
    check(store, before)
    replay(store, Selection())
    assert {d["asset_id"] for d in documents(store)} == {"good", "zero"}
    before = documents(store)
    # And the other way round: a row that was loaded, and that today's code would refuse.
    monkeypatch.setattr(CoinGecko, "map_row", staticmethod(real))
    report = rebuild_quickly(store)
    assert report.kept == 1
    check(store, before)


def test_other_code_gives_other_records(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    load(store, [coin("a", current_price=1.0), coin("b", current_price=2.0)])
    real = CoinGecko.map_row

    def other(row: Mapping[str, Any]) -> dict[str, Any]:
        name = "c" if row["id"] == "b" else row["id"]
        return real({**row, "id": name, "current_price": row["current_price"] * 10})

    monkeypatch.setattr(CoinGecko, "map_row", staticmethod(other))
    rebuild_quickly(store)
    assert {d["asset_id"]: d["price_usd"] for d in documents(store)} == {"a": 10.0, "c": 20.0}
    assert documents(store, "latest_prices") == latest_of_records(store)


def test_loaders_at_work_all_the_time_lose_nothing(store: Store) -> None:
    """Batches are loaded and rows replayed before, during and after the exchange."""
    history(store)
    keys = [
        put_rows(
            store,
            [
                coin("bitcoin", last_updated=TIMES[n % 5], current_price=n + 1.0),
                coin(f"live {n}"),
                coin(f"ahead {n}", last_updated=AHEAD),
            ],
            run_id=f"live {n}",
            minute=100 + n,
            page=9,
        )
        for n in range(40)
    ]
    working = threading.Event()
    faults: list[Exception] = []

    def work() -> None:
        try:
            for number, key in enumerate(keys):
                load_batch(store, key)
                if number % 5 == 0:
                    replay(store, Selection(run_id=key.run_id))
                working.set()
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            faults.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    working.wait(30)
    reports = []
    while thread.is_alive():
        reports.append(rebuild_quickly(store))
    thread.join()
    assert faults == []
    assert reports
    found = documents(store)
    # What is there must be what a rebuild in quiet makes of it.
    store.market_data.delete_many({})
    rebuild_quickly(store)
    expected = documents(store)
    for document in (*found, *expected):
        document.pop("inserted_by")
    assert found == expected


def test_a_batch_under_way_at_the_exchange_is_loaded_once_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(store, [coin("before")])
    key = put_rows(store, [coin("under way"), coin("bad", current_price=0)], run_id="2", minute=5)
    written, go_on = threading.Event(), threading.Event()
    real = queue.finish

    def slow(*args: Any, **options: Any) -> None:
        written.set()
        assert go_on.wait(60)
        real(*args, **options)

    monkeypatch.setattr(queue, "finish", slow)
    loading = threading.Thread(target=load_batch, args=(store, key))
    loading.start()
    assert written.wait(30)
    # Whatever the loader has written by now is in the collection that is thrown away, and what
    # is taken over from it at the beginning is made away with for this test.
    monkeypatch.setattr(
        rebuilding._Rebuild, "_keep_what_only_live_records_know", lambda _self: None
    )
    reports: list[Report] = []
    said: list[str] = []
    rebuilding_thread = threading.Thread(
        target=lambda: reports.append(rebuild_quickly(store, said.append))
    )
    rebuilding_thread.start()
    wait_for(lambda: any("under way" in line for line in said) or None, what="it waits")
    assert not reports
    assert [d["asset_id"] for d in documents(store)] == ["before"]
    go_on.set()
    loading.join()
    rebuilding_thread.join()
    assert reports[0].again == 1
    assert {d["asset_id"] for d in documents(store)} == {"before", "under way"}
    assert documents(store, "latest_prices") == latest_of_records(store)


def test_a_loader_that_died_is_not_waited_for_for_ever(store: Store) -> None:
    load(store, [coin("before")])
    key = put_rows(store, [coin("dead")], run_id="2", minute=5)
    assert queue.begin(store, key) is not None
    report = rebuild(store, lease_seconds=QUICK, loader_seconds=0.1)
    assert report.again == 1
    # Written whole, as by another attempt; which finds it, and counts it as its own.
    assert {d["asset_id"] for d in documents(store)} == {"before", "dead"}
    assert load_batch(store, key).inserted == 1


def test_expired_snapshots_do_not_come_back(empty_store: Store) -> None:
    store = empty_store
    migrate(store)
    apply(store, RetentionSettings(snapshot_retention_days=30))
    now = clock.now()
    for number, days in enumerate((1, 100)):
        rows = [coin(f"{days} days", last_updated=clock.iso(now - timedelta(days=days)))]
        key = put_rows(store, rows, run_id=f"run {number}", page=number)
        received = {"$set": {"received_at": now - timedelta(days=days)}}
        store.batches.update_one(key.filter(), received)
        load_batch(store, key)
    # As MongoDB does it once a minute.
    store.market_data.delete_many({"asset_id": "100 days"})
    rebuild_quickly(store)
    assert [d["asset_id"] for d in documents(store)] == ["1 days"]
    # What the newest price of an asset was stays known.
    assert store.latest_prices.count_documents({}) == 2
    assert "snapshot_retention" in store.market_data.index_information()


def test_who_was_reading_is_told_to_try_again(store: Store) -> None:
    load(store, [coin(f"coin {n}") for n in range(50)])
    found = store.market_data.find({}).batch_size(10)
    next(found)
    rebuild_quickly(store)
    with pytest.raises(StoreUnavailable, match="exchanged"), store_errors("reading"):
        list(found)


# --- one at a time, and whatever happens ------------------------------------------------------


def test_a_kill_at_any_moment_loses_nothing(store: Store, mongodb_uri: str) -> None:
    history(store, batches=2)
    before = documents(store)
    commands = live(do_rebuild, mongodb_uri, store.database.name)
    assert commands is not None
    assert commands.count("renameCollection") == 2
    exchange = commands.index("renameCollection")
    # Every one around the exchange, and some of the others.
    around = range(exchange - 2, exchange + 5)
    numbers = [*range(5, exchange - 3, 20), *around, *range(around.stop, len(commands), 4)]
    finished = 0
    for number in numbers:
        live(do_rebuild, mongodb_uri, store.database.name, dies_before=number)
        # Who reads meanwhile misses nothing.
        assert documents(store) == before, f"killed before command {number}"
        finished += rebuild_quickly(store).finished_another
        check(store, before)
    # Those that died after an exchange were brought to their ends.
    assert finished > 1
    assert store.database["rebuilds"].find_one({}, {"phase": 1, "_id": 0}) == {"phase": "done"}


def test_an_exchange_that_was_cut_off_is_brought_to_its_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    history(store, batches=3)
    before = documents(store)
    real = rebuilding._Rebuild._catch_up
    late = put_rows(store, [coin("late")], run_id="late", minute=200)

    def die(self: Any, since: Any) -> None:
        # Closed in time to be in the old collection alone.
        load_batch(store, late)
        store.market_data.delete_many({"asset_id": "late"})
        store.latest_prices.delete_many({"asset_id": "late"})
        raise RuntimeError

    monkeypatch.setattr(rebuilding._Rebuild, "_catch_up", die)
    with pytest.raises(RuntimeError):
        rebuild_quickly(store)
    monkeypatch.setattr(rebuilding._Rebuild, "_catch_up", real)
    report = rebuild_quickly(store)
    assert report.finished_another
    assert len(documents(store)) == len(before) + 1
    assert store.latest_prices.count_documents({"asset_id": "late"}) == 1
    assert rebuild_quickly(store).finished_another is False


def test_two_at_once_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    load(store, [coin()])
    real = loader.rewrite
    began, go_on = threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        began.set()
        assert go_on.wait(60)
        return real(*args)

    monkeypatch.setattr(loader, "rewrite", slow)
    reports: list[Report] = []
    first = threading.Thread(target=lambda: reports.append(rebuild_quickly(store)))
    first.start()
    assert began.wait(30)
    with pytest.raises(StateConflict, match="under way"):
        rebuild_quickly(store)
    go_on.set()
    first.join()
    assert [report.batches for report in reports] == [1]


def test_one_that_lost_its_place_does_not_exchange(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(store, [coin()])
    before = documents(store)
    real = loader.rewrite

    def stolen(*args: Any) -> Any:
        store.database["rebuilds"].update_one({}, {"$set": {"owner": "another"}})
        return real(*args)

    monkeypatch.setattr(loader, "rewrite", stolen)
    with pytest.raises(StateConflict, match="no heartbeat"):
        rebuild(store, lease_seconds=60)
    assert documents(store) == before


def test_a_database_that_was_never_migrated_says_so(empty_store: Store) -> None:
    with pytest.raises(StateConflict, match="make migrate"):
        rebuild_quickly(empty_store)


def test_the_command_says_what_it_did(store: Store, mongodb_uri: str) -> None:
    load(store, [coin("a"), coin("b")])
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MONGODB_")}
    command = [sys.executable, "-m", "marketdata.load.rebuild"]
    place = {"MONGODB_URI": mongodb_uri, "MONGODB_DATABASE": store.database.name}
    done = subprocess.run(
        command, env=clean | place, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "rebuild: 1 batches, 2 rows, 2 records" in done.stdout
    wrong = subprocess.run(
        [*command, "--uri", "mongodb://user:SECRET@[bad"],
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert wrong.returncode == 1
    assert "SECRET" not in wrong.stderr + wrong.stdout
