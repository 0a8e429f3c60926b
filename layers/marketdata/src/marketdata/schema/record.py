"""The canonical record and its validation in bulk.

A *candidate* is a dict with the canonical names, as a source's mapping made it from one row.
Validation happens in one pydantic-core call for all candidates of a batch; only a batch with
bad rows pays a second call over the good ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NotRequired, TypedDict

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from marketdata import clock

MAX_AHEAD = timedelta(hours=24)
"""A price further in the future than this would stay "the latest" for ever."""

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

_Finite = Field(allow_inf_nan=False)
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256)]
Symbol = Annotated[
    str, StringConstraints(strip_whitespace=True, to_upper=True, min_length=1, max_length=64)
]
Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Change = Annotated[float, _Finite]


class Record(TypedDict):
    """One normalised observation of one asset by one source.

    Money is in US dollars, `volume_24h` is the turnover of the 24 hours before `timestamp`,
    `percent_change_24h` is in percent (1.5 means +1.5 %). None is "the source does not say".
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    symbol: Symbol
    name: Text | None
    asset_id: Text
    price_usd: Price
    volume_24h: Amount | None
    market_cap: Amount | None
    percent_change_24h: Change | None
    timestamp: datetime
    source: Text
    dataset: Annotated[str, StringConstraints(max_length=256)]
    interval: NotRequired[Text]
    open: NotRequired[Price]
    high: NotRequired[Price]
    low: NotRequired[Price]


VALUE_FIELDS = (
    "symbol",
    "name",
    "price_usd",
    "volume_24h",
    "market_cap",
    "percent_change_24h",
    "open",
    "high",
    "low",
)
"""What a record says. Two rows of one identity that agree in these are the same observation."""

_ADAPTER: TypeAdapter[list[Record]] = TypeAdapter(list[Record])


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one row cannot be a record."""

    row: int
    """The row's index in what was validated."""
    code: str
    """Stable reason code: pydantic's error type, or one of this module's own."""
    field: str
    message: str


def validate(
    candidates: Sequence[dict[str, Any]], *, now: datetime
) -> tuple[list[tuple[int, Record]], list[Fault]]:
    """Split candidates into records and faults; each candidate ends in exactly one of them.

    Args:
        candidates: dicts with the canonical names.
        now: the time against which "too far ahead" is judged: the receipt of the rows, so
            that the same rows are judged alike whenever they are replayed.

    Returns:
        (index, record) pairs in the order given, with aware UTC timestamps cut to whole
        milliseconds; and one fault for each other index.
    """
    faults: dict[int, Fault] = {}
    indexes: Sequence[int] = range(len(candidates))
    try:
        records = _ADAPTER.validate_python(list(candidates))
    except ValidationError as error:
        for e in error.errors(include_url=False, include_context=False):
            row = int(e["loc"][0])
            # The first fault of a row is its reason; further ones would only repeat the row.
            field = ".".join(str(part) for part in e["loc"][1:2])
            faults.setdefault(row, Fault(row, e["type"], field, _message(e["msg"], e["input"])))
        indexes = [i for i in range(len(candidates)) if i not in faults]
        records = _ADAPTER.validate_python([candidates[i] for i in indexes])

    good: list[tuple[int, Record]] = []
    latest = now + MAX_AHEAD
    for index, record in zip(indexes, records, strict=True):
        time = record["timestamp"]
        # A time without a zone is UTC: every source here documents UTC.
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
        # Compared as it came: near the years 1 and 9999 it has no counterpart in UTC.
        if time > latest:
            faults[index] = Fault(
                index,
                "timestamp_in_future",
                "timestamp",
                f"{time.isoformat()} is more than 24 h after {clock.iso(now)}, when it was "
                "received",
            )
        elif time < EARLIEST:
            faults[index] = Fault(
                index, "timestamp_too_early", "timestamp", f"{time.isoformat()} is before 1970"
            )
        else:
            time = time.astimezone(UTC)
            record["timestamp"] = time.replace(microsecond=time.microsecond // 1000 * 1000)
            good.append((index, record))
    return good, [faults[i] for i in sorted(faults)]


def _message(message: str, value: object) -> str:
    shown = repr(value)
    return f"{message} (is {shown if len(shown) <= 80 else shown[:77] + '...'})"  # noqa: PLR2004
