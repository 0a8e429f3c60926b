"""The pipeline in this process: the library's steps in the order of the state machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marketdata import clock, sources
from marketdata.documents.batches import Counts, NewBatch
from marketdata.documents.errors import FailedInput
from marketdata.documents.raw_batches import RawBatch
from marketdata.errors import MarketDataError
from marketdata.load.loader import load_batch
from marketdata.load.raw import pack_json, raw_id
from marketdata.runs import closing, failures, opening
from marketdata.runs.extraction.outcome import Extracted
from marketdata.runs.extraction.pages import extract
from marketdata.runs.extraction.policy import RetryPolicy
from marketdata.runs.opening import OpenedRun
from marketdata.settings import UpstreamSettings, read_settings
from marketdata.sources.http import Limits
from marketdata.store import raw_batches
from marketdata.store.batches import queue
from marketdata.store.batches.batch import COUNTS, BatchKey
from marketdata.store.connection import Store
from tests.support.documents import Document, assert_declared
from tests.support.events import hourly_event

QUICK = RetryPolicy(
    attempts=2,
    longest_pause_seconds=0,
    limits=Limits(connect_seconds=1, read_seconds=0.3, total_seconds=1.5),
)
"""Gives up in less than a second, and does not rest between two attempts."""


def without_quota(*names: str) -> dict[str, str]:
    """Settings by which sources may be asked as often as a test likes.

    The rule is the quota that users have. A test that needs another one says why: it asks more
    often than any user would, of something else than the quota.
    """
    endings = ("RATE_PER_MINUTE", "BURST")
    return {f"{name.upper()}_{ending}": "100000" for name in names for ending in endings}


def let_pass(store: Store, name: str, seconds: float) -> None:
    """Have so much time pass for all that is known of a source, without waiting for it."""
    earlier: Any = {
        place: {"$subtract": [f"${place}", int(seconds * 1000)]}
        for place in (
            "bucket.at",
            "bucket.blocked_until",
            "bucket.asked_until",
            "breaker.next_probe_at",
            "breaker.probe.until",
            "watermarks.received_at",
            "watermarks.moved_at",
            "watermarks.advanced_at",
        )
    }
    recent = {
        "$map": {
            "input": "$bucket.recent",
            "in": {"$subtract": ["$$this", int(seconds * 1000)]},
        }
    }
    here: Document = store.sources.find_one({"_id": name}) or {}
    there = {
        place: change
        for place, change in {**earlier, "bucket.recent": recent}.items()
        if _at(here, place) is not None
    }
    if there:
        store.sources.update_one({"_id": name}, [{"$set": there}])


def _at(document: Document, place: str) -> Any:
    found: Any = document
    for part in place.split("."):
        found = (found or {}).get(part)
    return found


@dataclass
class Pipeline:
    """Runs sources into a database as one execution after the other would."""

    store: Store
    environment: Mapping[str, str]
    names: Sequence[str]
    rows_per_batch: int = 5_000
    retry_policy: RetryPolicy = QUICK
    seconds: float = 60
    """The time that an extractor has for one call."""
    retries: int = 1
    """What the state machine does about a transient error; it has more patience."""
    pauses: list[int] = field(default_factory=list)
    """The seconds that it was told to wait, and did not: for the source's limits they passed."""

    def open(self, envelope: Mapping[str, Any] | None = None, execution: str = "") -> OpenedRun:
        envelope = envelope or hourly_event()
        execution = execution or f"execution of {envelope['id']}"
        return opening.open_run(self.store, envelope, execution, self.names)

    def extract(self, run_id: str, name: str) -> Extracted:
        environment = self.environment
        source = sources.load(name).from_environment(environment, {})
        return extract(
            self.store,
            run_id,
            source,
            rows_per_batch=self.rows_per_batch,
            remaining_seconds=lambda: self.seconds,
            settings=read_settings(UpstreamSettings, environment),
            retry_policy=self.retry_policy,
        )

    def run(self) -> Document:
        """One whole run; returns it closed. Whatever it has stored is declared."""
        opened = self.open()
        assert opened["proceed"], opened
        errors: list[FailedInput] = []
        for item in opened["inputs"]:
            try:
                numbers = self._extracted(item["run_id"], item["source"]).numbers
            except MarketDataError as error:
                told: FailedInput = {"code": error.code, "message": str(error)}
                errors.append({"input": item["input"], **told})
                numbers = failures.note_failure(self.store, item["run_id"], item["input"], told)
            self._load(item["run_id"], item["input"], numbers)
        closed = closing.close(self.store, opened["run_id"], errors)
        assert_declared(self.store)
        return closed

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
            if extracted.state == "throttled" and extracted.wait_seconds:
                self.pauses.append(extracted.wait_seconds)
                let_pass(self.store, name, extracted.wait_seconds)
                self._let_attempts_age(run_id, name, extracted.wait_seconds)
            elif extracted.state == "unfinished":
                self._load(run_id, name, extracted.numbers)
            elif extracted.state != "again":
                return extracted

    def _let_attempts_age(self, run_id: str, name: str, seconds: float) -> None:
        """The budget of a page that is being tried sees the time pass as well."""
        since = f"inputs.{name}.attempts.since"
        self.store.runs.update_one(
            {"_id": run_id, since: {"$exists": True}},
            [{"$set": {since: {"$subtract": [f"${since}", int(seconds * 1000)]}}}],
        )

    def _load(self, run_id: str, input_id: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            load_batch(self.store, BatchKey(run_id, input_id, number))


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
    first_row: int = 0,
    source: str = "coingecko",
    form: str = "json",
) -> BatchKey:
    """A batch of a source's rows, pending, as extraction leaves it; received at that minute."""
    received_at = clock.from_ms(1_746_770_400_000 + minute * 60_000)
    (payload,) = pack_json([json.dumps(row) for row in rows], rows_per_batch=50_000)
    place = f"page {page} part 0" if form == "json" else f"{form} {page} part 0"
    raw: RawBatch = {
        "_id": raw_id(source, place, payload.digest),
        "source": source,
        "format": form,
        "origin": {
            "url": f"https://{source}.example",
            "page": page,
            "status": 200,
            "etag": None,
            "content_type": "application/json",
            "fetched_at": received_at,
            "rows": len(rows),
        },
        "first_row": first_row,
        "rows": payload.rows,
        "size": payload.size,
        "digest": payload.digest,
        "received_at": received_at,
        "data": payload.data,
    }
    batch: NewBatch = {
        "number": number,
        "source": source,
        "raw_id": raw["_id"],
        "place": f"{source} {place}",
        "digest": payload.digest,
        "first_row": first_row,
        "rows": payload.rows,
        "received_at": received_at,
    }
    raw_batches.save_raw(store, [raw])
    queue.put_batches(store, source, run_id, [batch])
    return BatchKey(run_id, source, number)


def load(store: Store, rows: Sequence[Any], **place: Any) -> Counts:
    """Put rows and load them."""
    return load_batch(store, put_rows(store, rows, **place))


def load_minute(store: Store, rows: Sequence[Any], minute: int, page: int = 1) -> Document:
    """Load rows as the run of that minute; returns the closed batch."""
    key = put_rows(store, rows, run_id=f"run{minute}", minute=minute, page=page)
    load_batch(store, key)
    return batch_of(store, key)


def batch_of(store: Store, key: BatchKey) -> Document:
    """A batch as it is stored."""
    document = store.batches.find_one(key.filter())
    assert document is not None
    return document


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
