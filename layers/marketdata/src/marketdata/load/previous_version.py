"""Strategy: previous version. Of a file that is uploaded again, unchanged lines are not read.

Who uploads a file again has usually changed or added a few rows. Lines are compared with those of
the previous version, the last batch that was received before from the same part of an object of
the same key. Comparing a line costs a fraction of what reading it and looking up its record costs.

**Preconditions** for skipping a line of the batch.

1. This is the first attempt at the batch: what an earlier one wrote has to be counted. The run was
   not asked to load what is known (`force`). Both files have no quotes and no malformed records, so
   that a line is a row.
2. The previous version is loaded, in the same context, and was received earlier. Each of its rows
   has a record of its own, but those in quarantine, and it is known which those are.
3. The line is in both, is not in quarantine, and is in the batch once.
4. The line's record has not been revised since the previous version was received.
5. No other row of the batch is about a record of a line that is skipped.

**Why they are enough.** By 2 the line has a record, and the previous version said of it what the
line says. By 4 the record still says so: whatever was received later said the same. By 3 and 5 the
batch says nothing else of it. So the row would count as unchanged and change nothing. It does not
matter whether batches that were received in between were conflict-free: what they changed was
revised, and who says the same contradicts nobody.

**What arrives later, or at the same time.** The batch announces a key range that has the records
of all skipped lines before it looks for revisions. So it follows the protocol of
`load.late_arrivals`: whoever revises one of the records from then on finds the batch and reads its
raw rows, which are kept whole; if they are not kept yet, the batch is marked stale, and then reads
all its rows after all.

Where few lines could be skipped, or telling which would take long, all are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Self

from marketdata.csv_files import parsing
from marketdata.csv_files.dialect import Dialect
from marketdata.documents.batches import Batch
from marketdata.documents.raw_batches import RawBatch
from marketdata.load.context import context_of
from marketdata.load.incoming import Records, incoming
from marketdata.load.late_arrivals import LateArrivals
from marketdata.load.raw import unpack
from marketdata.schema.identity import span_of, time_of
from marketdata.store import market_data, quarantine, runs
from marketdata.store.batches import previous_version
from marketdata.store.connection import Store
from marketdata.store.raw_batches import find_raw

_MOST_REVISED = 5_000
"""Where more records were revised than a person corrects in a few hours, all rows are read."""


def read_changed(
    store: Store,
    batch: Batch,
    payload: bytes,
    late_arrivals: LateArrivals,
    read: Callable[[AbstractSet[str]], Records],
) -> Records | None:
    """Read those rows of a batch that its previous version does not have.

    Args:
        store: the database.
        batch: the batch.
        payload: its rows, unpacked.
        late_arrivals: the protocol, as the batch follows it.
        read: reads the batch's rows and looks up their records, but for lines that it is to skip.

    Returns:
        The records of these rows; None if all rows are to be read.

    Raises:
        StateConflict: a later run has reclaimed the batch.
    """
    comparison = _Comparison.find(store, batch, payload)
    key_range = None if comparison is None else comparison.key_range()
    if comparison is None or key_range is None:
        return None
    late_arrivals.announce(*key_range)
    comparison = comparison.without_revised(store, *key_range)
    if comparison is None:
        return None
    found = read(comparison.unchanged)
    return None if comparison.may_share_records(store, found) else found


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A batch's previous version, and which of its lines the batch has, too."""

    raw: RawBatch
    """Its raw rows."""
    batch: Batch
    """Its document."""
    unchanged: AbstractSet[str]
    """Lines with records of their own that are in the batch, each once."""
    others: Mapping[str, bytes]
    """Its other lines with records, and the ids of these."""

    @classmethod
    def find(cls, store: Store, batch: Batch, payload: bytes) -> Self | None:
        """Compare a batch with its previous version: preconditions 1 to 3.

        Returns:
            None if they do not hold, or if less than half of the batch's lines are unchanged.
        """
        if batch["attempts"] > 1 or "place" not in batch or "layout" not in batch:
            return None
        previous = previous_version.find_comparable(store, batch, context_of(batch))
        if (
            previous is None
            or "covers" not in previous
            or previous["counts"]["duplicate"]
            or previous["malformed"]
            or runs.is_forced(store, batch["run_id"])
        ):
            return None
        lines = parsing.plain_lines(payload, Dialect.of(batch["layout"].get("dialect")))
        raw = find_raw(store, previous["raw_id"])
        if lines is None or raw is None:
            return None
        recorded = _lines_with_records(store, previous, raw)
        if recorded is None:
            return None
        unchanged = recorded.intersection(lines)
        # A line that is in the batch twice is a duplicate, and has to be counted as one.
        repeated = sum(map(unchanged.__contains__, lines)) != len(unchanged)
        if repeated or len(unchanged) < len(lines) / 2:
            return None
        others = _ids(raw, previous, recorded - unchanged)
        return None if others is None else cls(raw, previous, unchanged, others)

    def key_range(self) -> tuple[bytes, bytes] | None:
        """Ids between which the records of the unchanged lines are.

        The previous version's own key range, as long as lines of its first and last time are
        unchanged. Otherwise it is narrowed: a file that loses old rows as it gets new ones would
        have a larger key range with each version.

        Returns:
            None if narrowing takes too long.
        """
        first, last = self.batch["covers"]["first"], self.batch["covers"]["last"]
        at_the_ends = {
            self._time_cell(line)
            for line, id_ in self.others.items()
            if time_of(id_) <= time_of(first) or time_of(id_) >= time_of(last)
        }
        if all(map(self._has_unchanged_of, at_the_ends)):
            return first, last
        times = self._times()
        return None if times is None else span_of(min(times.values()), max(times.values()))

    def without_revised(self, store: Store, first: bytes, last: bytes) -> Self | None:
        """The same without lines whose records may have been revised: precondition 4.

        Lines of the same time as a revised record are left out, as a line's time is told without
        reading all of it.

        Args:
            store: the database.
            first: the lowest id that unchanged lines may have; it was announced.
            last: the highest one.

        Returns:
            None if no line is left, or if telling which are takes too long.
        """
        received_at, raw_id = self.batch["received_at"], self.batch["raw_id"]
        most = _MOST_REVISED + 1
        revised = market_data.revised_after(store, first, last, received_at, raw_id, most=most)
        if not revised:
            return self
        times = self._times() if len(revised) < most else None
        if times is None:
            return None
        revised_times = set(map(time_of, revised))
        unchanged = list(self.unchanged)
        cells = self._time_cells(unchanged)
        lines = {
            line
            for line, cell in zip(unchanged, cells, strict=True)
            if times[cell] in revised_times
        }
        ids = _ids(self.raw, self.batch, lines)
        if ids is None or len(lines) == len(self.unchanged):
            return None
        return replace(self, unchanged=self.unchanged - lines, others={**self.others, **ids})

    def may_share_records(self, store: Store, others: Records) -> bool:
        """Whether another row of the batch may be about an unchanged line's record.

        Precondition 5 is that none is. Each unchanged line has a record. So a row is about none
        of theirs if it has no record, or that of another line of the previous version.

        Args:
            store: the database.
            others: the batch's other rows.
        """
        ids = {id_ for chunk in others.chunks for id_ in chunk.ids}
        return market_data.any_there(store, sorted(ids.difference(self.others.values())))

    def _time_cell(self, line: str) -> str:
        """The cell with a line's time: the one part of an identity told without reading it all."""
        return self._time_cells([line])[0]

    def _time_cells(self, lines: Iterable[str]) -> list[str]:
        """The same of many lines. The time of day may have a cell of its own."""
        layout = self.raw["layout"]
        column: int = layout["columns"]["timestamp"]
        delimiter = Dialect.of(layout.get("dialect")).delimiter
        clock = layout.get("times", {}).get("time_column")
        if clock is None:
            return [line.split(delimiter, column + 1)[column] for line in lines]
        cells = [line.split(delimiter) for line in lines]
        return [f"{cut[column]}{delimiter}{cut[clock]}" for cut in cells]

    def _has_unchanged_of(self, time_cell: str) -> bool:
        """Whether an unchanged line is of this time."""
        delimiter = Dialect.of(self.raw["layout"].get("dialect")).delimiter
        day = time_cell.partition(delimiter)[0]
        return any(self._time_cell(line) == time_cell for line in self.unchanged if day in line)

    def _times(self) -> dict[str, bytes] | None:
        """The times of the unchanged lines as ids have them, by cell; None if they are many."""
        unchanged = list(self.unchanged)
        one_of_each = dict(zip(self._time_cells(unchanged), unchanged, strict=True))
        if len(one_of_each) > len(self.unchanged) / 4:
            return None
        ids = _ids(self.raw, self.batch, one_of_each.values())
        return ids and {cell: time_of(ids[line]) for cell, line in one_of_each.items()}


def _lines_with_records(store: Store, previous: Batch, raw: RawBatch) -> set[str] | None:
    """The lines of a loaded batch that are not in quarantine; None if that can't be told."""
    lines = parsing.plain_lines(unpack(raw), Dialect.of(raw["layout"].get("dialect")))
    if lines is None or len(lines) != previous["rows"]:
        return None
    if not previous["counts"]["quarantined"]:
        return set(lines)
    quarantined = quarantine.of_raw(store, previous["raw_id"])
    if len(quarantined) != previous["counts"]["quarantined"]:
        return None
    first_row = previous["first_row"]
    return set(lines).difference(lines[row["row_number"] - first_row] for row in quarantined)


def _ids(raw: RawBatch, batch: Batch, lines: Iterable[str]) -> dict[str, bytes] | None:
    """The ids of the records of some lines of a loaded batch, by line.

    Returns:
        None if a line can't be read. It could be when it was loaded; only a defect makes it
        otherwise.
    """
    lines = list(lines)
    encoding = Dialect.of(raw["layout"].get("dialect")).encoding
    payload = "\n".join(lines).encode(encoding)
    read = incoming(raw, payload, origin={}, first_row=0, validated_at=batch["received_at"])
    ids = [id_ for chunk in read.chunks for id_ in chunk.ids]
    return None if read.faults else dict(zip(lines, ids, strict=True))
