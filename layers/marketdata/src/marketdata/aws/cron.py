"""When a `cron(...)` expression of EventBridge fires.

Format: Amazon EventBridge User Guide, "Cron expressions": minutes, hours, day of month, month,
day of week (1 is Sunday), year; in UTC. Of the two days one is `?`.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

_EXPRESSION = re.compile(r"cron\(\s*(.*?)\s*\)", re.IGNORECASE)
_FIELDS = 6
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_YEARS = (1970, 2199)
_SEARCHED_DAYS = 8 * 366 + 2
"""Whatever fires at all does so within 8 years: the longest time between two leap years."""
_WEEK = _SUNDAY = 7
_SATURDAY = 6

type _Fits = Callable[[date], bool]


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression."""

    times: tuple[time, ...]
    """Of the days on which it fires, ascending."""
    fits: _Fits
    """Whether it fires on a day."""

    def after(self, moment: datetime) -> datetime | None:
        """The first firing after a time, in UTC; None if it fires no more."""
        moment = moment.astimezone(UTC)
        day = moment.date()
        for _ in range(_SEARCHED_DAYS):
            if self.fits(day):
                for at in self.times:
                    if (firing := datetime.combine(day, at, UTC)) > moment:
                        return firing
            if day == date.max:
                return None
            day += timedelta(days=1)
        return None


def parse(expression: str) -> Cron | None:
    """A `cron(...)` expression; None for what is none, or has a form that is not known here."""
    match = _EXPRESSION.fullmatch(expression.strip())
    fields = match[1].upper().split() if match else []
    if len(fields) != _FIELDS:
        return None
    try:
        minutes, hours = _numbers(fields[0], 0, 59), _numbers(fields[1], 0, 23)
        months, years = _numbers(fields[3], 1, 12, _MONTHS), _numbers(fields[5], *_YEARS)
        in_month, in_week = _days_of_month(fields[2]), _days_of_week(fields[4])
    except ValueError:
        return None

    def fits(day: date) -> bool:
        return day.year in years and day.month in months and in_month(day) and in_week(day)

    return Cron(
        tuple(time(hour, minute) for hour in sorted(hours) for minute in sorted(minutes)), fits
    )


def _numbers(field: str, first: int, last: int, names: list[str] | None = None) -> frozenset[int]:
    """The values that a field allows.

    Raises:
        ValueError: it has another form.
    """
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        low, dash, high = span.partition("-")
        begin = first if low == "*" else _number(low, first, last, names)
        end = last if low == "*" or step else begin
        if dash:
            end = _number(high, first, last, names)
        by = int(step) if step else 1
        if by < 1:
            raise ValueError(field)
        # A span such as FRI-MON goes on from the beginning.
        reach = end - begin if end >= begin else end - begin + (last - first + 1)
        found |= {first + (begin - first + n) % (last - first + 1) for n in range(0, reach + 1, by)}
    return frozenset(found)


def _number(text: str, first: int, last: int, names: list[str] | None) -> int:
    value = first + names.index(text) if names and text in names else int(text)
    if not first <= value <= last:
        raise ValueError(text)
    return value


def _days_of_month(field: str) -> _Fits:
    if field == "?":
        return lambda _: True
    if field == "L":
        return lambda day: day.day == _length(day)
    if field.endswith("W"):
        wanted = _number(field[:-1], 1, 31, None)
        return lambda day: day == _weekday_nearest(day, wanted)
    days = _numbers(field, 1, 31)
    return lambda day: day.day in days


def _weekday_nearest(day: date, wanted: int) -> date | None:
    """Of the month of a day, the weekday nearest to a day's number; it stays in that month."""
    if wanted > _length(day):
        return None
    target = day.replace(day=wanted)
    if target.isoweekday() == _SATURDAY:
        return target + timedelta(days=2) if wanted == 1 else target - timedelta(days=1)
    if target.isoweekday() == _SUNDAY:
        return target - timedelta(days=2) if wanted == _length(day) else target + timedelta(days=1)
    return target


def _days_of_week(field: str) -> _Fits:
    if field == "?":
        return lambda _: True
    if field == "L":
        return lambda day: _of_week(day) == _WEEK
    if field.endswith("L"):
        wanted = _number(field[:-1], 1, _WEEK, _DAYS)
        return lambda day: _of_week(day) == wanted and day.day + _WEEK > _length(day)
    if "#" in field:
        name, _, text = field.partition("#")
        wanted, nth = _number(name, 1, _WEEK, _DAYS), _number(text, 1, 5, None)
        return lambda day: _of_week(day) == wanted and (day.day - 1) // _WEEK + 1 == nth
    days = _numbers(field, 1, _WEEK, _DAYS)
    return lambda day: _of_week(day) in days


def _of_week(day: date) -> int:
    """1 is Sunday."""
    return day.isoweekday() % _WEEK + 1


def _length(day: date) -> int:
    return monthrange(day.year, day.month)[1]
