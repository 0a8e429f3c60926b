"""A bucket for uploads, and runs that carry out what is in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boto3

from marketdata.aws.s3_objects import S3Objects
from marketdata.load.loader import load_batch
from marketdata.objects import ObjectReader
from marketdata.runs import closing, opening
from marketdata.runs.extraction.outcome import Extracted
from marketdata.runs.uploads import extract_csv
from marketdata.settings import CsvSettings
from marketdata.store import runs
from marketdata.store.batches.batch import COUNTS, BatchKey
from marketdata.store.connection import Store
from tests.support.documents import Document, assert_declared

BUCKET = "uploads"
HEADER = "symbol,name,price_usd,volume_24h,market_cap,percent_change_24h,timestamp\n"
WHOLE = CsvSettings()
SMALL = CsvSettings(batch_rows=3, batch_bytes=2**16)


class Bucket:
    """A versioned bucket, and the events that it would send."""

    def __init__(self) -> None:
        self.client = boto3.client("s3", region_name="us-east-1")
        self.client.create_bucket(Bucket=BUCKET)
        self.client.put_bucket_versioning(
            Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"}
        )
        self._events = 0

    def put(self, key: str, body: bytes | str, **metadata: str) -> dict[str, Any]:
        """Put an object; its event comes back."""
        answer = self.client.put_object(
            Bucket=BUCKET,
            Key=key,
            Body=body.encode() if isinstance(body, str) else body,
            Metadata=metadata,
        )
        return self.event(key, answer["VersionId"])

    def event(self, key: str, version: str) -> dict[str, Any]:
        """The event that S3 sends of an object version."""
        self._events += 1
        return {
            "version": "0",
            "id": f"event-{self._events}",
            "detail-type": "Object Created",
            "source": "aws.s3",
            "time": "2025-06-02T09:00:00Z",
            "detail": {
                "bucket": {"name": BUCKET},
                "object": {"key": key, "version-id": version},
            },
        }


def open_with_bucket(store: Store, event: dict[str, Any], *sources: str) -> Document:
    """Open the run of an event, with these API sources and the uploads."""
    return dict(
        opening.open_run(store, event, f"execution of {event['id']}", sources, S3Objects(BUCKET))
    )


def extract(
    store: Store,
    run_id: str,
    input_id: str,
    settings: CsvSettings = SMALL,
    *,
    objects: ObjectReader | None = None,
    remaining: Callable[[], float] = lambda: 600,
) -> Extracted:
    """One call of the function that cuts an uploaded file."""
    return extract_csv(
        store,
        run_id,
        input_id,
        objects or S3Objects(),
        settings=settings,
        remaining_seconds=remaining,
        current=S3Objects().current if objects is None else None,
    )


def cut_some(store: Store, item: dict[str, Any]) -> None:
    """A call whose time is up after the first pieces of the file."""
    left = iter([600.0, 1.0])
    cut = extract(store, item["run_id"], item["input"], remaining=lambda: next(left))
    assert cut.state == "again"


def carry_out(store: Store, event: dict[str, Any], settings: CsvSettings = SMALL) -> Document:
    """What the state machine does for a run without API sources; the closed run."""
    opened = open_with_bucket(store, event)
    assert opened["proceed"], opened
    for item in opened["inputs"]:
        assert item["source"] == "csv"
        extracted = extract(store, item["run_id"], item["input"], settings)
        for number in extracted.numbers:
            load_batch(store, BatchKey(item["run_id"], item["input"], number), S3Objects())
    closed = closing.close(store, opened["run_id"])
    assert_declared(store)
    return closed


def totals(run: Document) -> dict[str, int]:
    """What became of the rows of a closed run, without the zeros."""
    return {name: run["totals"][name] for name in COUNTS if run["totals"][name]}


def rows(count: int, *, price: float = 1.5) -> str:
    """Lines under `HEADER`."""
    return "".join(
        f'S{n},"Coin, {n}",{price + n},{n}.5,,{-n},2025-05-09T06:{n:02d}:00Z\n'
        for n in range(count)
    )


def records(store: Store) -> list[Document]:
    """All records, without what tells where they come from."""
    hidden = {"run_id": 0, "raw_id": 0, "received_at": 0, "version": 0, "inserted_by": 0}
    return list(store.market_data.find({}, hidden).sort("_id"))


def keys(store: Store, opened: Document) -> set[str]:
    """The keys of the objects that an opened run has as inputs."""
    notes = runs.get(store, opened["run_id"])["inputs"]
    return {notes[i["input"]]["object"]["key"] for i in opened["inputs"] if i["source"] == "csv"}


def finish(store: Store, opened: Document) -> None:
    """Carry out what an opened run has of uploads, and close it."""
    for item in opened["inputs"]:
        if item["source"] == "csv":
            for number in extract(store, item["run_id"], item["input"]).numbers:
                load_batch(store, BatchKey(item["run_id"], item["input"], number), S3Objects())
    closing.close(store, opened["run_id"])
