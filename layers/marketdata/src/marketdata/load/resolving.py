"""Which batches count the quarantined rows of a raw batch, and which rows are resolved.

Several batches may have the same raw batch, as a source answers the same content again; each of
them counts its rows that could not be loaded. Such a row is *resolved* for a batch once a replay
batch has loaded it. It may leave quarantine once it is resolved for every batch that counts it.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from marketdata.documents.batches import Batch, BatchState
from marketdata.documents.market_data import Record
from marketdata.documents.quarantine import QuarantinedRow
from marketdata.documents.questions import Finding
from marketdata.documents.raw_batches import RawBatch
from marketdata.load.raw_rows import read_records
from marketdata.schema.record import Fault
from marketdata.store import quarantine
from marketdata.store.batches import replays
from marketdata.store.connection import Store


@dataclass(frozen=True, slots=True)
class Ledger:
    """The quarantined rows of a raw batch, with the batches that they are about."""

    rows: list[QuarantinedRow]
    """Where they are; without their text."""
    batches: dict[str, Batch]
    """The batches that may count one of them, in the order in which they were closed."""
    replays: list[Batch]
    """The replay batches of these."""

    @classmethod
    def read(cls, store: Store, raw_id: str, *, mark: bool = False) -> Self:
        """The rows and batches of a raw batch as they are now.

        Args:
            store: the database.
            raw_id: the raw batch.
            mark: keep the counting batches from serving as known content from now on.
        """
        rows = quarantine.of_raw(store, raw_id)
        named = {batch for row in rows for batch in row.get("batches", ())}
        found = replays.of_raw(store, raw_id, named, mark=mark)
        counting = sorted((b for b in found if "resolves" not in b), key=_closed)
        return cls(rows, {b["_id"]: b for b in counting}, [b for b in found if "resolves" in b])

    def counting(self, row: QuarantinedRow) -> list[Batch]:
        """The batches that count a row as quarantined.

        A batch that was skipped, as its content was known, counts what the known one did.
        """
        named = set(row.get("batches", ())) & self.batches.keys()
        for id_, batch in self.batches.items():
            if batch.get("known_as") in named and batch["loaded_at"] >= row["first_at"]:
                named.add(id_)
        return [batch for id_, batch in self.batches.items() if id_ in named]

    def of(self, batch_id: str) -> list[Batch]:
        """The replay batches of a batch."""
        return [r for r in self.replays if replays.resolved_by(r)["batch"] == batch_id]

    def unfinished(self) -> list[Batch]:
        """The replay batches that are not loaded."""
        return [replay for replay in self.replays if replay["state"] != BatchState.LOADED]

    def open_rows(self, batch_id: str) -> set[int]:
        """The numbers of the rows that a batch counts and that are not resolved for it."""
        counted = {
            row["row_number"]
            for row in self.rows
            if any(batch["_id"] == batch_id for batch in self.counting(row))
        }
        return counted - replays.resolved_rows(self.of(batch_id))

    def resolved(self) -> list[QuarantinedRow]:
        """The rows that are resolved for every batch that counts them."""
        done = {id_: replays.resolved_rows(self.of(id_)) for id_ in self.batches}
        return [
            row
            for row in self.rows
            if (counting := self.counting(row))
            and all(row["row_number"] in done[batch["_id"]] for batch in counting)
        ]


def _closed(batch: Batch) -> tuple[datetime, str]:
    return batch.get("loaded_at") or batch["received_at"], batch["_id"]


@dataclass(frozen=True, slots=True)
class ReplayRows:
    """Some rows of a batch that were quarantined, read as the batch reads them."""

    alone: dict[bytes, list[Record]]
    """Records by identity, where the batch has loaded no other row of the identity."""
    among: dict[bytes, list[Record]]
    """Where it has loaded others: the rows together with those, since one of those may say again
    what it had said, after what a row in between says now."""
    records: int
    """How many of the rows are records."""
    faults: dict[int, Fault]
    """By number, what is wrong with the others."""
    findings: list[Finding]
    """Cells of optional fields that the records do without, by field and reason."""

    @classmethod
    def read(
        cls,
        raw: RawBatch,
        batch: Batch,
        rows: AbstractSet[int],
        left_out: AbstractSet[int],
        validated_at: datetime | None = None,
    ) -> Self:
        """Read rows of a batch, or of the batch that a replay batch resolves.

        Args:
            raw: its raw batch.
            batch: the batch, or the replay batch.
            rows: the numbers of the rows.
            left_out: the numbers of rows that stay in quarantine.
            validated_at: the time against which "too far ahead" is judged, if not the batch's own.

        Raises:
            TerminalError: the raw batch can't be read.
        """
        found = read_records(raw, batch, validated_at=validated_at, told=rows)
        numbered = {batch["first_row"] + fault.row: fault for fault in found.faults}
        faults = {number: fault for number, fault in numbered.items() if number in rows}
        alone: dict[bytes, list[Record]] = {}
        among: dict[bytes, list[Record]] = {}
        records = 0
        for id_, documents in found.groups.items():
            mine = [document for document in documents if document["row"] in rows]
            if not mine:
                continue
            records += len(mine)
            loaded = [d for d in documents if d["row"] in rows or d["row"] not in left_out]
            if len(loaded) == len(mine):
                alone[id_] = mine
            else:
                among[id_] = loaded
        return cls(alone, among, records, faults, found.findings)

    @classmethod
    def of(cls, store: Store, raw: RawBatch, replay: Batch) -> Self:
        """The rows of a replay batch that it resolves, or is to resolve."""
        resolves = replays.resolved_by(replay)
        rows = set(resolves["rows"]).difference(replay.get("unresolved", ()))
        open_rows = Ledger.read(store, raw["_id"]).open_rows(resolves["batch"])
        return cls.read(raw, replay, rows, open_rows - rows)

    @property
    def ids(self) -> Iterable[bytes]:
        """The records that the rows are about."""
        return [*self.alone, *self.among]
