"""Form of /stats."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from marketdata.web.models.common import RUN_ID, Answer, Form, Time
from marketdata.web.models.health import LastRun
from marketdata.web.models.runs import ResolvedCounts


class Kept(Form):
    """How much is stored now, in rows."""

    raw: int = Field(description="Rows in raw batches; the same content is stored once.")
    normalized: int = Field(description="Records.")
    quarantined: int = Field(description="Rows in quarantine.")


class Incremental(Form):
    """What loading changed; duplicates and quarantined rows are not counted."""

    new: int = Field(description="Records that did not exist before.")
    updated: int = Field(description="Records that changed.")
    unchanged: int = Field(description="Records that stayed as they were.")


class IncrementalOfRun(Incremental):
    """What the last run brought."""

    run_id: str = Field(examples=[RUN_ID])


class IncrementalPair(Form):
    """What loading brought, last and in total."""

    last_run: IncrementalOfRun | None = Field(
        description="Of the last run; null before the first run."
    )
    total: Incremental = Field(description="Of all closed batches.")


class Window(Form):
    """The runs that rates and averages are about."""

    runs: int = Field(description="How many of the last ended runs were counted; at most 100.")
    success: int
    partial_success: int
    failed: int


class SourceThrottling(Form):
    """A source's token bucket."""

    quota_per_minute: float = Field(description="Requests per minute, as set.")
    burst: float = Field(description="Requests that may go out at once after a pause.")
    rate_per_minute: float = Field(
        description="The present rate per minute: less than the quota after a refusal, and "
        "rising with each answer."
    )
    tokens_left: float = Field(
        ge=0, description="Requests that could go out right now; 0 during a cooldown."
    )
    throttle_events: int = Field(description="All refusals by the source (429 or 402).")
    last_throttle_event_at: Time | None
    blocked_until: Time | None = Field(
        description="The end of the cooldown after a refusal; null when there is none."
    )
    retry_latency_seconds: float | None = Field(
        description="Of the last request that was rate-limited: the time from then to its "
        "answer; null if none was."
    )


class SourceBreaker(Form):
    """A source's circuit breaker."""

    state: Literal["closed", "open", "half_open"] = Field(
        description="`closed`: the source is used; `open`: it is left alone until `until`; "
        "`half_open`: one call probes whether it works again."
    )
    until: Time | None = Field(
        description="Open: when one call may probe. Half-open: when the probe counts as lost, "
        "and another call may probe. Null when closed."
    )
    failures: int = Field(description="Runs in a row that got no usable answer.")


class SourceError(Form):
    """The last failure of a source."""

    code: str = Field(examples=["upstream_unavailable"])
    message: str
    run_id: str | None = Field(examples=[RUN_ID])


class SourceLease(Form):
    """The run that has locked a source."""

    run_id: str = Field(examples=[RUN_ID])
    number: int = Field(description="The fencing token: it grows whenever the lock changes hands.")
    expires_at: Time = Field(
        description="Without a further heartbeat until then, the next run closes this one."
    )


class SourceWatermark(Form):
    """How far the data of a source reaches."""

    timestamp: Time | None = Field(description="The newest time of a loaded record.")
    received_at: Time = Field(description="When the newest loaded batch was received.")
    run_id: str = Field(examples=[RUN_ID])
    moved_at: Time


class SourceState(Form):
    """The present state of a source, by the database's clock."""

    throttling: SourceThrottling | None = Field(
        description="Null for a source without a quota, or without a request so far."
    )
    breaker: SourceBreaker | None = Field(description="Null in the same cases.")
    consecutive_failures: int = Field(description="Runs in a row that were not a success.")
    last_success_at: Time | None = Field(description="The end of the last run that was a success.")
    last_failure_at: Time | None = Field(
        description="The end of the last run that was not a success."
    )
    last_error: SourceError | None = Field(
        description="The error of the last run that was not a success; it stays after a success."
    )
    watermark: SourceWatermark | None = Field(
        description="Null until a run has loaded something of the source; always null for uploads."
    )
    parked_batches: int = Field(
        description="Dead-lettered batches of all runs: loading them failed too often, and no "
        "run tries them again by itself. Remove the cause, then `POST "
        "/runs/{run_id}/retry`, for each of `parked_runs`."
    )
    parked_runs: list[str] = Field(description="The last 10 runs that have some.")
    lease: SourceLease | None = Field(
        description="Null while no run has locked it. Each uploaded object has a lease of its "
        "own, which is not shown here."
    )


class Stats(Answer):
    """Figures of data, runs and sources."""

    counts: Kept
    totals: ResolvedCounts = Field(
        description="What became of the rows of all closed batches. A row that was set aside and "
        "resolved by a replay counts in both: `rows_in + resolved` is the sum of the others."
    )
    incremental: IncrementalPair
    last_run: LastRun | None
    last_successful_run: LastRun | None
    error_rate: float | None = Field(
        ge=0,
        le=1,
        description="The share of the window's runs that failed, wholly or in part; null if "
        "there are none.",
    )
    average_latency_ms: float | None = Field(
        ge=0,
        description="The mean time of the window's runs from start to end; null if there are none.",
    )
    window: Window
    parked_batches: int = Field(
        description="Dead-lettered batches of all sources; `sources` shows each source's."
    )
    sources: dict[str, SourceState] = Field(
        description="The present state of each source, by name; `csv` stands for uploads. A "
        "source is listed from its first run on."
    )
    run_id: str | None = Field(description="The last run.", examples=[RUN_ID])
