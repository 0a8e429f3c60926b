"""Forms of runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from marketdata.web import patterns
from marketdata.web.models.common import RUN_ID, Answer, Cursored, Form, Time

RunStatus = Literal["running", "success", "partial_success", "failed"]
Trigger = Literal["schedule", "refresh", "upload"]
InputStatus = Literal["running", "success", "partial_success", "failed", "skipped", "throttled"]
BatchState = Literal["pending", "loading", "loaded", "failed"]


class Cause(Form):
    """Why something failed."""

    code: str = Field(examples=["upstream_unavailable"])
    type: str | None = Field(default=None, description="Class of the error.")
    message: str
    payload_head: str | None = Field(
        default=None, description="How the payload began that it is about, up to 2,048 bytes."
    )
    next_probe_at: Time | None = Field(
        default=None, description="With `circuit_open`: from when on the source is asked again."
    )


class RowCounts(Form):
    """What became of rows: `rows_in` is the sum of the five others."""

    rows_in: int = Field(default=0, description="Rows of closed batches.")
    inserted: int = Field(default=0, description="New records.")
    updated: int = Field(default=0, description="Known records that changed.")
    unchanged: int = Field(default=0, description="Known records that said the same.")
    duplicate: int = Field(default=0, description="Rows that lost to another of their batch.")
    quarantined: int = Field(default=0, description="Rows set aside; see `GET /quarantine`.")


class Incremental(Form):
    """What a run changed."""

    new: int = Field(description="Records that were inserted.")
    updated: int = Field(description="Records that were known and changed.")
    unchanged: int = Field(description="Rows that said what was known already.")


class Throttling(Form):
    """How a source's limits held a run back."""

    model_config = ConfigDict(extra="ignore")

    events: int = Field(default=0, description="Times that the run was held back.")
    refusals: int = Field(default=0, description="Of these, the ones by the source (429, 402).")
    waited_seconds: float = 0
    tokens_left: float | None = Field(default=None, description="In the source's bucket.")
    quota_per_minute: float | None = Field(default=None, description="By the settings.")
    rate_per_minute: float | None = Field(
        default=None, description="What is asked at most by now; lower after refusals."
    )
    retry_latency_seconds: float | None = Field(
        default=None, description="The longest time from being held back to the answer."
    )


class ResumedRun(Form):
    """Work of an earlier run that this one took up."""

    run_id: str = Field(examples=[RUN_ID])
    batches: int = Field(description="Its batches that were not loaded, and are this run's now.")


class SourceResult(RowCounts):
    """What a run did for one of its inputs."""

    source: str = Field(examples=["coingecko"])
    input: str = Field(description="The source, or the object for a CSV.", examples=["coingecko"])
    status: InputStatus = Field(
        description="`skipped`: nothing had changed or, with an `error`, the source is not asked "
        "for a while as it failed too often; `throttled`: its quota was used up for longer than "
        "a run waits."
    )
    reason: str | None = Field(
        default=None, description="Why it was skipped, though nothing is wrong."
    )
    incremental: Incremental
    extracted: int = Field(description="Rows received.")
    batches: int
    failed_batches: int
    parked_batches: int = Field(
        default=0,
        description="Of the failed ones, those that no run tries again unless it is asked for.",
    )
    skipped_batches: int = Field(
        default=0, description="Loaded without being read, as their content was known."
    )
    resume_from: list[ResumedRun] = Field(
        default_factory=list, description="What earlier runs had left of this input."
    )
    pages: int = Field(description="Pages fetched from an API.")
    unchanged_pages: int = Field(
        default=0, description="Of these, the ones that the source says are as they were."
    )
    throttled: int = Field(description="Times that the source's limits held the run back.")
    throttling: Throttling | None = Field(default=None, description="More about that.")
    left_out: int = Field(
        default=0,
        description="Rows that the source answered beyond those asked for; they are not kept.",
    )
    bucket: str | None = Field(default=None, description="Of a CSV: the bucket of its object.")
    key: str | None = Field(
        default=None, description="Of a CSV: its object.", examples=["incoming/prices.csv"]
    )
    version_id: str | None = Field(default=None, description="Of a CSV: its object's version.")
    dataset: str | None = Field(
        default=None,
        description="Of a CSV: the dataset of rows that name none; null until its header is read.",
    )
    warnings: list[str] = Field(
        default_factory=list, description="What should be looked at, though nothing failed."
    )
    seconds: float | None = Field(description="From the first request to the last batch.")
    error: Cause | None


class Totals(RowCounts):
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
    counts: RowCounts | None = Field(description="What became of them; null until it is loaded.")


class Owner(Form):
    """Where a batch is now."""

    run_id: str = Field(description="The run that has it; a later one may have taken it over.")
    state: BatchState


class FailedBatch(Form):
    """One batch that was not loaded."""

    batch_id: str = Field(description="Stays the same when a later run takes the batch over.")
    source: str
    input: str
    number: int
    rows: int
    attempts: int
    parked: bool = Field(
        description="Given up after several runs; `POST /runs/{run_id}/retry` tries it again."
    )
    error: Cause | None
    now: Owner | None = Field(description="What became of it since; null while the run goes on.")


class PreRunCounts(Form):
    """Rows that were there before a run."""

    raw: int = Field(description="Rows in all raw batches.", examples=[250])
    normalized: int = Field(description="Records in market_data.", examples=[250])


class UnderWay(Form):
    """A source that another run had."""

    source: str = Field(examples=["coinpaprika"])
    run_id: str = Field(description="The run that had it.", examples=[RUN_ID])


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
    error: Cause | None = Field(description="What failed outside of the sources.")


class Run(Answer):
    """A run, whole."""

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
        description="Batches that failed, and those that an ended run left undone; the first 100."
    )
    failed_batches_total: int = Field(description="How many these are in all.")
    incremental: Incremental
    force: bool = Field(description="Whether it loads content that is known all the same.")
    applied_mappings: list[dict[str, Any]] = Field(
        description="Columns of a CSV that were taken for a canonical one; none for APIs."
    )
    quarantined_mappings: list[dict[str, Any]] = Field(
        description="Columns whose mapping is uncertain, and which were not used."
    )
    skipped_mappings: list[dict[str, Any]] = Field(
        description="Columns that are like no canonical one."
    )
    resume_from: ResumedRun | None = Field(
        description="The latest run whose unfinished work this one took up; null if there was "
        "none. Each of `sources` says it for itself, with all runs that it is about."
    )
    pre_run_counts: PreRunCounts | None = Field(
        description="Known for runs on demand; null for others."
    )
    under_way: list[UnderWay] = Field(
        description="Sources that this run would have taken as well, had others not had them when "
        "it was made."
    )
    error: Cause | None = Field(description="What failed outside of the sources.")


class Runs(Answer):
    """Runs, the newest first."""

    data: list[RunSummary]
    pagination: Cursored
    run_id: str | None = Field(description="The run that started last.", examples=[RUN_ID])


class RefreshRequest(Form):
    """What the run is to do; an empty body means everything that the hourly one does."""

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
        description="Go on with what this run has left, instead of asking everything anew: its "
        "batches that are not loaded, and its pages from the one after the last that was fetched.",
        examples=[RUN_ID],
    )
    force: bool = Field(
        default=False,
        description="Load also what has not changed since it was loaded last.",
    )


class Refresh(Answer):
    """A run that was asked for."""

    run_id: str = Field(
        description="Follow it with `GET /runs/{run_id}`; it exists already.", examples=[RUN_ID]
    )
    status: Literal["running", "already_running"] = Field(
        description="`already_running`: no run was started. This one is under way; it is the one "
        "to be resumed, or has the first of the sources, none of which is free."
    )
    pre_run_counts: PreRunCounts
    under_way: list[UnderWay] = Field(
        description="Sources that are asked for and that other runs have: those that are left to "
        "them by the run that was started, or, with `already_running`, all that one has. Of a "
        "resumed run none are listed."
    )
