"""Documents of the collection `sources`: what all functions share about a source."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal, NotRequired, TypedDict

from marketdata.documents.errors import FailedInput, StoredError


class BreakerState(StrEnum):
    """Whether a source is asked."""

    CLOSED = "closed"
    """It is."""
    OPEN = "open"
    """It is not, for a while, as it failed too often."""
    HALF_OPEN = "half_open"
    """One caller probes whether it answers again; the others don't ask."""


class ListingMarker(TypedDict):
    """Where a list of the bucket's versions goes on: behind this one."""

    key: str
    """Its key."""
    version_id: str
    """S3's id of it."""
    seen: NotRequired[Literal["nothing", "empty"]]
    """What is known of its key so far: none of its versions, or empty ones. Without it, the version
    of the key that counts was there."""


class Lease(TypedDict):
    """Which run has an input locked."""

    run_id: str
    """The run; it has the input for as long as it lives."""
    number: int
    """The fencing token: it grows with every run that gets the input."""


class Bucket(TypedDict):
    """The token bucket: how many requests may go out now. Times are of the server's clock."""

    identity: str
    """Hash of the host and the keys that it is about; with others it begins anew."""
    host: str
    """The host that is asked."""
    quota_per_minute: float
    """Requests a minute by the settings."""
    burst: float
    """Requests that may go out at once after a pause, by the settings."""
    rate_per_minute: float
    """Requests a minute by which it is refilled: the quota, or less after refusals."""
    tokens: float
    """Requests that might go out at `at`."""
    at: datetime
    """The time that `tokens` is of; in the future during a cooldown."""
    recent: NotRequired[list[datetime]]
    """When the permits of the last minute were granted; empty where the quota is too high for
    that."""
    taken: NotRequired[int]
    """Permits granted in all."""
    blocked: bool
    """Whether the source's own refusal was being waited out at the last change: the cooldown."""
    blocked_until: NotRequired[datetime | None]
    """Until when nobody asks: the end of the cooldown."""
    asked_until: NotRequired[datetime | None]
    """Until when the source itself asked for a pause; what is beyond it is our own caution."""
    asked_ms: NotRequired[float]
    """Milliseconds until then, at the last change."""
    wait_ms: float
    """Milliseconds until there was a permit, at the last change; 0 or less if it was granted."""
    strikes: int
    """Refusals (429 or 402) since the last answer."""
    events: NotRequired[int]
    """Refusals in all."""
    last_event_at: NotRequired[datetime]
    """When the source refused last."""
    retry_latency_seconds: NotRequired[float]
    """Seconds from being rate-limited to the answer, when that happened last."""


class Probe(TypedDict):
    """Who probes a source whose circuit was open."""

    id: str
    """Id of the call that probes."""
    until: datetime
    """Until when it may; then another one may."""


class Breaker(TypedDict):
    """The circuit breaker: whether the source is asked at all."""

    state: str
    """A `BreakerState`."""
    failures: int
    """Runs in a row that the source failed."""
    identity: str
    """Hash of the host and the keys that it is about; with others it counts as closed."""
    closed_at: NotRequired[datetime]
    """When an answer closed it."""
    last_failed_run: NotRequired[str]
    """The run that was counted last: each counts once."""
    page: NotRequired[int]
    """The furthest page that failed; only its answer, or all there are, closes the circuit."""
    reason: NotRequired[StoredError]
    """The last failure."""
    next_probe_at: NotRequired[datetime | None]
    """When the cooldown is over, and one caller may probe."""
    opened_at: NotRequired[datetime | None]
    """When it was opened last."""
    opened_by: NotRequired[str | None]
    """The run whose failure opened it last."""
    probe: NotRequired[Probe]
    """Who probes now."""


class StoredExtent(TypedDict):
    """Which rows a page has, as far as that shows whether the next page follows on it."""

    digest: str
    """Hash of the rows' ids in their order."""
    ids: NotRequired[list[str]]
    """Hashes of the rows' ids."""
    lowest_rank: int | None
    """The lowest rank of its rows."""
    highest_rank: int | None
    """The highest one."""


class KnownPage(TypedDict):
    """A page as it was fetched last, which a conditional request can be about."""

    etag: str | None
    """Its ETag, as the source sent it."""
    last_modified: str | None
    """Its Last-Modified, as the source sent it."""
    request: str
    """Hash of what was asked for."""
    rows: int
    """Rows that the source answered."""
    left_out: int
    """Of these, the ones that were filtered."""
    batches: list[str]
    """The `_id`s of its batches, in the order of rows."""
    raw_ids: list[str]
    """The raw batches that these had then; others mean that another answer has counted."""
    received_at: datetime
    """When it was fetched."""
    extent: NotRequired[StoredExtent | None]
    """Which rows it has, without their ids; None of a source that has one page."""


class Watermark(TypedDict):
    """How far a source's data reaches; it never goes back."""

    timestamp: datetime | None
    """The newest time of a record."""
    received_at: datetime | None
    """When the newest rows were received."""
    run_id: str
    """The run that moved it last."""
    moved_at: datetime
    """When it was moved."""
    advanced_at: NotRequired[datetime | None]
    """When the rows were received that moved `timestamp` last; marks of before lack it."""


class Frozen(TypedDict):
    """That a source's newest observation does not move, though the source answers."""

    since: datetime
    """When the rows were received that moved it last."""
    newest: datetime
    """The time of the newest observation."""
    alert: str
    """The alert that says so."""


class Failures(TypedDict):
    """How often a source has failed in a row, over runs; `csv` stands for all uploads."""

    consecutive: int
    """Runs in a row that failed; 0 after one that did not."""
    counted: list[str]
    """The last runs that were counted: each counts once."""
    last_run_id: str
    """The run that was counted last."""
    first_run_id: NotRequired[str]
    """The first run of the series of failures, by which the series is known."""
    last_error: NotRequired[FailedInput]
    """The last failure, with its run and input."""
    last_failure_at: NotRequired[datetime]
    """When a run failed last."""
    last_success_at: NotRequired[datetime]
    """When a run did not fail last."""
    alerted: NotRequired[str | None]
    """The alert that says that the source fails; None when none does."""


class Source(TypedDict):
    """What all functions share about a source. Each part is changed by itself, atomically."""

    _id: str
    """The source's name."""
    bucket: NotRequired[Bucket]
    """How many requests may still go out; uploads have none."""
    breaker: NotRequired[Breaker]
    """Whether it is asked at all."""
    pages: NotRequired[dict[str, KnownPage]]
    """By number, as text: each page as it was fetched last."""
    watermarks: NotRequired[Watermark]
    """How far its data reaches."""
    lease: NotRequired[Lease]
    """Which run has it locked, with the lease's fencing token."""
    failures: NotRequired[Failures]
    """How often it has failed in a row."""
    listing: NotRequired[ListingMarker | None]
    """Of uploads: where the next look through the bucket begins; None for at its beginning."""
    frozen: NotRequired[Frozen | None]
    """That its newest observation does not move; None or nothing while it does."""
