"""Form of /stats."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from marketdata.web.models.common import RUN_ID, Answer, Form, Time
from marketdata.web.models.health import LastRun
from marketdata.web.models.runs import RowCounts


class Kept(Form):
    """What is kept at the moment, in rows."""

    raw: int = Field(description="Rows in raw batches; the same content is kept once.")
    normalized: int = Field(description="Records.")
    quarantined: int = Field(description="Rows that are set aside.")


class Incremental(Form):
    """What loading brought, of rows that were no duplicates and not set aside."""

    new: int = Field(description="Records that were not there before.")
    updated: int = Field(description="Records that changed.")
    unchanged: int = Field(description="Records that stayed as they were.")


class IncrementalOfRun(Incremental):
    """What the last run brought."""

    run_id: str = Field(examples=[RUN_ID])


class IncrementalPair(Form):
    """What loading brought, last and in total."""

    last_run: IncrementalOfRun | None = Field(description="Of the last run; null before the first.")
    total: Incremental = Field(description="Of all closed batches.")


class Window(Form):
    """The runs that rates and averages are about."""

    runs: int = Field(description="Ended runs that were looked at, the last ones; at most 100.")
    success: int
    partial_success: int
    failed: int


class SourceThrottling(Form):
    """A source's token bucket."""

    quota_per_minute: float = Field(description="Requests a minute, by the settings.")
    burst: float = Field(description="Requests that may come at once after a rest.")
    rate_per_minute: float = Field(
        description="Requests a minute at the moment: less than the quota after a refusal, and "
        "rising with each answer."
    )
    tokens_left: float = Field(
        ge=0, description="Requests that could go out right now; 0 during a pause."
    )
    throttle_events: int = Field(description="Refusals by the source (429 or 402), in all.")
    last_throttle_event_at: Time | None
    blocked_until: Time | None = Field(
        description="The end of the pause that a refusal asked for; null when there is none."
    )
    retry_latency_seconds: float | None = Field(
        description="From the first time that a request was held back to its answer, the last time "
        "that one was; null if none was."
    )


class SourceBreaker(Form):
    """A source's circuit breaker."""

    state: Literal["closed", "open", "half_open"] = Field(
        description="`closed`: it is asked; `open`: it is left alone until `until`; `half_open`: "
        "one call probes whether it works again."
    )
    until: Time | None = Field(
        description="Open: when one call may probe. Half-open: when the probe counts as lost, and "
        "another one may. Null when closed."
    )
    failures: int = Field(description="Runs in a row that asked it in vain.")


class SourceError(Form):
    """The last failure of a source."""

    code: str = Field(examples=["upstream_unavailable"])
    message: str
    run_id: str | None = Field(examples=[RUN_ID])


class SourceLease(Form):
    """Which run has a source now."""

    run_id: str = Field(examples=[RUN_ID])
    number: int = Field(description="It grows whenever the source changes hands.")
    expires_at: Time = Field(
        description="Without a further sign of life of the run until then, the next one ends it."
    )


class SourceWatermark(Form):
    """How far the data of a source reaches."""

    timestamp: Time | None = Field(
        description="The newest time that a loaded record of it is about."
    )
    received_at: Time = Field(description="When the newest of its loaded batches was received.")
    run_id: str = Field(examples=[RUN_ID])
    moved_at: Time


class SourceState(Form):
    """How a source is at the moment, by the database's clock."""

    throttling: SourceThrottling | None = Field(
        description="Null of what has no quota, or was never asked."
    )
    breaker: SourceBreaker | None = Field(description="Null likewise.")
    consecutive_failures: int = Field(description="Runs in a row that were no success for it.")
    last_success_at: Time | None = Field(description="The end of its last run that was a success.")
    last_failure_at: Time | None = Field(description="The end of its last run that was none.")
    last_error: SourceError | None = Field(
        description="What was wrong in its last run that was no success; it stays after a success."
    )
    watermark: SourceWatermark | None = Field(
        description="Null until a run has loaded something of it, and of uploads."
    )
    parked_batches: int = Field(
        description="Batches of it that were given up as loading them failed too often, of all "
        "runs. No run tries them again by itself: remove the cause, then `POST "
        "/runs/{run_id}/retry`, for each of `parked_runs`."
    )
    parked_runs: list[str] = Field(description="The runs that have these, the last 10.")
    lease: SourceLease | None = Field(
        description="Null while no run has it. Of uploads each object has one of its own, which "
        "is not shown here."
    )


class Stats(Answer):
    """How much there is, and how runs went."""

    counts: Kept
    totals: RowCounts = Field(description="What became of the rows of all closed batches.")
    incremental: IncrementalPair
    last_run: LastRun | None
    last_successful_run: LastRun | None
    error_rate: float | None = Field(
        ge=0,
        le=1,
        description="Share of the window's runs that failed, wholly or in part; null without any.",
    )
    average_latency_ms: float | None = Field(
        ge=0,
        description="Mean time of the window's runs from start to end; null without any.",
    )
    window: Window
    parked_batches: int = Field(
        description="Batches of all sources that were given up; see `sources`, which says whose."
    )
    sources: dict[str, SourceState] = Field(
        description="How each source is at the moment, by name; `csv` stands for uploads. A source "
        "is listed from its first run on."
    )
    run_id: str | None = Field(description="The last run.", examples=[RUN_ID])
