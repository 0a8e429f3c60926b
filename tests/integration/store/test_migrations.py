"""Collections, indexes and the validator, as `make migrate` makes them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest
from bson import Binary
from pymongo.errors import OperationFailure, WriteError

from marketdata.errors import SettingsError, StoreUnavailable
from marketdata.store import connection
from marketdata.store.connection import Store, connect
from marketdata.store.migrate import main
from marketdata.store.migrations import MIGRATIONS, migrate
from tests.support.pipeline import load
from tests.support.proxy import Manners, running_proxy
from tests.support.records import make_record


def shape(store: Store) -> dict[str, Any]:
    """Every collection with its options and indexes."""
    return {
        c["name"]: (
            c.get("options"),
            store.database[c["name"]].index_information(),
        )
        for c in store.database.list_collections()
    }


def test_all_steps_are_applied_once(empty_store: Store) -> None:
    assert migrate(empty_store) == list(MIGRATIONS)
    made = shape(empty_store)
    assert migrate(empty_store) == []
    assert shape(empty_store) == made
    assert {
        "market_data",
        "latest_prices",
        "raw_batches",
        "runs",
        "batches",
        "quarantine",
        "sources",
        "objects",
        "schedule",
        "asked_ranges",
    } <= made.keys()


def test_numbers_are_distinct_and_ascending() -> None:
    numbers = [m.number for m in MIGRATIONS]
    assert numbers == sorted(set(numbers))


def test_every_step_can_be_applied_again(empty_store: Store) -> None:
    migrate(empty_store)
    made = shape(empty_store)
    empty_store.migrations.delete_many({})
    assert migrate(empty_store) == list(MIGRATIONS)
    assert shape(empty_store) == made


def test_a_database_from_before_the_validator_gets_it(empty_store: Store) -> None:
    empty_store.database.create_collection("market_data")
    migrate(empty_store)
    with pytest.raises(WriteError):
        empty_store.database["market_data"].insert_one({"_id": "no record"})


def test_two_at_once_do_no_harm(empty_store: Store, mongodb_uri: str) -> None:
    start, faults = threading.Barrier(3), []

    def one() -> None:
        own = connect(mongodb_uri, empty_store.database.name)
        try:
            own.client.admin.command("ping")
            start.wait()
            migrate(own)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
            faults.append(error)
        finally:
            own.client.close()

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert migrate(empty_store) == []
    assert empty_store.migrations.count_documents({}) == len(MIGRATIONS)


def test_a_record_is_in_at_most_six_secondary_indexes(store: Store) -> None:
    """Beside the partial one of candles and of the past, which costs no other records."""
    assert len(store.market_data.index_information().keys() - {"_id_", "series"}) <= 6


def test_loading_creates_no_index_and_no_collection(store: Store) -> None:
    before = shape(store)
    load(store, [{"id": "a"}])
    assert shape(store) == before


def test_a_good_record_is_taken(store: Store) -> None:
    store.market_data.insert_one(make_record())


@pytest.mark.parametrize(
    "wrong",
    [
        {"_id": "bitcoin"},
        {"symbol": ""},
        {"symbol": None},
        {"asset_id": ""},
        {"price_usd": 0.0},
        {"price_usd": -1.0},
        {"price_usd": None},
        {"price_usd": 1},
        {"price_usd": "1"},
        {"price_usd": float("nan")},
        {"price_usd": float("inf")},
        {"volume_24h": float("nan")},
        {"volume_24h": float("inf")},
        {"market_cap": float("inf")},
        {"percent_change_24h": float("nan")},
        {"percent_change_24h": float("-inf")},
        {"volume_24h": -1.0},
        {"volume_24h": "1"},
        {"market_cap": -0.5},
        {"percent_change_24h": "1 %"},
        {"timestamp": "2025-05-09T06:00:00Z"},
        {"timestamp": 1_746_770_400_000},
        {"source": ""},
        {"dataset": None},
        {"row": -1},
        {"row": 1.5},
        {"revision": 0},
        {"history": {}},
        {"run_id": None},
    ],
    ids=str,
)
def test_the_validator_refuses_what_is_no_record(store: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(WriteError) as caught:
        store.market_data.insert_one(make_record() | wrong)
    assert caught.value.code == 121
    assert store.market_data.count_documents({}) == 0


@pytest.mark.parametrize("field", sorted(make_record()))
def test_the_validator_misses_what_is_missing(store: Store, field: str) -> None:
    if field == "_id":
        return
    document = make_record()
    del document[field]
    with pytest.raises(WriteError):
        store.market_data.insert_one(document)


def test_a_good_record_can_not_be_made_a_bad_one(store: Store) -> None:
    record = make_record()
    store.market_data.insert_one(record)
    for update in ({"$set": {"price_usd": 0.0}}, {"$unset": {"symbol": ""}}):
        with pytest.raises(OperationFailure):
            store.market_data.update_one({"_id": Binary(record["_id"])}, update)


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MONGODB_")}
    return subprocess.run(
        [sys.executable, "-m", "marketdata.store.migrate", *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_says_what_it_did(empty_store: Store, mongodb_uri: str) -> None:
    name = empty_store.database.name
    first = command("--uri", mongodb_uri, "--database", name)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.splitlines() == [f"migrate: {m.number} {m.title}" for m in MIGRATIONS]
    second = command(MONGODB_URI=mongodb_uri, MONGODB_DATABASE=name)
    assert (second.returncode, second.stdout) == (0, "migrate: nothing to do\n")


def test_the_command_says_what_is_wrong_and_no_password() -> None:
    nothing = command()
    assert nothing.returncode == 1
    assert "MONGODB_URI" in nothing.stderr
    wrong = command("--uri", "mongodb://user:SECRET@[bad")
    assert wrong.returncode == 1
    assert "SECRET" not in wrong.stderr + wrong.stdout
    assert len(wrong.stderr.splitlines()) == 1


def test_the_command_waits_for_what_takes_longer_than_any_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an index on millions of documents: here each answer is slow, and patience is short."""
    monkeypatch.setattr(connection, "_SOCKET_TIMEOUT_MS", 20)
    last = MIGRATIONS[-1]
    store.migrations.delete_one({"_id": last.number})
    address = store.client.address
    assert address is not None
    with running_proxy(address[1]) as proxy, proxy.behaving(Manners(delay=0.03)):
        hasty = connect(proxy.uri, store.database.name)
        with pytest.raises(StoreUnavailable):
            migrate(hasty)
        hasty.client.close()
        assert not store.migrations.count_documents({"_id": last.number})
        assert main(["--uri", proxy.uri, "--database", store.database.name]) == 0
    assert store.migrations.count_documents({"_id": last.number})


def test_a_database_that_does_not_answer_is_told() -> None:
    silent = connect("mongodb://127.0.0.1:9/", "x", server_selection_ms=50)
    with pytest.raises(StoreUnavailable, match="while applying migrations"):
        migrate(silent)
    silent.client.close()


@pytest.mark.parametrize("uri", ["", "mongodb://user:SECRET@[bad", "http://x"])
def test_a_uri_that_is_none_is_told_without_repeating_it(uri: str) -> None:
    with pytest.raises(SettingsError, match="MONGODB_URI") as caught:
        connect(uri, "x")
    assert "SECRET" not in str(caught.value)
