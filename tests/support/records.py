"""Records and runs as the pipeline writes them, for tests of what reads them."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

from bson import Binary

from marketdata import clock
from marketdata.schema.identity import record_id
from marketdata.store import latest_prices
from marketdata.store.batches.batch import COUNTS
from marketdata.store.connection import Store
from tests.support.documents import Document

NOW = datetime.fromisoformat("2025-05-09T08:15:00+00:00")


def make_record(
    asset_id: str = "bitcoin",
    *,
    symbol: str = "BTC",
    minutes: int = 0,
    price: float = 100.0,
    source: str = "coingecko",
    dataset: str = "",
    **fields: Any,
) -> Document:
    """A record, `minutes` after `NOW`."""
    timestamp = NOW + timedelta(minutes=minutes)
    return {
        "_id": Binary(record_id(source, dataset, asset_id, fields.get("interval", ""), timestamp)),
        "symbol": symbol,
        "name": asset_id.title(),
        "asset_id": asset_id,
        "price_usd": price,
        "volume_24h": None,
        "market_cap": None,
        "percent_change_24h": None,
        "timestamp": timestamp,
        "source": source,
        "dataset": dataset,
        "run_id": "20250509T081500Z-000000000001",
        "raw_id": "0" * 32,
        "row": 0,
        "received_at": NOW,
        "revision": 1,
        **fields,
    }


def put_records(store: Store, *documents: Document) -> None:
    """Write records, and bring the latest prices up to them."""
    store.market_data.insert_many(list(documents))
    latest_prices.raise_latest(store, documents)


def make_run(
    number: int,
    *,
    status: str = "success",
    trigger: str = "schedule",
    source: str = "coingecko",
    seconds: float = 10,
    started: datetime | None = None,
    **counts: int,
) -> Document:
    """A run that ended, or with status `running` one that did not; `number` hours after `NOW`."""
    started = started or NOW + timedelta(hours=number)
    rows_in = sum(counts.values())
    results = {
        "source": source,
        "input": source,
        "status": status,
        "extracted": rows_in,
        "rows_in": rows_in,
        **dict.fromkeys(COUNTS, 0),
        **counts,
        "batches": 1,
        "failed_batches": 0,
        "pages": 1,
        "throttled": 0,
        "seconds": seconds,
        "error": None,
    }
    run: Document = {
        "_id": f"{started:%Y%m%dT%H%M%SZ}-{number:012x}",
        "trigger": trigger,
        "event_id": f"event-{number}",
        "event_time": started,
        "execution": None,
        "status": status,
        "started_at": started,
        "ended_at": None,
        "expires_at": started + timedelta(minutes=20),
        "inputs": {source: {"source": source, "status": "extracted", "started_at": started}},
        "pre_run_counts": None,
    }
    if status == "running":
        return run | {"holds": [source]}
    totals = {name: results[name] for name in ("extracted", "rows_in", *COUNTS)}
    return run | {
        "ended_at": started + timedelta(seconds=seconds),
        "results": [results],
        "totals": totals,
    }


def make_batch(
    run: Document, number: int = 0, *, state: str = "loaded", rows: int = 10, **counts: int
) -> Document:
    """A batch of a run; the counts of a loaded one must add up to its rows."""
    source = next(iter(run["inputs"]))
    batch: Document = {
        "_id": f"{run['_id']}/{source}/{number}",
        "run_id": run["_id"],
        "input": source,
        "number": number,
        "source": source,
        "raw_id": f"{number:032x}",
        "rows": rows,
        "state": state,
        "attempts": 1,
        "received_at": run["started_at"],
        "created_at": run["started_at"],
    }
    if state == "loaded":
        none = dict.fromkeys(COUNTS, 0)
        batch |= {"loaded_at": clock.now(), "counts": {"rows_in": rows, **none, **counts}}
    if state == "failed":
        batch["error"] = {"code": "store_unavailable", "type": "StoreUnavailable", "message": "?"}
    return batch


def make_quarantined(
    number: int,
    *,
    run_id: str = "20250509T081500Z-000000000001",
    source: str = "coingecko",
    reason: str = "greater_than",
    row: str = '{"id": "bad"}',
) -> Document:
    """A row that was set aside."""
    return {
        "_id": f"{'0' * 32}/{number:06}",
        "source": source,
        "run_id": run_id,
        "batch": f"{run_id}/{source}/0",
        "batches": [f"{run_id}/{source}/0"],
        "raw_id": "0" * 32,
        "received_at": NOW,
        "reason": reason,
        "field": "price_usd",
        "message": "Input should be greater than 0 (is 0)",
        "row": row,
        "row_number": number,
        "first_at": NOW,
        "last_at": NOW,
    }


def some_records(count: int = 300) -> list[Document]:
    """Records with many ties and many nulls."""
    chance = random.Random(5)
    return [
        make_record(
            f"coin{number}",
            symbol=f"S{number % 7}",
            minutes=number % 12,
            price=float(chance.choice([1, 2, 3, 4])),
            source=("coingecko", "coinpaprika")[number % 2],
            market_cap=chance.choice([None, 0.0, 10.0, 20.0]),
            volume_24h=chance.choice([None, 1.0, 2.0]),
            percent_change_24h=chance.choice([None, -1.0, 0.0, 1.0]),
            name=chance.choice([None, "A", "b", "é"]),
        )
        for number in range(count)
    ]


def some_assets(store: Store) -> None:
    put_records(
        store,
        make_record("bitcoin", symbol="BTC", minutes=0, price=1.0),
        make_record("bitcoin", symbol="BTC", minutes=5, price=2.0),
        make_record("batcat", symbol="BTC", minutes=1, price=3.0),
        make_record("btc-bitcoin", symbol="BTC", minutes=4, price=4.0, source="coinpaprika"),
        make_record("ethereum", symbol="ETH", minutes=2, price=5.0),
        make_record("aave", symbol="AAVE", minutes=2, price=6.0, name=None),
    )
