"""What expires, and when: indexes that follow the settings, and MongoDB's own deleting."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from local import commands
from local.console import Screen
from local.errors import SettingError
from local.settings import Settings
from marketdata import clock
from marketdata.errors import SettingsError
from marketdata.load.loader import load_batch
from marketdata.settings import read_settings
from marketdata.store import raw_batches
from marketdata.store.connection import Store
from marketdata.store.growth import growth
from marketdata.store.migrations import MIGRATIONS, migrate
from marketdata.store.retention import RetentionSettings, apply, in_force
from tests.support.documents import Document
from tests.support.pipeline import coin, put_rows
from tests.support.records import make_record
from tests.support.waiting import wait_for

FOR_EVER = {"raw_retention_days": None, "snapshot_retention_days": None}


@pytest.fixture
def migrated(empty_store: Store) -> Store:
    migrate(empty_store)
    return empty_store


def indexes(store: Store) -> dict[str, Any]:
    return {
        name: index["expireAfterSeconds"]
        for collection in (store.raw_batches, store.market_data)
        for name, index in collection.index_information().items()
        if "expireAfterSeconds" in index
    }


def test_nothing_expires_unless_it_is_set(migrated: Store) -> None:
    assert apply(migrated, RetentionSettings()) == []
    assert indexes(migrated) == {}
    assert in_force(migrated) == FOR_EVER


def test_indexes_follow_the_settings(migrated: Store) -> None:
    both = RetentionSettings(raw_retention_days=90, snapshot_retention_days=400)
    assert apply(migrated, both) == [
        "raw batches are kept for 90 days",
        "records of APIs are kept for 400 days",
    ]
    assert indexes(migrated) == {
        "raw_retention": 90 * 86_400,
        "snapshot_retention": 400 * 86_400,
    }
    assert apply(migrated, both) == []
    other = RetentionSettings(raw_retention_days=30)
    assert apply(migrated, other) == [
        "raw batches are kept for 30 days",
        "records of APIs are kept for ever",
    ]
    assert in_force(migrated) == {"raw_retention_days": 30, "snapshot_retention_days": None}
    assert apply(migrated, RetentionSettings()) == ["raw batches are kept for ever"]
    assert indexes(migrated) == {}


def test_a_record_is_in_at_most_six_secondary_indexes_with_it(migrated: Store) -> None:
    apply(migrated, RetentionSettings(snapshot_retention_days=1))
    assert len(migrated.market_data.index_information().keys() - {"_id_", "series"}) <= 6


@pytest.mark.parametrize("days", ["-1", "x", "1.5", "99999"])
def test_a_setting_that_can_not_be_meant_is_named(days: str) -> None:
    with pytest.raises(SettingsError, match="RAW_RETENTION_DAYS"):
        read_settings(RetentionSettings, {"RAW_RETENTION_DAYS": days})


def test_only_what_is_too_old_expires_and_no_history_of_a_file(migrated: Store) -> None:
    store = migrated
    now = clock.now()
    young, old = now - timedelta(days=5), now - timedelta(days=50)
    store.market_data.insert_many(
        [
            make_record("young", minutes=1, received_at=young),
            make_record("old", minutes=2, received_at=old),
            make_record("file", minutes=3, received_at=old, source="csv", dataset="kaggle"),
        ]
    )
    put_rows(store, [coin("a")], page=1)
    put_rows(store, [coin("b")], page=2)
    first, second = store.raw_batches.find({}).sort("_id")
    store.raw_batches.update_one({"_id": first["_id"]}, {"$set": {"seen_at": old}})
    apply(store, RetentionSettings(raw_retention_days=30, snapshot_retention_days=30))
    kept = {"young", "file"}
    wait_for(
        lambda: (
            (
                set(store.market_data.distinct("asset_id")) == kept
                and store.raw_batches.count_documents({}) == 1
            )
            or None
        ),
        what="MongoDB deletes what has expired",
        seconds=90,  # a mongod that is not the tests' own looks once a minute
    )
    (left,) = store.raw_batches.find({})
    assert left["_id"] == second["_id"]


def test_a_raw_batch_that_is_received_again_lives_on(migrated: Store) -> None:
    put_rows(migrated, [coin("a")])
    (document,) = migrated.raw_batches.find({})
    old = clock.now() - timedelta(days=50)
    migrated.raw_batches.update_one({}, {"$set": {"seen_at": old}})
    unseen: Document = {k: v for k, v in document.items() if k != "seen_at"}
    raw_batches.save_raw(migrated, [unseen])
    (again,) = migrated.raw_batches.find({})
    assert again["seen_at"] > old + timedelta(days=49)
    assert again["received_at"] == document["received_at"]


def test_what_is_there_from_before_counts_from_its_receipt(empty_store: Store) -> None:
    store = empty_store
    received = clock.now() - timedelta(days=3)
    store.database["raw_batches"].insert_one({"_id": "r", "rows": 1, "received_at": received})
    store.database["batches"].insert_many(
        {"_id": id_, "raw_id": "r", "number": n, "state": "loaded", "counts": {"quarantined": q}}
        for n, (id_, q) in enumerate({"one": 1, "two": 1, "none": 0}.items())
    )
    store.database["quarantine"].insert_many(
        [{"_id": "r/0", "batch": "two"}, {"_id": "other/0", "batch": "three"}]
    )
    migrate(store)
    (document,) = store.raw_batches.find({})
    assert document["seen_at"] == received
    batches = {d["_id"]: d["batches"] for d in store.quarantine.find({})}
    assert batches == {"r/0": ["one", "two"], "other/0": ["three"]}


def test_the_migrations_command_applies_it(empty_store: Store, mongodb_uri: str) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_RETENTION_DAYS")}
    place = {"MONGODB_URI": mongodb_uri, "MONGODB_DATABASE": empty_store.database.name}

    def run(**settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "marketdata.store.migrate"],
            env=clean | place | settings,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    first = run(RAW_RETENTION_DAYS="90", SNAPSHOT_RETENTION_DAYS="")
    assert (first.returncode, first.stderr) == (0, "")
    assert len(first.stdout.splitlines()) == len(MIGRATIONS) + 1
    assert first.stdout.splitlines()[-1] == "migrate: raw batches are kept for 90 days"
    assert run(RAW_RETENTION_DAYS="90").stdout == "migrate: nothing to do\n"
    assert run().stdout == "migrate: raw batches are kept for ever\n"
    wrong = run(RAW_RETENTION_DAYS="soon")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    assert "RAW_RETENTION_DAYS" in wrong.stderr


# --- growth -----------------------------------------------------------------------------------


def test_growth_is_told_from_what_there_is(migrated: Store) -> None:
    apply(migrated, RetentionSettings(raw_retention_days=30))
    rows = [coin(f"coin {n}") for n in range(200)] + [coin("bad", current_price=0)]
    for minute in range(2):
        load_batch(migrated, put_rows(migrated, rows, run_id=f"run {minute}", minute=minute))
    found = growth(migrated, days=3)
    sizes = {size.name: size for size in found.collections}
    assert sizes["market_data"].documents == 200
    assert sizes["raw_batches"].documents == 1
    assert sizes["market_data"].document_bytes > 200 * 100
    assert sizes["market_data"].data_bytes > 0
    assert sizes["market_data"].index_bytes > 0
    assert found.collections[0].bytes >= found.collections[-1].bytes
    assert len(found.days) == 3
    today = found.days[-1]
    assert (today.batches, today.rows, today.inserted, today.quarantined) == (2, 402, 200, 2)
    assert found.days[0].rows == 0
    assert today.date == clock.now().date()
    assert found.raw_rows == 201
    assert found.raw_bytes == sizes["raw_batches"].bytes
    assert found.bytes_of(today) > found.bytes_of(found.days[0]) == 0
    assert found.retention == {"raw_retention_days": 30, "snapshot_retention_days": None}


def test_growth_of_an_empty_database(migrated: Store) -> None:
    found = growth(migrated)
    assert (found.raw_rows, found.record_bytes, found.raw_bytes_per_row) == (0, 0.0, 0.0)
    assert sum(day.rows for day in found.days) == 0


def test_status_shows_it(migrated: Store, mongodb_uri: str) -> None:
    apply(migrated, RetentionSettings(raw_retention_days=30))
    load_batch(migrated, put_rows(migrated, [coin(f"coin {n}") for n in range(1_234)]))
    shown = io.StringIO()
    screen = Screen(Console(file=shown, width=110))
    place = {"mongodb_uri": mongodb_uri, "mongodb_database": migrated.database.name}
    commands._show_last_run(screen, place)
    text = shown.getvalue()
    assert re.search(r"market_data +1,234 +[0-9.]+ MiB +[0-9.]+ MiB", text)
    assert re.search(rf"{clock.now().date()} +1 +1,234 +1,234 +0 +[0-9.]+ MiB", text)
    assert "raw batches: 1,234 rows" in text
    assert "kept: raw batches for 30 days, records of APIs for ever" in text
    assert "dead-lettered" not in text
    migrated.batches.update_many({}, {"$set": {"state": "failed", "parked": True}})
    commands._show_last_run(screen, place)
    text = " ".join(shown.getvalue().split())
    assert "coingecko: 1 batches are dead-lettered" in text
    assert "POST /runs/RUN/retry tries them again, for RUN in run" in text
    commands._show_last_run(screen, {**place, "mongodb_uri": "mongodb://127.0.0.1:9/"})
    assert "the database does not answer" in shown.getvalue()


def test_the_local_stack_hands_the_settings_on() -> None:
    settings = Settings.load({"RAW_RETENTION_DAYS": "7"}, dotenv=Path(os.devnull))
    assert settings.retention == {"RAW_RETENTION_DAYS": "7", "SNAPSHOT_RETENTION_DAYS": "0"}
    assert read_settings(RetentionSettings, settings.retention).raw_retention_days == 7
    with pytest.raises(SettingError, match="RAW_RETENTION_DAYS=-7"):
        Settings.load({"RAW_RETENTION_DAYS": "-7"}, dotenv=Path(os.devnull))
