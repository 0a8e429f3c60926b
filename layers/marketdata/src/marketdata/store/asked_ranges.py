"""The collection `asked_ranges`: for which ranges of a series its source has answered.

Where a point is missing within such a range, the source has none; elsewhere nobody has asked. A
range that is asked again takes the place of what was noted of it before.
"""

from __future__ import annotations

from collections.abc import Iterable

from pymongo.errors import DuplicateKeyError

from marketdata.documents.asked_ranges import AskedRange
from marketdata.documents.runs import RunStatus
from marketdata.store.batches.batch import UNFINISHED
from marketdata.store.connection import Store, store_errors
from marketdata.store.reading import MAX_TIME_MS, reading


def note(store: Store, source: str, asset_id: str, interval: str, asked: AskedRange) -> None:
    """Note that a source has answered for a range, once its raw batches are written.

    Noting it twice is noting it once. Of two at once both are kept.

    Args:
        store: the database.
        source: the source's name.
        asset_id: the source's own id of the asset.
        interval: how far apart the points are, such as `1h`.
        asked: the range, by which run, and when the answer came.

    Raises:
        StoreUnavailable: MongoDB is out of reach.
    """
    id_ = _id(source, asset_id, interval)
    with store_errors(f"noting what {source} was asked of {asset_id}"):
        while True:
            found = store.asked_ranges.find_one({"_id": id_})
            if found is not None:
                ranges = with_range(found["ranges"], asked)
                if ranges == found["ranges"]:
                    return
                update = {"$set": {"ranges": ranges}}
                same = {"_id": id_, "ranges": found["ranges"]}
                if store.asked_ranges.update_one(same, update).matched_count:
                    return
                continue
            try:
                store.asked_ranges.insert_one(
                    {
                        "_id": id_,
                        "source": source,
                        "asset_id": asset_id,
                        "interval": interval,
                        "ranges": [asked],
                    }
                )
            except DuplicateKeyError:
                continue
            return


def of(store: Store, source: str, asset_id: str, interval: str) -> list[AskedRange]:
    """The ranges of a series for which its source has answered, in the order of time.

    A run that is under way, or has left rows of the source to be loaded, has not said yet what the
    source lacks: its ranges are left out.
    """
    with reading(f"what {source} was asked of {asset_id}"):
        found = store.asked_ranges.find_one(
            {"_id": _id(source, asset_id, interval)}, max_time_ms=MAX_TIME_MS
        )
        if found is None:
            return []
        runs = {asked["run_id"] for asked in found["ranges"]}
        loading = store.batches.distinct(
            "first_run_id",
            {"state": {"$in": list(UNFINISHED)}, "source": source},
            maxTimeMS=MAX_TIME_MS,
        )
        under_way = store.runs.find(
            {"_id": {"$in": list(runs)}, "status": RunStatus.RUNNING},
            {"_id": 1},
            max_time_ms=MAX_TIME_MS,
        )
        unsettled = runs.intersection([*loading, *(run["_id"] for run in under_way)])
    return [asked for asked in found["ranges"] if asked["run_id"] not in unsettled]


def with_range(ranges: Iterable[AskedRange], asked: AskedRange) -> list[AskedRange]:
    """Ranges with another one, which counts where they overlap; neighbours of a run are one."""
    start, end = asked["start"], asked["end"]
    parts: list[AskedRange] = [asked]
    for old in ranges:
        if old["start"] < start:
            parts.append({**old, "end": min(old["end"], start)})
        if old["end"] > end:
            parts.append({**old, "start": max(old["start"], end)})
    parts.sort(key=lambda part: part["start"])
    joined = parts[:1]
    for part in parts[1:]:
        last = joined[-1]
        if last["end"] == part["start"] and last["run_id"] == part["run_id"]:
            asked_at = min(last["asked_at"], part["asked_at"])
            joined[-1] = {**last, "end": part["end"], "asked_at": asked_at}
        else:
            joined.append(part)
    return joined


def _id(source: str, asset_id: str, interval: str) -> str:
    return f"{source}/{interval}/{asset_id}"
