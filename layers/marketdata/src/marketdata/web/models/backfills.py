"""Forms of backfills."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from marketdata.runs.backfills import MOST_ASSETS
from marketdata.web import patterns
from marketdata.web.models.common import RUN_ID, WHOLE, Answer, Asked, Time
from marketdata.web.parameters import MAX_MS

TimeAsked = (
    Annotated[str, Field(min_length=1, max_length=64)]
    | Annotated[int, Field(le=MAX_MS, json_schema_extra={"minimum": 10**11}), WHOLE]
)
"""A time as somebody gives it in a body: `read_time` reads it, and says what is wrong with it."""


class BackfillRequest(Asked):
    """What is to be fetched of the past: of `assets` or of the `top` ones."""

    source: str = Field(min_length=1, max_length=64, examples=["coingecko"])
    assets: list[Annotated[str, Field(min_length=1, max_length=256)]] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_ASSETS,
        description="The source's ids, or tickers that only one of its assets has.",
        examples=[["bitcoin", "ethereum"]],
    )
    top: Annotated[int, Field(ge=1, le=MOST_ASSETS), WHOLE] | None = Field(
        default=None,
        description="In place of `assets`: so many with the highest market cap.",
    )
    start: TimeAsked = Field(
        description="The first time that is asked for: ISO 8601 (UTC where no zone is given), a "
        "date, or milliseconds since 1970 (12 to 15 digits), as a number or as text.",
        examples=["2025-01-01"],
    )
    end: TimeAsked | None = Field(
        default=None,
        description="The last time that is asked for, in the same forms; a date is its whole day. "
        "By default now.",
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
