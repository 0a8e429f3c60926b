"""Loading a batch: exactly once, every row accounted for, whatever happens in between."""

from __future__ import annotations

import json
import threading
import zlib
from itertools import permutations
from typing import Any

import pytest

from marketdata.documents.batches import Counts
from marketdata.errors import ConservationBroken, NotFound, StateConflict, StoreUnavailable
from marketdata.load.loader import load_batch
from marketdata.store import latest_prices, market_data, quarantine
from marketdata.store.batches import queue, rewrites
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from tests.support.documents import Document
from tests.support.pipeline import coin, load, put_rows
from tests.support.scenes import BEFORE, MIXED, NEWER


def documents(store: Store, collection: str = "market_data") -> list[Document]:
    return list(store.database[collection].find({}).sort("_id"))


def state(store: Store) -> tuple[Any, ...]:
    """Everything that loading leaves, but for when it was done."""
    aside = documents(store, "quarantine")
    for document in aside:
        del document["first_at"], document["last_at"]
    return documents(store), documents(store, "latest_prices"), aside


def test_rows_become_records(store: Store) -> None:
    key = put_rows(store, [coin("bitcoin"), coin("ethereum", market_cap=None)])
    assert load_batch(store, key) == Counts(rows_in=2, inserted=2)
    found = {d["asset_id"]: d for d in documents(store)}
    assert found.keys() == {"bitcoin", "ethereum"}
    assert found["ethereum"]["market_cap"] is None
    bitcoin = found["bitcoin"]
    assert (bitcoin["symbol"], bitcoin["price_usd"], bitcoin["market_cap"]) == ("BIT", 1.5, 100.0)
    assert (bitcoin["source"], bitcoin["dataset"]) == ("coingecko", "")
    assert (bitcoin["run_id"], bitcoin["row"], bitcoin["revision"]) == ("run", 0, 1)
    batch = store.batches.find_one({"_id": key.id})
    assert batch is not None
    assert bitcoin["raw_id"] == batch["raw_id"]
    assert (batch["state"], batch["counts"]["inserted"]) == ("loaded", 2)


def test_loading_what_is_loaded_gives_its_counts_again(store: Store) -> None:
    key = put_rows(store, [coin(), coin(current_price=0)])
    first = load_batch(store, key)
    before = state(store)
    assert load_batch(store, key) == first == Counts(rows_in=2, inserted=1, quarantined=1)
    assert state(store) == before


def test_the_same_content_in_another_run_is_unchanged(store: Store) -> None:
    rows = [coin("bitcoin"), coin("ethereum")]
    load(store, rows)
    before = documents(store)
    assert load(store, rows, run_id="later", minute=60) == Counts(rows_in=2, unchanged=2)
    assert documents(store) == before


def test_many_coins_of_one_ticker_and_second_survive(store: Store) -> None:
    rows = [coin(f"coin {n}", symbol="usdt") for n in range(50)]
    assert load(store, rows) == Counts(rows_in=50, inserted=50)
    assert store.market_data.count_documents({"symbol": "USDT"}) == 50
    assert store.latest_prices.count_documents({"symbol": "USDT"}) == 50


def test_a_repeated_row_is_a_duplicate(store: Store) -> None:
    assert load(store, [coin(), coin(), coin()]) == Counts(rows_in=3, inserted=1, duplicate=2)
    (record,) = documents(store)
    assert (record["revision"], record["row"]) == (1, 0)
    assert "history" not in record


def test_the_last_of_several_values_in_one_batch_is_current(store: Store) -> None:
    rows = [coin(current_price=price) for price in (1, 2, 2, 3)]
    assert load(store, rows) == Counts(rows_in=4, inserted=1, duplicate=3)
    (record,) = documents(store)
    assert (record["price_usd"], record["revision"], record["row"]) == (3.0, 3, 3)
    assert [(s["price_usd"], s["row"]) for s in record["history"]] == [(1.0, 0), (2.0, 1)]
    assert documents(store, "latest_prices")[0]["price_usd"] == 3.0


def test_one_changed_value_updates_one_record(store: Store) -> None:
    load(store, [coin("bitcoin"), coin("ethereum")])
    after = load(
        store,
        [coin("bitcoin"), coin("ethereum", current_price=2)],
        run_id="later",
        minute=60,
    )
    assert after == Counts(rows_in=2, updated=1, unchanged=1)
    found = {d["asset_id"]: d for d in documents(store)}
    assert found["bitcoin"]["run_id"] == "run"
    ethereum = found["ethereum"]
    assert (ethereum["price_usd"], ethereum["revision"], ethereum["run_id"]) == (2.0, 2, "later")
    assert [s["price_usd"] for s in ethereum["history"]] == [1.5]
    assert ethereum["history"][0]["run_id"] == "run"


def test_null_instead_of_a_value_is_a_change(store: Store) -> None:
    load(store, [coin(market_cap=100)])
    assert load(store, [coin(market_cap=None)], run_id="2", minute=1).updated == 1
    assert documents(store)[0]["market_cap"] is None


def test_a_to_b_to_a_leaves_a(store: Store) -> None:
    for minute, price in enumerate((1, 2, 1)):
        load(store, [coin(current_price=price)], run_id=f"run {minute}", minute=minute)
    (record,) = documents(store)
    assert (record["price_usd"], record["revision"]) == (1.0, 3)
    assert [s["price_usd"] for s in record["history"]] == [1.0, 2.0]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_winner_is_the_same_whatever_order_batches_are_loaded_in(
    store: Store, order: tuple[int, ...]
) -> None:
    keys = [
        put_rows(
            store,
            [coin(current_price=minute + 1), coin("other")],
            run_id=f"run {minute}",
            minute=minute,
        )
        for minute in range(3)
    ]
    for number in order:
        load_batch(store, keys[number])
    record = next(d for d in documents(store) if d["asset_id"] == "bitcoin")
    assert (record["price_usd"], record["revision"]) == (3.0, 3)
    assert [s["price_usd"] for s in record["history"]] == [1.0, 2.0]
    latest = store.latest_prices.find_one({"asset_id": "bitcoin"})
    assert latest is not None
    assert latest["price_usd"] == 3.0


def test_history_may_arrive_late(store: Store) -> None:
    load(store, [coin(last_updated="2025-05-09T06:00:00Z", current_price=5)])
    late = load(
        store,
        [coin(last_updated="2024-05-09T06:00:00Z", current_price=1)],
        run_id="late",
        minute=99,
    )
    assert late == Counts(rows_in=1, inserted=1)
    assert documents(store, "latest_prices")[0]["price_usd"] == 5.0


def test_no_rows_are_loaded_too(store: Store) -> None:
    key = put_rows(store, [])
    assert load_batch(store, key) == Counts()
    assert queue.numbers(store, "run", "coingecko", 1) == []


# --- quarantine --------------------------------------------------------------------------

WEIRD: list[Any] = [
    coin("zero", current_price=0),
    coin("no price", current_price=None),
    coin("text", current_price="about 5"),
    coin("true", current_price=True),
    coin("\udfff"),
    coin("future", last_updated="2999-01-01T00:00:00Z"),
    coin("no time", last_updated=None),
    coin("year 1", last_updated="0001-01-01T00:00:00+14:00"),
    coin("huge", current_price=10**400),
    {"$set": {"a.b": 1}, "": None, "a\x00b": 2, "id": "dollar"},
    {},
    [],
    ["bitcoin", 1.5],
    "bitcoin",
    17,
    None,
    True,
]


def test_rows_that_are_no_records_are_set_aside_whole_with_their_reason(store: Store) -> None:
    rows = [coin("good"), *WEIRD, coin("good too")]
    assert load(store, rows) == Counts(rows_in=len(rows), inserted=2, quarantined=len(WEIRD))
    aside = documents(store, "quarantine")
    by_row = {d["row_number"]: d for d in aside}
    assert sorted(by_row) == list(range(1, len(WEIRD) + 1))
    for number, row in enumerate(WEIRD, start=1):
        document = by_row[number]
        assert json.loads(document["row"]) == row
        assert document["reason"]
        assert document["message"]
        assert document["_id"] == f"{document['raw_id']}/{number}"
        assert (document["run_id"], document["source"]) == ("run", "coingecko")
    reasons = {json.loads(d["row"])["id"]: d["reason"] for d in aside if '"id"' in d["row"]}
    assert reasons["zero"] == "greater_than"
    assert reasons["future"] == "timestamp_in_future"
    assert reasons["year 1"] == "timestamp_too_early"
    assert by_row[WEIRD.index([]) + 1]["reason"] == "not_an_object"


def test_a_number_of_thousands_of_digits_is_its_row_s_fault_alone(store: Store) -> None:
    # As text, since no `int` of Python's is written with so many digits.
    rows = [coin("good"), coin("bad", current_price="@"), coin("supply", max_supply="@")]
    key = put_rows(store, rows)
    text = json.dumps(rows).replace('"@"', "9" * 6000)
    _replace_raw(store, key, text.encode())
    assert load_batch(store, key) == Counts(rows_in=3, inserted=2, quarantined=1)
    (aside,) = documents(store, "quarantine")
    assert "9" * 6000 in aside["row"]


def _replace_raw(store: Store, key: BatchKey, body: bytes) -> None:
    batch = store.batches.find_one({"_id": key.id})
    assert batch is not None
    store.raw_batches.update_one({"_id": batch["raw_id"]}, {"$set": {"data": zlib.compress(body)}})


def test_names_that_look_like_operators_are_names(store: Store) -> None:
    rows = [coin("$bitcoin", symbol="$NOMAD", name="$price_usd"), coin("a.b", name="{}")]
    assert load(store, rows).inserted == 2
    later = [coin("$bitcoin", symbol="$NOMAD", name="$$ROOT"), coin("a.b", name="$literal")]
    assert load(store, later, run_id="2", minute=1).updated == 2
    latest = {d["asset_id"]: d["name"] for d in documents(store, "latest_prices")}
    assert latest == {"$bitcoin": "$$ROOT", "a.b": "$literal"}


def test_a_row_set_aside_twice_is_one(store: Store) -> None:
    load(store, [coin(current_price=0)])
    (first,) = documents(store, "quarantine")
    again = load(store, [coin(current_price=0)], run_id="later", minute=60)
    assert again == Counts(rows_in=1, quarantined=1)
    (second,) = documents(store, "quarantine")
    assert second["first_at"] == first["first_at"]
    assert second["run_id"] == "later"


# --- crashes -----------------------------------------------------------------------------

STEPS: list[tuple[Any, str]] = [
    (market_data, "insert_new"),
    (rewrites, "note_rewrites"),
    (market_data, "replace_if_unchanged"),
    (latest_prices, "raise_latest"),
    (quarantine, "put_quarantine"),
    (queue, "finish"),
]
IN_BULK = [step for step in STEPS if step[0] not in (queue, rewrites)]
EXPECTED = Counts(rows_in=11, inserted=2, updated=3, unchanged=2, duplicate=3, quarantined=1)


def prepared(store: Store) -> BatchKey:
    load(store, BEFORE, run_id="before", minute=0)
    load(store, NEWER, run_id="newer", minute=20)
    return put_rows(store, MIXED, run_id="this", minute=10)


class Crash(Exception):
    """The process ends here."""


@pytest.mark.parametrize(("module", "name"), STEPS, ids=[name for _, name in STEPS])
@pytest.mark.parametrize("killed", [False, True], ids=["error", "killed"])
def test_a_crash_after_any_write_changes_neither_the_data_nor_the_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, killed: bool
) -> None:
    assert load_batch(store, prepared(store)) == EXPECTED
    expected = state(store)
    _empty(store)
    key = prepared(store)
    real = getattr(module, name)

    def crash(*args: Any, **options: Any) -> None:
        real(*args, **options)
        raise Crash(name)

    monkeypatch.setattr(module, name, crash)
    if killed:
        # A killed process does not even say that it failed.
        monkeypatch.setattr(queue, "fail", lambda *_: None)
    with pytest.raises(Crash):
        load_batch(store, key)
    monkeypatch.undo()
    assert load_batch(store, key) == EXPECTED
    assert state(store) == expected


@pytest.mark.parametrize(
    ("module", "name"), IN_BULK, ids=[f"half of {name}" for _, name in IN_BULK]
)
def test_a_crash_in_the_middle_of_a_write(
    store: Store, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    assert load_batch(store, prepared(store)) == EXPECTED
    expected = state(store)
    _empty(store)
    key = prepared(store)
    real = getattr(module, name)

    def crash(at: Store, documents: list[Any]) -> None:
        assert documents
        real(at, documents[: (len(documents) + 1) // 2])
        raise Crash(name)

    monkeypatch.setattr(module, name, crash)
    with pytest.raises(Crash):
        load_batch(store, key)
    monkeypatch.undo()
    assert load_batch(store, key) == EXPECTED
    assert state(store) == expected


def _empty(store: Store) -> None:
    for name in store.database.list_collection_names():
        if name != "migrations":
            store.database[name].delete_many({})


def test_a_batch_that_failed_says_why_and_can_be_loaded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put_rows(store, [coin()])

    def unreachable(*_: Any) -> None:
        raise StoreUnavailable("MongoDB did not answer.")

    monkeypatch.setattr(market_data, "insert_new", unreachable)
    with pytest.raises(StoreUnavailable):
        load_batch(store, key)
    batch = store.batches.find_one({"_id": key.id})
    assert batch is not None
    assert (batch["state"], batch["attempts"]) == ("failed", 1)
    assert batch["error"] == {
        "code": "store_unavailable",
        "type": "StoreUnavailable",
        "message": "MongoDB did not answer.",
    }
    monkeypatch.undo()
    assert load_batch(store, key).inserted == 1
    batch = store.batches.find_one({"_id": key.id})
    assert batch is not None
    assert (batch["state"], batch["attempts"]) == ("loaded", 2)
    assert "error" not in batch


def test_a_batch_that_is_not_there(store: Store) -> None:
    with pytest.raises(NotFound, match="run/coingecko/7"):
        load_batch(store, BatchKey("run", "coingecko", 7))


def test_a_raw_batch_that_has_expired_fails_its_batch(store: Store) -> None:
    key = put_rows(store, [coin()])
    store.raw_batches.delete_many({})
    with pytest.raises(NotFound, match="new run asks the source again"):
        load_batch(store, key)
    batch = store.batches.find_one({"_id": key.id})
    assert batch is not None
    assert (batch["state"], batch["error"]["code"]) == ("failed", "not_found")


# --- several at once ---------------------------------------------------------------------


def test_two_loaders_of_one_batch_load_it_once(store: Store) -> None:
    key = put_rows(
        store, [coin(f"coin {n}") for n in range(300)] + [coin("bad", current_price="x")]
    )
    start, results = threading.Barrier(2), []

    def one() -> None:
        start.wait()
        results.append(load_batch(store, key))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batch = store.batches.find_one({"_id": key.id})
    assert batch is not None
    assert batch["state"] == "loaded"
    assert Counts(**batch["counts"]) == Counts(rows_in=301, inserted=300, quarantined=1)
    assert Counts(**batch["counts"]) in results
    assert store.market_data.count_documents({}) == 300


def test_two_batches_at_once_lose_nothing(store: Store) -> None:
    ids = [f"coin {n}" for n in range(200)]
    keys = [
        put_rows(
            store,
            [coin(id_, current_price=minute + 1) for id_ in ids],
            run_id=f"run {minute}",
            minute=minute,
        )
        for minute in range(3)
    ]
    start, results = threading.Barrier(3), []

    def one(key: BatchKey) -> None:
        start.wait()
        results.append(load_batch(store, key))

    threads = [threading.Thread(target=one, args=[key]) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert sum(r.inserted for r in results) == 200
    assert sum(r.inserted + r.updated + r.unchanged for r in results) == 600
    for record in documents(store):
        assert (record["price_usd"], record["revision"]) == (3.0, 3)
    assert {d["price_usd"] for d in documents(store, "latest_prices")} == {3.0}
    assert store.latest_prices.count_documents({}) == 200


def test_an_attempt_that_was_overtaken_can_not_close(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put_rows(store, [coin()])
    real = queue.finish

    def overtaken(at: Store, of: BatchKey, attempt: int, counts: Counts, fields: Any) -> None:
        monkeypatch.undo()
        assert queue.begin(store, key) is not None
        real(at, of, attempt, counts, fields)

    monkeypatch.setattr(queue, "finish", overtaken)
    load_batch(store, key)
    batch = store.batches.find_one({"_id": key.id})
    assert batch is not None
    assert (batch["state"], batch["attempts"]) == ("loading", 2)
    with pytest.raises(StateConflict, match="was overtaken"):
        queue.finish(store, key, 1, Counts())
    queue.fail(store, key, 1, Crash("too late"))
    queue.finish(store, key, 2, Counts(rows_in=1, inserted=1))
    batch = store.batches.find_one({"_id": key.id})
    assert batch is not None
    assert batch["state"] == "loaded"


def test_a_record_that_changed_since_it_was_read_is_not_replaced(store: Store) -> None:
    load(store, [coin(current_price=2)], run_id="later", minute=60)
    (read,) = documents(store)
    # An earlier value, which changes nothing but the history.
    load(store, [coin(current_price=1)], run_id="earlier", minute=0)
    (now,) = documents(store)
    assert (now["raw_id"], now["row"], now["run_id"]) == (read["raw_id"], 0, "later")
    assert market_data.replace_if_unchanged(store, [(read, read)]) == [bytes(read["_id"])]
    assert documents(store) == [now]
    assert market_data.replace_if_unchanged(store, [(now, read)]) == []
    assert documents(store) == [read]


def test_counts_that_do_not_add_up_close_no_batch(store: Store) -> None:
    key = put_rows(store, [coin()])
    queue.begin(store, key)
    with pytest.raises(ConservationBroken, match="2 rows came in"):
        queue.finish(store, key, 1, Counts(rows_in=2, inserted=1))
    batch = store.batches.find_one({"_id": key.id})
    assert batch is not None
    assert batch["state"] == "loading"
