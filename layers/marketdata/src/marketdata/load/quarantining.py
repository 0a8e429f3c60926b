"""The rows of a batch that could not be loaded, as they are kept in quarantine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from marketdata import clock
from marketdata.documents.batches import Batch
from marketdata.documents.quarantine import NewQuarantinedRow
from marketdata.documents.raw_batches import RawBatch
from marketdata.schema.record import Fault

_MAX_ROW_CHARACTERS = 1_000_000
"""A row of more than this is quarantined with its head; MongoDB could not hold it whole twice."""


def quarantine_id(fault: Fault, raw: RawBatch, batch: Batch) -> str:
    """The `_id` of a row in quarantine: its raw batch and its place there."""
    return f"{raw['_id']}/{batch['first_row'] + fault.row}"


def quarantined_rows(
    rejected: Iterable[tuple[Fault, Callable[[], str]]], raw: RawBatch, batch: Batch
) -> list[NewQuarantinedRow]:
    """The documents of rows that could not be loaded, each with its reason and its text.

    A text is cut where MongoDB could not hold it whole.
    """
    now = clock.now()
    return [
        {
            "_id": quarantine_id(fault, raw, batch),
            "source": raw["source"],
            "run_id": batch["run_id"],
            "batch": batch["_id"],
            "raw_id": raw["_id"],
            "received_at": batch["received_at"],
            "reason": fault.code,
            "field": fault.field,
            "message": fault.message.encode("utf-8", "backslashreplace").decode(),
            "row": text()[:_MAX_ROW_CHARACTERS],
            "row_number": batch["first_row"] + fault.row,
            "first_at": now,
            "last_at": now,
        }
        for fault, text in rejected
    ]
