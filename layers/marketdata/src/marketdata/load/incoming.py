"""The records of a batch on their way into the database: columns until a document is needed.

Most rows of a file that is loaded again are known. Of these nothing is ever needed but the id
and the digest, so documents are made of the others alone.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any

from marketdata.documents.market_data import Record
from marketdata.documents.questions import Finding
from marketdata.documents.raw_batches import RawBatch
from marketdata.load.findings import Findings
from marketdata.load.reading import read
from marketdata.schema.identity import digests, record_ids
from marketdata.schema.record import (
    OPTIONAL,
    Columns,
    Fault,
    Observations,
    validate,
)

CHUNK_ROWS = 2_500
"""Rows that are read and validated together; while one chunk is looked up, the next one is read.
What is made of so many still is in the processor's cache when it is needed next."""


class Chunk:
    """Some consecutive rows of a batch as records."""

    def __init__(
        self, observations: Observations, rows: Sequence[int], origin: Mapping[str, object]
    ) -> None:
        self._columns = observations.columns
        self._rows = rows
        self._origin = origin
        self.ids = record_ids(observations.columns)
        self.digests = digests(observations.columns)

    def __len__(self) -> int:
        """The number of records."""
        return len(self.ids)

    def documents(self, indexes: Sequence[int]) -> list[Record]:
        """The documents of some of the records, complete as they are inserted."""
        if not indexes:
            return []
        columns: Columns = {
            "_id": self.ids,
            **self._columns,
            "row": self._rows,
            "digest": self.digests,
        }
        cut = [_cut(values, indexes) for values in columns.values()]
        origin = [repeat(value, len(indexes)) for value in self._origin.values()]
        keys = (*columns, *self._origin, "revision")
        made: list[Any] = [
            dict(zip(keys, values, strict=True))
            for values in zip(*cut, *origin, repeat(1, len(indexes)), strict=True)
        ]
        for name in OPTIONAL:
            if name in columns:
                for document in made:
                    if document[name] is None:
                        del document[name]
        return made


def _cut[T](values: Sequence[T], indexes: Sequence[int]) -> Sequence[T]:
    if len(indexes) == len(values):
        return values
    return itemgetter(*indexes)(values) if len(indexes) > 1 else (values[indexes[0]],)


@dataclass(slots=True)
class Records:
    """What a batch's rows became: records in chunks, and faults."""

    rows: int
    chunks: list[Chunk]
    faults: list[Fault]
    """In the order of rows; `Fault.row` is the index in the batch."""
    texts: list[Callable[[], str]]
    """The row of each fault as JSON text, made when it is asked for: it may be much longer."""
    passed_over: int = 0
    """Rows that were not read, as they are known to say what is on record."""
    findings: list[Finding] = field(default_factory=list)
    """Cells of optional fields that records do without, by field and reason."""
    _multiple: dict[bytes, list[tuple[Chunk, int]]] | None = field(default=None, init=False)

    def __len__(self) -> int:
        """The number of records, with those that share an identity."""
        return sum(map(len, self.chunks))

    @property
    def multiple(self) -> Mapping[bytes, Sequence[tuple[Chunk, int]]]:
        """Where the records are whose identity the batch has more than once."""
        if self._multiple is None:
            self._multiple = self._find_multiple()
        return self._multiple

    @property
    def identities(self) -> int:
        """The number of distinct records."""
        return len(self) - sum(len(places) - 1 for places in self.multiple.values())

    def _find_multiple(self) -> dict[bytes, list[tuple[Chunk, int]]]:
        seen: set[bytes] = set()
        for chunk in self.chunks:
            seen.update(chunk.ids)
        if len(seen) == len(self):
            return {}
        found: dict[bytes, list[tuple[Chunk, int]]] = defaultdict(list)
        for chunk in self.chunks:
            for index, id_ in enumerate(chunk.ids):
                found[id_].append((chunk, index))
        return {id_: places for id_, places in found.items() if len(places) > 1}

    @property
    def groups(self) -> dict[bytes, list[Record]]:
        """All documents by identity, in the order of rows."""
        found: dict[bytes, list[Record]] = {}
        for chunk in self.chunks:
            for document in chunk.documents(range(len(chunk))):
                found.setdefault(document["_id"], []).append(document)
        return found

    def documents_of(self, ids: AbstractSet[bytes]) -> dict[bytes, list[Record]]:
        """The documents of some identities, as far as the batch has them."""
        found: dict[bytes, list[Record]] = {}
        for chunk in self.chunks:
            indexes = [index for index, id_ in enumerate(chunk.ids) if id_ in ids]
            for document in chunk.documents(indexes):
                found.setdefault(document["_id"], []).append(document)
        return found


def incoming(
    raw: RawBatch,
    payload: bytes,
    *,
    origin: Mapping[str, object],
    first_row: int,
    validated_at: datetime,
    seen: Callable[[Chunk], None] = lambda _piece: None,
    known: AbstractSet[str] = frozenset(),
    told: AbstractSet[int] | None = None,
) -> Records:
    """The records of a raw batch, and the faults of its other rows.

    Args:
        raw: the raw batch's document.
        payload: its bytes, unpacked.
        origin: the fields that every document of the batch shares.
        first_row: the number of its first row in its file or page.
        validated_at: the time against which "too far ahead" is judged.
        seen: is told of each chunk as soon as it is there.
        known: lines that are not to be read; see `load.reading.read`.
        told: the numbers of the rows that are searched for findings; None means all.

    Raises:
        FileRefused: a CSV's bytes are not what they were when it was cut.
    """
    with _no_collector():
        return _incoming(
            raw,
            payload,
            origin=origin,
            first_row=first_row,
            validated_at=validated_at,
            seen=seen,
            known=known,
            told=told,
        )


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the search for reference cycles: rows by the ten thousand have none.

    It would go through all of them several times, which takes a sixth of the time of reading.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _incoming(
    raw: RawBatch,
    payload: bytes,
    *,
    origin: Mapping[str, object],
    first_row: int,
    validated_at: datetime,
    seen: Callable[[Chunk], None],
    known: AbstractSet[str],
    told: AbstractSet[int] | None,
) -> Records:
    rows = passed_over = 0
    chunks: list[Chunk] = []
    faults: list[Fault] = []
    texts: list[Callable[[], str]] = []
    findings = Findings(raw)
    for reading in read(raw, payload, CHUNK_ROWS, known):
        observations, found = validate(reading.table, now=validated_at)
        numbers = _chosen(reading.places, observations.places, first_row + rows)
        chunk = Chunk(observations, numbers, origin)
        if len(chunk):
            chunks.append(chunk)
            seen(chunk)
        judged = [Fault(reading.places[f.row], f.code, f.field, f.message) for f in found]
        for fault in sorted([*reading.faults, *judged], key=lambda fault: fault.row):
            faults.append(Fault(rows + fault.row, fault.code, fault.field, fault.message))
            texts.append(partial(reading.text, fault.row))
        if observations.bad_cells:
            begin, places = first_row + rows, reading.places
            findings.add(
                cell
                for cell in observations.bad_cells
                if told is None or begin + places[cell.row] in told
            )
        rows += reading.rows
        passed_over += reading.passed_over
    return Records(rows, chunks, faults, texts, passed_over, findings.documents())


def _chosen(places: Sequence[int], indexes: Sequence[int], added: int) -> Sequence[int]:
    """The numbers of the rows whose places have these indexes."""
    if isinstance(places, range) and len(indexes) == len(places):
        return range(added, added + len(places))
    return [added + places[index] for index in indexes]
