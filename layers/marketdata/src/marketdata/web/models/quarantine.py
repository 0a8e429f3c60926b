"""Forms of /quarantine."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from marketdata.web import patterns
from marketdata.web.cursor import PATTERN
from marketdata.web.models.common import RUN_ID, Answer, Asked, Cursored, Form, Time

MAX_IDS = 1_000
ROW_ID = "5f0c1d2e3b4a59687f6e5d4c3b2a1908/17"


class Quarantined(Form):
    """A row that could not be loaded, with the reason."""

    id: str = Field(examples=[ROW_ID])
    source: str = Field(examples=["coingecko"])
    run_id: str = Field(description="The last run that received it.", examples=[RUN_ID])
    batch: str = Field(
        description="The last batch that received it.", examples=[f"{RUN_ID}/coingecko/0"]
    )
    raw_id: str = Field(description="The raw batch that has the whole row.")
    row_number: int = Field(description="Its place in the input.", examples=[17])
    reason: str = Field(description="A stable name for programs.", examples=["greater_than"])
    field: str = Field(description="The field that is wrong.", examples=["price_usd"])
    message: str = Field(examples=["Input should be greater than 0 (is 0)"])
    row: str = Field(description="The row as JSON text, its first 4,000 characters.")
    truncated: bool = Field(description="Whether the row is longer than that.")
    received_at: Time
    first_at: Time = Field(description="When it was first set aside.")
    last_at: Time = Field(description="When it was last set aside.")


class QuarantineList(Answer):
    """Rows in quarantine, by raw batch and row."""

    data: list[Quarantined]
    pagination: Cursored
    run_id: str | None = Field(description="The last run that ended.", examples=[RUN_ID])


class ReplayRequest(Asked):
    """Which rows to try again; a field that is not given excludes no row."""

    source: Annotated[
        str | None,
        Field(min_length=1, max_length=256, description="Only from this source.", examples=["csv"]),
    ] = None
    reason: Annotated[
        str | None,
        Field(
            pattern=patterns.REASON,
            description="Only with this reason.",
            examples=["timestamp_in_future"],
        ),
    ] = None
    run_id: Annotated[
        str | None,
        Field(pattern=patterns.RUN_ID, description="Only those of this run.", examples=[RUN_ID]),
    ] = None
    ids: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]] | None,
        Field(
            min_length=1,
            max_length=MAX_IDS,
            description="Only these, by the `id` in the list.",
            examples=[[ROW_ID]],
        ),
    ] = None
    cursor: Annotated[
        str | None,
        Field(
            pattern=PATTERN,
            description="`next_cursor` of the call before, with the same selection: goes on with "
            "the rows after it.",
        ),
    ] = None


class ReplayedBatch(Form):
    """What became of the selected rows of one raw batch."""

    raw_id: str = Field(description="The raw batch.")
    source: str = Field(examples=["coingecko"])
    batches: list[str] = Field(description="The batches that count these rows.")
    replayed: int = Field(description="Selected rows of it.")
    loaded: int = Field(description="Of these, the ones that left quarantine.")
    still_quarantined: int = Field(description="Of these, the ones that stay.")
    reason: str | None = Field(
        description="Why these could not even be tried: `raw_expired`, `not_loaded`, "
        "`run_under_way`, `no_batch`, `unreadable` or `busy`. Null for rows that were tried."
    )
    message: str | None = Field(description="The same in words, with the remedy.")


class Replayed(Answer):
    """What one call did. Repeat it with `cursor` while `remaining` is above zero."""

    run_id: str | None = Field(
        description="The run, with the trigger `replay`, whose batches have loaded them; null if "
        "nothing could be loaded.",
        examples=[RUN_ID],
    )
    replayed: int = Field(description="Rows that this call has gone through.", examples=[12])
    loaded: int = Field(description="Of these, the ones that left quarantine.", examples=[10])
    still_quarantined: int = Field(description="Of these, the ones that stay.", examples=[2])
    remaining: int = Field(
        description="Selected rows that come after these, counted up to 100,000.", examples=[0]
    )
    next_cursor: str | None = Field(
        description="Give it as `cursor`, with the same selection, to go on; null at the end."
    )
    by_batch: list[ReplayedBatch] = Field(description="The same by raw batch.")
