"""Form of /quarantine."""

from __future__ import annotations

from pydantic import Field

from marketdata.web.models.common import RUN_ID, Answer, Cursored, Form, Time


class Quarantined(Form):
    """A row that could not be loaded, with the reason."""

    id: str = Field(examples=["5f0c1d2e3b4a59687f6e5d4c3b2a1908/17"])
    source: str = Field(examples=["coingecko"])
    run_id: str = Field(description="The last run that met it.", examples=[RUN_ID])
    raw_id: str = Field(description="The raw batch that has it, whole.")
    row_number: int = Field(description="Its place in what was received.", examples=[17])
    reason: str = Field(description="A stable name for programs.", examples=["greater_than"])
    field: str = Field(description="What is wrong with it.", examples=["price_usd"])
    message: str = Field(examples=["Input should be greater than 0 (is 0)"])
    row: str = Field(description="The row as JSON text, its first 4,000 characters.")
    truncated: bool = Field(description="Whether the row is longer than that.")
    received_at: Time
    first_at: Time = Field(description="When it was first set aside.")
    last_at: Time = Field(description="When it was last set aside.")


class QuarantineList(Answer):
    """Rows that were set aside, by raw batch and row."""

    data: list[Quarantined]
    pagination: Cursored
    run_id: str | None = Field(description="The last run that ended.", examples=[RUN_ID])
