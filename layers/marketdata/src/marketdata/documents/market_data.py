"""Documents of the collections `market_data` and `latest_prices`: records and their revisions."""

from __future__ import annotations

from datetime import datetime
from typing import NotRequired, TypedDict


class Revision(TypedDict):
    """One statement of a record's values, with where it came from.

    Money is in US dollars. None is "the source does not say".
    """

    symbol: str
    """The ticker, in capitals."""
    name: str | None
    """The asset's name."""
    price_usd: float
    """The price, above 0."""
    volume_24h: float | None
    """The turnover of the 24 hours before the record's time, in US dollars."""
    market_cap: float | None
    """The market capitalisation."""
    percent_change_24h: float | None
    """The change of the price in 24 hours, in percent: 1.5 means +1.5 %."""
    open: NotRequired[float]
    """The first price of the interval."""
    high: NotRequired[float]
    """The highest price of the interval."""
    low: NotRequired[float]
    """The lowest price of the interval."""
    volume: NotRequired[float]
    """The turnover of the interval, where that is not 24 hours."""
    base_volume: NotRequired[float]
    """The volume of the interval in units of the asset: coins or shares."""
    quote: NotRequired[str]
    """The stablecoin that prices were really quoted in; absent for dollars themselves."""
    run_id: str
    """The run that received the row."""
    raw_id: str
    """The raw batch that has the row."""
    row: int
    """The row's number in its page or file, from 0."""
    received_at: datetime
    """When the row was received; of the revisions of a record, the last one received counts."""
    version: NotRequired[str]
    """Of an uploaded file: S3's id of the object's version."""


class CurrentRevision(Revision):
    """The current revision of a record, with what makes it this record."""

    asset_id: str
    """The source's own id of the asset; of a file without one, made of the symbol."""
    timestamp: datetime
    """What time the values are of."""
    source: str
    """The source; `csv` for uploads."""
    dataset: str
    """Of uploads, which set of data the row belongs to; empty for APIs."""
    interval: NotRequired[str]
    """The interval that a candle is of, such as `1h`."""
    revision: int
    """How many revisions there are, with the current one."""
    inserted_by: str
    """The `_id` of the batch that inserted the record."""


class Record(CurrentRevision):
    """One observation of one asset by one source at one time, with its earlier revisions."""

    _id: bytes
    """8 bytes of time, then 12 of a hash over source, dataset, asset and interval; see
    `schema.identity`."""
    digest: NotRequired[bytes]
    """Hash of what the current revision says, 12 bytes. Records from before it was stored have
    none."""
    history: NotRequired[list[Revision]]
    """The earlier revisions, the oldest first. A record with one revision has none."""


class LatestPrice(CurrentRevision):
    """The newest record of one source's asset, without its history."""

    _id: bytes
    """The last 12 bytes of the record's id: the asset, whatever the time."""
    record_id: bytes
    """The record's id."""
