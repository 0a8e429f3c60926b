"""Forms of backfills."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from marketdata.runs.backfills import MOST_ASSETS
from marketdata.web import patterns
from marketdata.web.models.common import RUN_ID, Answer, Form, Time


class BackfillRequest(Form):
    """What is to be fetched of the past: of `assets` or of the `top` ones."""

    source: str = Field(min_length=1, max_length=64, examples=["coingecko"])
    assets: list[Annotated[str, Field(min_length=1, max_length=256)]] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_ASSETS,
        description="The source's ids, or tickers that only one of its assets has.",
        examples=[["bitcoin", "ethereum"]],
    )
    top: int | None = Field(
        default=None,
        ge=1,
        le=MOST_ASSETS,
        description="In place of `assets`: so many with the highest market cap.",
    )
    start: str = Field(
        min_length=1,
        max_length=64,
        description="The first time that is asked for: ISO 8601, a date, or milliseconds since "
        "1970.",
        examples=["2025-01-01"],
    )
    end: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="The last time that is asked for; a date is its whole day. By default now.",
        examples=["2025-03-31"],
    )
    interval: Literal["5m", "1h", "1d"] | None = Field(
        default=None,
        description="How far apart the points are. By default the finest that the source gives "
        "for the range, and that suits its length.",
    )
    gaps: bool = Field(
        default=False,
        description="Only what `GET /gaps` tells as missing, without the holes that the source "
        "has as well.",
    )


class Backfill(Answer):
    """The backfill that a request started."""

    run_id: str = Field(
        description="Follow it with `GET /runs/{run_id}`; `POST /runs/{run_id}/cancel` ends it.",
        examples=[RUN_ID],
        pattern=patterns.RUN_ID,
    )
    status: Literal["running"]
    source: str = Field(examples=["coingecko"])
    interval: Literal["5m", "1h", "1d"]
    start: Time = Field(description="The first time that is asked for.")
    end: Time = Field(description="The first time that is not asked for any more.")
    assets: int = Field(ge=1, description="How many assets it is about.")
    requests: int = Field(ge=1, description="How many requests it makes.")
    warnings: list[str] = Field(description="What can't be asked for, and why.")


class Cancelled(Answer):
    """A backfill that was cancelled."""

    run_id: str = Field(examples=[RUN_ID])
    status: Literal["running", "cancelled"] = Field(
        description="`running` until what was received is loaded."
    )
