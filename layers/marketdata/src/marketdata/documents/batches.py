"""Documents of the collection `batches`: what a batch has, how far it is, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NotRequired, Self, TypedDict

from marketdata.documents.errors import StoredError
from marketdata.documents.objects import StoredVersion
from marketdata.documents.questions import Finding
from marketdata.documents.raw_batches import StoredLayout
from marketdata.errors import ConservationBroken


class BatchState(StrEnum):
    """How far a batch is."""

    PENDING = "pending"
    """Nobody loads it yet, or its loading was paused."""
    LOADING = "loading"
    """An attempt at loading it is under way, or died."""
    LOADED = "loaded"
    """Each of its rows is accounted for in `counts`."""
    FAILED = "failed"
    """The last attempt failed; a later run reclaims it, unless it is dead-lettered."""


@dataclass(slots=True)
class Counts:
    """What became of the rows of a batch, an input or a run."""

    rows_in: int = 0
    """Rows received: the sum of the others."""
    inserted: int = 0
    """New records."""
    updated: int = 0
    """Records that say something else now."""
    unchanged: int = 0
    """Records that said the same already."""
    duplicate: int = 0
    """Rows that lost to another row of the same record in the same batch."""
    quarantined: int = 0
    """Rows that could not be loaded."""

    @classmethod
    def of(cls, document: StoredCounts) -> Self:
        """The counts as a document has them."""
        return cls(**document)

    def document(self) -> StoredCounts:
        """The counts as they are stored."""
        return StoredCounts(
            rows_in=self.rows_in,
            inserted=self.inserted,
            updated=self.updated,
            unchanged=self.unchanged,
            duplicate=self.duplicate,
            quarantined=self.quarantined,
        )

    def check(self, what: str) -> None:
        """The law of conservation: rows in = what became of them.

        Raises:
            ConservationBroken: names all six numbers.
        """
        out = self.inserted + self.updated + self.unchanged + self.duplicate + self.quarantined
        if out != self.rows_in:
            raise ConservationBroken(
                f"{what}: {self.rows_in} rows came in, but {self.inserted} inserted + "
                f"{self.updated} updated + {self.unchanged} unchanged + {self.duplicate} duplicate "
                f"+ {self.quarantined} quarantined = {out}. This is a defect of the loader; the "
                "batch stays failed and its raw rows are kept.",
                **asdict(self),
            )


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far the loading of a batch got before its time was up."""

    cut: str
    """How the rows were cut into chunks; with another cut all of them are gone through again."""
    chunks: int
    """Chunks that are written."""
    conflict_free: bool
    """Whether each row so far was new or said what was on record."""
    counts: Counts = field(default_factory=Counts)
    """What became of the rows so far."""

    @classmethod
    def of(cls, document: StoredLoadProgress) -> Self:
        """The progress as a batch's document has it."""
        return cls(
            cut=document["cut"],
            chunks=document["pieces"],
            conflict_free=document["plain"],
            counts=Counts.of(document["counts"]),
        )

    def document(self) -> StoredLoadProgress:
        """The progress as it is stored."""
        return {
            "cut": self.cut,
            "pieces": self.chunks,
            "plain": self.conflict_free,
            "counts": self.counts.document(),
        }


class StoredCounts(TypedDict):
    """The stored form of `Counts`."""

    rows_in: int
    """Rows received: the sum of the others."""
    inserted: int
    """New records."""
    updated: int
    """Records that say something else now."""
    unchanged: int
    """Records that said the same already."""
    duplicate: int
    """Rows that lost to another row of the same record in the same batch."""
    quarantined: int
    """Rows that could not be loaded when the batch was."""


class StoredLoadProgress(TypedDict):
    """The stored form of `LoadProgress`."""

    cut: str
    """How the rows were cut into chunks."""
    pieces: int
    """Chunks that are written."""
    plain: bool
    """Whether it was conflict-free so far."""
    counts: StoredCounts
    """What became of the rows so far."""


class KeyRange(TypedDict):
    """The lowest and the highest id of records that a batch may write."""

    first: bytes
    """The lowest one."""
    last: bytes
    """The highest one."""


class ResumedFrom(TypedDict):
    """Where a batch was before the run that owns it reclaimed it."""

    run_id: str
    """The run that owned it."""
    number: int
    """The number that it had there."""


class Resolves(TypedDict):
    """Of a replay batch: which rows from quarantine it loads, and whose they are."""

    batch: str
    """The `_id` of the batch that counts the rows as quarantined. Its counts never change."""
    run_id: str
    """The run that owns that batch."""
    input: str
    """Its input in that run."""
    rows: list[int]
    """The rows' numbers in their page or file, ascending."""


class ReceivedRows(TypedDict):
    """What a batch says of the rows that it is about."""

    source: str
    """The source; `csv` for uploads."""
    raw_id: str
    """The raw batch that has the rows. A file's range has one only from its loading on; a batch
    that was skipped has that of the batch with the same content."""
    place: NotRequired[str]
    """The page and part, or the key and part, whatever the version: what comes from the same place
    later is compared with it. Batches from before this was noted have none."""
    digest: NotRequired[str]
    """Hash of the rows' bytes. Batches from before this was noted have none."""
    page: NotRequired[int]
    """Of an API: the page, from 1."""
    range: NotRequired[list[int]]
    """Of a file that is not compressed: offsets of the first byte and after the last one."""
    cut: NotRequired[list[int]]
    """Of a file: the same, of the unpacked file."""
    object: NotRequired[StoredVersion]
    """Of a file: the object's version."""
    header: NotRequired[list[str]]
    """Of a file: the cells of its header line."""
    layout: NotRequired[StoredLayout]
    """Of a file: the part of its dialect that is kept."""
    malformed: NotRequired[list[list[int]]]
    """Of a file: offset within the batch, and length, of each malformed record."""
    first_row: int
    """Number of the first row in its page or file, from 0."""
    rows: int
    """How many rows there are."""
    received_at: datetime
    """When they were received: fetched, or uploaded."""


class NewBatch(ReceivedRows):
    """A batch as an extraction cuts it."""

    number: int
    """Its number within its run and input, from 0."""
    context: NotRequired[str]
    """Hash of all else that decides what the rows become; see `load.context`."""


class Batch(NewBatch):
    """A batch: the unit of loading, of retries, and of all totals."""

    _id: str
    """The run that received it, the input and the number there. It never changes."""
    run_id: str
    """The run that owns it: the last one that reclaimed it, or the first."""
    first_run_id: str
    """The run that received it."""
    input: str
    """The input: the source, or the id of an object's version."""
    claim: NotRequired[int]
    """The fencing token of the extraction that wrote it; see `StoredInput.claims`."""
    state: str
    """How far it is; a `BatchState`."""
    attempts: int
    """How often loading it was begun, or it was taken from an attempt: the fencing token of an
    attempt."""
    resumptions: NotRequired[int]
    """How many later runs reclaimed it after an error of its own."""
    interruptions: NotRequired[int]
    """How many later runs reclaimed it after an attempt was cut short, or met an outage."""
    resumed_from: NotRequired[ResumedFrom]
    """Where it was before it was reclaimed."""
    parked: NotRequired[bool]
    """That it is dead-lettered: no run tries it again unless it is asked for."""
    created_at: datetime
    """When it was cut."""
    loading_since: NotRequired[datetime]
    """When the last attempt was begun."""
    loaded_at: NotRequired[datetime]
    """When it was closed as loaded."""
    failed_at: NotRequired[datetime]
    """When the last attempt failed."""
    error: NotRequired[StoredError]
    """Why the last attempt failed."""
    covers: NotRequired[KeyRange]
    """Its key range. Noted before a record is looked up, so that whoever changes one finds the
    batch; one without records has none."""
    moved: NotRequired[list[bytes]]
    """While it is loaded: the records that are backdated by it."""
    updated: NotRequired[list[bytes]]
    """While it is loaded: the other records that are rewritten by it."""
    progress: NotRequired[StoredLoadProgress]
    """While it is paused: how far its loading got."""
    outdated: NotRequired[bool]
    """That it is stale: records in its key range may have changed after they were looked up, and
    before its raw rows were kept."""
    counts: NotRequired[StoredCounts]
    """Once it is loaded: what became of its rows."""
    plain: NotRequired[bool]
    """Once it is loaded: whether it was conflict-free, and nothing was replayed of it since."""
    passed_over: NotRequired[int]
    """Once it is loaded: rows that were skipped, as the previous version of the file had them."""
    skipped: NotRequired[bool]
    """Once it is loaded: that it was not read, as its content was known."""
    known_as: NotRequired[str]
    """Of a batch that was skipped: the `_id` of the one with the same content."""
    known_root: NotRequired[str]
    """Of a batch with known content: the `_id` of the one that was read, and has quarantined what
    both count."""
    judged_at: NotRequired[datetime]
    """Validated at: the time against which a row is too far ahead, if later than its receipt."""
    resolves: NotRequired[Resolves]
    """Of a replay batch: what it resolves. Its raw rows and its time of receipt are those of the
    batch that it resolves rows of."""
    findings: NotRequired[list[Finding]]
    """Cells of optional fields that its records do without, by field and reason."""
    unresolved: NotRequired[list[int]]
    """Of a replay batch, once it is loaded: the numbers of its rows that stay in quarantine."""
    replayed_at: NotRequired[datetime]
    """When rows of it were replayed last."""
    depends_on_time: NotRequired[bool]
    """Of batches from earlier versions: that a row of it was too far ahead, and may not be now."""


class BatchEnding(TypedDict, total=False):
    """What closing a batch as loaded sets beside its counts; see `Batch`."""

    context: str
    plain: bool
    passed_over: int
    skipped: bool
    known_as: str
    raw_id: str
    unresolved: list[int]
    findings: list[Finding]


class FailedBatch(TypedDict):
    """What a run that has ended keeps of a batch that it did not load."""

    batch_id: str
    """The batch's `_id`."""
    source: str
    """The source; `csv` for uploads."""
    input: str
    """The input."""
    number: int
    """Its number in that run."""
    rows: int
    """How many rows it has."""
    attempts: int
    """How often loading it was begun, or it was taken from an attempt."""
    parked: bool
    """Whether it was dead-lettered."""
    error: StoredError | None
    """Why the last attempt failed; None if nobody had tried."""
