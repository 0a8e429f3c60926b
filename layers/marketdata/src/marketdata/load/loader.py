"""Loading one batch: raw rows in, records or quarantine out, every row accounted for."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from marketdata import clock
from marketdata.errors import FileRefused, StateConflict
from marketdata.load.raw import Payload, digest_of, pack_csv
from marketdata.load.reading import Reading, read
from marketdata.load.writing import Memory, write
from marketdata.objects import ObjectReader, ObjectVersion
from marketdata.schema.identity import record_id
from marketdata.schema.record import Fault, Record, validate
from marketdata.store import batches as checkpoints
from marketdata.store import quarantine, records, runs
from marketdata.store.batches import BatchKey, Counts
from marketdata.store.connection import Document, Store
from marketdata.store.raw import find_raw, get_raw, save_raw

_MAX_ROW_CHARACTERS = 1_000_000
"""A row of more than this is quarantined with its head; MongoDB could not hold it whole twice."""

NORMALISER_VERSION = 1
"""Raised whenever the same raw rows would become other records."""


def load_batch(store: Store, key: BatchKey, objects: ObjectReader | None = None) -> Counts:
    """Load one batch, whatever an earlier attempt at it had done.

    Every write is idempotent: records have deterministic ids, quarantined rows are known by
    their place, and the batch is closed last, by whoever began it last.

    Args:
        store: the database.
        key: the batch.
        objects: reads the ranges of uploaded files; only batches that are one need it.

    Returns:
        What became of the rows: the stored counts, if the batch was loaded already.

    Raises:
        TransientError: MongoDB is out of reach; the batch may be tried again.
        TerminalError: the batch can't be loaded; it is marked as failed with the reason.
    """
    batch = checkpoints.begin(store, key)
    if batch is None:
        done = store.batches.find_one({"_id": key.id}, {"counts": 1}) or {}
        return Counts(**done["counts"])
    attempt = batch["attempts"]
    try:
        # A large file is loaded for longer than a lease: every batch is a sign of life.
        runs.renew(store, key.run_id)
        raw = _raw(store, batch, objects)
        counts = _load_rows(store, key, raw, batch)
        checkpoints.finish(store, key, attempt, counts)
    except StateConflict:
        # A later attempt closes the batch; what this one has written it finds and counts.
        done = store.batches.find_one({"_id": key.id}, {"counts": 1}) or {}
        return Counts(**done.get("counts", {}))
    except Exception as error:
        checkpoints.fail(store, key, attempt, error)
        raise
    return counts


def _raw(store: Store, batch: Document, objects: ObjectReader | None) -> Document:
    """The batch's raw rows; a range of an object is fetched and kept first, once."""
    if objects is None or "range" not in batch:
        return get_raw(store, batch["raw_id"])
    kept = find_raw(store, batch["raw_id"])
    if kept is not None:
        return kept
    version = ObjectVersion.of(batch["object"])
    start, end = batch["range"]
    data = objects.read(version, start, end)
    if digest_of(data) != batch["digest"]:
        raise FileRefused(
            f"Bytes {start} to {end} of {version.place} are not those that were cut: an object "
            "version never changes, so the storage is at fault. Upload the file again."
        )
    raw = csv_raw(batch, pack_csv(data, batch["rows"]))
    save_raw(store, [raw])
    return raw


def csv_raw(batch: Document, payload: Payload) -> Document:
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


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a batch: documents by identity, and the rows that are none."""

    reading: Reading
    documents: dict[bytes, list[Document]]
    """Of each identity in the order of rows; nearly always one."""
    count: int
    """Documents in all."""
    faults: list[Fault]


def _rows(raw: Document, batch: Document, batch_id: str) -> _Rows:
    reading = read(raw)
    places = reading.places
    received_at: datetime = batch["received_at"]
    good, more_faults = validate(reading.candidates, now=received_at)
    faults = reading.faults + [
        Fault(places[fault.row], fault.code, fault.field, fault.message) for fault in more_faults
    ]
    origin = {"run_id": batch["run_id"], "raw_id": raw["_id"], "received_at": received_at}
    if "version" in raw:
        origin["version"] = raw["version"]
    origin["inserted_by"] = batch_id
    first_row = batch["first_row"]
    by_id: dict[bytes, list[Document]] = {}
    for index, record in good:
        document = _document(record, origin, first_row + places[index])
        by_id.setdefault(document["_id"], []).append(document)
    return _Rows(reading, by_id, len(good), faults)


def _load_rows(store: Store, key: BatchKey, raw: Document, batch: Document) -> Counts:
    rows = _rows(raw, batch, key.id)
    counts = Counts(rows_in=rows.reading.rows, quarantined=len(rows.faults))
    counts.duplicate = rows.count - len(rows.documents)
    if rows.documents:
        checkpoints.note_cover(store, key, min(rows.documents), max(rows.documents))
        current = write(
            store,
            rows.documents,
            batch["received_at"],
            counts,
            memory=Memory(
                frozenset(map(bytes, batch.get("moved", ()))),
                lambda ids: checkpoints.note_moved(store, key, ids),
            ),
            later=lambda ids: _later_sightings(store, batch, ids),
        )
        records.raise_latest(store, current)
    quarantine.put_quarantine(store, _set_aside(rows, key, raw, batch))
    return counts


def _later_sightings(
    store: Store, batch: Document, ids: AbstractSet[bytes]
) -> dict[bytes, list[Document]]:
    """What batches that were received later, yet loaded earlier, say of these records.

    They may have said again what the record said then, which leaves no trace in it; now that
    another value comes in between, it matters. Raw batches that have expired can't be asked.
    """
    found: dict[bytes, list[Document]] = {}
    for other in checkpoints.received_later(store, batch, ids):
        raw = find_raw(store, other["raw_id"])
        if raw is None:
            continue
        documents = _rows(raw, other, other["_id"]).documents
        for id_ in ids & documents.keys():
            found.setdefault(id_, []).extend(documents[id_])
    return found


def _document(record: Record, origin: Document, row: int) -> Document:
    id_ = record_id(
        record["source"],
        record["dataset"],
        record["asset_id"],
        record.get("interval", ""),
        record["timestamp"],
    )
    return {"_id": id_, **record, **origin, "row": row, "revision": 1}


def _set_aside(rows: _Rows, key: BatchKey, raw: Document, batch: Document) -> list[Document]:
    now = clock.now()
    documents = []
    for fault in rows.faults:
        number = batch["first_row"] + fault.row
        documents.append(
            {
                "_id": f"{raw['_id']}/{number}",
                "source": raw["source"],
                "run_id": key.run_id,
                "batch": key.id,
                "raw_id": raw["_id"],
                "received_at": batch["received_at"],
                "reason": fault.code,
                "field": fault.field,
                "message": fault.message.encode("utf-8", "backslashreplace").decode(),
                "row": rows.reading.text(fault.row)[:_MAX_ROW_CHARACTERS],
                "row_number": number,
                "first_at": now,
                "last_at": now,
            }
        )
    return documents
