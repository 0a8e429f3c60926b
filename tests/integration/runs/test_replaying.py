"""Replaying quarantine: what loads leaves it, once, and every count stays true."""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata import clock
from marketdata.csv_files import parsing
from marketdata.documents.batches import Counts
from marketdata.load import loader
from marketdata.load.loader import load_batch
from marketdata.load.raw import digest_of
from marketdata.load.rebuild import rebuild
from marketdata.runs import closing, starting
from marketdata.runs.replaying import Replay, replay
from marketdata.sources.coingecko import CoinGecko
from marketdata.store import counts as kept
from marketdata.store import latest_prices, market_data, quarantine, raw_batches
from marketdata.store.batches import queue, reports
from marketdata.store.batches.batch import COUNTS, BatchKey
from marketdata.store.connection import Store
from marketdata.store.quarantine import Selection
from tests.support.documents import Document
from tests.support.dying import do_replay, live
from tests.support.gateway import Gateway, make_gateway
from tests.support.pipeline import coin, load, put_rows

ALL = Selection()
AHEAD = "2025-05-12T06:00:00.000Z"
"""Days after the receipt of every batch here, and long ago by now."""


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Once used: a normaliser that understands a price with a minus sign."""
    real = CoinGecko.map_row

    def map_row(row: Mapping[str, Any]) -> dict[str, Any]:
        price = row.get("current_price")
        return real({**row, "current_price": abs(price) if isinstance(price, float) else price})

    with monkeypatch.context() as patch:
        patch.setattr(CoinGecko, "map_row", staticmethod(map_row))
        yield patch


@pytest.fixture
def gateway(store: Store) -> Gateway:
    return make_gateway(lambda: store)


def replay_all(store: Store, selection: Selection = ALL, **options: Any) -> list[Replay]:
    """Call after call, as a client does it."""
    calls = [replay(store, selection, **options)]
    while calls[-1].remaining:
        calls.append(replay(store, selection, after=calls[-1].after, **options))
    return calls


def told(calls: Sequence[Replay]) -> tuple[int, int, int]:
    names = ("replayed", "loaded", "still_quarantined")
    replayed, loaded, still = (sum(call.total(name) for call in calls) for name in names)
    return replayed, loaded, still


def counts(store: Store, batch_id: str) -> dict[str, int]:
    """A batch's counts without the zeros; the law of conservation holds."""
    batch: Document = store.batches.find_one({"_id": batch_id})
    assert batch is not None
    assert batch["counts"]["rows_in"] == sum(batch["counts"][name] for name in COUNTS)
    return {name: batch["counts"][name] for name in COUNTS if batch["counts"][name]}


def now(store: Store, batch_id: str) -> dict[str, int]:
    """What became of a batch's rows by now: when it was closed, and in replays since."""
    found = Counter(counts(store, batch_id))
    for replayed in store.batches.find({"resolves.batch": batch_id, "state": "loaded"}):
        resolved = Counter(counts(store, replayed["_id"]))
        del resolved["quarantined"]
        found.update(resolved)
        found["quarantined"] -= resolved.total()
    return {name: found[name] for name in COUNTS if found[name]}


def check_counts(store: Store) -> None:
    """What a batch counted as quarantined is in quarantine or resolved; totals say the same."""
    received = {"state": "loaded", "resolves": {"$exists": False}}
    for batch in store.batches.find({**received, "skipped": {"$ne": True}}):
        there = store.quarantine.count_documents({"batches": batch["_id"]})
        assert now(store, batch["_id"]).get("quarantined", 0) == there, batch
    totals: Document = {**reports.total_counts(store)}
    assert totals["rows_in"] == sum(b["rows"] for b in store.batches.find(received))
    assert totals["rows_in"] + totals["resolved"] == sum(totals[name] for name in COUNTS)
    assert totals["inserted"] == store.market_data.count_documents({})


def documents(store: Store, collection: str = "market_data") -> list[Document]:
    return list(store.database[collection].find({}).sort("_id"))


# --- what loads -------------------------------------------------------------------------------


def test_a_row_too_far_ahead_loads_when_its_time_has_come(store: Store) -> None:
    rows = [coin("now"), coin("ahead", last_updated=AHEAD), coin("bad", current_price=0)]
    key = put_rows(store, rows)
    assert load_batch(store, key).quarantined == 2
    before = clock.now()
    assert told(replay_all(store)) == (2, 1, 1)
    assert [d["asset_id"] for d in documents(store)] == ["now", "ahead"]
    assert counts(store, key.id) == {"inserted": 1, "quarantined": 2}
    assert now(store, key.id) == {"inserted": 2, "quarantined": 1}
    batch, replayed = store.batches.find({}).sort("_id")
    assert batch["_id"] == key.id
    assert replayed["_id"] == f"{key.id}/replay/0"
    assert replayed["resolves"] == {
        "batch": key.id,
        "run_id": key.run_id,
        "input": key.input,
        "rows": [1],
    }
    assert before <= replayed["judged_at"] <= replayed["loaded_at"]
    assert before <= batch["replayed_at"]
    assert replayed["covers"]["last"] == documents(store)[-1]["_id"]
    (left,) = documents(store, "quarantine")
    assert (left["reason"], left["field"]) == ("greater_than", "price_usd")
    latest = {d["asset_id"]: d for d in documents(store, "latest_prices")}
    assert latest.keys() == {"now", "ahead"}
    record = documents(store)[1]
    assert (record["row"], record["inserted_by"]) == (1, replayed["_id"])
    assert (record["run_id"], record["revision"]) == (key.run_id, 1)


def test_rows_that_are_being_replayed_are_judged_alike_by_whoever_asks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for minute, price in enumerate((1.0, 2.0, 1.0)):
        rows = [coin("ahead", last_updated=AHEAD, current_price=price)]
        load_batch(store, put_rows(store, rows, run_id=f"run{minute}", minute=minute, page=minute))
    replay_all(store, Selection(run_id="run0"))
    write = loader.write_records

    def write_and_replay(*args: Any, **options: Any) -> None:
        write(*args, **options)
        with monkeypatch.context() as patch:
            patch.setattr(loader, "write_records", write)
            replay_all(store, Selection(run_id="run1"))

    with monkeypatch.context() as patch:
        patch.setattr(loader, "write_records", write_and_replay)
        replay_all(store, Selection(run_id="run2"))
    (record,) = documents(store)
    assert line(record) == [1.0, 2.0, 1.0]
    assert documents(store, "quarantine") == []


@pytest.mark.parametrize("hours", [-12, 12])
def test_what_is_too_far_ahead_is_judged_by_the_server_s_clock(
    store: Store, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    true_now = clock.now()
    soon, late = (clock.iso(true_now + timedelta(hours=24 + h)) for h in (-6, 6))
    key = put_rows(store, [coin("soon", last_updated=soon), coin("late", last_updated=late)])
    assert load_batch(store, key).quarantined == 2
    monkeypatch.setattr(clock, "now", lambda: true_now + timedelta(hours=hours))
    assert told(replay_all(store)) == (2, 1, 1)
    assert [d["asset_id"] for d in documents(store)] == ["soon"]
    batch = store.batches.find_one({"resolves.batch": key.id})
    assert batch is not None
    assert abs(batch["judged_at"] - true_now) < timedelta(minutes=1)
    (left,) = documents(store, "quarantine")
    assert abs(left["last_at"] - true_now) < timedelta(minutes=1)


def test_a_row_that_stays_says_why_it_does_now(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put_rows(store, [coin("a", last_updated=AHEAD, current_price=0)])
    load_batch(store, key)
    store.quarantine.update_one({}, {"$set": {"reason": "timestamp_in_future", "message": "?"}})
    (first,) = documents(store, "quarantine")
    assert told(replay_all(store)) == (1, 0, 1)
    (row,) = documents(store, "quarantine")
    assert row["reason"] == "greater_than"
    assert "greater than 0" in row["message"]
    assert row["first_at"] == first["first_at"] < row["last_at"]
    assert counts(store, key.id) == {"quarantined": 1}
    assert store.batches.count_documents({}) == 1
    assert store.runs.count_documents({}) == 0


def test_every_kind_of_row_is_counted_as_what_it_became(
    store: Store, fixed: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(CoinGecko, "map_row", staticmethod(_strict))
        load(store, [coin("known", current_price=1.0), coin("other", current_price=1.0)])
        rows = [
            coin("new", current_price=-1.0),
            coin("known", current_price=-1.0),
            coin("other", current_price=-2.0),
            coin("twice", current_price=-1.0),
            coin("twice", current_price=-2.0),
            coin("both", current_price=1.0),
            coin("both", current_price=-2.0),
            coin("bad", current_price=None),
        ]
        key = put_rows(store, rows, run_id="later", minute=60)
        assert load_batch(store, key) == Counts(rows_in=8, inserted=1, quarantined=7)
    assert told(replay_all(store)) == (7, 6, 1)
    assert counts(store, key.id) == {"inserted": 1, "quarantined": 7}
    assert now(store, key.id) == {
        "inserted": 3,
        "unchanged": 1,
        "updated": 1,
        "duplicate": 2,
        "quarantined": 1,
    }
    lines = {d["asset_id"]: line(d) for d in documents(store)}
    assert lines == {
        "new": [1.0],
        "known": [1.0],
        "other": [1.0, 2.0],
        "twice": [1.0, 2.0],
        "both": [1.0, 2.0],
    }
    check_counts(store)


_strict = CoinGecko.map_row


def line(record: Document) -> list[float]:
    return [sighting["price_usd"] for sighting in (*record.get("history", ()), record)]


def test_a_closed_run_stays_and_the_replay_is_one_of_its_own(
    store: Store, gateway: Gateway
) -> None:
    key = put_rows(store, [coin("ahead", last_updated=AHEAD), coin("bad", current_price=0)])
    _run(store, key.run_id)
    load_batch(store, key)
    before = closing.close(store, key.run_id)
    (call,) = replay_all(store)
    assert store.runs.find_one({"_id": key.run_id}) == before
    told_of = gateway.get(f"/runs/{key.run_id}").json()
    for counted in (told_of["totals"], told_of["sources"][0]):
        assert (counted["inserted"], counted["quarantined"], counted["resolved"]) == (0, 2, 1)
    run = gateway.get(f"/runs/{call.run_id}").json()
    assert (run["status"], run["trigger"], run["ended_at"] is None) == ("success", "replay", False)
    (source,) = run["sources"]
    assert (source["source"], source["input"]) == ("coingecko", "replay-coingecko")
    assert (source["extracted"], source["rows_in"], source["inserted"]) == (0, 1, 1)
    check_counts(store)
    stats = gateway.get("/stats").json()
    assert (stats["totals"]["quarantined"], stats["totals"]["resolved"]) == (2, 1)
    assert stats["counts"]["quarantined"] == kept.quarantined_count(store) == 1
    # A replay says nothing of how the sources are.
    assert stats["last_run"]["run_id"] == stats["run_id"] == key.run_id
    assert stats["window"]["runs"] == 1
    assert [one["run_id"] for one in gateway.get("/runs", trigger="replay").json()["data"]] == [
        call.run_id
    ]


def test_a_replay_can_not_be_resumed(store: Store, gateway: Gateway) -> None:
    load(store, [coin("ahead", last_updated=AHEAD)])
    (call,) = replay_all(store)
    for answer in (
        gateway.post("/refresh", {"resume": call.run_id}),
        gateway.post(f"/runs/{call.run_id}/retry"),
    ):
        assert answer.status == 409
        assert "/quarantine/replay" in answer.json()["error"]["message"]


def _run(store: Store, run_id: str, **fields: Any) -> None:
    now = clock.now()
    note = {"source": "coingecko", "status": "extracted", "started_at": now}
    run: Document = {
        "_id": run_id,
        "trigger": "refresh",
        "execution": None,
        "status": "running",
        "started_at": now,
        "expires_at": now,
        "ended_at": None,
        "holds": ["coingecko"],
        "inputs": {"coingecko": note},
    }
    store.runs.insert_one(run | fields)


# --- what stays -------------------------------------------------------------------------------


def test_a_row_whose_raw_batch_has_expired_stays(store: Store) -> None:
    key = put_rows(store, [coin("ahead", last_updated=AHEAD)])
    load_batch(store, key)
    store.raw_batches.delete_many({})
    (call,) = replay_all(store)
    assert told([call]) == (1, 0, 1)
    (outcome,) = call.outcomes
    assert outcome.reason == "raw_expired"
    assert "expired" in str(outcome.message)
    assert counts(store, key.id) == {"quarantined": 1}
    assert store.quarantine.count_documents({}) == 1


def test_a_row_of_a_run_that_is_under_way_stays_until_its_end(store: Store) -> None:
    key = put_rows(store, [coin("ahead", last_updated=AHEAD)])
    _run(store, key.run_id)
    load_batch(store, key)
    (outcome,) = replay_all(store)[0].outcomes
    assert (outcome.loaded, outcome.reason) == (0, "run_under_way")
    closing.close(store, key.run_id)
    assert told(replay_all(store)) == (1, 1, 0)


def test_a_row_of_a_batch_that_is_not_loaded_is_left_to_its_loader(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put_rows(store, [coin("ahead", last_updated=AHEAD), coin("good")])
    with monkeypatch.context() as patch:
        patch.setattr(queue, "finish", _die)
        with pytest.raises(Died):
            load_batch(store, key)
    (outcome,) = replay_all(store)[0].outcomes
    assert outcome.reason == "not_loaded"
    assert load_batch(store, key) == Counts(rows_in=2, inserted=1, quarantined=1)
    assert told(replay_all(store)) == (1, 1, 0)
    assert now(store, key.id) == {"inserted": 2}


class Died(Exception):
    """The process ends here."""


def _die(*_: Any, **__: Any) -> None:
    raise Died


def test_a_raw_batch_that_can_not_be_read_says_so(store: Store) -> None:
    key = _put_csv(store, b"BTC,1,2025-05-12\n")
    load_batch(store, key)
    store.raw_batches.update_one({}, {"$set": {"data": zlib.compress(b'BTC,"1\n')}})
    (outcome,) = replay_all(store)[0].outcomes
    assert (outcome.still_quarantined, outcome.reason) == (1, "unreadable")


# --- several batches of one content -----------------------------------------------------------


def test_a_row_that_several_batches_count_leaves_them_all(store: Store) -> None:
    rows = [coin("ahead", last_updated=AHEAD), coin("good")]
    keys = [put_rows(store, rows, run_id=f"run {n}", minute=n) for n in range(3)]
    for key in keys:
        load_batch(store, key)
    (row,) = documents(store, "quarantine")
    assert row["batches"] == [key.id for key in keys]
    assert told(replay_all(store)) == (1, 1, 0)
    assert now(store, keys[0].id) == {"inserted": 2}
    for key in keys[1:]:
        assert now(store, key.id) == {"unchanged": 2}
    check_counts(store)
    assert store.quarantine.count_documents({}) == 0


def test_a_batch_that_was_skipped_as_known_counts_too(
    store: Store, fixed: pytest.MonkeyPatch
) -> None:
    rows = [coin("good", current_price=1.0), coin("strange", current_price=-1.0)]
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(CoinGecko, "map_row", staticmethod(_strict))
        keys = [_put_known(store, rows, n) for n in range(3)]
        for key in keys:
            load_batch(store, key)
    assert store.batches.count_documents({"skipped": True}) == 2
    assert [counts(store, key.id)["quarantined"] for key in keys] == [1, 1, 1]
    assert told(replay_all(store)) == (1, 1, 0)
    assert [counts(store, key.id)["quarantined"] for key in keys] == [1, 1, 1]
    assert now(store, keys[0].id) == {"inserted": 2}
    assert [now(store, key.id) for key in keys[1:]] == [{"unchanged": 2}] * 2
    # What it counts as quarantined is not there any more: the next one is loaded whole.
    key = _put_known(store, rows, 3)
    assert load_batch(store, key) == Counts(rows_in=2, unchanged=2)
    assert store.batches.count_documents({"skipped": True}) == 2


def _put_known(store: Store, rows: list[Any], minute: int) -> BatchKey:
    """A batch with the place and the digest by which content is known again."""
    key = put_rows(store, rows, run_id=f"run {minute}", minute=minute)
    digest = digest_of(json.dumps(rows).encode())
    known = {"place": "coingecko page 1 part 0", "digest": digest}
    store.batches.update_one(key.filter(), {"$set": known})
    return key


def test_a_batch_being_loaded_at_the_same_place_is_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [coin("ahead", last_updated=AHEAD)]
    load_batch(store, _put_known(store, rows, 0))
    other = _put_known(store, [coin("x")], 1)
    assert queue.begin(store, other) is not None
    assert replay_all(store)[0].outcomes[0].reason == "not_loaded"
    load_batch(store, other)
    assert told(replay_all(store)) == (1, 1, 0)


def test_what_an_earlier_attempt_had_set_aside_and_a_later_one_loads(store: Store) -> None:
    key = put_rows(store, [coin("a", current_price=0), coin("b", current_price=0)])
    load_batch(store, key)
    first, second = documents(store, "quarantine")
    again: Document = {k: v for k, v in second.items() if k != "batches"}
    quarantine.put_quarantine(store, [again | {"batch": "another"}])
    quarantine.release(store, key.id, first["raw_id"], kept=[])
    (left,) = documents(store, "quarantine")
    assert (left["_id"], left["batches"]) == (second["_id"], ["another"])


# --- files ------------------------------------------------------------------------------------


def test_rows_of_malformed_lines_can_be_replayed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [b"BTC,1,2025-05-09\n", b'ETH,"2"x,2025-05-09\n', b"DOT,3\n"]
    key = _put_csv(store, b"".join(lines), malformed=[[len(lines[0]), len(lines[1])]])
    assert load_batch(store, key) == Counts(rows_in=3, inserted=1, quarantined=2)
    reasons = {d["row_number"]: d["reason"] for d in documents(store, "quarantine")}
    assert reasons == {1: "malformed_row", 2: "ragged_row"}
    assert told(replay_all(store)) == (2, 0, 2)

    real = parsing.parse

    def lenient(*args: Any) -> Iterator[list[str] | str]:
        for row in real(*args):
            yield row if isinstance(row, list) else ["ETH", "2", "2025-05-09"]

    monkeypatch.setattr(parsing, "parse", lenient)
    assert told(replay_all(store)) == (2, 1, 1)
    assert {d["symbol"]: d["row"] for d in documents(store)} == {"BTC": 0, "ETH": 1}
    assert now(store, key.id) == {"inserted": 2, "quarantined": 1}


def _put_csv(store: Store, data: bytes, malformed: Sequence[Sequence[int]] = ()) -> BatchKey:
    """A file of symbol, price and time as a batch, with its raw batch."""
    received_at = clock.from_ms(1_746_770_400_000)
    about: Document = {
        "source": "csv",
        "rows": data.count(b"\n"),
        "received_at": received_at,
        "first_row": 0,
        "header": ["symbol", "price_usd", "timestamp"],
        "layout": {
            "columns": {"symbol": 0, "price_usd": 1, "timestamp": 2},
            "dataset": "csv",
        },
        "malformed": malformed,
    }
    digest = digest_of(data)
    document: Document = {
        "_id": digest,
        "format": "csv",
        "version": "v1",
        "data": zlib.compress(data),
    }
    raw_batches.save_raw(store, [about | document])
    key = BatchKey("run", "csv-1", 0)
    queue.put_batches(store, key.input, key.run_id, [about | {"number": 0, "raw_id": digest}])
    return key


# --- calls ------------------------------------------------------------------------------------


def test_a_call_does_no_more_than_it_may_and_the_next_goes_on(store: Store) -> None:
    for n in range(3):
        rows = [coin(f"{n}-{i}", last_updated=AHEAD) for i in range(4)]
        rows += [coin(f"{n}-bad", current_price=0)]
        load(store, rows, run_id=f"run {n}", minute=n, page=n)
    calls = replay_all(store, rows=4)
    assert [call.total("replayed") for call in calls] == [4, 4, 4, 3]
    assert [call.remaining for call in calls] == [11, 7, 3, 0]
    assert calls[-1].after is None
    assert told(calls) == (15, 12, 3)
    check_counts(store)
    # Out of time at once: one raw batch for each call.
    calls = replay_all(store, seconds=-1)
    assert [call.total("replayed") for call in calls] == [1, 1, 1]


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        (Selection(source="csv"), "abc"),
        (Selection(source="coingecko"), "c"),
        (Selection(reason="timestamp_in_future"), "c"),
        (Selection(reason="greater_than"), "abc"),
        (Selection(run_id="second"), "ac"),
        (Selection(run_id="second", reason="greater_than"), "abc"),
        (Selection(ids=()), "abc"),
    ],
    ids=str,
)
def test_a_selection_leaves_all_others_alone(store: Store, selection: Selection, left: str) -> None:
    load(store, [coin("a", last_updated=AHEAD)], run_id="first")
    rows = [coin("b", last_updated=AHEAD), coin("c", current_price=0)]
    load(store, rows, run_id="second", page=2)
    replay_all(store, selection)
    assert {json.loads(d["row"])["id"] for d in documents(store, "quarantine")} == set(left)
    check_counts(store)


def test_rows_can_be_named(store: Store) -> None:
    load(store, [coin(name, last_updated=AHEAD) for name in "abc"])
    ids = tuple(row["_id"] for row in documents(store, "quarantine"))
    assert told(replay_all(store, Selection(ids=(ids[1], "none/1")))) == (1, 1, 0)
    assert {json.loads(d["row"])["id"] for d in documents(store, "quarantine")} == {"a", "c"}
    # The last row of one identity that is in quarantine, as others of it are counted already.
    assert told(replay_all(store, Selection(ids=ids), rows=1)) == (2, 2, 0)


# --- whatever happens in between --------------------------------------------------------------


def scene(store: Store) -> list[BatchKey]:
    """Rows to replay that are new, known, changed, an earlier sighting, and twice there."""
    ahead = {"last_updated": AHEAD}
    load(store, [coin("known", **ahead), coin("other", **ahead)], run_id="before", minute=9_999)
    rows = [
        coin("new", **ahead),
        coin("known", **ahead, current_price=3),
        coin("other", **ahead),
        coin("good"),
        coin("good", current_price=9, **ahead),
        coin("twice", **ahead),
        coin("twice", **ahead, current_price=2),
        coin("bad", current_price=0),
    ]
    keys = [put_rows(store, rows, run_id=f"run {n}", minute=n) for n in range(2)]
    for key in keys:
        _run(store, key.run_id, holds=[f"{key.run_id} {key.input}"])
        load_batch(store, key)
        closing.close(store, key.run_id)
    return keys


def state(store: Store) -> dict[str, Any]:
    """Everything that a replay leaves, but for when it was done and by which runs."""
    times = ("first_at", "last_at", "replayed_at")
    return {
        "market_data": documents(store),
        "latest_prices": documents(store, "latest_prices"),
        "quarantine": [
            {k: v for k, v in d.items() if k not in times} for d in documents(store, "quarantine")
        ],
        "batches": [
            (d["_id"], d["state"], d["counts"], d.get("resolves"))
            for d in documents(store, "batches")
        ],
        "runs": [
            (d["_id"], d["results"], d["totals"])
            for d in documents(store, "runs")
            if d["trigger"] != "replay"
        ],
    }


_CHANGING = ("market_data", "latest_prices", "raw_batches", "batches", "quarantine", "runs")


def _empty(store: Store) -> None:
    for name in _CHANGING:
        store.database[name].delete_many({})


def test_a_kill_between_any_two_commands_changes_nothing(store: Store, mongodb_uri: str) -> None:
    keys = scene(store)
    before = {name: documents(store, name) for name in _CHANGING}
    commands = live(do_replay, mongodb_uri, store.database.name)
    assert commands is not None
    expected = state(store)
    assert [now(store, key.id) for key in keys] == [
        {"inserted": 4, "updated": 1, "unchanged": 1, "duplicate": 1, "quarantined": 1},
        {"unchanged": 5, "updated": 1, "duplicate": 1, "quarantined": 1},
    ]
    for number in range(2, len(commands) + 1):
        _empty(store)
        for name, there in before.items():
            store.database[name].insert_many(there)
        assert live(do_replay, mongodb_uri, store.database.name, dies_before=number) is None
        _let_calls_end(store)
        replay_all(store)
        starting.end_orphans(store)
        assert state(store) == expected, f"killed before command {number}"
        assert store.runs.count_documents({"status": "running"}) == 0
        check_counts(store)


def _let_calls_end(store: Store) -> None:
    """The time passes after which nobody can be at a replay batch, and its run has died."""
    long_ago = clock.now() - timedelta(hours=1)
    for when in ("loading_since", "created_at"):
        store.batches.update_many(
            {"resolves": {"$exists": True}, when: {"$exists": True}}, {"$set": {when: long_ago}}
        )
    store.runs.update_many({"status": "running"}, {"$set": {"expires_at": long_ago}})


def test_a_replay_that_may_be_under_way_is_left_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put_rows(store, [coin("ahead", last_updated=AHEAD)])
    load_batch(store, key)
    with monkeypatch.context() as patch:
        patch.setattr(queue, "finish", _die)
        with pytest.raises(Died):
            replay_all(store)
    # An error that the loader sees ends the attempt, and there is nothing to be waited for.
    replayed = store.batches.find_one({"resolves.batch": key.id})
    assert replayed is not None
    assert replayed["state"] == "failed"
    store.batches.update_one({"_id": replayed["_id"]}, {"$set": {"state": "loading"}})
    (outcome,) = replay_all(store)[0].outcomes
    assert (outcome.loaded, outcome.reason) == (0, "busy")
    assert "minute" in str(outcome.message)
    _let_calls_end(store)
    assert told(replay_all(store)) == (1, 1, 0)
    assert now(store, key.id) == {"inserted": 1}


def test_a_row_that_is_resolved_leaves_even_if_the_call_died_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put_rows(store, [coin("ahead", last_updated=AHEAD)])
    load_batch(store, key)
    real, calls = quarantine.take, []

    def dying(at: Store, rows: Any) -> set[str]:
        calls.append(rows)
        if rows:
            raise Died
        return real(at, rows)

    with monkeypatch.context() as patch:
        patch.setattr(quarantine, "take", dying)
        with pytest.raises(Died):
            replay_all(store)
    assert store.quarantine.count_documents({}) == 1
    # In between the records are there already. A rebuild makes them as they are.
    before = documents(store)
    rebuild(store, lease_seconds=0.3)
    assert documents(store) == before
    assert told(replay_all(store)) == (1, 1, 0)
    assert documents(store) == before
    check_counts(store)
    assert store.batches.count_documents({"resolves": {"$exists": True}}) == 1


def test_two_replays_at_once_count_nothing_twice(store: Store) -> None:
    keys = scene(store)
    replay_all(store)
    expected = outcome_of(store, keys)
    for _ in range(4):
        _empty(store)
        keys = scene(store)
        # What one leaves to another that is at the same raw batch is there the next time.
        assert sum(_at_once(store)) + told(replay_all(store))[1] == 6
        assert outcome_of(store, keys) == expected
        check_counts(store)


def outcome_of(store: Store, keys: Sequence[BatchKey]) -> dict[str, Any]:
    """What replays leave, into however many batches the rows were parted."""
    found = state(store)
    for record in (*found["market_data"], *found["latest_prices"]):
        del record["inserted_by"]
    return {
        "records": found["market_data"],
        "latest": found["latest_prices"],
        "quarantine": found["quarantine"],
        "now": [now(store, key.id) for key in keys],
        "then": [counts(store, key.id) for key in keys],
    }


def _at_once(store: Store, replays: int = 3) -> list[int]:
    """How many rows each of some replays at the same time has loaded."""
    start = threading.Barrier(replays)
    loaded: list[int] = []
    faults: list[Exception] = []

    def one() -> None:
        try:
            start.wait()
            loaded.append(told(replay_all(store, rows=3))[1])
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            faults.append(error)

    threads = [threading.Thread(target=one) for _ in range(replays)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    return loaded


@pytest.mark.parametrize("step", ["insert_new", "raise_latest"])
def test_a_rebuild_that_exchanges_the_records_meanwhile_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    key = put_rows(store, [coin("good"), coin("ahead", last_updated=AHEAD)])
    load_batch(store, key)
    module: Any = {"insert_new": market_data, "raise_latest": latest_prices}[step]
    real = getattr(module, step)
    done: list[int] = []

    def rebuilding(at: Store, made: Any) -> Any:
        result = real(at, made)
        if not done:
            done.append(1)
            with monkeypatch.context() as patch:
                patch.setattr(module, step, real)
                # It waits for the batch that is being loaded, though not for ever.
                rebuild(store, lease_seconds=0.3, loader_seconds=0)
        return result

    monkeypatch.setattr(module, step, rebuilding)
    assert told(replay_all(store)) == (1, 1, 0)
    assert done == [1]
    assert [d["asset_id"] for d in documents(store)] == ["good", "ahead"]
    assert now(store, key.id) == {"inserted": 2}
    check_counts(store)


TIMES = ("2025-05-09T06:00:00.000Z", "2025-05-09T07:00:00.000Z")
ROWS = st.tuples(
    st.sampled_from(["a", "b"]), st.sampled_from(TIMES), st.sampled_from([1.0, 2.0, -1.0, -3.0])
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_loading_late_ends_as_loading_at_once(
    store: Store, fixed: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    """Whatever comes in whatever order, and is replayed in whatever chunks."""
    batches = data.draw(st.lists(st.lists(ROWS, max_size=5), min_size=1, max_size=4))

    def put(number: int) -> BatchKey:
        rows = [coin(a, last_updated=t, current_price=p) for a, t, p in batches[number]]
        return put_rows(store, rows, run_id=f"run {number}", minute=number, page=number)

    def lines() -> dict[bytes, list[Any]]:
        return {
            d["_id"]: [(s["price_usd"], s["raw_id"], s["row"]) for s in (*d.get("history", ()), d)]
            for d in documents(store)
        }

    _empty(store)
    for number in range(len(batches)):
        load_batch(store, put(number))
    expected = lines()
    _empty(store)
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(CoinGecko, "map_row", staticmethod(_strict))
        for number in data.draw(st.permutations(range(len(batches)))):
            load_batch(store, put(number))
    bad = sum(price < 0 for rows in batches for _, _, price in rows)
    assert told(replay_all(store, rows=data.draw(st.integers(1, 4)))) == (bad, bad, 0)
    assert lines() == expected
    assert store.quarantine.count_documents({}) == 0
    check_counts(store)


STEPS = ("load", "load fixed", "replay", "replay and die", "rebuild")
DEADLY = (
    (queue, "begin"),
    (queue, "finish"),
    (quarantine, "take"),
    (latest_prices, "raise_latest"),
)


class _Life:
    """Batches that are loaded by old or new code, replayed and rebuilt, in whatever order."""

    def __init__(self, store: Store, data: st.DataObject) -> None:
        self.store = store
        self._data = data
        contents = data.draw(st.lists(st.lists(ROWS, max_size=4), min_size=1, max_size=3))
        self._contents = data.draw(
            st.lists(st.sampled_from(contents), min_size=1, max_size=5), label="contents"
        )
        self.left: list[int] = []
        self.keys: list[BatchKey] = []

    def load_all(self) -> None:
        """Load all in order, by the code that understands each row."""
        for number in range(len(self._contents)):
            load_batch(self.store, self._put(number))

    def begin(self) -> None:
        """All batches are to be loaded yet, in some order."""
        _empty(self.store)
        self.left = self._data.draw(st.permutations(range(len(self._contents))), label="order")

    def step(self, name: str) -> None:
        """One thing that happens."""
        match name:
            case "load" if self.left:
                with pytest.MonkeyPatch.context() as broken:
                    broken.setattr(CoinGecko, "map_row", staticmethod(_strict))
                    self._load_next()
            case "load fixed" if self.left:
                self._load_next()
            case "rebuild":
                rebuild(self.store, lease_seconds=0.3, loader_seconds=0)
            case "replay":
                replay(self.store, ALL, rows=self._data.draw(st.integers(1, 6)))
            case "replay and die":
                self._replay_and_die()
        _let_calls_end(self.store)

    def closed(self) -> dict[str, dict[str, int]]:
        """The counts of each batch that was loaded, which are never to change."""
        return {key.id: counts(self.store, key.id) for key in self.keys}

    def _load_next(self) -> None:
        self.keys.append(self._put(self.left.pop()))
        load_batch(self.store, self.keys[-1])

    def _put(self, number: int) -> BatchKey:
        """Equal content comes from the same page, so that it may be known."""
        content = self._contents[number]
        rows = [coin(a, last_updated=t, current_price=p) for a, t, p in content]
        return put_rows(
            self.store, rows, run_id=f"run {number}", minute=number, page=len(content) % 2
        )

    def _replay_and_die(self) -> None:
        with pytest.MonkeyPatch.context() as dying:
            module, function = self._data.draw(st.sampled_from(DEADLY))
            dying.setattr(module, function, _die)
            # As a kill leaves it: nobody notes that the attempt has failed.
            dying.setattr(queue, "fail", lambda *_: None)
            with suppress(Died):
                replay(self.store, ALL)


@settings(
    max_examples=int(os.environ.get("REPLAY_EXAMPLES", "20")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_happens_in_between_ends_as_loading_at_once(
    store: Store, fixed: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    """Old and new code, known content, replays that die, rebuilds, in any order."""

    def values() -> dict[bytes, list[Any]]:
        return {
            d["_id"]: [(s["price_usd"], s["raw_id"], s["row"]) for s in (*d.get("history", ()), d)]
            for d in documents(store)
        }

    _empty(store)
    life = _Life(store, data)
    life.load_all()
    expected = values()
    life.begin()
    closed: dict[str, dict[str, int]] = {}
    for name in data.draw(st.lists(st.sampled_from(STEPS), max_size=12), label="steps"):
        life.step(name)
        assert life.closed() | closed == life.closed()
        closed = life.closed()
    for _ in range(len(life.left)):
        life.step("load")
    replay_all(store)
    assert values() == expected
    assert store.quarantine.count_documents({}) == 0
    check_counts(store)
    rebuild(store, lease_seconds=0.3)
    assert values() == expected
    latest = {d["asset_id"]: d["record_id"] for d in documents(store, "latest_prices")}
    assert latest == {d["asset_id"]: d["_id"] for d in documents(store)}


# --- over HTTP --------------------------------------------------------------------------------


def test_post_quarantine_replay(
    gateway: Gateway, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put_rows(store, [coin("a", last_updated=AHEAD), coin("b", current_price=0)])
    load_batch(store, key)
    answer = gateway.post("/quarantine/replay", {"source": "coingecko"})
    assert answer.status == 200, answer.text
    body = answer.json()
    (run,) = documents(store, "runs")
    assert {k: v for k, v in body.items() if k not in ("request_id", "api_latency_ms")} == {
        "run_id": run["_id"],
        "replayed": 2,
        "loaded": 1,
        "still_quarantined": 1,
        "remaining": 0,
        "next_cursor": None,
        "by_batch": [
            {
                "raw_id": documents(store, "raw_batches")[0]["_id"],
                "source": "coingecko",
                "batches": [key.id],
                "replayed": 2,
                "loaded": 1,
                "still_quarantined": 1,
                "reason": None,
                "message": None,
            }
        ],
    }
    assert gateway.get("/quarantine").json()["data"][0]["reason"] == "greater_than"
    assert gateway.post("/quarantine/replay").json()["replayed"] == 1


def test_a_cursor_goes_on_with_the_same_selection_only(
    gateway: Gateway, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketdata.runs.replaying.replay", partial(replay, rows=2))
    load(store, [coin(name, last_updated=AHEAD) for name in "abc"])
    first = gateway.post("/quarantine/replay", {"source": "coingecko"}).json()
    assert (first["loaded"], first["remaining"]) == (2, 1)
    other = gateway.post("/quarantine/replay", {"cursor": first["next_cursor"]})
    assert other.status == 400
    assert "another selection" in other.json()["error"]["message"]
    last = gateway.post(
        "/quarantine/replay", {"source": "coingecko", "cursor": first["next_cursor"]}
    ).json()
    assert (last["loaded"], last["remaining"], last["next_cursor"]) == (1, 0, None)


def test_replaying_needs_the_token_and_a_selection_that_can_be_meant(gateway: Gateway) -> None:
    assert gateway.post("/quarantine/replay", token="").status == 401
    wrong: list[Any] = [{"reason": "A B"}, {"ids": []}, {"run_id": "{}"}, {"sources": ["x"]}]
    for body in wrong:
        assert gateway.post("/quarantine/replay", body).status == 400, body
    unknown = gateway.post("/quarantine/replay", {"cursor": "AAAAAAAA.00000000"})
    assert unknown.json()["error"]["code"] == "unknown_cursor"
