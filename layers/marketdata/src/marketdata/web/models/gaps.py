"""Forms of what a series lacks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from marketdata.web.models.common import RUN_ID, Answer, Form, Time


class Hole(Form):
    """A range without points, where there should be some."""

    start: Time = Field(description="When its first point is missing.")
    end: Time = Field(description="The first time that is no part of it any more.")
    missing: int = Field(ge=1, description="How many points are missing.")
    at_source: bool = Field(
        description="Whether the source was asked for this range, and has nothing of it. A hole "
        "that it was not asked for can be filled by a backfill."
    )
    asked_at: Time | None = Field(description="When the source was asked; null if it was not.")
    run_id: str | None = Field(
        description="The run that asked; null if none did.", examples=[RUN_ID]
    )


class Totals(Form):
    """Figures of the whole range, also of holes that are not listed."""

    expected: int = Field(ge=0, description="How many points there should be.")
    found: int = Field(ge=0, description="How many points there are.")
    missing: int = Field(ge=0, description="How many points are missing.")
    missing_at_source: int = Field(ge=0, description="How many of these the source lacks, too.")
    holes: int = Field(ge=0, description="How many holes there are.")
    holes_left_off: int = Field(ge=0, description="How many of these are not listed; see `limit`.")


class Gaps(Answer):
    """What a series lacks."""

    source: str = Field(examples=["coingecko"])
    asset_id: str = Field(description="The source's own id.", examples=["bitcoin"])
    symbol: str | None = Field(
        description="The ticker; null where there is no record yet.", examples=["BTC"]
    )
    series: Literal["history", "snapshots"] = Field(description="Which of the asset's series.")
    interval: str | None = Field(
        description="The interval of a history; null for snapshots.", examples=["1h"]
    )
    measured_seconds: float = Field(
        gt=0, description="How far apart points should be, in seconds.", examples=[3600.0]
    )
    measured_by: Literal["interval", "schedule", "default"] = Field(
        description="What says so: the interval, the schedule of the runs, or, where neither is "
        "known, an hour."
    )
    start: Time = Field(description="The first time that was looked at.")
    end: Time = Field(description="The first time that was not looked at.")
    left_off: int = Field(
        ge=0,
        description="How many points of the range were not looked at, as it is too long: ask "
        "again with `end` as `start`.",
    )
    totals: Totals
    data: list[Hole]
    run_id: str | None = Field(
        description="The last run that ended: what the data is up to.", examples=[RUN_ID]
    )
