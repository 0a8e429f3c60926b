"""CSV files of any size, and what it takes to load them without S3."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import StringIO

from marketdata import clock
from marketdata.documents.batches import Counts
from marketdata.load.loader import load_batch
from marketdata.objects import ObjectVersion, OpenObject
from marketdata.runs.uploads import extract_csv
from marketdata.settings import CsvSettings
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store

COINS = 500
FIRST = datetime(2020, 1, 1, tzinfo=UTC)
HEADER = "symbol,name,asset_id,price_usd,volume_24h,market_cap,percent_change_24h,timestamp\n"


def market_csv(rows: int, *, changed_every: int = 0, first_minute: int = 0) -> bytes:
    """A CSV of `COINS` coins minute by minute, the same for the same arguments.

    Args:
        rows: its rows, without the header.
        changed_every: in one row of so many the price is another one; 0 for none.
        first_minute: minutes after `FIRST` of the first row.
    """
    dice = random.Random(20200101)
    out = StringIO()
    out.write(HEADER)
    for row in range(rows):
        coin = row % COINS
        time = FIRST + timedelta(minutes=first_minute + row // COINS)
        price = dice.uniform(0.01, 60_000)
        volume, cap, change = dice.uniform(1e3, 1e9), dice.uniform(1e6, 1e12), dice.uniform(-9, 9)
        if changed_every and row % changed_every == 0:
            price *= 1.01
        out.write(
            f"C{coin},Coin {coin},coin-{coin},{price:.6f},{volume:.2f},"
            f"{cap:.0f},{change:.3f},{time:%Y-%m-%dT%H:%M:%SZ}\n"
        )
    return out.getvalue().encode()


class Objects:
    """Objects whose bytes are at hand: what is measured is the loading, not a simulated S3."""

    def __init__(self, data: bytes, version: ObjectVersion) -> None:
        self._data = data
        self._version = version

    @contextmanager
    def open(self, _version: ObjectVersion, start: int = 0) -> Iterator[OpenObject]:
        data = self._data
        chunks = (data[at : at + 2**20] for at in range(start, len(data), 2**20))
        yield OpenObject(self._version, {}, chunks)

    def read(self, _version: ObjectVersion, start: int, end: int) -> bytes:
        return self._data[start:end]


class Upload:
    """One CSV, cut into the batches of a run, ready to be loaded."""

    def __init__(
        self,
        store: Store,
        data: bytes,
        *,
        name: str,
        key: str | None = None,
        received: datetime | None = None,
        **settings: int,
    ) -> None:
        """Cut a file.

        Args:
            store: the database.
            data: its content.
            name: of its version, and of the run that takes it.
            key: of the file, if other uploads are versions of it, too.
            received: when it was uploaded.
            settings: see `CsvSettings`.
        """
        now = clock.now()
        received = received or now
        key = f"incoming/{key or name}.csv"
        version = ObjectVersion("bucket", key, name, len(data), None, received)
        self.run_id = f"20260101T000000Z-{name}"
        self.input_id = version.id
        self.objects = Objects(data, version)
        self._store = store
        store.database["runs"].insert_one(
            {
                "_id": self.run_id,
                "status": "running",
                "started_at": now,
                "expires_at": now + timedelta(days=1),
                "holds": [version.id],
                "inputs": {
                    version.id: {
                        "source": "csv",
                        "status": "pending",
                        "object": version.document(),
                    }
                },
            }
        )
        self.numbers = extract_csv(
            store,
            self.run_id,
            self.input_id,
            self.objects,
            settings=CsvSettings.model_validate(settings),
            remaining_seconds=lambda: 600.0,
        ).numbers

    def load(self) -> Counts:
        """Load every batch, one after the other; returns the sums."""
        total = Counts()
        for number in self.numbers:
            counts = load_batch(
                self._store, BatchKey(self.run_id, self.input_id, number), self.objects
            )
            for name in Counts.__slots__:
                setattr(total, name, getattr(total, name) + getattr(counts, name))
        return total
