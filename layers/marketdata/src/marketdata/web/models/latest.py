"""Forms of what there is now."""

from __future__ import annotations

from pydantic import Field

from marketdata.web.models.common import RUN_ID, Answer, Cursored, Form, Time
from marketdata.web.models.data import Record


class Latest(Answer):
    """The newest record of each source's asset."""

    data: list[Record]
    pagination: Cursored
    run_id: str | None = Field(description="The last run that ended.", examples=[RUN_ID])


class Asset(Form):
    """An asset that bears a ticker, as one source knows it."""

    asset_id: str = Field(description="The source's own id.", examples=["bitcoin"])
    name: str | None = Field(examples=["Bitcoin"])
    source: str = Field(examples=["coingecko"])
    dataset: str = Field(description="Whose series, within a source; empty for APIs.")
    timestamp: Time = Field(description="Of the newest record.")


class SymbolEntry(Form):
    """A ticker. Several assets may share it: they are different coins."""

    symbol: str = Field(examples=["BTC"])
    assets: list[Asset]


class SymbolList(Answer):
    """Tickers, in alphabetical order."""

    data: list[SymbolEntry]
    pagination: Cursored
    run_id: str | None = Field(description="The last run that ended.", examples=[RUN_ID])
