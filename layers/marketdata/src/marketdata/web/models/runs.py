"""Forms of runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from marketdata.web.models.common import RUN_ID, Answer, Cursored, Form, Time

RunStatus = Literal["running", "success", "partial_success", "failed"]
Trigger = Literal["schedule", "refresh", "upload"]
BatchState = Literal["pending", "loading", "loaded", "failed"]


class Cause(Form):
    """Why something failed."""

    code: str = Field(examples=["upstream_unavailable"])
    type: str | None = Field(default=None, description="Class of the error.")
    message: str


class RowCounts(Form):
    """What became of rows: `rows_in` is the sum of the five others."""

    rows_in: int = Field(default=0, description="Rows of closed batches.")
    inserted: int = Field(default=0, description="New records.")
    updated: int = Field(default=0, description="Known records that changed.")
    unchanged: int = Field(default=0, description="Known records that said the same.")
    duplicate: int = Field(default=0, description="Rows that lost to another of their batch.")
    quarantined: int = Field(default=0, description="Rows set aside; see `GET /quarantine`.")


class SourceResult(RowCounts):
    """What a run did for one of its inputs."""

    source: str = Field(examples=["coingecko"])
    input: str = Field(description="The source, or the object for a CSV.", examples=["coingecko"])
    status: RunStatus
    extracted: int = Field(description="Rows received.")
    batches: int
    failed_batches: int
    pages: int = Field(description="Pages fetched from an API.")
    throttled: int = Field(description="Pauses that the source asked for.")
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


class FailedBatch(Form):
    """One batch that was not loaded."""

    source: str
    input: str
    number: int
    rows: int
    error: Cause | None


class PreRunCounts(Form):
    """Rows that were there before a run."""

    raw: int = Field(description="Rows in all raw batches.", examples=[250])
    normalized: int = Field(description="Records in market_data.", examples=[250])


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
    applied_mappings: list[dict[str, Any]] = Field(
        description="Columns of a CSV that were taken for a canonical one; none for APIs."
    )
    quarantined_mappings: list[dict[str, Any]] = Field(
        description="Columns whose mapping is uncertain, and which were not used."
    )
    skipped_mappings: list[dict[str, Any]] = Field(
        description="Columns that are like no canonical one."
    )
    resume_from: dict[str, Any] | None = Field(
        description="The unfinished work of earlier runs that this one took up; null if none."
    )
    pre_run_counts: PreRunCounts | None = Field(
        description="Known for runs on demand; null for others."
    )
    error: Cause | None = Field(description="What failed outside of the sources.")


class Runs(Answer):
    """Runs, the newest first."""

    data: list[RunSummary]
    pagination: Cursored
    run_id: str | None = Field(description="The run that started last.", examples=[RUN_ID])


class RefreshRequest(Form):
    """Nothing to choose from as yet; an empty body means the same."""


class Refresh(Answer):
    """A run that was asked for."""

    run_id: str = Field(
        description="Follow it with `GET /runs/{run_id}`; it exists already.", examples=[RUN_ID]
    )
    status: Literal["running", "already_running"] = Field(
        description="`already_running`: no run was started, this one is under way."
    )
    pre_run_counts: PreRunCounts
