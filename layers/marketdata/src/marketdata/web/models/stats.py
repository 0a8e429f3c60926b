"""Form of /stats."""

from __future__ import annotations

from pydantic import Field

from marketdata.web.models.common import RUN_ID, Answer, Form
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
    run_id: str | None = Field(description="The last run.", examples=[RUN_ID])
