"""The rows of a file that its former version had, too.

Whoever uploads a file again has changed some of its rows, or added some. Lines that are the same
need no reading, as their records say what they say: as long as nobody has contradicted the
former version since, and no other row of the new one is about the same records.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Self

from marketdata.csv_files import parsing
from marketdata.load.context import context_of
from marketdata.load.incoming import Records, incoming
from marketdata.load.raw import unpack
from marketdata.schema.identity import time_of
from marketdata.store import known_content, quarantine, records, runs
from marketdata.store.connection import Document, Store
from marketdata.store.raw import find_raw

_MOST_REVISED = 5_000
"""Where more has been revised than a few hours' work of one who mends a file, all is read."""


@dataclass(frozen=True, slots=True)
class Former:
    """What was cut from the same place of a file's former version."""

    raw: Document
    batch: Document
    same: AbstractSet[str]
    """Its lines that are there again, each once and each with a record of its own."""
    gone: AbstractSet[str]
    """Its other lines that have records."""

    @classmethod
    def find(cls, store: Store, batch: Document, payload: bytes) -> Self | None:
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
        return cls(raw, before, same, known - same)

    def uncontradicted(self, store: Store) -> Self | None:
        """Without the lines that may not say any more what is on record; None if those are many.

        To be asked for after the batch has noted that it covers these records: whoever
        contradicts the former version later on finds the batch by that, and asks its rows.
        """
        first, last = self.batch["covers"]["first"], self.batch["covers"]["last"]
        received_at, raw_id = self.batch["received_at"], self.batch["raw_id"]
        most = _MOST_REVISED + 1
        revised = records.revised_after(store, first, last, received_at, raw_id, most=most)
        if not revised:
            return self
        # The time of a line is the one part of an identity that is told without reading it.
        column = self.raw["layout"]["columns"]["timestamp"]
        of_line = {line: line.split(",", column + 1)[column] for line in self.same}
        one_of_each = {time: line for line, time in of_line.items()}
        if len(revised) == most or len(one_of_each) > len(self.same) / 4:
            return None
        ids = self._ids(one_of_each.values())
        if ids is None:
            return None
        times = {time_of(id_) for id_ in revised}
        doubtful = {
            time for time, id_ in zip(one_of_each, ids, strict=True) if time_of(id_) in times
        }
        lines = {line for line, time in of_line.items() if time in doubtful}
        same = self.same - lines
        return replace(self, same=same, gone=self.gone | lines) if same else None

    def is_apart(self, store: Store, others: Records) -> bool:
        """Whether none of the batch's other rows is about a record that one of `same` is about.

        Args:
            store: the database.
            others: the batch's other rows.
        """
        gone = self._ids(self.gone)
        if gone is None:
            return False
        # Of its lines each has a record. What has none, then, is not among them.
        return not records.any_there(store, sorted(set(_ids(others)).difference(gone)))

    def _ids(self, lines: Iterable[str]) -> list[bytes] | None:
        """What lines of the former version are about, in their order; None if any can't be read.

        They could be when they were loaded; only a mistake in this program makes it otherwise.
        """
        payload = "\n".join(lines).encode()
        read = incoming(
            self.raw, payload, origin={}, first_row=0, judged_at=self.batch["received_at"]
        )
        return None if read.faults else _ids(read)


def _lines(store: Store, before: Document, payload: bytes) -> set[str] | None:
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


def _ids(found: Records) -> list[bytes]:
    return [id_ for piece in found.pieces for id_ in piece.ids]
