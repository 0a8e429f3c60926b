"""How fast rows become records, as ratios to what MongoDB itself takes for the same work."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo.collection import Collection

from marketdata import clock
from marketdata.store.connection import Store, connect
from tests.bench.conftest import Report
from tests.bench.files import Upload, market_csv
from tests.bench.indexes import secondary_indexes
from tests.support.documents import Document

ROWS = int(os.environ.get("BENCH_ROWS", "200000"))
BATCH_ROWS = 50_000
PLAIN_BATCH = 5_000
"""Documents of one plain `insert_many`, and ids of one plain look-up: what is fastest here."""

pytestmark = pytest.mark.timeout(1800)


def timed(work: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def plain_collection(store: Store) -> Collection[Document]:
    """A collection with the secondary indexes of `market_data` and nothing else."""
    collection = store.database[f"plain_{uuid4().hex[:8]}"]
    collection.create_indexes(secondary_indexes(store.market_data))
    return collection


def test_load_vs_insert_many(store: Store, report: Report) -> None:
    upload = Upload(store, market_csv(ROWS), name="load", batch_rows=BATCH_ROWS)
    loading = timed(lambda: check(upload.load().inserted == ROWS))
    documents = list(store.market_data.find({}))
    plain = plain_collection(store)

    def insert() -> None:
        for at in range(0, ROWS, PLAIN_BATCH):
            plain.insert_many(documents[at : at + PLAIN_BATCH], ordered=False)

    inserting = timed(insert)
    report.add(
        "load_vs_insert_many",
        ratio=inserting / loading,
        target=">= 0.6",
        rows_per_second=ROWS / loading,
        insert_many_per_second=ROWS / inserting,
        secondary_indexes=len(list(plain.list_indexes())) - 1,
    )


def test_reload_vs_lookup(store: Store, report: Report) -> None:
    """The file is uploaded again, and then under another name: nothing tells what it was then."""
    Upload(store, market_csv(ROWS), name="first", key="market", batch_rows=BATCH_ROWS).load()
    ids = [document["_id"] for document in store.market_data.find({}, {"_id": 1})]
    now = clock.now()
    changed = market_csv(ROWS, changed_every=1000)
    again = Upload(
        store,
        changed,
        name="second",
        key="market",
        received=now + timedelta(seconds=1),
        batch_rows=BATCH_ROWS,
    )
    loading = timed(lambda: check(again.load().updated == ROWS // 1000))

    def look_up() -> None:
        for at in range(0, ROWS, PLAIN_BATCH):
            query = {"_id": {"$in": ids[at : at + PLAIN_BATCH]}}
            check(len(list(store.market_data.find(query, {"_id": 1}))) == len(query["_id"]["$in"]))

    looking = timed(look_up)
    elsewhere = Upload(
        store,
        market_csv(ROWS),
        name="third",
        key="another",
        received=now + timedelta(seconds=2),
        batch_rows=BATCH_ROWS,
    )
    loading_elsewhere = timed(lambda: check(elsewhere.load().updated == ROWS // 1000))
    report.add(
        "reload_vs_lookup",
        ratio=looking / loading,
        target=">= 0.4",
        rows_per_second=ROWS / loading,
        lookups_per_second=ROWS / looking,
        ratio_under_another_key=looking / loading_elsewhere,
        rows_per_second_under_another_key=ROWS / loading_elsewhere,
    )


def test_scale(store: Store, mongodb_uri: str, report: Report) -> None:
    context = multiprocessing.get_context("spawn")
    figures: dict[str, Any] = {}
    for loaders in (1, 2, 4):
        queue: Any = context.Queue()
        rows = ROWS // 4
        processes = [
            context.Process(
                target=_load_in_process,
                args=(mongodb_uri, store.database.name, rows, f"scale{loaders}x{n}", n, queue),
            )
            for n in range(loaders)
        ]
        for process in processes:
            process.start()
        results = [queue.get(timeout=600) for _ in processes]
        for process in processes:
            process.join()
        begun, ended = min(r[0] for r in results), max(r[1] for r in results)
        figures[f"rows_per_second_{loaders}"] = rows * loaders / (ended - begun)
        figures[f"peak_memory_mib_{loaders}"] = max(r[2] for r in results)
        store.market_data.delete_many({})
    ratio = figures["rows_per_second_4"] / figures["rows_per_second_1"]
    report.add("scale", ratio=ratio, target="", **figures)


def _load_in_process(
    uri: str, database: str, rows: int, name: str, number: int, queue: Any
) -> None:
    store = connect(uri, database)
    data = market_csv(rows, first_minute=number * rows)
    upload = Upload(store, data, name=name, batch_rows=BATCH_ROWS)
    del data
    begun = time.time()
    check(upload.load().inserted == rows)
    queue.put((begun, time.time(), _peak_mib()))


def _peak_mib() -> float:
    """The most memory that this process has had, in MiB.

    Not `ru_maxrss`, which a new process on Linux takes over from the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def check(done: bool) -> None:
    """The work was really done."""
    assert done
