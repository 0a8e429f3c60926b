"""How much memory the work on a file takes, measured in processes that do nothing else.

A test starts them; this module imports what the functions import and no more, so that their
memory is what a function's would be.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import boto3

from marketdata.documents.sources import ListingMarker
from marketdata.load.loader import load_batch
from marketdata.objects import Ignored, Listed, ObjectVersion, OpenObject
from marketdata.runs import opening
from marketdata.runs.uploads import extract_csv
from marketdata.settings import CsvSettings, read_settings
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store, connect
from tests.support.waiting import PATIENCE

MIB = 2**20
BUCKET = "bucket"
_FIRST = datetime(2020, 1, 1, tzinfo=UTC)
_HEADER = b"symbol,name,asset_id,price_usd,volume_24h,market_cap,timestamp,note\n"
_CHUNK_ROWS = 5_000


class Stream:
    """Versions of a CSV that nobody stores: each byte is made when it is read.

    Rows have one length in bytes and an identity each; the versions tell other prices.

    Attributes:
        bucket: its name, as of an `objects.UploadsBucket`.
        rows: in the file.
        row_bytes: the length of each.
        price: what all rows say, as text of 6 characters.
    """

    bucket = BUCKET

    def __init__(self, rows: int, row_bytes: int, price: str, version: int) -> None:
        self.rows = rows
        self.row_bytes = row_bytes
        self.price = price
        self.version = ObjectVersion(
            bucket=BUCKET,
            key="incoming/large.csv",
            version_id=f"version-{version}",
            size=len(_HEADER) + rows * row_bytes,
            etag="etag",
            last_modified=_FIRST + timedelta(days=365, hours=version),
        )

    def listed(self, marker: ListingMarker | None = None) -> Listed:
        assert marker is None
        return Listed([self.version], [], None)

    def elsewhere(self) -> list[Ignored]:
        return []

    def locate(self, _version: ObjectVersion) -> ObjectVersion:
        return self.version

    @contextmanager
    def open(self, version: ObjectVersion, start: int = 0) -> Iterator[OpenObject]:
        assert version.version_id == self.version.version_id
        yield OpenObject(self.version, {}, self._bytes(start))

    def read(self, version: ObjectVersion, start: int, end: int) -> bytes:
        assert version.version_id == self.version.version_id
        data = b""
        for chunk in self._bytes(start):
            data += chunk
            if len(data) >= end - start:
                break
        return data[: end - start]

    def _bytes(self, start: int) -> Iterator[bytes]:
        first, within = divmod(max(0, start - len(_HEADER)), self.row_bytes)
        if start < len(_HEADER):
            yield _HEADER[start:]
        for at in count(first, _CHUNK_ROWS):
            if at >= self.rows:
                return
            rows = range(at, min(at + _CHUNK_ROWS, self.rows))
            yield b"".join(map(self._row, rows))[within:]
            within = 0

    def _row(self, number: int) -> bytes:
        coin, minute = number % 5_000, number // 5_000
        time = _FIRST + timedelta(minutes=minute)
        text = (
            f"C{coin},Coin {coin},coin-{coin},{self.price},{number}.5,{number},"
            f"{time:%Y-%m-%dT%H:%M:%SZ},"
        )
        return text.ljust(self.row_bytes - 1, "x").encode() + b"\n"

    def opened(self, store: Store) -> tuple[str, str]:
        """The run and the input that its event opens."""
        event = {
            "version": "0",
            "id": self.version.version_id,
            "detail-type": "Object Created",
            "source": "aws.s3",
            "time": "2025-06-02T09:00:00Z",
            "detail": {
                "bucket": {"name": BUCKET},
                "object": {"key": self.version.key, "version-id": self.version.version_id},
            },
        }
        run = opening.open_run(store, event, f"execution of {event['id']}", (), self)
        (item,) = run["inputs"]
        return item["run_id"], item["input"]

    def extract(self, store: Store, run_id: str, input_id: str) -> list[int]:
        """Cut it, by the settings in the environment."""
        extracted = extract_csv(
            store,
            run_id,
            input_id,
            self,
            settings=read_settings(CsvSettings),
            remaining_seconds=lambda: 900.0,
        )
        assert extracted.state == "extracted", extracted
        return list(extracted.numbers)


def peak_mib(
    store: Store, uri: str, stream: Stream, work: str, *keys: object, **settings: int
) -> float:
    """The most memory that a process of its own takes for some work, in MiB.

    Args:
        store: the database.
        uri: where it is.
        stream: the file.
        work: `extract` or `load`.
        keys: of the run, the input and, to load it, the batch.
        settings: by their names in lower case.
    """
    file = (stream.rows, stream.row_bytes, stream.price, stream.version.version_id[8:])
    words = [uri, store.database.name, work, *file, *keys]
    result = subprocess.run(
        [sys.executable, "-m", __name__, *map(str, words)],
        env={**os.environ, **{name.upper(): str(value) for name, value in settings.items()}},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=900 * PATIENCE,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return float(result.stdout.splitlines()[-1])


def _main() -> None:
    uri, database, work, rows, row_bytes, price, version, run_id, input_id, *number = sys.argv[1:]
    boto3.client("s3", region_name="us-east-1")  # as the functions have one
    stream = Stream(int(rows), int(row_bytes), price, int(version))
    store = connect(uri, database)
    if work == "extract":
        stream.extract(store, run_id, input_id)
    else:
        load_batch(store, BatchKey(run_id, input_id, int(number[0])), stream)
    store.client.close()
    status = Path("/proc/self/status").read_text("utf-8")
    lines = dict(line.split(":", 1) for line in status.splitlines())
    print(int(lines["VmHWM"].split()[0]) / 1024)  # noqa: T201 - the answer to who started it


if __name__ == "__main__":
    _main()
