"""Documents of the collection `runs`: what a run is to do, how far its inputs are, what came of it.

`InputState` is what a run knows about one of its inputs, as an object; `StoredInput` is the same as
it is stored, and `InputChanges` are the parts of it that one update sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NotRequired, Self, TypedDict

from marketdata.documents.batches import FailedBatch, StoredCounts
from marketdata.documents.errors import StoredError
from marketdata.documents.objects import StoredVersion
from marketdata.documents.questions import Finding
from marketdata.documents.raw_batches import FileLayout
from marketdata.documents.sources import StoredExtent


class RunStatus(StrEnum):
    """How a run is, or how it ended."""

    RUNNING = "running"
    """It has not ended."""
    SUCCESS = "success"
    """Each of its inputs brought everything, or had nothing new."""
    PARTIAL_SUCCESS = "partial_success"
    """Some of it was loaded, and something failed."""
    FAILED = "failed"
    """Nothing was loaded, and something failed."""
    CANCELLED = "cancelled"
    """Somebody ended it; what was received by then is loaded."""


class TriggerKind(StrEnum):
    """What started a run."""

    SCHEDULE = "schedule"
    """The hourly rule."""
    REFRESH = "refresh"
    """A request for a run."""
    UPLOAD = "upload"
    """A file in the bucket."""
    REPLAY = "replay"
    """A request to load rows from quarantine."""
    BACKFILL = "backfill"
    """A request for a source's past."""


class InputStatus(StrEnum):
    """How far the extraction of an input is. What became of its rows is said by its batches."""

    PENDING = "pending"
    """It has not begun."""
    EXTRACTING = "extracting"
    """It is under way, or its call died."""
    EXTRACTED = "extracted"
    """All of it was received."""
    SKIPPED = "skipped"
    """Nothing had changed; with an error: the source is not asked, as it failed too often."""
    THROTTLED = "throttled"
    """The source was rate-limited for longer than a run waits."""
    FAILED = "failed"
    """It can't be extracted, or uploads could not be listed."""
    CANCELLED = "cancelled"
    """Somebody cancelled the run; what was received by then is loaded."""
    WAITING = "waiting"
    """A file asks something: nothing of it is loaded before somebody has answered."""

    @property
    def ended(self) -> bool:
        """Whether the extraction is over for its run."""
        return self not in (InputStatus.PENDING, InputStatus.EXTRACTING)

    @property
    def complete(self) -> bool:
        """Whether the extraction came to its end."""
        return self in (InputStatus.EXTRACTED, InputStatus.SKIPPED)


class ResultStatus(StrEnum):
    """What became of an input of a run."""

    RUNNING = "running"
    """Something is still to be done."""
    SUCCESS = "success"
    """All of it was loaded."""
    PARTIAL_SUCCESS = "partial_success"
    """Some of it was loaded."""
    FAILED = "failed"
    """Nothing of it was loaded, or all of it was quarantined."""
    SKIPPED = "skipped"
    """Nothing had changed; with an error: the source is not asked, as it failed too often."""
    THROTTLED = "throttled"
    """The source was rate-limited for longer than a run waits."""
    CANCELLED = "cancelled"
    """Somebody cancelled the run; what was received by then is loaded."""
    WAITING = "waiting"
    """A file asks something: nothing of it is loaded before somebody has answered."""


class StoredRequest(TypedDict, total=False):
    """What a request to start a run says; what it does not say is not there."""

    sources: list[str]
    """Only these sources; `csv` stands for the uploads."""
    force: bool
    """Load also what is known, content for content."""
    resume: str
    """Go on with what this run has left."""
    retry: bool
    """With `resume`: also what was dead-lettered, as if it had never failed."""


class ReclaimedBatches(TypedDict):
    """What a run reclaimed of an earlier one."""

    run_id: str
    """The earlier run."""
    batches: int
    """How many of its batches."""


ColumnNote = TypedDict(
    "ColumnNote",
    {
        # The column's name in the file.
        "from": str,
        # The canonical field that it is used as, or that is nearest.
        "to": str,
        # How sure that is, from 0 to 1.
        "confidence": float,
        # Why it is not used.
        "reason": NotRequired[str],
        # In a run's own lists: the input that it is a column of.
        "input": NotRequired[str],
    },
)
"""What became of a column of a file."""


class StoredMappings(TypedDict):
    """What became of the columns of a file, for its input and for its run."""

    applied_mappings: list[ColumnNote]
    """Columns that are used under another name than their own."""
    quarantined_mappings: list[ColumnNote]
    """Columns that might be a field, which is a question, and are not used."""
    skipped_mappings: list[ColumnNote]
    """Columns that are like no field."""


class StoredThrottling(TypedDict, total=False):
    """How much a source's limits have held a run back."""

    events: int
    """Times that the run was rate-limited: by a refusal of the source, or for want of a permit."""
    refusals: int
    """Of these, the ones by the source (429 and 402)."""
    waited_seconds: float
    """Seconds that the run has waited in all."""
    tokens_left: float | None
    """Permits in the source's bucket, when it was asked last."""
    quota_per_minute: float | None
    """Requests a minute, by the settings."""
    rate_per_minute: float | None
    """Requests a minute at most, when it was asked last; lower after refusals."""
    retry_latency_seconds: float | None
    """The longest time from being rate-limited to the answer that came at last."""
    since: datetime | None
    """While the run waits: when it was rate-limited."""


class StoredWindow(TypedDict):
    """A range of a series that one request asks for."""

    start: datetime
    """The first time that belongs to it."""
    end: datetime
    """The first time that does not."""


class BackfilledAsset(TypedDict):
    """An asset of a backfill, as its source knows it."""

    id: str
    """The source's own id."""
    symbol: str
    """Its ticker."""
    name: str | None
    """Its name; None if no record has one."""
    windows: NotRequired[list[StoredWindow]]
    """Of a backfill of holes: what is asked of this asset."""


class StoredBackfill(TypedDict):
    """What a backfill asks for, and how its executions have fared.

    Its requests are numbered from 1: for each asset in turn, each window in turn.
    """

    interval: str
    """How far apart the points are, such as `1d`."""
    start: datetime
    """The first time that is asked for."""
    end: datetime
    """The first time that is not asked for any more."""
    gaps: bool
    """Whether only holes are asked for."""
    windows: list[StoredWindow]
    """What is asked of each asset; empty if each has windows of its own."""
    assets: list[BackfilledAsset]
    """Of which assets."""
    requests: int
    """How many requests these are."""
    part: int
    """Which of the executions that carry it out, one after the other, is the present one, from
    1."""
    part_calls: int
    """Calls of the present execution that have extracted."""
    part_began_at: int
    """Requests that were done when the present execution began."""
    part_since: NotRequired[datetime]
    """When the present execution began, by the database's clock."""
    idle_parts: int
    """Executions in a row, up to the last one, that ended before their time and without a request
    done."""
    rate_per_minute: NotRequired[float]
    """Requests a minute at most, by the quota and what is left to other runs."""
    cancelled_at: NotRequired[datetime]
    """When somebody cancelled it."""


class StoredAttempts(TypedDict):
    """What was tried in vain for one page of a source."""

    page: int
    """The page."""
    failures: int
    """Attempts that failed; those that were refused for the quota don't count."""
    since: datetime
    """By the database's clock: the beginning of the first one that failed or was refused."""
    paused_seconds: float
    """Seconds that the source asked for in these answers."""
    error: StoredError
    """What the last one met."""


class ShortPage(TypedDict):
    """A page of a source that had fewer rows than it was asked for, though more rows followed."""

    page: int
    """The page."""
    rows: int
    """Rows that it had."""


class _StoredEncoding(TypedDict, total=False):
    encoding: str
    """How its bytes are text; UTF-8 where it is absent."""


class StoredFileProgress(_StoredEncoding):
    """The stored form of `FileProgress`."""

    position: int
    """Offset of the first byte that is not in a batch yet, of the unpacked file."""
    batches: int
    """Number of the next batch."""
    rows: int
    """Rows in batches, from the file's beginning."""
    parts: NotRequired[int]
    """Batches of the file from its beginning, whichever run has them. Notes from before later runs
    went on with a file have none: there it is `batches`."""
    packed: bool
    """Whether its middle can not be entered."""


@dataclass(frozen=True, slots=True)
class PageProgress:
    """How far the extraction of an API source has got."""

    pages: int = 0
    """Pages that are received: the number of the last one."""
    last_rows: int = 0
    """Rows that the source answered for the last page."""
    batches: int = 0
    """Number of the next batch."""
    filtered: int = 0
    """Rows that were filtered: the source's settings don't ask for them."""
    unchanged: int = 0
    """Pages that the source said are as they were when they were loaded last."""
    rows: int = 0
    """Rows that the source answered for all pages."""
    short: tuple[ShortPage, ...] = ()
    """Pages with fewer rows than were asked for, though more rows followed."""
    extent: StoredExtent | None = None
    """Which rows the last page has; None of a source that has one page, and of a page that repeats
    an earlier one."""
    digests: tuple[str, ...] = ()
    """By page, from the first: a hash of which rows it has; empty where that is not known."""

    @classmethod
    def of(cls, document: StoredInput) -> Self:
        """The progress as a run's document has it; all zeros before the first page."""
        return cls(
            pages=document.get("pages", 0),
            last_rows=document.get("last_rows", 0),
            batches=document.get("batches", 0),
            filtered=document.get("left_out", 0),
            unchanged=document.get("unchanged_pages", 0),
            rows=document.get("rows", 0),
            short=tuple(document.get("short_pages", [])),
            extent=document.get("extent"),
            digests=tuple(document.get("page_digests", [])),
        )

    def document(self) -> InputChanges:
        """The progress as it is stored: its keys are among those of the input."""
        return {
            "pages": self.pages,
            "last_rows": self.last_rows,
            "batches": self.batches,
            "left_out": self.filtered,
            "unchanged_pages": self.unchanged,
            "rows": self.rows,
            "short_pages": list(self.short),
            "extent": self.extent,
            "page_digests": list(self.digests),
        }


@dataclass(frozen=True, slots=True)
class FileProgress:
    """How far the extraction of an uploaded file has got."""

    position: int = 0
    """Offset of the first byte that is not in a batch yet, of the unpacked file."""
    batches: int = 0
    """Number of the next batch."""
    rows: int = 0
    """Rows in batches, from the file's beginning."""
    parts: int = 0
    """Batches of the file from its beginning, whichever run has them."""
    packed: bool = False
    """Whether its middle can't be entered, as it is compressed or in UTF-16; then it is read from
    its beginning to go on."""
    encoding: str = "utf-8"
    """How its bytes are text, once they are unpacked: `utf-8`, `cp1252`, `utf-16-le` or
    `utf-16-be`."""

    @classmethod
    def of(cls, document: StoredFileProgress) -> Self:
        """The progress as a run's document has it."""
        return cls(
            position=document["position"],
            batches=document["batches"],
            rows=document["rows"],
            parts=document.get("parts", document["batches"]),
            packed=document["packed"],
            encoding=document.get("encoding", "utf-8"),
        )

    def document(self) -> StoredFileProgress:
        """The progress as it is stored."""
        return {
            "position": self.position,
            "batches": self.batches,
            "rows": self.rows,
            "parts": self.parts,
            "packed": self.packed,
            **self._encoding(),
        }

    def _encoding(self) -> _StoredEncoding:
        return {} if self.encoding == "utf-8" else {"encoding": self.encoding}


class _InputNotes(TypedDict, total=False):
    """The keys that an input may have beside its source and status."""

    error: StoredError | None
    """Why it failed, or what the last call met."""
    reason: str | None
    """Why it was skipped though nothing is wrong, in words."""
    lease: int
    """The fencing token of the run's lease of the input; without one the run has not begun it."""
    claims: int
    """How many calls have asked for numbers of batches. The last number is the fencing token of
    extraction: a batch says it as `claim`, and only the last one can note progress."""
    resumes: str
    """The earlier run whose extraction is gone on with."""
    resumed_by: str
    """The later run that goes on with this extraction."""
    resume_from: list[ReclaimedBatches]
    """What was reclaimed of earlier runs, by run."""
    unfinished_done: bool
    """Of a source: that what was reclaimed was handed out for loading."""
    started_at: datetime
    """When the extraction began, by the database's clock."""
    extracted_at: datetime
    """When it came to its end."""
    batches: int
    """Number of the next batch of a source; of a file, the first number after what was
    reclaimed."""
    pages: int
    """Of a source: pages that are received."""
    last_rows: int
    """Of a source: rows that it answered for the last page."""
    left_out: int
    """Of a source: rows that were filtered."""
    unchanged_pages: int
    """Of a source: pages that it said are as they were."""
    rows: int
    """Of a source: rows that it answered for all pages."""
    short_pages: list[ShortPage]
    """Of a source: pages with fewer rows than were asked for, though more rows followed."""
    extent: StoredExtent | None
    """Of a source: which rows the last page has."""
    page_digests: list[str]
    """Of a source: by page, a hash of which rows it has."""
    throttling: StoredThrottling | None
    """Of a source: how much its limits have held the run back."""
    attempts: StoredAttempts
    """Of a source: what was tried in vain for the page that failed last."""
    refused_requests: int
    """Of a backfill: requests that brought nothing, as each failed for good."""
    failures_in_a_row: int
    """Of a backfill: how many requests up to the last one have failed, for causes that may be the
    source's."""
    handed_out: int
    """Of a backfill: number below which batches were handed out for loading before its end."""
    object: StoredVersion
    """Of a file: the object's version."""
    layout: FileLayout
    """Of a file: its header, with the part of its dialect that is kept."""
    progress: StoredFileProgress
    """Of a file: how far its extraction is."""
    resumed_at: int
    """Of a file that is gone on with: the position that the earlier run had reached."""
    warnings: list[str]
    """What should be looked at, though nothing failed. Of a source: how what came differs from what
    was asked for, which makes its run no plain success."""
    applied_mappings: list[ColumnNote]
    """Of a file: columns that are used under another name than their own."""
    quarantined_mappings: list[ColumnNote]
    """Of a file: columns that might be a field, which is a question, and are not used."""
    skipped_mappings: list[ColumnNote]
    """Of a file: columns that are like no field."""


class StoredInput(_InputNotes):
    """The stored form of `InputState`."""

    source: str
    """The source; `csv` for uploads."""
    status: str
    """How far the extraction is; an `InputStatus`."""


class InputChanges(_InputNotes, total=False):
    """What one update sets of an input; see `StoredInput`."""

    source: str
    status: str


@dataclass(frozen=True, slots=True)
class InputState:
    """What a run knows about one of its inputs, as it was read.

    What is None or empty is not there in the document. A change is stored by an update of the parts
    that it is about (`InputChanges`), never by storing the whole state again.
    """

    source: str
    """The source; `csv` for uploads."""
    status: InputStatus
    """How far the extraction is."""
    error: StoredError | None = None
    """Why it failed, or what the last call met."""
    reason: str | None = None
    """Why it was skipped though nothing is wrong, in words."""
    lease: int | None = None
    """The fencing token of the run's lease of the input; without one the run has not begun it."""
    claims: int | None = None
    """How many calls have asked for numbers of batches: the fencing token of extraction, since
    only the last one can note progress."""
    numbered_from: int | None = None
    """The first number of a batch that this run cuts itself, after what it reclaimed; once there is
    a page, `pages` has the next number."""
    resumes: str | None = None
    """The earlier run whose extraction is gone on with."""
    resumed_by: str | None = None
    """The later run that goes on with this extraction."""
    reclaimed: list[ReclaimedBatches] = field(default_factory=list)
    """What was reclaimed of earlier runs, by run."""
    reclaimed_loaded: bool = False
    """Of a source: that what was reclaimed was handed out for loading."""
    started_at: datetime | None = None
    """When the extraction began, by the database's clock."""
    extracted_at: datetime | None = None
    """When it came to its end."""
    pages: PageProgress | None = None
    """Of a source: how far it got; None before the first page."""
    throttling: StoredThrottling | None = None
    """Of a source: how much its limits have held the run back."""
    attempts: StoredAttempts | None = None
    """Of a source: what was tried in vain for the page that failed last."""
    refused_requests: int = 0
    """Of a backfill: requests that brought nothing, as each failed for good."""
    failures_in_a_row: int = 0
    """Of a backfill: how many requests up to the last one have failed, for causes that may be the
    source's."""
    handed_out: int | None = None
    """Of a backfill: number below which batches were handed out for loading before its end."""
    object: StoredVersion | None = None
    """Of a file: the object's version."""
    layout: FileLayout | None = None
    """Of a file: its header, with the part of its dialect that is kept; None until it is read."""
    file: FileProgress | None = None
    """Of a file: how far it got; None until its header is read."""
    resumed_at: int | None = None
    """Of a file that is gone on with: the position that the earlier run had reached."""
    warnings: list[str] = field(default_factory=list)
    """What should be looked at, though nothing failed. Of a source: how what came differs from what
    was asked for, which makes its run no plain success."""
    mappings: StoredMappings | None = None
    """Of a file: what became of its columns; None until its header is read."""

    @property
    def batches(self) -> int:
        """Number of the next batch: all below are noted as received."""
        progress = self.file or self.pages
        return progress.batches if progress else self.numbered_from or 0

    @property
    def final_batches(self) -> int | None:
        """Number below which batches count, once that is final; None as long as more may come."""
        if self.claims is None or not self.status.ended:
            return None
        as_a_whole = self.status in (InputStatus.FAILED, InputStatus.WAITING)
        return 0 if self.object is not None and as_a_whole else self.batches

    @classmethod
    def of(cls, document: StoredInput) -> Self:
        """The state as a run's document has it.

        Raises:
            ValueError: its status is none that this version knows.
        """
        paged = "pages" in document
        progress = document.get("progress")
        mappings: StoredMappings | None = None
        if "applied_mappings" in document:
            mappings = {
                "applied_mappings": document["applied_mappings"],
                "quarantined_mappings": document["quarantined_mappings"],
                "skipped_mappings": document["skipped_mappings"],
            }
        return cls(
            source=document["source"],
            status=InputStatus(document["status"]),
            error=document.get("error"),
            reason=document.get("reason"),
            lease=document.get("lease"),
            claims=document.get("claims"),
            numbered_from=None if paged else document.get("batches"),
            resumes=document.get("resumes"),
            resumed_by=document.get("resumed_by"),
            reclaimed=document.get("resume_from", []),
            reclaimed_loaded=document.get("unfinished_done", False),
            started_at=document.get("started_at"),
            extracted_at=document.get("extracted_at"),
            pages=PageProgress.of(document) if paged else None,
            throttling=document.get("throttling"),
            attempts=document.get("attempts"),
            refused_requests=document.get("refused_requests", 0),
            failures_in_a_row=document.get("failures_in_a_row", 0),
            handed_out=document.get("handed_out"),
            object=document.get("object"),
            layout=document.get("layout"),
            file=None if progress is None else FileProgress.of(progress),
            resumed_at=document.get("resumed_at"),
            warnings=document.get("warnings", []),
            mappings=mappings,
        )

    def document(self) -> StoredInput:
        """The state as it is stored."""
        document: StoredInput = {"source": self.source, "status": str(self.status)}
        for part in (self._fences(), self._resumption(), self._ending(), self._paged()):
            document.update(part)
        document.update(self.of_file())
        return document

    def _fences(self) -> InputChanges:
        part: InputChanges = {}
        if self.lease is not None:
            part["lease"] = self.lease
        if self.claims is not None:
            part["claims"] = self.claims
        if self.numbered_from is not None:
            part["batches"] = self.numbered_from
        return part

    def _resumption(self) -> InputChanges:
        part: InputChanges = {}
        if self.resumes is not None:
            part["resumes"] = self.resumes
        if self.resumed_by is not None:
            part["resumed_by"] = self.resumed_by
        if self.reclaimed:
            part["resume_from"] = self.reclaimed
        if self.reclaimed_loaded:
            part["unfinished_done"] = True
        return part

    def _ending(self) -> InputChanges:
        part: InputChanges = {}
        if self.error is not None:
            part["error"] = self.error
        if self.reason is not None:
            part["reason"] = self.reason
        if self.started_at is not None:
            part["started_at"] = self.started_at
        if self.extracted_at is not None:
            part["extracted_at"] = self.extracted_at
        return part

    def _paged(self) -> InputChanges:
        part: InputChanges = {}
        if self.pages is not None:
            part = self.pages.document()
        if self.throttling is not None:
            part["throttling"] = self.throttling
        if self.attempts is not None:
            part["attempts"] = self.attempts
        if self.refused_requests:
            part["refused_requests"] = self.refused_requests
        if self.failures_in_a_row:
            part["failures_in_a_row"] = self.failures_in_a_row
        if self.handed_out is not None:
            part["handed_out"] = self.handed_out
        return part

    def of_file(self) -> InputChanges:
        """What the extraction of a file has found, and how far it got, as it is stored."""
        part: InputChanges = {}
        if self.object is not None:
            part["object"] = self.object
        if self.layout is not None:
            part["layout"] = self.layout
        if self.file is not None:
            part["progress"] = self.file.document()
        if self.resumed_at is not None:
            part["resumed_at"] = self.resumed_at
        if self.warnings:
            part["warnings"] = self.warnings
        if self.mappings is not None:
            part["applied_mappings"] = self.mappings["applied_mappings"]
            part["quarantined_mappings"] = self.mappings["quarantined_mappings"]
            part["skipped_mappings"] = self.mappings["skipped_mappings"]
        return part


class Result(TypedDict):
    """What became of an input of a run that has ended, or has become of it so far."""

    source: str
    """The source; `csv` for uploads."""
    input: str
    """The input: the source, or the id of an object's version."""
    status: str
    """A `ResultStatus`."""
    extracted: int
    """Rows received."""
    rows_in: int
    """Rows of loaded batches: the sum of the next five."""
    inserted: int
    """New records."""
    updated: int
    """Records that say something else now."""
    unchanged: int
    """Records that said the same already."""
    duplicate: int
    """Rows that lost to another row of the same record in the same batch."""
    quarantined: int
    """Rows that could not be loaded."""
    resolved: NotRequired[int]
    """Of the quarantined rows: those that replays have loaded by now. It is never stored."""
    batches: int
    """Its batches."""
    failed_batches: int
    """Those that were not loaded."""
    parked_batches: NotRequired[int]
    """Of these, the ones that are dead-lettered. Runs of earlier versions lack this and others."""
    skipped_batches: NotRequired[int]
    """Batches that were not read, as their content was known."""
    pages: int
    """Of a source: pages that were received."""
    unchanged_pages: NotRequired[int]
    """Of a source: pages that it said are as they were."""
    throttled: int
    """Of a source: times that it was rate-limited."""
    throttling: NotRequired[StoredThrottling | None]
    """Of a source: more about that; None if it was not."""
    resume_from: NotRequired[list[ReclaimedBatches]]
    """What was reclaimed of earlier runs, by run."""
    findings: NotRequired[list[Finding]]
    """Cells of optional fields that records do without, by field and reason."""
    seconds: float | None
    """Seconds from the first request to the last batch."""
    reason: NotRequired[str | None]
    """Why it was skipped though nothing is wrong, in words."""
    error: StoredError | None
    """Why it did not come to a good end."""


class Totals(StoredCounts):
    """A run's sums over its inputs."""

    extracted: int
    """Rows received, in all batches."""
    resolved: NotRequired[int]
    """Of the quarantined rows: those that replays have loaded by now. It is never stored."""


class RowsBefore(TypedDict):
    """How much there was before a run."""

    raw: int
    """Rows in all raw batches."""
    normalized: int
    """Records."""


class NewRun(TypedDict):
    """A run as it is created."""

    _id: str
    """Time of the event, a dash, and a hash of the event's identity."""
    trigger: str
    """What started it; a `TriggerKind`."""
    event_id: str
    """The event's id."""
    event_time: datetime
    """The event's time."""
    execution: str | None
    """The execution that carries it out; None until it has begun."""
    status: str
    """A `RunStatus`."""
    ended_at: datetime | None
    """When it ended; None until then."""
    holds: NotRequired[list[str]]
    """Its locked inputs, while it runs. That no two runs have the same one is a unique index."""
    asked: NotRequired[StoredRequest]
    """What the request to start it said."""
    force: NotRequired[bool]
    """Whether it loads also what is known."""
    inputs: dict[str, StoredInput]
    """What it knows about each of its inputs, by name: a source, or the id of an object's
    version; see `InputState`."""
    under_way: NotRequired[dict[str, str]]
    """The sources that it left to other runs, which had them locked, each with that run."""
    backfill: NotRequired[StoredBackfill]
    """Of a backfill: what it asks for, and how its executions have fared."""
    pre_run_counts: RowsBefore | None
    """How much there was before; None for others than runs on demand."""


class RunEnding(TypedDict):
    """What the end of a run sets; see `Run`."""

    status: str
    results: list[Result]
    totals: Totals
    failed_batches: list[FailedBatch]
    failed_batches_total: int
    error: NotRequired[StoredError]


class Run(NewRun):
    """A run: its inputs, and, once it has ended, what came of it."""

    started_at: datetime
    """When it was created, by the database's clock."""
    expires_at: datetime
    """When it counts as dead without a further heartbeat, by the database's clock."""
    closing: NotRequired[bool]
    """That it is being ended: no further step of it may begin, or note anything."""
    resume_from: NotRequired[ReclaimedBatches]
    """What it reclaimed of the latest of the earlier runs."""
    applied_mappings: NotRequired[list[ColumnNote]]
    """Of all its files: columns that are used under another name than their own."""
    quarantined_mappings: NotRequired[list[ColumnNote]]
    """Of all its files: columns that might be a field, and are not used."""
    skipped_mappings: NotRequired[list[ColumnNote]]
    """Of all its files: columns that are like no field."""
    results: NotRequired[list[Result]]
    """Once it has ended: what became of each input."""
    totals: NotRequired[Totals]
    """Once it has ended: the sums over its inputs."""
    failed_batches: NotRequired[list[FailedBatch]]
    """Once it has ended: the first batches that it did not load, as they were then."""
    failed_batches_total: NotRequired[int]
    """Once it has ended: how many these are in all."""
    error: NotRequired[StoredError]
    """What failed outside of its inputs."""
