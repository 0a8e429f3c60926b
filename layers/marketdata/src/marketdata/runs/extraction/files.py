"""Extracting an uploaded CSV: one pass over the object, pending batches out.

A batch of a plain file is a range of its bytes, which is fetched and kept when it is loaded.
A packed file can't be entered in the middle, so its raw batches are kept right here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from marketdata.csv_files import cutting, encoding, parsing
from marketdata.csv_files.columns import DEFAULT_DATASET
from marketdata.csv_files.cutting import Piece
from marketdata.documents.batches import NewBatch
from marketdata.documents.runs import (
    FileProgress,
    InputChanges,
    InputState,
    InputStatus,
    StoredMappings,
)
from marketdata.errors import (
    FileRefused,
)
from marketdata.load.context import context_of
from marketdata.load.raw import digest_of, pack_csv, raw_id
from marketdata.load.raw_rows import csv_raw
from marketdata.logs import make_logger
from marketdata.objects import ObjectReader, ObjectVersion, OpenObject
from marketdata.runs.extraction.protocol import Extraction, Overtaken, Written
from marketdata.schema.mapping import ColumnMapping, map_columns
from marketdata.schema.record import LONGEST_DATASET
from marketdata.schema.texts import visible
from marketdata.settings import CsvSettings
from marketdata.store import run_inputs
from marketdata.store.connection import Filter
from marketdata.store.raw_batches import save_raw

_LOG = make_logger("extract_csv")
"""The function's own, which adds the request and the run to every line."""

MAX_COLUMNS = 500
MAX_BATCHES = 30_000
"""The state machine carries a number for each batch, 256 KB in all."""

_RESERVE_SECONDS = 20.0
"""Time kept back for writing what was cut."""
_TOLD_COLUMNS = 20
"""Unused columns that are warned of by name; the run's mappings have them all."""
_SAVED_TOGETHER = 50
"""Batches between two writes of the progress."""


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What reading any part of the file takes."""

    header: list[str]
    columns: dict[str, int]
    dataset: str


class NothingToLoad(Exception):
    """The file is skipped, and nothing is wrong with that; the message says why."""


class FileExtraction:
    """The extraction of one object version, with its progress."""

    def __init__(self, extraction: Extraction, state: InputState, settings: CsvSettings) -> None:
        assert state.object is not None  # noqa: S101 - it is what makes an input a file
        self._extraction = extraction
        self._store = extraction.store
        self._run_id = extraction.run_id
        self._input_id = extraction.input_id
        self._settings = settings
        self._version = ObjectVersion.of(state.object)
        progress = state.file or FileProgress(batches=state.batches, parts=state.batches)
        self._position = progress.position
        self._batches = progress.batches
        self._rows = progress.rows
        # Batches of the file from its beginning, whichever run has them.
        self._parts = progress.parts
        # How far the run knows the file to be; it changes with each write of this call.
        self._noted = state.file.position if state.file else None
        self._packed = progress.packed
        self._warnings = state.warnings.copy()
        self._dialect = (
            _Dialect(state.layout["header"], state.layout["columns"], state.layout["dataset"])
            if state.layout
            else None
        )

    def cut(self, objects: ObjectReader, remaining_seconds: Callable[[], float]) -> bool:
        """Cut the rest of the file; False if the time was up before its end.

        Raises:
            NothingToLoad: it is empty.
            Overtaken: another call has got further.
            StateConflict: the run has ended, or has lost the object to another one.
            TransientError: S3 or the database is out of reach.
            TerminalError: the file is refused as a whole, or the database refuses what it is told.
        """
        start = 0 if self._packed else self._position
        if self._dialect and not self._packed and self._position == self._version.size:
            return True
        with objects.open(self._version, start) as opened:
            self._version = opened.version
            chunks = self._plain(opened, start)
            if self._dialect is None:
                chunks = self._read_head(opened, chunks)
            pieces = cutting.cut(
                chunks,
                start=self._position,
                rows=self._settings.batch_rows,
                size=self._settings.batch_bytes,
                what=self._version.place,
            )
            return self._save_all(pieces, remaining_seconds)

    def _plain(self, opened: OpenObject, start: int) -> Iterator[bytes]:
        """The bytes of the CSV from the current position on, unpacked and checked."""
        chunks = opened.chunks
        place = self._version.place
        if start == 0:
            first, chunks = encoding.peek(chunks)
            self._packed = first.startswith(encoding.GZIP)
        if not self._packed:
            return encoding.checked(chunks, start=start, what=place)
        limit = self._settings.csv_gzip_max_bytes
        plain = encoding.checked(encoding.unpack(chunks, limit=limit, what=place), what=place)
        return _skip(plain, self._position)

    def _read_head(self, opened: OpenObject, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Map the header; what follows it comes back."""
        place = self._version.place
        data, head = b"", None
        for chunk in chunks:
            data += chunk
            head = cutting.head(data, complete=False, what=place)
            if head is not None or len(data) > 2 * cutting.MAX_RECORD_BYTES:
                break
        head = head or cutting.head(data, complete=True, what=place)
        if head is None:
            raise NothingToLoad(f"{place} is empty: there was nothing to load.")
        header = parsing.header_cells(head.header)
        if len(header) > MAX_COLUMNS:
            raise FileRefused(
                f"{place} has {len(header)} columns, and {MAX_COLUMNS} is the most. Keep those "
                "that are market data and upload the file again."
            )
        mapping = map_columns(header)
        self._note_mapping(mapping)
        mapping.require_usable(place)
        dataset = _dataset(opened.metadata, place)
        self._dialect = _Dialect(header, dict(mapping.columns), dataset)
        self._position = head.end
        self._extraction.advance(self._known(), self._changes())
        self._noted = self._position
        return chain((data[head.end :],), chunks)

    def _warn(self, *warnings: str) -> None:
        """Add warnings to those of the input; one that an earlier call gave is not repeated."""
        for warning in warnings:
            if warning not in self._warnings:
                self._warnings.append(warning)
                _LOG.warning(warning)

    def _note_mapping(self, mapping: ColumnMapping) -> None:
        mappings: StoredMappings = {
            "applied_mappings": mapping.applied,
            "quarantined_mappings": mapping.quarantined,
            "skipped_mappings": mapping.skipped,
        }
        unused = [
            f"Column {column['from']!r} is not used: {column['reason']}."
            for column in (*mapping.quarantined, *mapping.skipped)
        ]
        self._warn(*unused[:_TOLD_COLUMNS])
        if len(unused) > _TOLD_COLUMNS:
            self._warn(f"{len(unused) - _TOLD_COLUMNS} more columns are not used.")
        changes: InputChanges = {
            "applied_mappings": mapping.applied,
            "quarantined_mappings": mapping.quarantined,
            "skipped_mappings": mapping.skipped,
            "warnings": self._warnings,
            "object": self._version.document(),
        }
        run_inputs.set_input(self._store, self._run_id, self._input_id, changes)
        run_inputs.note_mappings(self._store, self._run_id, self._input_id, mappings)

    def _save_all(self, pieces: Iterator[Piece], remaining_seconds: Callable[[], float]) -> bool:
        batches: list[NewBatch] = []
        for piece in pieces:
            batch = self._batch(piece, self._batches)
            if self._packed:
                save_raw(
                    self._store, [csv_raw(batch, pack_csv(piece.data, piece.rows, batch["digest"]))]
                )
            batches.append(batch)
            self._position = piece.end
            self._batches += 1
            self._parts += 1
            self._rows += piece.rows
            if self._batches > MAX_BATCHES:
                raise FileRefused(
                    f"{self._version.place} has more than {MAX_BATCHES} batches of "
                    f"{self._settings.batch_rows} rows. Raise BATCH_ROWS, or split the file."
                )
            short_of_time = remaining_seconds() < _RESERVE_SECONDS
            if short_of_time or len(batches) == _SAVED_TOGETHER:
                self._save(batches)
                batches = []
            if short_of_time:
                return False
        self._save(batches)
        if not self._rows:
            self._warn("The file has a header and no rows.")
            noted: InputChanges = {"warnings": self._warnings}
            run_inputs.set_input(self._store, self._run_id, self._input_id, noted)
        return True

    def _batch(self, piece: Piece, number: int) -> NewBatch:
        assert self._dialect is not None  # noqa: S101 - the head is read before the first piece
        version = self._version
        assert version.last_modified is not None  # noqa: S101 - it was opened
        digest = digest_of(piece.data)
        range_ = f"{piece.start}-{piece.end}"
        place = f"{version.bucket}/{version.key} {version.version_id} {range_}"
        batch: NewBatch = {
            "number": number,
            "source": "csv",
            "raw_id": raw_id("csv", place, digest),
            # Whatever the version: most of these rows may come again, be they longer or shorter.
            "place": f"{version.bucket}/{version.key} part {self._parts}",
            "cut": [piece.start, piece.end],
            "digest": digest,
            "object": version.document(),
            "header": self._dialect.header,
            "layout": {"columns": self._dialect.columns, "dataset": self._dialect.dataset},
            "malformed": [list(place) for place in piece.malformed],
            "first_row": self._rows,
            "rows": piece.rows,
            "received_at": version.last_modified,
        }
        if not self._packed:
            # Of a packed file there are no ranges to fetch; where it was cut is known all the same.
            batch["range"] = [piece.start, piece.end]
        batch["context"] = context_of(batch)
        return batch

    def _save(self, batches: list[NewBatch]) -> None:
        written = Written(batches, self._batches, self._changes())
        if not self._extraction.write(self._known(), lambda _state: written):
            raise Overtaken
        self._noted = self._position

    def _known(self) -> Filter:
        """What the run knows of the file as long as no other call is further than this one."""
        return {"progress.position": self._noted}

    def end(self, at: datetime) -> None:
        """Note that the whole file was seen.

        Raises:
            Overtaken: another call has got further, or has ended it.
        """
        changes: InputChanges = {
            "status": InputStatus.EXTRACTED,
            "extracted_at": at,
            "error": None,
        }
        self._extraction.end(self._known(), self._batches, changes)

    def numbers(self) -> list[int]:
        """The batches that are to be loaded."""
        return self._extraction.numbers(self._batches)

    def _changes(self) -> InputChanges:
        """The progress, as it is stored."""
        progress = FileProgress(
            position=self._position,
            batches=self._batches,
            rows=self._rows,
            parts=self._parts,
            packed=self._packed,
        )
        changes: InputChanges = {
            "progress": progress.document(),
            "object": self._version.document(),
            "error": None,
        }
        if self._dialect is not None:
            changes["layout"] = {
                "header": self._dialect.header,
                "columns": self._dialect.columns,
                "dataset": self._dialect.dataset,
            }
        return changes


def _dataset(metadata: Mapping[str, str], place: str) -> str:
    """The data set that an object's metadata names, or the usual one.

    Raises:
        FileRefused: the name is none that can be asked for.
    """
    name = metadata.get("dataset", "").strip()
    if not name:
        return DEFAULT_DATASET
    too_long = len(name) > LONGEST_DATASET
    if too_long or visible(name) != name or not name.isprintable():
        why = (
            f"has {len(name)} characters, and {LONGEST_DATASET} is the most"
            if too_long
            else "has characters that nobody sees"
        )
        raise FileRefused(
            f"The metadata `dataset` (x-amz-meta-dataset) of {place} is no name of a data set: "
            f"{name[:80]!r} {why}. Nothing of the file was loaded. Upload it again with another "
            "name, or without one."
        )
    return name


def _skip(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """The chunks without their first `count` bytes."""
    for chunk in chunks:
        if count >= len(chunk):
            count -= len(chunk)
        else:
            yield chunk[count:]
            count = 0
