"""Forms of records."""

from __future__ import annotations

from pydantic import Field

from marketdata.web.models.common import RUN_ID, Answer, Cursored, Form, Time

RECORD_ID = "800001968b2ad3e85d2c8e4f1a0b9c7d6e5f4a3b"


class Record(Form):
    """What a source said of an asset at a time. Null is "the source does not say"."""

    id: str = Field(pattern="^[0-9a-f]{40}$", examples=[RECORD_ID])
    symbol: str = Field(description="Ticker; several assets may share it.", examples=["BTC"])
    name: str | None = Field(examples=["Bitcoin"])
    asset_id: str = Field(description="The source's own id.", examples=["bitcoin"])
    price_usd: float = Field(gt=0, examples=[103126.0])
    volume_24h: float | None = Field(
        ge=0, description="Turnover of the 24 hours before, in USD.", examples=[52843217911.0]
    )
    market_cap: float | None = Field(ge=0, description="In USD.", examples=[2048390274311.0])
    percent_change_24h: float | None = Field(
        description="Of the price, over 24 hours; 1.5 means +1.5 %.", examples=[4.12934]
    )
    open: float | None = Field(description="First price of the interval, in USD.")
    high: float | None = Field(description="Highest price of the interval, in USD.")
    low: float | None = Field(description="Lowest price of the interval, in USD.")
    volume: float | None = Field(
        ge=0, description="Turnover of the interval, in USD, where that is not 24 hours."
    )
    base_volume: float | None = Field(
        ge=0, description="Volume of the interval in units of the asset: coins or shares."
    )
    quote: str | None = Field(
        description="The stablecoin that prices were quoted in, which count as prices in USD; null "
        "for USD itself.",
        examples=["USDT"],
    )
    interval: str | None = Field(
        description="What the record is about, if a time span: 1h, 1d; null for a moment."
    )
    timestamp: Time = Field(description="When the source says that it was so.")
    source: str = Field(examples=["coingecko"])
    dataset: str = Field(description="Whose series, within a source; empty for APIs.")
    run_id: str = Field(description="The run that brought it.", examples=[RUN_ID])
    received_at: Time = Field(description="When it was received.")
    revision: int = Field(
        ge=1, description="How many different values this record has had, this one included."
    )


class Paged(Cursored):
    """Where a list goes on, by cursor or by page."""

    page: int | None = Field(default=None, description="The page, if pages were asked for.")


class Records(Answer):
    """A page of records."""

    data: list[Record]
    pagination: Paged
    run_id: str | None = Field(
        description="The last run that ended: what the data is up to.", examples=[RUN_ID]
    )


class Revision(Form):
    """An earlier value of a record."""

    symbol: str
    name: str | None
    price_usd: float
    volume_24h: float | None
    market_cap: float | None
    percent_change_24h: float | None
    open: float | None
    high: float | None
    low: float | None
    volume: float | None
    base_volume: float | None
    quote: str | None
    run_id: str
    received_at: Time


class OneRecord(Answer):
    """A record."""

    data: Record
    run_id: str = Field(description="The run that brought it.", examples=[RUN_ID])


class History(Answer):
    """The values that a record has had, the oldest first; the last is the current one."""

    id: str = Field(examples=[RECORD_ID])
    data: list[Revision]
    run_id: str = Field(description="The run that brought the current one.", examples=[RUN_ID])
