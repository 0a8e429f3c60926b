"""Whether values could be a field's next ones: compared with what its assets said last.

A name may lie, and values hardly can: what was 68,000 an hour ago is no market cap. Each value is
compared with the last one of the same asset, and the comparisons of all assets are taken together.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

FEWEST = 3
"""Assets that have to be compared before their values say anything."""
_LONGEST_AGE = timedelta(days=7)
"""Values from longer ago say nothing of today's."""
_FRESH = 3 * 3600.0
"""Seconds."""

NUMBERS = frozenset({"price_usd", "volume_24h", "market_cap", "percent_change_24h"})
TIME = "timestamp"

_SHORTEST_TIME = len("2026-01-01T00:00")
"""A date alone is no time of a price: all prices of its day would be one record."""
_LONGEST_TIME = 40
"""Characters of a number that may be a time; Python refuses to read very long ones."""
_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_EPOCHS = (
    ("epoch_s", 1e8, 1e11, 1_000_000_000),
    ("epoch_ms", 1e11, 1e14, 1_000_000),
    ("epoch_us", 1e14, 1e17, 1_000),
    ("epoch_ns", 1e17, 1e20, 1),
)
"""Units of numbers that are times since 1970: from, below, and nanoseconds in one."""

_NEAR = {"price_usd": 1.5, "market_cap": 1.5, "volume_24h": 5.0}
"""By which factor an asset's value may change from one time to the next."""
_TIGHT_FRESH = {"price_usd": 1.03, "market_cap": 1.05, "volume_24h": 1.6}
_TIGHT_LATER = {"price_usd": 1.06, "market_cap": 1.10, "volume_24h": 2.0}
"""By which factor the median of all assets may change, lest it could be another unit."""
_MOST_LOG = 700.0
"""Beyond it a factor is no double any more."""
_STABLE = 0.005
"""How far from one dollar a coin is that is pegged to it."""
_STABLE_MOVED = 0.01
_FEWEST_STABLE = 2
_POINTS = 3.0
"""Percentage points that a change of 24 hours moves from one time to the next."""


@dataclass(frozen=True, slots=True)
class Last:
    """What a source said last of one asset."""

    asset_id: str
    symbol: str
    name: str | None
    price_usd: float
    volume_24h: float | None
    market_cap: float | None
    percent_change_24h: float | None
    timestamp: datetime


def read(field: str, value: object) -> tuple[str, Any] | None:
    """A value as one of a field, with the way in which it is read; None if it can't be one.

    Ways: `same` as it comes, `text` for a number in a text, and `epoch_s`, `epoch_ms`, `epoch_us`,
    `epoch_ns` for times that count seconds or parts of them since 1970.
    """
    if field == TIME:
        return _time(value)
    if field not in NUMBERS:
        return ("same", value) if isinstance(value, str) and value.strip() else None
    if isinstance(value, bool):
        return None
    way = "text" if isinstance(value, str) else "same"
    if isinstance(value, str):
        if not _PLAIN_NUMBER.fullmatch(value.strip()):
            return None
        value = float(value)
    if not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return None
    return way, value


def time_of(value: object) -> datetime | None:
    """A value as a time, if it can be one."""
    found = _time(value)
    return found[1] if found else None


def _time(value: object) -> tuple[str, datetime] | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not _PLAIN_NUMBER.fullmatch(value.strip()):
            return _iso(value.strip())
        if len(value) > _LONGEST_TIME:
            return None
        value = float(value) if "." in value or "e" in value.lower() else int(value)
    if not isinstance(value, int | float):
        return None
    for way, first, end, nanoseconds in _EPOCHS:
        if first <= value < end:
            # Whole numbers stay whole: a double has no microseconds of today.
            since = timedelta(microseconds=int(value * nanoseconds) // 1_000)
            return way, datetime(1970, 1, 1, tzinfo=UTC) + since
    return None


def _iso(text: str) -> tuple[str, datetime] | None:
    if len(text) < _SHORTEST_TIME:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return "same", time if time.tzinfo else time.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What values say when they are compared with the last ones of the same assets."""

    compared: int
    """How many assets."""
    agreement: float
    """The share of them whose value may well follow the last one."""
    tight: bool
    """As a whole they are where they were: it is no other unit and no other currency."""
    factor: float = 1.0
    """The median of new by last values."""
    pegged_moved: bool = False
    """Coins that are pegged to the dollar moved with the others: it is another currency."""

    @property
    def says_something(self) -> bool:
        """Whether enough assets were compared."""
        return self.compared >= FEWEST


def compare(field: str, pairs: Sequence[tuple[Any, Last]], at: datetime) -> Comparison:
    """Compare values with the last ones of the same assets.

    Args:
        field: the canonical field that they might be.
        pairs: values, as `read` gives them, each with what was said last of its asset.
        at: the time that the values are of, or when they were received.
    """
    recent = [(value, last) for value, last in pairs if at - last.timestamp <= _LONGEST_AGE]
    if field == TIME:
        return _compare_times(recent, at)
    if field not in NUMBERS:
        return _compare_texts(field, recent)
    if field == "percent_change_24h":
        return _compare_changes(recent)
    return _compare_amounts(field, recent, at)


def _compare_times(pairs: Sequence[tuple[datetime, Last]], at: datetime) -> Comparison:
    earliest, latest = timedelta(minutes=1), at + timedelta(hours=24)
    good = sum(last.timestamp - earliest <= time <= latest for time, last in pairs)
    return Comparison(len(pairs), good / max(len(pairs), 1), tight=True)


def _compare_texts(field: str, pairs: Sequence[tuple[str, Last]]) -> Comparison:
    said = [(text, getattr(last, field)) for text, last in pairs]
    compared = [(text, before) for text, before in said if before is not None]
    good = sum(text.strip().casefold() == before.casefold() for text, before in compared)
    return Comparison(len(compared), good / max(len(compared), 1), tight=True)


def _compare_changes(pairs: Sequence[tuple[float, Last]]) -> Comparison:
    compared = [(v, b) for v, last in pairs if (b := last.percent_change_24h) is not None]
    if not compared:
        return Comparison(0, 0.0, tight=False)
    good = sum(abs(v - b) <= max(_POINTS, abs(b) / 2) for v, b in compared)
    size, before = median(abs(v) for v, _ in compared), median(abs(b) for _, b in compared)
    # If nothing moves in a day, the values are old or unknown, which is no other unit.
    factor = size / before if before and size else 1.0
    return Comparison(
        len(compared),
        good / len(compared),
        tight=0.33 <= factor <= 3,  # noqa: PLR2004 - fractions in place of percents are 0.01
        factor=factor,
    )


def _compare_amounts(field: str, pairs: Sequence[tuple[float, Last]], at: datetime) -> Comparison:
    ratios = [
        (math.log(value / before), last)
        for value, last in pairs
        if value > 0 and (before := getattr(last, field)) is not None and before > 0
    ]
    if not ratios:
        return Comparison(0, 0.0, tight=False)
    logs = [ratio for ratio, _ in ratios]
    near = math.log(_NEAR[field])
    good = sum(abs(ratio) <= near for ratio in logs)
    middle = median(logs)
    fresh = median((at - last.timestamp).total_seconds() for _, last in ratios) <= _FRESH
    limit = math.log((_TIGHT_FRESH if fresh else _TIGHT_LATER)[field])
    moved = _pegged_moved(ratios) if field == "price_usd" else None
    return Comparison(
        len(logs),
        good / len(logs),
        # Where pegged coins tell that it is dollars, the others may move together.
        tight=abs(middle) <= limit if moved is None else not moved and abs(middle) <= 2 * near,
        factor=math.exp(max(-_MOST_LOG, min(middle, _MOST_LOG))),
        pegged_moved=bool(moved),
    )


def _pegged_moved(ratios: Sequence[tuple[float, Last]]) -> bool | None:
    """Whether coins that are pegged to the dollar have moved; None if there are too few."""
    pegged = [ratio for ratio, last in ratios if abs(last.price_usd - 1) <= _STABLE]
    if len(pegged) < _FEWEST_STABLE:
        return None
    return abs(median(pegged)) > math.log(1 + _STABLE_MOVED)


_SHIFTED_FRESH = {"price_usd": 1.08, "market_cap": 2.0, "volume_24h": 5.0}
_SHIFTED_LATER = {"price_usd": 1.25, "market_cap": 3.0, "volume_24h": 8.0}
_FEWEST_SHIFTED = 10
_FRACTION = 0.05
"""The size of changes in 24 hours, compared with before, below which they are fractions."""


def shifted(field: str, pairs: Sequence[tuple[Any, Last]], at: datetime) -> float | None:
    """By which factor all values of a field moved at once, as with another unit or currency.

    None if they did not, or if too few can be compared to tell. Coins pegged to the dollar decide
    where there are at least two: markets move without them, and currencies do not.
    """
    found = compare(field, pairs, at)
    if found.compared < _FEWEST_SHIFTED:
        return None
    if field == "percent_change_24h":
        return found.factor if found.factor < _FRACTION or found.factor > 1 / _FRACTION else None
    if found.pegged_moved:
        return found.factor
    age = median((at - last.timestamp).total_seconds() for _, last in pairs)
    limit = math.log((_SHIFTED_FRESH if age <= _FRESH else _SHIFTED_LATER)[field])
    if field == "price_usd" and found.tight:
        return None
    return found.factor if abs(math.log(found.factor)) > limit else None


def by_ten(factor: float) -> int | None:
    """The power of ten that a factor is, but for a few percent; None if it is none."""
    exponent = round(math.log10(factor))
    if exponent and abs(math.log(factor / 10.0**exponent)) <= math.log(1.1):
        return exponent
    return None
