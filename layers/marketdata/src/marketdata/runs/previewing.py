"""What a file would become, before it is loaded: read by the code that loads it, stored nowhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from marketdata.csv_files import cutting, encoding
from marketdata.csv_files.columns import DEFAULT_DATASET
from marketdata.csv_files.dialect import Dialect
from marketdata.csv_files.understanding import HEAD_BYTES, PART_BYTES, Parts, understand
from marketdata.documents.objects import StoredVersion
from marketdata.documents.questions import Answers, Question
from marketdata.documents.raw_batches import StoredDialect, StoredLayout
from marketdata.documents.runs import ColumnNote
from marketdata.load.incoming import Records, incoming
from marketdata.load.raw import Payload
from marketdata.load.raw_rows import csv_raw
from marketdata.runs.extraction.sampling import sample_stream

SHOWN_RECORDS = 20
"""Records that a preview shows."""
SHOWN_SET_ASIDE = 20
"""Rows set aside that it shows."""
_BATCH_ROWS = 5_000
_BATCH_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class SetAside:
    """A row that would be in quarantine."""

    row: int
    """Its number in the file, from 0."""
    code: str
    field: str
    message: str
    text: str
    """The row as JSON."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a file would become."""

    publisher: str | None
    encoding: str
    packed: bool
    dialect: StoredDialect
    preamble: Sequence[str]
    header: Sequence[str]
    layout: StoredLayout
    applied: Sequence[ColumnNote]
    quarantined: Sequence[ColumnNote]
    skipped: Sequence[ColumnNote]
    questions: Sequence[Question]
    profile: str
    rows: int = 0
    """Rows of the file; 0 if there are questions, as then nothing is read."""
    records: Sequence[Mapping[str, Any]] = ()
    """The first records."""
    set_aside: Sequence[SetAside] = ()
    """The first rows that would be set aside."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """How many rows would be set aside, by reason."""


def preview(
    data: bytes,
    *,
    key: str,
    answers: Answers,
    received_at: datetime,
    dataset: str = DEFAULT_DATASET,
    limit: int = 2**30,
    records: int = SHOWN_RECORDS,
) -> Preview | None:
    """Read a file as a run would.

    Args:
        data: the file.
        key: the key that it has or will have.
        answers: what is said of it.
        received_at: against which "too far ahead" is judged.
        dataset: the data set of rows that name none.
        limit: bytes that a packed file may have when it is unpacked.
        records: how many records to show.

    Returns:
        None if it is empty.

    Raises:
        FileRefused: a run would refuse it; says what is missing and what to do.
    """
    what = key or "The file"
    packed = data.startswith(encoding.GZIP)
    if packed:
        data = b"".join(encoding.unpack(iter([data]), limit=limit, what=what))
    written = encoding.detect_encoding(data[:HEAD_BYTES], data[-PART_BYTES:], what=what)
    if written.startswith("utf-16"):
        data = b"".join(encoding.recoded(iter([data]), written, what))
    kept = "cp1252" if written == "cp1252" else "utf-8"
    data = b"".join(encoding.checked(iter([data]), what=what, encoding=kept))
    understood = understand(
        _parts(data),
        encoding=kept,
        key=key,
        answers=lambda _profile: answers,
        dataset=dataset,
        received_at=received_at,
        what=what,
    )
    if understood is None:
        return None
    judgement = understood.judgement
    made = Preview(
        publisher=judgement.publisher,
        encoding=written,
        packed=packed,
        dialect=understood.dialect.document(),
        preamble=understood.preamble,
        header=judgement.header,
        layout=judgement.layout,
        applied=judgement.applied,
        quarantined=judgement.quarantined,
        skipped=judgement.skipped,
        questions=judgement.questions,
        profile=judgement.profile,
    )
    if judgement.questions:
        return made
    return _with_rows(made, data, understood.begin, key, received_at, records)


def _parts(data: bytes) -> Parts:
    if len(data) <= HEAD_BYTES:
        return Parts(data, complete=True)
    return sample_stream(data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES))


def _with_rows(
    made: Preview, data: bytes, begin: int, key: str, received_at: datetime, most: int
) -> Preview:
    rows, shown = 0, list[Mapping[str, Any]]()
    set_aside, reasons = list[SetAside](), Counter[str]()
    for found, first_row in _read(made, data[begin:], begin, key, received_at):
        rows += found.rows
        for chunk in found.chunks:
            wanted = range(min(len(chunk), most - len(shown)))
            shown += chunk.documents(wanted)
        for fault, text in zip(found.faults, found.texts, strict=True):
            reasons[fault.code] += 1
            if len(set_aside) < SHOWN_SET_ASIDE:
                set_aside.append(
                    SetAside(first_row + fault.row, fault.code, fault.field, fault.message, text())
                )
    return replace(
        made, rows=rows, records=shown, set_aside=set_aside, reasons=dict(reasons.most_common())
    )


def _read(
    made: Preview, data: bytes, begin: int, key: str, received_at: datetime
) -> Iterator[tuple[Records, int]]:
    """The records of a file, a batch at a time, with the number of each batch's first row."""
    version: StoredVersion = {
        "bucket": "",
        "key": key,
        "version_id": "",
        "size": len(data),
        "etag": None,
        "last_modified": received_at,
    }
    first_row = 0
    pieces = cutting.cut(
        [data],
        start=begin,
        rows=_BATCH_ROWS,
        size=_BATCH_BYTES,
        what=key,
        dialect=Dialect.of(made.dialect),
    )
    for piece in pieces:
        raw = csv_raw(
            {
                "source": "csv",
                "raw_id": "",
                "place": key,
                "cut": [piece.start, piece.end],
                "digest": "",
                "object": version,
                "header": list(made.header),
                "layout": made.layout,
                "malformed": [list(place) for place in piece.malformed],
                "first_row": first_row,
                "rows": piece.rows,
                "received_at": received_at,
            },
            Payload(piece.rows, len(piece.data), "", b""),
        )
        yield (
            incoming(raw, piece.data, origin={}, first_row=first_row, validated_at=received_at),
            first_row,
        )
        first_row += piece.rows
