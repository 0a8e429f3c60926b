"""Forms of runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from marketdata.web import patterns
from marketdata.web.models.common import RUN_ID, Answer, Asked, Cursored, Form, Time

RunStatus = Literal["running", "success", "partial_success", "failed", "cancelled"]
Trigger = Literal["schedule", "refresh", "upload", "replay", "backfill"]
InputStatus = Literal[
    "running",
    "success",
    "partial_success",
    "failed",
    "skipped",
    "throttled",
    "cancelled",
    "waiting",
]
BatchState = Literal["pending", "loading", "loaded", "failed"]


class Cause(Form):
    """Why something failed."""

    code: str = Field(examples=["upstream_unavailable"])
    type: str | None = Field(default=None, description="Class of the error.")
    message: str
    payload_head: str | None = Field(
        default=None, description="The beginning of the payload that caused it, up to 2,048 bytes."
    )
    next_probe_at: Time | None = Field(
        default=None, description="With `circuit_open`: when the source is tried again."
    )


class RowCounts(Form):
    """What became of rows: `rows_in` is the sum of the five others."""

    rows_in: int = Field(default=0, description="Rows of closed batches.")
    inserted: int = Field(default=0, description="New records.")
    updated: int = Field(default=0, description="Known records that changed.")
    unchanged: int = Field(default=0, description="Known records that said the same.")
    duplicate: int = Field(
        default=0, description="Rows of a record for which their batch has another row."
    )
    quarantined: int = Field(default=0, description="Rows set aside; see `GET /quarantine`.")


class ResolvedCounts(RowCounts):
    """What became of rows, and how many of those that were set aside are loaded by now."""

    resolved: int = Field(
        default=0,
        description="Of the rows that were set aside: those that replays have loaded since. "
        "`quarantined` stays what it was when the batch was closed.",
    )


class Incremental(Form):
    """What a run changed."""

    new: int = Field(description="Records that were inserted.")
    updated: int = Field(description="Known records that changed.")
    unchanged: int = Field(description="Rows that said what was on record.")


class Throttling(Form):
    """How a source's limits slowed a run down."""

    model_config = ConfigDict(extra="ignore")

    events: int = Field(default=0, description="How often the run was rate-limited.")
    refusals: int = Field(default=0, description="Of these, refusals by the source (429, 402).")
    waited_seconds: float = 0
    tokens_left: float | None = Field(
        default=None, description="Requests that the source's token bucket allowed at that moment."
    )
    quota_per_minute: float | None = Field(default=None, description="As set.")
    rate_per_minute: float | None = Field(
        default=None, description="The present limit; lower after refusals."
    )
    retry_latency_seconds: float | None = Field(
        default=None, description="The longest time from being rate-limited to the answer."
    )


class Finding(Form):
    """Cells of an optional field that are not understood, all for one reason."""

    field: str = Field(examples=["volume_24h"])
    column: str = Field(description="The column, as the file calls it.", examples=["Volume"])
    code: str = Field(examples=["float_parsing"])
    count: int = Field(ge=1)
    examples: list[str] = Field(description="The first few, as they were written.")


class ResumedRun(Form):
    """What this run reclaimed of an earlier one."""

    run_id: str = Field(examples=[RUN_ID])
    batches: int = Field(
        description="Its batches that were not loaded, and that this run reclaimed."
    )


class SourceResult(ResolvedCounts):
    """What a run did for one of its inputs."""

    source: str = Field(examples=["coingecko"])
    input: str = Field(description="The source, or the object for a CSV.", examples=["coingecko"])
    status: InputStatus = Field(
        description="`skipped`: nothing had changed; or, with an `error`, the source is left "
        "alone for a while because it failed too often. `waiting`: a file asks something, and "
        "waits for an answer. `throttled`: its quota was "
        "used up for longer than a run waits. `cancelled`: somebody ended the backfill."
    )
    reason: str | None = Field(
        default=None, description="Why it was skipped, when nothing is wrong."
    )
    incremental: Incremental
    extracted: int = Field(description="Rows received.")
    batches: int
    failed_batches: int
    parked_batches: int = Field(
        default=0,
        description="Failed batches that are dead-lettered: no run tries them again until "
        "`POST /runs/{run_id}/retry`.",
    )
    skipped_batches: int = Field(
        default=0, description="Batches that were skipped, since their content was known."
    )
    resume_from: list[ResumedRun] = Field(
        default_factory=list, description="What this run reclaimed of earlier runs of this input."
    )
    findings: list[Finding] = Field(
        default_factory=list,
        description="Cells of optional fields that are not understood: their rows were loaded "
        "without them.",
    )
    pages: int = Field(description="Pages fetched from an API.")
    unchanged_pages: int = Field(
        default=0, description="Of these, pages that the source reported as not modified."
    )
    throttled: int = Field(description="How often the run was rate-limited.")
    throttling: Throttling | None = Field(default=None, description="Details of that.")
    left_out: int = Field(
        default=0,
        description="Filtered rows: the source answered them beyond those asked for. They are "
        "not kept.",
    )
    bucket: str | None = Field(default=None, description="CSV only: the bucket of the object.")
    key: str | None = Field(
        default=None,
        description="CSV only: the key of the object.",
        examples=["incoming/prices.csv"],
    )
    version_id: str | None = Field(default=None, description="CSV only: the version of the object.")
    dataset: str | None = Field(
        default=None,
        description="CSV only: the dataset of rows that name none; null until the header is read.",
    )
    warnings: list[str] = Field(
        default_factory=list,
        description="What should be looked at, although nothing failed. Of an API: how what came "
        "differs from what was asked for; its run is no plain success then.",
    )
    seconds: float | None = Field(description="From the first request to the last batch.")
    error: Cause | None


class Totals(ResolvedCounts):
    """A run's sums over its inputs."""

    extracted: int = Field(default=0, description="Rows received.")


class BatchStates(Form):
    """How many batches are in each state."""

    total: int
    pending: int
    loading: int
    loaded: int
    failed: int


class Batch(Form):
    """One batch of a run."""

    source: str
    input: str
    number: int
    state: BatchState
    attempts: int
    rows: int = Field(description="Rows received.")
    counts: RowCounts | None = Field(
        description="What became of the rows; null until the batch is loaded."
    )


class Owner(Form):
    """Where a batch is now."""

    run_id: str = Field(description="The run that owns it; a later run may have reclaimed it.")
    state: BatchState


class FailedBatch(Form):
    """One batch that was not loaded."""

    batch_id: str = Field(description="It stays the same when a later run reclaims the batch.")
    source: str
    input: str
    number: int
    rows: int
    attempts: int
    parked: bool = Field(
        description="Whether it is dead-lettered: given up after several runs. `POST "
        "/runs/{run_id}/retry` tries it again."
    )
    error: Cause | None
    now: Owner | None = Field(
        description="What has become of it since; null while the run is under way."
    )


class PreRunCounts(Form):
    """Rows that were there before a run."""

    raw: int = Field(description="Rows in all raw batches.", examples=[250])
    normalized: int = Field(description="Records in market_data.", examples=[250])


class UnderWay(Form):
    """A source that another run had locked."""

    source: str = Field(examples=["coinpaprika"])
    run_id: str = Field(description="The run that had locked it.", examples=[RUN_ID])


class RunSummary(Form):
    """A run in a list."""

    run_id: str = Field(examples=[RUN_ID])
    status: RunStatus
    trigger: str = Field(description="What started it.", examples=["schedule"])
    started_at: Time
    ended_at: Time | None
    duration: float | None = Field(description="Seconds from start to end; null while it runs.")
    sources: list[SourceResult]
    totals: Totals
    incremental: Incremental
    error: Cause | None = Field(description="What failed outside the sources.")


class BackfillProgress(Form):
    """What a backfill asks for, and how far it is."""

    source: str = Field(examples=["coingecko"])
    interval: Literal["5m", "1h", "1d"] = Field(description="How far apart the points are.")
    start: Time = Field(description="The first time that is asked for.")
    end: Time = Field(description="The first time that is not asked for any more.")
    gaps: bool = Field(description="Whether only holes are asked for.")
    assets: int = Field(ge=0, description="How many assets it is about.")
    assets_done: int = Field(ge=0, description="Assets of which nothing is left to ask for.")
    requests: int = Field(ge=0, description="How many requests it makes in all.")
    requests_done: int = Field(ge=0, description="How many of these are done.")
    requests_refused: int = Field(
        ge=0,
        description="Of these, the ones that brought nothing, as they failed for good: `warnings` "
        "says why.",
    )
    rows: int = Field(ge=0, description="Rows received so far.")
    percent: float = Field(ge=0, le=100, description="Requests done, of all.", examples=[62.5])
    estimated_end: Time | None = Field(
        description="When it will be done at this quota, and at the pace so far; null before the "
        "first request and after the end."
    )
    cancelled_at: Time | None = Field(description="When it was cancelled; null if it was not.")


class Run(Answer):
    """All about a run."""

    run_id: str = Field(examples=[RUN_ID])
    status: RunStatus
    trigger: str = Field(description="What started it.", examples=["refresh"])
    started_at: Time
    ended_at: Time | None
    duration: float | None = Field(description="Seconds from start to end; null while it runs.")
    sources: list[SourceResult]
    totals: Totals
    batch_states: BatchStates
    batches: list[Batch] = Field(description="By input and number, the first 100.")
    failed_batches: list[FailedBatch] = Field(
        description="Batches that failed, or that an ended run did not load; the first 100."
    )
    failed_batches_total: int = Field(description="The number of all of these.")
    incremental: Incremental
    force: bool = Field(description="Whether it also loads content that is known.")
    applied_mappings: list[dict[str, Any]] = Field(
        description="Columns of a CSV that were mapped to a canonical field; none for APIs."
    )
    quarantined_mappings: list[dict[str, Any]] = Field(
        description="Columns whose mapping is uncertain; they were not used."
    )
    skipped_mappings: list[dict[str, Any]] = Field(
        description="Columns that resemble no canonical field."
    )
    resume_from: ResumedRun | None = Field(
        description="The latest run from which this one reclaimed work; null if there was "
        "none. Each entry of `sources` names all such runs of its own."
    )
    pre_run_counts: PreRunCounts | None = Field(
        description="Only of runs on demand; null for others."
    )
    under_way: list[UnderWay] = Field(
        description="Sources that other runs had locked when this run was created, and that it "
        "left to them."
    )
    backfill: BackfillProgress | None = Field(description="Only of backfills; null for others.")
    error: Cause | None = Field(description="What failed outside the sources.")


class Runs(Answer):
    """Runs, the newest first."""

    data: list[RunSummary]
    pagination: Cursored
    run_id: str | None = Field(description="The run that started last.", examples=[RUN_ID])


class RefreshRequest(Asked):
    """What the run has to do; an empty body means what the hourly run does."""

    sources: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(
        default=None,
        min_length=1,
        max_length=50,
        description="Only these sources; `csv` stands for uploads that are not loaded yet. With "
        "`resume`, only these of the run that is resumed.",
        examples=[["coingecko"]],
    )
    resume: str | None = Field(
        default=None,
        pattern=patterns.RUN_ID,
        description="Continue what this run has left, instead of fetching everything anew: its "
        "batches that are not loaded, and its pages after the last one that was fetched.",
        examples=[RUN_ID],
    )
    force: bool = Field(
        default=False,
        description="Also load what has not changed since it was loaded last.",
    )


class Refresh(Answer):
    """The run that a request started, or found under way."""

    run_id: str = Field(
        description="The run exists already: follow it with `GET /runs/{run_id}`.",
        examples=[RUN_ID],
    )
    status: Literal["running", "already_running"] = Field(
        description="`already_running`: no run was started, since none of the sources is free. "
        "This run is under way: it has locked the first of them, or what was to be resumed."
    )
    pre_run_counts: PreRunCounts
    under_way: list[UnderWay] = Field(
        description="Sources that were requested, but are locked by other runs: those that the "
        "new run leaves to them or, with `already_running`, all of them. Empty for a `resume`."
    )
