"""Extracting an uploaded CSV: one pass over the object, pending batches out.

A batch of a plain file is a range of its bytes, which is fetched and kept when it is loaded.
A packed file can't be entered in the middle, so its raw batches are kept right here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self, cast

from marketdata.csv_files import cutting, encoding
from marketdata.csv_files.answers import answers_of_metadata
from marketdata.csv_files.columns import DEFAULT_DATASET
from marketdata.csv_files.cutting import Piece
from marketdata.csv_files.dialect import Dialect
from marketdata.csv_files.judging import Judgement
from marketdata.csv_files.understanding import Parts, understand
from marketdata.documents.batches import NewBatch
from marketdata.documents.questions import Answers, Question, merged
from marketdata.documents.raw_batches import FileLayout, StoredLayout
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
from marketdata.runs.extraction import sampling
from marketdata.runs.extraction.protocol import Extraction, Overtaken, Written
from marketdata.schema.record import LONGEST_DATASET
from marketdata.schema.texts import visible
from marketdata.settings import CsvSettings
from marketdata.store import asking, run_inputs
from marketdata.store.connection import Filter
from marketdata.store.raw_batches import save_raw

_LOG = make_logger("extract_csv")
"""The function's own, which adds the request and the run to every line."""

MAX_BATCHES = 30_000
"""The state machine carries a number for each batch, 256 KB in all."""

_RESERVE_SECONDS = 20.0
"""Time kept back for writing what was cut."""
_TOLD_COLUMNS = 20
"""Unused columns that are warned of by name; the run's mappings have them all."""
_SAVED_TOGETHER = 50
"""Batches between two writes of the progress."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What reading any part of the file takes."""

    header: list[str]
    layout: StoredLayout

    @property
    def dialect(self) -> Dialect:
        return Dialect.of(self.layout.get("dialect"))

    @classmethod
    def of(cls, stored: FileLayout) -> Self:
        layout: dict[str, Any] = {**stored}
        header = layout.pop("header")
        return cls(header, cast("StoredLayout", layout))

    def document(self) -> FileLayout:
        return {**self.layout, "header": self.header}


class FileAsks(Exception):
    """The file waits: something that it does not say is to be answered before it is loaded."""

    def __init__(self, questions: list[Question], profile: str) -> None:
        super().__init__("; ".join(question["text"] for question in questions))
        self.questions = questions
        self.profile = profile


class NothingToLoad(Exception):
    """The file is skipped, and nothing is wrong with that; the message says why."""


class FileExtraction:
    """The extraction of one object version, with its progress."""

    def __init__(
        self,
        extraction: Extraction,
        state: InputState,
        settings: CsvSettings,
        answers: Answers | None = None,
    ) -> None:
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
        self._reading = _Reading.of(state.layout) if state.layout else None
        self._encoding = progress.encoding
        self._answers: Answers = answers or {}

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
        if self._reading and not self._packed and self._position == self._version.size:
            return True
        if self._reading is None:
            self._understand(objects)
            start = 0 if self._packed else self._position
        assert self._reading is not None  # noqa: S101 - it was just understood
        if not self._packed and self._position == self._version.size:
            return self._save_all(iter(()), remaining_seconds)
        with objects.open(self._version, start) as opened:
            self._version = opened.version
            pieces = cutting.cut(
                self._kept(opened.chunks, start),
                start=self._position,
                rows=self._settings.batch_rows,
                size=self._settings.batch_bytes,
                what=self._version.place,
                dialect=self._reading.dialect,
            )
            return self._save_all(pieces, remaining_seconds)

    def _kept(self, chunks: Iterator[bytes], start: int) -> Iterator[bytes]:
        """The bytes that are cut, from the current position on: unpacked, recoded and checked."""
        place = self._version.place
        if not self._packed:
            return encoding.checked(chunks, start=start, what=place, encoding=self._encoding)
        return _skip(self._unpacked(chunks), self._position)

    def _unpacked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The bytes of a file that can't be entered in its middle, as they are kept."""
        place = self._version.place
        first, chunks = encoding.peek(chunks)
        if first.startswith(encoding.GZIP):
            limit = self._settings.csv_gzip_max_bytes
            chunks = encoding.unpack(chunks, limit=limit, what=place)
        if self._encoding.startswith("utf-16"):
            chunks = encoding.recoded(chunks, self._encoding, place)
            return encoding.checked(chunks, what=place)
        return encoding.checked(chunks, what=place, encoding=self._encoding)

    def _understand(self, objects: ObjectReader) -> None:
        """Decide how the file is read, and note it.

        Raises:
            NothingToLoad: it is empty.
            FileAsks: something is to be answered first.
            FileRefused: it is not understood.
        """
        place = self._version.place
        with objects.open(self._version, 0) as opened:
            self._version = version = opened.version
            parts = self._parts_of(opened, objects)
        assert version.last_modified is not None  # noqa: S101 - it was opened
        understood = understand(
            parts,
            encoding="cp1252" if self._encoding == "cp1252" else "utf-8",
            key=version.key,
            answers=lambda profile: self._answers_with(opened.metadata, profile),
            dataset=_dataset(opened.metadata, place),
            received_at=version.last_modified,
            what=place,
        )
        if understood is None:
            raise NothingToLoad(f"{place} is empty: there was nothing to load.")
        judgement = understood.judgement
        self._note_mapping(judgement)
        if judgement.questions:
            raise FileAsks(judgement.questions, judgement.profile)
        self._reading = _Reading(judgement.header, judgement.layout)
        self._position = understood.begin
        self._extraction.advance(self._known(), self._changes())
        self._noted = self._position

    def _parts_of(self, opened: OpenObject, objects: ObjectReader) -> Parts:
        """What is looked at, as it is kept."""
        place = self._version.place
        first, chunks = encoding.peek(opened.chunks)
        opened = replace(opened, chunks=chunks)
        if first.startswith(encoding.GZIP):
            limit = self._settings.csv_gzip_max_bytes
            return self._parts_of_stream(encoding.unpack(chunks, limit=limit, what=place))
        head, middle, tail, chunks = sampling.sample_ranges(opened, objects)
        self._encoding = encoding.detect_encoding(head, middle, tail, what=place)
        if self._encoding.startswith("utf-16"):
            return self._parts_of_stream(chunks)
        complete = len(head) >= (self._version.size or 0)
        return Parts(head, complete, middle, tail)

    def _parts_of_stream(self, chunks: Iterator[bytes]) -> Parts:
        """The same of a file that is read from its beginning each time."""
        place = self._version.place
        self._packed = True
        head, chunks = sampling.first(chunks)
        self._encoding = encoding.detect_encoding(head, what=place)
        if self._encoding.startswith("utf-16"):
            chunks = encoding.recoded(chunks, self._encoding, place)
        return sampling.sample_stream(chunks)

    def _answers_with(self, metadata: Mapping[str, str], profile: str) -> Answers:
        """What was said of the file: by what is remembered, its metadata, and answers.

        Each outranks what is named before it.
        """
        version = self._version
        said = merged(answers_of_metadata(metadata, version.place), self._answers)
        kept = asking.remembered(self._store, profile, version.key)
        if kept is None:
            return said
        both = merged(kept["answers"], said)
        used = {name: value for name, value in kept["answers"].items() if name not in said}
        if used:
            asking.note_used(self._store, kept["_id"])
            told = ", ".join(f"{name}: {value}" for name, value in used.items())
            self._warn(
                f"Answers that are remembered for files like this below {kept['prefix']} were "
                f"used: {told}. DELETE /answers/{kept['_id']} takes them back."
            )
        return both

    def _warn(self, *warnings: str) -> None:
        """Add warnings to those of the input; one that an earlier call gave is not repeated."""
        for warning in warnings:
            if warning not in self._warnings:
                self._warnings.append(warning)
                _LOG.warning(warning)

    def _note_mapping(self, mapping: Judgement) -> None:
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
        assert self._reading is not None  # noqa: S101 - the head is read before the first piece
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
            "header": self._reading.header,
            "layout": self._reading.layout,
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
            encoding=self._encoding,
        )
        changes: InputChanges = {
            "progress": progress.document(),
            "object": self._version.document(),
            "error": None,
        }
        if self._reading is not None:
            changes["layout"] = self._reading.document()
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
