"""How large the database is, and how fast it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from pymongo.read_concern import ReadConcern

from marketdata.documents.batches import BatchState
from marketdata.store import retention
from marketdata.store.connection import Store, Update, aggregate, store_errors
from marketdata.store.raw_batches import raw_row_count
from marketdata.store.server_time import server_clock


@dataclass(frozen=True, slots=True)
class Size:
    """The size of one collection."""

    name: str
    documents: int
    document_bytes: int
    """Of the documents as they are; MongoDB compresses them on disk."""
    data_bytes: int
    """On disk."""
    index_bytes: int

    @property
    def bytes(self) -> int:
        """All that it takes on disk."""
        return self.data_bytes + self.index_bytes


@dataclass(frozen=True, slots=True)
class Day:
    """What the batches brought that were closed on one day (UTC)."""

    date: date
    batches: int
    rows: int
    inserted: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Growth:
    """The size of everything, and the last days."""

    collections: Sequence[Size]
    """The largest first."""
    days: Sequence[Day]
    """The oldest first; the last one is today, so far."""
    raw_rows: int
    """Rows in raw batches."""
    raw_bytes: int
    """What these take on disk, with the collection's indexes."""
    retention: Mapping[str, float | None]
    """For how many days things are kept, by setting; None is for ever."""

    @property
    def raw_bytes_per_row(self) -> float:
        """What a received row takes on disk, on average."""
        return self.raw_bytes / self.raw_rows if self.raw_rows else 0.0

    @property
    def record_bytes(self) -> float:
        """What a record takes on disk with its indexes, on average."""
        size = next((size for size in self.collections if size.name == "market_data"), None)
        return size.bytes / size.documents if size and size.documents else 0.0

    def bytes_of(self, day: Day) -> float:
        """What a day's rows and records take on disk, by these averages."""
        return day.rows * self.raw_bytes_per_row + day.inserted * self.record_bytes


def growth(store: Store, *, days: int = 7) -> Growth:
    """Look at the sizes of all collections, and at the batches of the last days.

    Args:
        store: the database.
        days: how many, with today.

    Raises:
        StoreUnavailable: MongoDB cannot be reached.
    """
    with store_errors("measuring the database"):
        names = sorted(store.database.list_collection_names(filter={"type": "collection"}))
        sizes = sorted((_size(store, name) for name in names), key=lambda size: -size.bytes)
        now = server_clock(store).now()
        raw_bytes = next((size.bytes for size in sizes if size.name == "raw_batches"), 0)
        return Growth(
            sizes,
            _days(store, now.date(), days),
            raw_row_count(store),
            raw_bytes,
            retention.in_force(store),
        )


def _size(store: Store, name: str) -> Size:
    # These numbers are the server's own, of no moment that a majority could agree on.
    collection = store.database[name].with_options(read_concern=ReadConcern("local"))
    parts = [part["storageStats"] for part in collection.aggregate([_STATS])]
    # On a sharded cluster there is one for each shard.
    return Size(
        name,
        sum(part["count"] for part in parts),
        sum(part["size"] for part in parts),
        sum(part["storageSize"] for part in parts),
        sum(part["totalIndexSize"] for part in parts),
    )


_STATS: Update = {"$collStats": {"storageStats": {}}}


def _days(store: Store, today: date, days: int) -> list[Day]:
    first = today - timedelta(days=days - 1)
    begin = datetime.combine(first, time.min, UTC)
    counts = ("rows_in", "inserted", "quarantined")
    found = aggregate(
        store.batches,
        [
            {"$match": {"state": BatchState.LOADED, "loaded_at": {"$gte": begin}}},
            {
                "$group": {
                    "_id": {"$dateToString": {"date": "$loaded_at", "format": "%Y-%m-%d"}},
                    "batches": {"$sum": 1},
                    **{name: {"$sum": f"$counts.{name}"} for name in counts},
                }
            },
        ],
    )
    by_day = {date.fromisoformat(group["_id"]): group for group in found}
    made = []
    for number in range(days):
        day = first + timedelta(days=number)
        group = by_day.get(day, {})
        made.append(Day(day, group.get("batches", 0), *(int(group.get(n, 0)) for n in counts)))
    return made
