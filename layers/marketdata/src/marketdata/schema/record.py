"""The canonical record and its validation in bulk, a column at a time.

A *table* holds rows under canonical names, as a source's mapping made them, one sequence of
values per field. Each column is validated in one pydantic-core call; where a column repeats
itself, as symbols and times do, only its distinct values are. A batch with bad rows pays a
second call over the good ones.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import isnan
from typing import Annotated, Any, NotRequired, TypedDict

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from marketdata import clock
from marketdata.schema.texts import NO_NAME, NOTHING, all_visible, visible

MAX_AHEAD = timedelta(hours=24)
"""A price further in the future than this would stay "the latest" for ever."""

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_AFTER_EARLIEST = EARLIEST + timedelta(milliseconds=1)
"""What is below is the same as `EARLIEST` once times are cut to milliseconds."""

_Finite = Field(allow_inf_nan=False)
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256)]
Symbol = Annotated[
    str, StringConstraints(strip_whitespace=True, to_upper=True, min_length=1, max_length=64)
]
Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Change = Annotated[float, _Finite]
LONGEST_DATASET = 256
"""Characters of a data set's name."""
Dataset = Annotated[str, StringConstraints(max_length=LONGEST_DATASET)]


class Record(TypedDict):
    """One normalised observation of one asset by one source.

    Money is in US dollars, `volume_24h` is the turnover of the 24 hours before `timestamp`,
    `percent_change_24h` is in percent (1.5 means +1.5 %). Of a candle, `interval` says how long it
    is, `volume` is its own turnover where that is not 24 hours, and `base_volume` is its volume in
    units of the asset (coins, shares). `quote` is the coin that prices were really quoted in, if it
    is a stablecoin. None is "the source does not say".
    """

    symbol: Symbol
    name: Text | None
    asset_id: Text
    price_usd: Price
    volume_24h: Amount | None
    market_cap: Amount | None
    percent_change_24h: Change | None
    timestamp: datetime
    source: Text
    dataset: Dataset
    interval: NotRequired[Text]
    open: NotRequired[Price]
    high: NotRequired[Price]
    low: NotRequired[Price]
    volume: NotRequired[Amount]
    base_volume: NotRequired[Amount]
    quote: NotRequired[Text]


FIELDS = tuple(Record.__annotations__)
"""The fields of a record, in the order in which documents have them."""
OPTIONAL = ("interval", "open", "high", "low", "volume", "base_volume", "quote")
"""Fields that a record does not have at all, rather than as null."""

NULLABLE = frozenset({"name", "volume_24h", "market_cap", "percent_change_24h", *OPTIONAL})
"""Fields that a row need not say."""
_TEXTS = ("symbol", "name", "asset_id", "quote")
"""Texts that people read, and by which assets are told apart."""

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
    "volume",
    "base_volume",
    "quote",
)
"""What a record says. Two rows of one identity that agree in these are the same observation."""

type Columns = Mapping[str, Sequence[Any]]

_ADAPTERS: Mapping[str, TypeAdapter[list[Any]]] = {
    "symbol": TypeAdapter(list[Symbol]),
    "name": TypeAdapter(list[Text | None]),
    "asset_id": TypeAdapter(list[Text]),
    "price_usd": TypeAdapter(list[Price]),
    "volume_24h": TypeAdapter(list[Amount | None]),
    "market_cap": TypeAdapter(list[Amount | None]),
    "percent_change_24h": TypeAdapter(list[Change | None]),
    "timestamp": TypeAdapter(list[datetime]),
    "source": TypeAdapter(list[Text]),
    "dataset": TypeAdapter(list[Dataset]),
    "interval": TypeAdapter(list[Text | None]),
    "open": TypeAdapter(list[Price | None]),
    "high": TypeAdapter(list[Price | None]),
    "low": TypeAdapter(list[Price | None]),
    "volume": TypeAdapter(list[Amount | None]),
    "base_volume": TypeAdapter(list[Amount | None]),
    "quote": TypeAdapter(list[Text | None]),
}
_REPETITIVE = frozenset(
    {"symbol", "name", "asset_id", "timestamp", "source", "dataset", "interval", "quote"}
)
_SPARED = NULLABLE - {"interval"}
"""Fields of which a bad value costs no row: it becomes None, and is told as a finding. (An interval
is a part of what a record is.)"""
_TEXT_OR_NONE = frozenset({str, type(None)})


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one row cannot be a record."""

    row: int
    """The row's index in what was validated."""
    code: str
    """Stable reason code: pydantic's error type, or one of this module's own."""
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class BadCell:
    """A value of an optional field that says nothing understandable; its row does without."""

    row: int
    """The row's index in what was validated."""
    field: str
    code: str
    """Stable reason code."""
    value: str
    """What is there, in short."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under canonical names, not validated yet."""

    columns: Columns
    """Each field's values, one per row; None where the row does not say it. A column that is
    missing is a defect of the mapping, except for the optional ones."""
    rows: int
    faults: Mapping[int, Fault]
    """What is known to be wrong already, by row; these rows are not validated."""
    bad_cells: Sequence[BadCell] = ()
    """Values of optional fields that are known to be none; they are None in the columns."""


@dataclass(frozen=True, slots=True)
class Observations:
    """Rows that are records, a column at a time."""

    columns: Columns
    """In the order of `FIELDS`; of the optional ones those that some row has, None elsewhere.
    Timestamps are aware, in UTC, cut to whole milliseconds."""
    places: Sequence[int]
    """The index of each record's row in the table."""
    bad_cells: Sequence[BadCell] = ()
    """Values of optional fields that these records do without; the row is that of the table."""

    def __len__(self) -> int:
        """The number of records."""
        return len(self.places)


def table_of(candidates: Sequence[Mapping[str, Any]]) -> Table:
    """Rows that came as dicts with the canonical names.

    A name that no record has and a name that is not there are defects of a source's mapping;
    they end in the row's fault, as a row that can't be understood does.
    """
    known = set(FIELDS)
    needed = [field for field in FIELDS if field not in OPTIONAL]
    faults: dict[int, Fault] = {}
    for row, candidate in enumerate(candidates):
        for field in needed:
            if field not in candidate:
                faults.setdefault(row, Fault(row, "missing", field, "Field required"))
        for field in candidate.keys() - known:
            message = f"No record has a field {field!r}"
            faults.setdefault(row, Fault(row, "extra_forbidden", field, message))
    said = [*needed, *(f for f in OPTIONAL if any(f in candidate for candidate in candidates))]
    columns = {field: [candidate.get(field) for candidate in candidates] for field in said}
    for field in NULLABLE & columns.keys():
        nothing = NO_NAME if field in _TEXTS else NOTHING
        columns[field] = [None if _says_nothing(v, nothing) else v for v in columns[field]]
    return Table(columns, len(candidates), faults)


def _says_nothing(value: object, nothing: Container[str]) -> bool:
    """Whether a value is how programs write that there is none."""
    if isinstance(value, float):
        return isnan(value)
    return isinstance(value, str) and value.strip() in nothing


def validate(table: Table, *, now: datetime) -> tuple[Observations, list[Fault]]:
    """Split rows into records and faults; each row ends in exactly one of them.

    Args:
        table: the rows.
        now: the time against which "too far ahead" is judged: the receipt of the rows, so
            that the same rows are judged alike whenever they are loaded again.

    Returns:
        The records in the order of rows, and one fault for each other row, in that order, too.
    """
    faults = dict(table.faults)
    left: Columns = table.columns
    places: Sequence[int] = range(table.rows)
    found: Mapping[int, Fault] = table.faults
    while True:
        if found:
            places, left = _without(places, left, found)
        bad_cells: list[BadCell] = []
        validated, found = _validate(left, now, bad_cells)
        if not found:
            cells = [replace(cell, row=places[cell.row]) for cell in bad_cells]
            known = [cell for cell in table.bad_cells if cell.row not in faults]
            observations = Observations(validated, places, [*known, *cells])
            return observations, [faults[row] for row in sorted(faults)]
        # The rows that are left are validated again. Nearly always they pass; but a time that
        # can't be read keeps times that are too far ahead from being seen at first.
        for row, fault in found.items():
            faults[places[row]] = Fault(places[row], fault.code, fault.field, fault.message)


def _without(
    places: Sequence[int], columns: Columns, rows: Mapping[int, Any]
) -> tuple[Sequence[int], Columns]:
    """Places and columns without some rows, given by their index in them."""
    keep = [row for row in range(len(places)) if row not in rows]
    return (
        [places[row] for row in keep],
        {field: [values[row] for row in keep] for field, values in columns.items()},
    )


def _validate(
    columns: Columns, now: datetime, bad_cells: list[BadCell]
) -> tuple[Columns, dict[int, Fault]]:
    """Columns as validation leaves them, and the faults of rows; with any, columns are not good."""
    faults: dict[int, Fault] = {}
    validated: dict[str, Sequence[Any]] = {}
    for field in FIELDS:
        if field in columns:
            bad = dict[int, Fault]() if field in _SPARED else faults
            values = columns[field]
            if field in _TEXTS and not all_visible(values):
                values = _visible(field, values, bad)
            # The first fault of a row is its reason; further ones would only repeat the row.
            read = _column(field, values, now, bad)
            if field in _SPARED and bad:
                spared = [None if row in bad else value for row, value in enumerate(values)]
                read = _column(field, spared, now, faults)
                bad_cells += [
                    BadCell(row, field, bad[row].code, shown(columns[field][row]))
                    for row in sorted(bad)
                ]
            validated[field] = read
    if not faults:
        _judge_candles(validated, faults)
        _forget_unknown_caps(validated)
    return validated, faults


def shown(value: object) -> str:
    """The beginning of a value, as a text that can be stored."""
    text = (value if isinstance(value, str) else repr(value))[:_LONGEST_SHOWN]
    return text.encode("utf-8", "backslashreplace").decode()[:_LONGEST_SHOWN]


_LONGEST_SHOWN = 80


def _judge_candles(columns: Columns, faults: dict[int, Fault]) -> None:
    """A candle whose low is above its high is none: which of its numbers is right, nobody knows.

    A price outside of its candle stays: publishers round, and adjust closes and not the rest.
    """
    if "low" not in columns or "high" not in columns:
        return
    for row, (low, high) in enumerate(zip(columns["low"], columns["high"], strict=True)):
        if low is not None and high is not None and low > high:
            message = f"The lowest price, {low}, is above the highest one, {high}"
            faults[row] = Fault(row, "low_above_high", "low", message)


def _forget_unknown_caps(columns: dict[str, Sequence[Any]]) -> None:
    """A market cap of 0 beside a price is how sources write that they do not know it."""
    caps = columns.get("market_cap", ())
    if 0.0 in caps:
        columns["market_cap"] = [cap or None for cap in caps]


def _visible(field: str, values: Sequence[Any], faults: dict[int, Fault]) -> Sequence[Any]:
    """A column of texts without the characters that nobody sees."""
    seen: dict[str, str | None] = {v: visible(v) for v in set(filter(_is_text, values))}
    for row, value in enumerate(values):
        if isinstance(value, str) and seen[value] is None:
            message = _message("A control character stands within the text", value)
            faults.setdefault(row, Fault(row, "control_character", field, message))
    read = [seen[v] if isinstance(v, str) else v for v in values]
    return [None if v == "" and field in NULLABLE else v for v in read]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _column(
    field: str, values: Sequence[Any], now: datetime, faults: dict[int, Fault]
) -> Sequence[Any]:
    # Only of texts: 1, 1.0 and True are equal, and not the same to validation.
    if field in _REPETITIVE and set(map(type, values)) <= _TEXT_OR_NONE:
        distinct = list(dict.fromkeys(values))
        if 2 * len(distinct) < len(values):
            return _repetitive(field, values, distinct, now, faults)
    return _read(field, values, now, faults)


def _repetitive(
    field: str,
    values: Sequence[Any],
    distinct: Sequence[Any],
    now: datetime,
    faults: dict[int, Fault],
) -> Sequence[Any]:
    """A column by its distinct values."""
    bad: dict[int, Fault] = {}
    read = _read(field, distinct, now, bad)
    if bad:
        by_value = {distinct[place]: fault for place, fault in bad.items()}
        for row, value in enumerate(values):
            if value in by_value:
                fault = by_value[value]
                faults.setdefault(row, Fault(row, fault.code, field, fault.message))
        return values
    if read == distinct:
        return values
    return list(map(dict(zip(distinct, read, strict=True)).__getitem__, values))


def _read(
    field: str, values: Sequence[Any], now: datetime, faults: dict[int, Fault]
) -> Sequence[Any]:
    try:
        read = _ADAPTERS[field].validate_python(values)
    except ValidationError as error:
        for e in error.errors(include_url=False, include_context=False):
            row = int(e["loc"][0])
            message = _message(e["msg"], e["input"])
            faults.setdefault(row, Fault(row, e["type"], field, message))
        return values
    return _times(read, now, faults) if field == "timestamp" else read


def _times(
    times: Iterable[datetime], now: datetime, faults: dict[int, Fault]
) -> Sequence[datetime]:
    """Times in UTC and whole milliseconds."""
    latest = now + MAX_AHEAD
    read = []
    for row, came in enumerate(times):
        # A time without a zone is UTC: every source here documents UTC.
        time = came.replace(tzinfo=UTC) if came.tzinfo is None else came
        # Compared as it came: near the years 1 and 9999 it has no counterpart in UTC.
        if time > latest:
            message = (
                f"{time.isoformat()} is more than 24 h after {clock.iso(now)}, when it was received"
            )
            faults.setdefault(row, Fault(row, "timestamp_in_future", "timestamp", message))
        elif EARLIEST <= time < _AFTER_EARLIEST:
            message = "1970-01-01T00:00:00Z is how programs write a time that they do not know"
            faults.setdefault(row, Fault(row, "timestamp_unknown", "timestamp", message))
        elif time < EARLIEST:
            message = f"{time.isoformat()} is before 1970"
            faults.setdefault(row, Fault(row, "timestamp_too_early", "timestamp", message))
        else:
            time = time.astimezone(UTC)
            cut = time.microsecond % 1000
            read.append(time.replace(microsecond=time.microsecond - cut) if cut else time)
    return read


def _message(message: str, value: object) -> str:
    shown = repr(value)
    return f"{message} (is {shown if len(shown) <= 80 else shown[:77] + '...'})"  # noqa: PLR2004
