"""The pipeline in this process: the library's steps in the order of the state machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marketdata import clock, sources
from marketdata.errors import MarketDataError
from marketdata.load.loader import load_batch
from marketdata.load.raw import pack_json, raw_id
from marketdata.runs import lifecycle, triggers
from marketdata.runs.extraction import Patience, extract
from marketdata.runs.outcome import Extracted
from marketdata.sources.http import Limits
from marketdata.store import batches, raw
from marketdata.store.batches import COUNTS, BatchKey, Counts
from marketdata.store.connection import Document, Store

QUICK = Patience(
    attempts=2,
    longest_pause_seconds=0,
    limits=Limits(connect_seconds=1, read_seconds=0.3, total_seconds=1.5),
)
"""Gives up in less than a second, and does not rest between two attempts."""


@dataclass
class Pipeline:
    """Runs sources into a database as one execution after the other would."""

    store: Store
    environment: Mapping[str, str]
    names: Sequence[str]
    rows_per_batch: int = 5_000
    patience: Patience = QUICK
    seconds: float = 60
    """The time that an extractor has for one call."""
    retries: int = 1
    """What the state machine does about a transient error; it has more patience."""
    pauses: list[int] = field(default_factory=list)
    """The seconds that it was told to wait, and did not."""

    def open(self, envelope: Mapping[str, Any] | None = None, execution: str = "") -> Document:
        envelope = envelope or triggers.refresh_envelope()
        execution = execution or f"execution of {envelope['id']}"
        return lifecycle.open_run(self.store, envelope, execution, self.names)

    def extract(self, run_id: str, name: str) -> Extracted:
        source = sources.load(name).from_environment(self.environment, {})
        return extract(
            self.store,
            run_id,
            source,
            rows_per_batch=self.rows_per_batch,
            remaining_seconds=lambda: self.seconds,
            patience=self.patience,
        )

    def run(self) -> Document:
        """One whole run; returns it closed."""
        opened = self.open()
        assert opened["proceed"], opened
        errors = []
        for item in opened["inputs"]:
            try:
                numbers = self._extracted(item["run_id"], item["source"]).numbers
            except MarketDataError as error:
                errors.append({"input": item["input"], "code": error.code, "message": str(error)})
                continue
            for number in numbers:
                load_batch(self.store, BatchKey(item["run_id"], item["input"], number))
        return lifecycle.close(self.store, opened["run_id"], errors)

    def _extracted(self, run_id: str, name: str) -> Extracted:
        failures = 0
        while True:
            try:
                extracted = self.extract(run_id, name)
            except MarketDataError:
                failures += 1
                if failures > self.retries:
                    raise
                continue
            if extracted.state == "throttled":
                self.pauses.append(extracted.wait_seconds)
            elif extracted.state != "again":
                return extracted


def line(run: Document, source: str) -> Document:
    """A closed run's result for a source."""
    found: Document = next(result for result in run["results"] if result["source"] == source)
    return found


def counts(result: Document) -> dict[str, int]:
    """What became of the rows, without the zeros; the law of conservation holds."""
    assert result["rows_in"] == sum(result[name] for name in COUNTS)
    return {name: result[name] for name in COUNTS if result[name]}


def put_rows(
    store: Store,
    rows: Sequence[Any],
    *,
    run_id: str = "run",
    number: int = 0,
    page: int = 1,
    minute: int = 0,
    source: str = "coingecko",
) -> BatchKey:
    """A batch of a source's rows, pending, as extraction leaves it; received at that minute."""
    received_at = clock.from_ms(1_746_770_400_000 + minute * 60_000)
    (payload,) = pack_json([json.dumps(row) for row in rows], rows_per_batch=50_000)
    id_ = raw_id(source, f"page {page} part 0", payload.digest)
    about = {"source": source, "rows": payload.rows, "received_at": received_at, "first_row": 0}
    raw.save_raw(store, [about | {"_id": id_, "format": "json", "data": payload.data}])
    batches.put_batches(store, source, run_id, [about | {"number": number, "raw_id": id_}])
    return BatchKey(run_id, source, number)


def load(store: Store, rows: Sequence[Any], **place: Any) -> Counts:
    """Put rows and load them."""
    return load_batch(store, put_rows(store, rows, **place))


def coin(asset_id: str = "bitcoin", **fields: Any) -> dict[str, Any]:
    """A row as of CoinGecko."""
    return {
        "id": asset_id,
        "symbol": asset_id[:3],
        "name": asset_id.title(),
        "current_price": 1.5,
        "total_volume": 10,
        "market_cap": 100,
        "price_change_percentage_24h": 0.5,
        "last_updated": "2025-05-09T06:00:00.000Z",
    } | fields
