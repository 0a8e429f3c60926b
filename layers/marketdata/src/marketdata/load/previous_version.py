"""The rows of a file that its former version had, too.

Whoever uploads a file again has changed some of its rows, or added some. Lines that are the same
need no reading, as their records say what they say: as long as nobody has contradicted the
former version since, and no other row of the new one is about the same records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Self

from marketdata.csv_files import parsing
from marketdata.documents.batches import Batch
from marketdata.documents.raw_batches import RawBatch
from marketdata.load.context import context_of
from marketdata.load.incoming import Records, incoming
from marketdata.load.raw import unpack
from marketdata.schema.identity import span_of, time_of
from marketdata.store import market_data, quarantine, runs
from marketdata.store.batches import known_content
from marketdata.store.connection import Store
from marketdata.store.raw_batches import find_raw

_MOST_REVISED = 5_000
"""Where more has been revised than a few hours' work of one who mends a file, all is read."""


@dataclass(frozen=True, slots=True)
class PreviousVersion:
    """What was cut from the same place of a file's former version."""

    raw: RawBatch
    batch: Batch
    same: AbstractSet[str]
    """Its lines that are there again, each once and each with a record of its own."""
    gone: Mapping[str, bytes]
    """The ids of its other lines that have records."""

    @classmethod
    def find(cls, store: Store, batch: Batch, payload: bytes) -> Self | None:
        """The former version of a batch; None if there is none that it would pay to go by.

        Args:
            store: the database.
            batch: the batch.
            payload: its rows, unpacked.
        """
        # What an earlier attempt at the batch has written would have to be told from what was
        # there: that is left to the looking up of each row.
        if batch["attempts"] > 1 or "place" not in batch or "layout" not in batch:
            return None
        before = known_content.former(store, batch, context_of(batch))
        if before is None or before["malformed"] or runs.is_forced(store, batch["run_id"]):
            return None
        lines = parsing.plain_lines(payload)
        raw = find_raw(store, before["raw_id"])
        known = None if lines is None or raw is None else _lines(store, before, unpack(raw))
        if lines is None or raw is None or known is None:
            return None
        same = known.intersection(lines)
        # A line that is there twice is a duplicate, and is to be counted as one.
        if len(same) < len(lines) / 2 or sum(map(same.__contains__, lines)) != len(same):
            return None
        gone = _ids(raw, before, known - same)
        return None if gone is None else cls(raw, before, same, gone)

    def covers(self) -> tuple[bytes, bytes] | None:
        """Ids between which the records of its lines are; None if telling that takes too long.

        As close to them as those of the former version's batch were to its own: a file whose old
        rows go as new ones come would else cover more with each version.
        """
        first, last = self.batch["covers"]["first"], self.batch["covers"]["last"]
        lost = {
            self._time(line)
            for line, id_ in self.gone.items()
            if time_of(id_) <= time_of(first) or time_of(id_) >= time_of(last)
        }
        if all(self._has(time) for time in lost):
            return first, last
        times = self._times()
        return None if times is None else span_of(min(times.values()), max(times.values()))

    def uncontradicted(self, store: Store, first: bytes, last: bytes) -> Self | None:
        """Without the lines that may not say any more what is on record; None if those are many.

        To be asked for after the batch has noted that it covers these records: whoever
        contradicts the former version later on finds the batch by that, and asks its rows.

        Args:
            store: the database.
            first: the lowest id that its lines may have.
            last: the highest one.
        """
        received_at, raw_id = self.batch["received_at"], self.batch["raw_id"]
        most = _MOST_REVISED + 1
        revised = market_data.revised_after(store, first, last, received_at, raw_id, most=most)
        if not revised:
            return self
        times = self._times() if len(revised) < most else None
        if times is None:
            return None
        doubted = {time_of(id_) for id_ in revised}
        lines = {line for line in self.same if times[self._time(line)] in doubted}
        ids = _ids(self.raw, self.batch, lines)
        if ids is None or len(lines) == len(self.same):
            return None
        return replace(self, same=self.same - lines, gone={**self.gone, **ids})

    def is_apart(self, store: Store, others: Records) -> bool:
        """Whether none of the batch's other rows is about a record that one of `same` is about.

        Args:
            store: the database.
            others: the batch's other rows.
        """
        # Of its lines each has a record. What has none, then, is not among them.
        strangers = {id_ for chunk in others.chunks for id_ in chunk.ids}
        return not market_data.any_there(store, sorted(strangers.difference(self.gone.values())))

    def _time(self, line: str) -> str:
        """The cell of the one part of an identity that is told without reading the line."""
        column: int = self.raw["layout"]["columns"]["timestamp"]
        return line.split(",", column + 1)[column]

    def _has(self, time: str) -> bool:
        """Whether one of `same` is of this time."""
        return any(time in line and self._time(line) == time for line in self.same)

    def _times(self) -> dict[str, bytes] | None:
        """The times of `same` as they are in ids; None if they are too many to be read."""
        one_of_each = {self._time(line): line for line in self.same}
        if len(one_of_each) > len(self.same) / 4:
            return None
        ids = _ids(self.raw, self.batch, one_of_each.values())
        return ids and {time: time_of(ids[line]) for time, line in one_of_each.items()}


def _lines(store: Store, before: Batch, payload: bytes) -> set[str] | None:
    """The rows of a loaded batch that have records; None if that can't be told."""
    lines = parsing.plain_lines(payload)
    if lines is None or len(lines) != before["rows"]:
        return None
    if not before["counts"]["quarantined"]:
        return set(lines)
    aside = quarantine.of_raw(store, before["raw_id"])
    if len(aside) != before["counts"]["quarantined"]:
        return None
    return set(lines).difference(lines[row["row_number"] - before["first_row"]] for row in aside)


def _ids(raw: RawBatch, batch: Batch, lines: Iterable[str]) -> dict[str, bytes] | None:
    """The records that some lines of a loaded batch are about; None if any can't be read.

    They could be when they were loaded; only a mistake in this program makes it otherwise.
    """
    lines = list(lines)
    payload = "\n".join(lines).encode()
    read = incoming(raw, payload, origin={}, first_row=0, judged_at=batch["received_at"])
    ids = [id_ for chunk in read.chunks for id_ in chunk.ids]
    return None if read.faults else dict(zip(lines, ids, strict=True))
