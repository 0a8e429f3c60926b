"""Whether loading becomes slower as the collection grows: into millions of records, into none.

The large database is what an API of 10,000 coins leaves in hour after hour: real records, cloned
from one that was loaded, with the real indexes and validator, its 40 batches an hour, and the
latest price of each coin. The measured pages bring the hours after it.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from struct import pack_into
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, WriteConcern

from local.build import ENVS
from local.mongod import Mongod
from local.processes import free_port
from marketdata import clock
from marketdata.documents.batches import Counts
from marketdata.load.loader import load_batch
from marketdata.schema.identity import first_id
from marketdata.store.connection import Store, connect
from marketdata.store.migrations import migrate
from tests.bench.conftest import Report
from tests.bench.indexes import secondary_indexes
from tests.bench.test_loading import check
from tests.support.documents import Document
from tests.support.mongod import state_folder
from tests.support.pipeline import coin, put_rows

DOCUMENTS = int(os.environ.get("BENCH_GROWTH_DOCUMENTS", "10000000"))
CACHE_GB = float(os.environ.get("BENCH_GROWTH_CACHE_GB", "1"))
"""Of mongod; by default as the local stack's has it."""
COINS = 10_000
PAGE = 250
FIRST_HOUR = datetime(2020, 1, 1, tzinfo=UTC)
HOURS = max(1, DOCUMENTS // COINS)
_TIME_BYTES = 8
_INSERTED_TOGETHER = 5_000
_FILLERS = 2

pytestmark = pytest.mark.timeout(7200)


@pytest.fixture(scope="module")
def mongod() -> Iterator[Mongod]:
    """One of this module's own, with the cache of a real one."""
    state = state_folder() / "growth"
    started = Mongod(state, ENVS, free_port(), cache_gb=CACHE_GB)
    try:
        started.start()
        started.wait_until_ready()
        yield started
    finally:
        started.stop()
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="module")
def large(mongod: Mongod) -> Iterator[Store]:
    """The large database."""
    store = connect(mongod.uri, "growth_large")
    migrate(store)
    yield store
    store.client.close()


def test_growth(mongod: Mongod, large: Store, report: Report) -> None:
    filling = fill(large, mongod.uri)
    empty, known = (connect(mongod.uri, f"growth_{name}") for name in ("empty", "known"))
    for store in (empty, known):
        migrate(store)
    load_page(known, rows=COINS, hour=HOURS - 1)
    try:
        pages = compare(large, empty, known, rows=PAGE, times=100, first_hour=HOURS)
        many = compare(large, empty, known, rows=COINS, times=5, first_hour=HOURS + 100)
    finally:
        empty.client.close()
        known.client.close()
    report.add(
        "growth",
        ratio=pages["large"] / pages["empty"],
        target="<= 1.3",
        documents=HOURS * COINS,
        cache_gb=CACHE_GB,
        page_ms_large=pages["large"] * 1e3,
        page_ms_empty=pages["empty"] * 1e3,
        # An empty collection, yet each coin's latest price is there to be raised.
        page_ms_empty_but_latest=pages["known"] * 1e3,
        ratio_to_empty_but_latest=pages["large"] / pages["known"],
        ratio_10000_rows=many["large"] / many["empty"],
        ratio_10000_rows_to_empty_but_latest=many["large"] / many["known"],
        rows_per_second_10000_rows=COINS / many["large"],
        filled_in_seconds=filling,
    )


def compare(
    large: Store, empty: Store, known: Store, *, rows: int, times: int, first_hour: int
) -> dict[str, float]:
    """Median seconds of loading one batch into each database, by turns."""
    sides = {"large": large, "empty": empty, "known": known}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = random.Random(1)
    for turn in range(times):
        names = list(sides)
        order.shuffle(names)
        # Each starts from a state on disk: no one pays for what another has left to be written.
        large.client.admin.command("fsync")
        for name in names:
            seconds[name].append(load_page(sides[name], rows=rows, hour=first_hour + turn))
        for store in (empty, known):
            store.market_data.delete_many({})
        empty.latest_prices.delete_many({})
    return {name: statistics.median(found) for name, found in seconds.items()}


def load_page(store: Store, *, rows: int, hour: int) -> float:
    """Seconds that it takes to load one hour's prices of so many coins."""
    key = put_rows(
        store,
        [row_of(number, hour) for number in range(rows)],
        run_id=f"hour{hour}",
        minute=(hour_of(hour) - clock.from_ms(1_746_770_400_000)) // timedelta(minutes=1),
    )
    begun = time.perf_counter()
    counts = load_batch(store, key)
    took = time.perf_counter() - begun
    check(counts == Counts(rows_in=rows, inserted=rows))
    return took


def hour_of(hour: int) -> datetime:
    return FIRST_HOUR + timedelta(hours=hour)


def row_of(number: int, hour: int) -> dict[str, Any]:
    """What CoinGecko says of a coin, with some of the fields that nobody asks for."""
    dice = random.Random(number * 1_000_003 + hour)
    price = 10 ** (4 - number * 8 / COINS) * dice.uniform(0.7, 1.3)
    return coin(
        f"coin-{number}",
        symbol=f"c{number}",
        name=f"Coin {number}",
        current_price=price,
        total_volume=round(price * dice.uniform(1e4, 1e6)),
        market_cap=round(price * dice.uniform(1e7, 2e7)),
        price_change_percentage_24h=dice.uniform(-9, 9),
        last_updated=clock.iso(hour_of(hour)),
        image=f"https://example.com/coins/images/{number}/large/coin-{number}.png",
        market_cap_rank=number + 1,
        high_24h=price * 1.05,
        low_24h=price * 0.95,
        circulating_supply=dice.uniform(1e6, 1e9),
        ath=price * 3,
        ath_date="2021-11-10T14:24:11.849Z",
        roi=None,
    )


# --- the large database --------------------------------------------------------------------


def fill(store: Store, uri: str) -> float:
    """Fill the large database; seconds.

    Its newest hour is loaded in the ordinary way, batches of a page each. The hours before are
    clones of it with other times, prices and batches, inserted in the order of their times; the
    secondary indexes are built when all are there, as is usual for so many.
    """
    begun = time.perf_counter()
    load_page(store, rows=COINS, hour=HOURS - 1)
    check(store.latest_prices.count_documents({}) == COINS)
    secondary = secondary_indexes(store.market_data)
    store.market_data.drop_indexes()
    with ProcessPoolExecutor(_FILLERS, multiprocessing.get_context("spawn")) as pool:
        names = [store.database.name] * _FILLERS
        check(sum(pool.map(fill_hours, [uri] * _FILLERS, names, range(_FILLERS))) == HOURS - 1)
    # A client that waits as long as it takes.
    with MongoClient[Document](uri) as client:
        client[store.database.name]["market_data"].create_indexes(secondary)
        client.admin.command("fsync")
    check(store.market_data.estimated_document_count() == HOURS * COINS)
    return time.perf_counter() - begun


def fill_hours(uri: str, database: str, part: int) -> int:
    """Every so-many-th hour of the large database; returns how many those are."""
    store = connect(uri, database)
    quick = WriteConcern(w=1)
    records = store.market_data.with_options(write_concern=quick)
    batches = store.batches.with_options(write_concern=quick)
    # The other process may have begun: of the newest hour are the templates alone.
    newest = store.market_data.find({"_id": {"$gte": first_id(hour_of(HOURS - 1))}})
    page = [Template(document) for document in newest.sort("_id")]
    batch = store.batches.find_one({"run_id": f"hour{HOURS - 1}"})
    assert batch is not None
    hours = range(part, HOURS - 1, _FILLERS)
    for hour in hours:
        dice = random.Random(hour)
        documents = [template.at(hour, dice.uniform(0.7, 1.3)) for template in page]
        for at in range(0, len(documents), _INSERTED_TOGETHER):
            records.insert_many(
                documents[at : at + _INSERTED_TOGETHER],
                ordered=False,
                # They are copies of what has passed the validator.
                bypass_document_validation=True,
            )
        batches.insert_many([batch_like(batch, page, hour, n) for n in range(COINS // PAGE)])
    store.client.close()
    return len(hours)


class Template:
    """A record as BSON, of which copies with another time and other numbers are made.

    In Python's terms they would take as long as the database does to take them in.
    """

    def __init__(self, document: Document) -> None:
        self.series = bytes(document["_id"])[_TIME_BYTES:]
        self._price, self._cap = document["price_usd"], document["market_cap"]
        self._data = bson.encode(document)
        # A binary value begins with its length and its kind.
        self._id = self._after(b"\x05_id\x00") + 5
        self._numbers = self._after(b"\x01price_usd\x00"), self._after(b"\x01market_cap\x00")
        self._times = self._after(b"\x09timestamp\x00"), self._after(b"\x09received_at\x00")

    def _after(self, name: bytes) -> int:
        return self._data.index(name) + len(name)

    def at(self, hour: int, factor: float) -> RawBSONDocument:
        """The same coin at another hour, when it was worth so many times as much."""
        time_ = hour_of(hour)
        data = bytearray(self._data)
        data[self._id : self._id + _TIME_BYTES] = first_id(time_)[:_TIME_BYTES]
        for at in self._times:
            pack_into("<q", data, at, clock.to_ms(time_))
        for at, value in zip(self._numbers, (self._price, self._cap), strict=True):
            pack_into("<d", data, at, value * factor)
        return RawBSONDocument(bytes(data))


def batch_like(batch: Document, page: list[Template], hour: int, number: int) -> Document:
    """The closed batch of one page of an hour."""
    time_ = hour_of(hour)
    first = first_id(time_)[:_TIME_BYTES]
    return {
        **batch,
        "_id": f"hour{hour}/coingecko/{number}",
        "run_id": f"hour{hour}",
        "number": number,
        "place": f"coingecko page {number + 1} part 0",
        "digest": f"{hour:016x}{number:016x}",
        "received_at": time_,
        "covers": {"first": first + page[0].series, "last": first + page[-1].series},
    }
