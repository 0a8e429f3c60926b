"""A batch's raw rows: got from where they are kept or fetched from the object, then read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import datetime

from marketdata.documents.batches import Batch, ReceivedRows
from marketdata.documents.market_data import Record
from marketdata.documents.raw_batches import RawBatch
from marketdata.errors import FileRefused
from marketdata.load.incoming import Records, incoming
from marketdata.load.raw import Payload, digest_of, pack_csv, unpack
from marketdata.objects import ObjectReader, ObjectVersion
from marketdata.store.connection import Store
from marketdata.store.deadline import Threads
from marketdata.store.raw_batches import find_raw, get_raw, save_raw


@contextmanager
def raw_rows(
    store: Store, batch: Batch, objects: ObjectReader | None
) -> Iterator[tuple[RawBatch, bytes, Callable[[], bool]]]:
    """The batch's raw rows, their bytes, and what makes sure that they are kept.

    A range of an object is fetched and kept once. It is packed and written aside, while its
    rows are read and looked up already; no record is written before. The last value returned
    waits for that, and tells whether they were not kept from the first.
    """
    if objects is None or "range" not in batch:
        raw = get_raw(store, batch["raw_id"])
        yield raw, unpack(raw), lambda: False
        return
    found = find_raw(store, batch["raw_id"])
    if found is not None:
        yield found, unpack(found), lambda: False
        return
    data = _fetch(batch, objects)
    raw = csv_raw(batch, Payload(batch["rows"], len(data), batch["digest"], b""))
    with Threads(1) as pool:

        def keep() -> bool:
            save_raw(store, [csv_raw(batch, pack_csv(data, batch["rows"], batch["digest"]))])
            return True

        keeping = pool.submit(keep)
        yield raw, data, keeping.result


def _fetch(batch: Batch, objects: ObjectReader) -> bytes:
    version = ObjectVersion.of(batch["object"])
    start, end = batch["range"]
    data = objects.read(version, start, end)
    if digest_of(data) != batch["digest"]:
        raise FileRefused(
            f"Bytes {start} to {end} of {version.place} are not those that were cut: an object "
            "version never changes, so the storage is at fault. Upload the file again."
        )
    return data


def csv_raw(batch: ReceivedRows, payload: Payload) -> RawBatch:
    """The raw batch of a range of a CSV: with its bytes, all that reading them takes."""
    return {
        "_id": batch["raw_id"],
        "source": batch["source"],
        "format": "csv",
        "origin": {**batch["object"], "range": batch["cut"]},
        "version": batch["object"]["version_id"],
        "header": batch["header"],
        "layout": batch["layout"],
        "malformed": batch["malformed"],
        "first_row": batch["first_row"],
        "rows": payload.rows,
        "size": payload.size,
        "digest": payload.digest,
        "received_at": batch["received_at"],
        "data": payload.data,
    }


def read_records(
    raw: RawBatch,
    batch: Batch,
    *,
    validated_at: datetime | None = None,
    told: AbstractSet[int] | None = None,
) -> Records:
    """The records of a batch as they are loaded, and the faults of its other rows.

    Args:
        raw: its raw batch.
        batch: the batch.
        validated_at: the time against which "too far ahead" is judged, if not the batch's own.
        told: the numbers of the rows that are searched for findings; None means all.
    """
    return incoming(
        raw,
        unpack(raw),
        origin=origin_of(raw, batch),
        first_row=batch["first_row"],
        validated_at=validated_at or validation_time(batch),
        told=told,
    )


def records_of(raw: RawBatch, batch: Batch, ids: AbstractSet[bytes]) -> dict[bytes, list[Record]]:
    """The records of some identities that a batch has, in the order of rows.

    A replay batch has those of the rows that it resolves, or is to resolve.
    """
    found = read_records(raw, batch).documents_of(ids)
    if "resolves" not in batch:
        return found
    rows = set(batch["resolves"]["rows"]).difference(batch.get("unresolved", ()))
    mine = {id_: [d for d in documents if d["row"] in rows] for id_, documents in found.items()}
    return {id_: documents for id_, documents in mine.items() if documents}


def origin_of(raw: RawBatch, batch: Batch) -> dict[str, object]:
    """Where the records of a batch come from; the same fields in each of its documents."""
    origin = {
        # A batch that a later run reclaimed keeps the run that received it.
        "run_id": batch.get("first_run_id", batch["run_id"]),
        "raw_id": raw["_id"],
        "received_at": batch["received_at"],
    }
    if "object" in batch:
        # Its own: of rows that are known, the raw batch may be that of a previous version.
        origin["version"] = batch["object"]["version_id"]
    return {**origin, "inserted_by": batch["_id"]}


def validation_time(batch: Batch) -> datetime:
    """The time against which "too far ahead" is judged for a batch's rows."""
    validated_at: datetime = batch.get("judged_at") or batch["received_at"]
    return validated_at
