"""What several tests of the store need."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from marketdata.store.connection import Store, connect
from marketdata.store.migrations import migrate
from tests.support.records import (
    make_batch,
    make_quarantined,
    make_run,
    put_records,
    some_records,
)


@pytest.fixture(scope="module")
def filled(mongodb_uri: str) -> Iterator[Store]:
    """A database with something in every collection."""
    store = connect(mongodb_uri, f"test_query_plans_{uuid.uuid4().hex[:12]}")
    store.client.drop_database(store.database.name)
    migrate(store)
    put_records(store, *some_records(300))
    runs = [make_run(number, inserted=10) for number in range(20)]
    runs += [make_run(50, status="failed"), make_run(60, status="running")]
    store.runs.insert_many(runs)
    for run in runs:
        store.batches.insert_many(
            [make_batch(run, 0, inserted=10), make_batch(run, 1, state="failed")]
        )
    store.quarantine.insert_many([make_quarantined(n) for n in range(20)])
    store.database["raw_batches"].insert_one({"_id": "0" * 32, "rows": 10})
    yield store
    store.client.drop_database(store.database.name)
    store.client.close()
