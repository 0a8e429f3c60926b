"""Times as people and programs write them, and the order of days and months.

What is read becomes a text that validation reads as that very instant: ISO 8601, or Unix time of 10
or 13 digits. A time without a zone is UTC. Fractions of a second are cut to microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Self

from marketdata.csv_files.numbers import BLANK
from marketdata.documents.questions import DayOrder
from marketdata.documents.raw_batches import StoredTimes


@dataclass(frozen=True, slots=True)
class TimeForm:
    """How the times of a file are written, where that has to be known."""

    order: str = ""
    """`day_first`, `month_first`, or empty where no date needs it."""
    serial: bool = False
    """Plain numbers are a spreadsheet's days."""

    def document(self) -> StoredTimes:
        """The stored form."""
        return {"order": self.order, "serial": self.serial}

    @classmethod
    def of(cls, stored: StoredTimes) -> Self:
        """The form that was stored."""
        return cls(stored["order"], stored["serial"])


_ISO_PLAIN = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII
)
_EPOCH_LENGTHS = {10, 13}
_EPOCH = re.compile(r"([1-9]\d{8,18})(?:\.(\d*))?", re.ASCII)
_EPOCH_UNITS = {9: 1, 10: 1, 13: 10**3, 16: 10**6, 19: 10**9}
"""Units in a second, by the number of digits: seconds to 2286, and so on."""
_SECONDS_DIGITS = 10
_FEWEST_DIGITS = 7
"""Of an exponent form in a column in which others have all ten."""
_EXPONENT = re.compile(r"([1-9])(?:\.(\d+))?[eE]\+?(\d{1,2})", re.ASCII)
_SERIAL = re.compile(r"[2-7]\d{4}(?:\.\d+)?", re.ASCII)
_WHOLE_DAYS = re.compile(r"[2-7]\d{4}", re.ASCII)
_SERIAL_BEGIN = datetime(1899, 12, 30, tzinfo=UTC)
"""Day 0 of spreadsheets, from day 60 on."""
_ZERO = "1970-01-01T00:00:00Z"

_CLOCK = (
    r"(?P<h>\d{1,2})(?=:|[\s-]*[AaPp]\.?[Mm])"
    r"(?::(?P<m>\d\d)(?::(?P<s>\d\d)(?:[.,](?P<f>\d{1,9}))?)?)?"
    r"(?:[\s-]*(?P<half>[AaPp]\.?[Mm]\.?))?"
)
_ZONE = r"(?:\s*(?P<z>Z|z|UTC|GMT)?\s*(?P<o>[+-]\d\d(?::?\d\d)?)?(?:\s*\([^)]*\))?)"
_TAIL = rf"(?:(?:,?\s+|T|,\s*|\s+at\s+|:){_CLOCK}{_ZONE})?(?:\s*(?:Z|UTC|GMT))?"
_WEEKDAY = r"(?:[A-Za-zÀ-ÿ]{2,10}\.?,?\s+)?"
_YEAR_FIRST = re.compile(
    rf"(?P<y>\d{{4}})[-/.](?P<mo>\d{{1,2}})[-/.](?P<d>\d{{1,2}}){_TAIL}", re.ASCII
)
_BASIC = re.compile(
    r"(?P<y>\d{4})(?P<mo>\d\d)(?P<d>\d\d)"
    r"(?:[T ]?(?P<h>\d\d):?(?P<m>\d\d):?(?P<s>\d\d)?(?:[.,](?P<f>\d{1,9}))?"
    r"\s*(?P<z>Z|UTC|GMT)?(?P<o>[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
_ORDERED = re.compile(
    rf"(?P<a>\d{{1,2}})(?P<sep>[/.-])(?P<b>\d{{1,2}})(?P=sep)(?P<y>\d{{4}}|\d\d){_TAIL}", re.ASCII
)
_NAMED_DAY_FIRST = re.compile(
    rf"{_WEEKDAY}(?P<d>\d{{1,2}})(?:st|nd|rd|th|\.)?[\s-]+(?:de\s+)?(?P<name>[A-Za-zÀ-ÿ]{{3,10}})\.?,?[\s-]+"
    rf"(?:de\s+)?(?P<y>\d{{4}}|'?\d\d)(?!\d){_TAIL}"
)
_NAMED_MONTH_FIRST = re.compile(
    rf"{_WEEKDAY}(?P<name>[A-Za-zÀ-ÿ]{{3,10}})\.?[\s-]+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?[\s-]+"
    rf"(?P<y>\d{{4}}|'?\d\d(?!:)){_TAIL}"
)
_ASCTIME = re.compile(
    rf"{_WEEKDAY}(?P<name>[A-Za-z]{{3}})\s+(?P<d>\d{{1,2}})\s+{_CLOCK}{_ZONE}\s+(?P<y>\d{{4}})"
)
_CLOCK_ALONE = re.compile(rf"{_CLOCK}{_ZONE}")
_CLOCK_SHORT = re.compile(r"(?P<h>\d{1,2})\s*(?P<half>[AaPp]\.?[Mm]\.?)")
_CLOCK_BASIC = re.compile(r"(?P<h>\d\d)(?P<m>\d\d)(?P<s>\d\d)?", re.ASCII)
_DAY_FIRST_COLUMN = re.compile(r"(?:[0-3]\d([/.-])[01]\d\1\d{4}(?:\n|\Z))*+", re.ASCII)

_NAMES = (
    "january jan januar janvier enero gennaio janeiro ene genn",
    "february feb februar février fevrier febrero febbraio fevereiro fév fev febr",
    "march mar märz maerz mars marzo março mär mrz",
    "april apr avril abril aprile avr abr",
    "may mai mayo maggio maio mag",
    "june jun juni juin junio giugno junho giu",
    "july jul juli juillet julio luglio julho juil lug",
    "august aug août aout agosto ago",
    "september sep sept septembre septiembre settembre setembro set",
    "october oct oktober okt octobre octubre ottobre outubro ott out",
    "november nov novembre noviembre novembro",
    "december dec dezember dez décembre decembre diciembre dicembre dezembro dic déc",
)
_MONTHS = {name: index + 1 for index, names in enumerate(_NAMES) for name in names.split()}
_FIRST_YEAR, _LAST_YEAR = 1900, 2200
_PIVOT = 69
"""Years of two digits up to it are of this century (POSIX)."""
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class TimeEvidence:
    """What the cells of a column say of its times."""

    times: int
    blanks: int
    others: int
    day_first: bool
    """Each date whose order has to be known can have the day first."""
    month_first: bool
    """Each can have the month first."""
    ordered: bool
    """Some dates need an order at all."""
    example: str | None
    """One of them, if possible one that can be both."""
    dates_alone: bool
    """Each time is a date without a time of day."""
    clock_only: bool
    """Each cell is a time of day: it belongs to a date."""
    constant: bool
    """Each cell says the same."""
    serial: bool
    """The numbers can be a spreadsheet's days."""
    unsure: str | None
    """Why the times are not exact."""


def examine(cells: Sequence[str]) -> TimeEvidence:  # noqa: C901 - one look at each kind
    """What the cells of a column say of its times."""
    day_first = month_first = True
    dates = clocks = serials = blanks = others = times = 0
    example: str | None = None
    both: str | None = None
    unsure: str | None = None
    distinct: dict[str, int] = {}
    for cell in cells:
        text = cell.strip()
        distinct[text] = distinct.get(text, 0) + 1
    said, exact = 0, False
    whole_days = bool(distinct) and all(t in BLANK or _WHOLE_DAYS.fullmatch(t) for t in distinct)
    for text, count in distinct.items():
        if text in BLANK:
            blanks += count
            continue
        said += 1
        if _SERIAL.fullmatch(text):
            serials += count
            continue
        if _is_clock(text):
            clocks += count
            continue
        ordered = _ORDERED.fullmatch(text)
        if ordered is not None:
            a, b = int(ordered["a"]), int(ordered["b"])
            by_day, by_month = _valid(ordered, a, b), _valid(ordered, b, a)
            if not by_day and not by_month:
                others += count
                continue
            day_first, month_first = day_first and by_day, month_first and by_month
            example = example or text
            if by_day and by_month and a != b:
                both = both or text
        elif (exponent := _EXPONENT.fullmatch(text)) is not None:
            digits = len(exponent[1] + (exponent[2] or ""))
            exact = exact or digits >= _SECONDS_DIGITS
            unsure = unsure or f"{text!r} has too few digits to say the second."
        elif _read(text, TimeForm()) is None:
            others += count
            continue
        times += count
        dates += count * _is_date_alone(text)
    if example is not None and day_first and month_first:
        # 05/05/2025 is the same day either way.
        example = both
    return TimeEvidence(
        times + clocks,
        blanks,
        others + (0 if not times and not clocks else serials),
        day_first,
        month_first,
        example is not None,
        example,
        (bool(times) and dates == times and not clocks) or whole_days,
        bool(clocks) and not times,
        said == 1,
        bool(serials) and not times and not clocks and not others,
        None if exact else unsure,
    )


def _is_date_alone(text: str) -> bool:
    """Whether a time says no time of day."""
    if ":" in text or _EPOCH.fullmatch(text) or _EXPONENT.fullmatch(text):
        basic = _BASIC.fullmatch(text)
        return basic is not None and basic["h"] is None and len(text) == _BASIC_DATE
    basic = _BASIC.fullmatch(text)
    return basic is None or basic["h"] is None


_BASIC_DATE = 8


def _is_clock(text: str) -> bool:
    found = _CLOCK_ALONE.fullmatch(text) or _CLOCK_SHORT.fullmatch(text)
    return found is not None and _clock_of(found) is not None


def order_of(evidence: TimeEvidence, cells: Sequence[str]) -> DayOrder | None:
    """Whether dates begin with the day or the month; None if nothing in the column settles it.

    A part above 12 does. If there is none, times that go on in equal steps under one order, and
    leap about under the other, do. Dates with dots begin with the day wherever they are written.
    """
    if not evidence.ordered or evidence.day_first != evidence.month_first:
        return (
            None if not evidence.ordered else "day_first" if evidence.day_first else "month_first"
        )
    if not evidence.day_first:
        return None
    texts = [cell.strip() for cell in cells]
    ordered = [found for text in texts if (found := _ORDERED.fullmatch(text)) is not None]
    if ordered and all(found["sep"] == "." for found in ordered):
        return "day_first"
    steady = {
        order
        for order in ("day_first", "month_first")
        if _is_steady(_dates(ordered, day_first=order == "day_first"))
    }
    if steady == {"day_first"}:
        return "day_first"
    return "month_first" if steady == {"month_first"} else None


def _dates(found: Iterable[re.Match[str]], *, day_first: bool) -> list[date]:
    dates = []
    for match in found:
        a, b = int(match["a"]), int(match["b"])
        day, month = (a, b) if day_first else (b, a)
        try:
            dates.append(date(_year(match["y"]), month, day))
        except ValueError:
            # No date in either order: the row is set aside.
            continue
    return dates


_ENOUGH_STEPS = 3
_LONGEST_STEP = timedelta(days=7)


def _is_steady(dates: Sequence[date]) -> bool:
    """Whether dates go on, or back, in steps of a few days at most."""
    steps = [later - earlier for earlier, later in pairwise(dates)]
    if len(set(dates)) < _ENOUGH_STEPS:
        return False
    zero = timedelta(0)
    one_way = all(step >= zero for step in steps) or all(step <= zero for step in steps)
    return one_way and all(abs(step) <= _LONGEST_STEP for step in steps)


def read(
    values: Sequence[str], form: TimeForm, clocks: Sequence[str] | None = None
) -> tuple[Sequence[str | None], dict[int, str]]:
    """A column of times as texts that validation reads as these instants.

    Args:
        values: the cells.
        form: how they are written, where that has to be known.
        clocks: of each cell the time of day that belongs to its date, in a column of its own.

    Returns:
        The texts, None where a cell is no time; and of those the reason, by index.
    """
    if clocks is not None:
        return _read_joined(values, form, clocks)
    together = "".join(values)
    if (
        together.isdecimal()
        and together.isascii()
        and set(map(len, values)) <= _EPOCH_LENGTHS
        and min(values) >= "1"
    ):
        return values, {}
    if form.order == "day_first":
        quick = _read_day_first(values)
        if quick is not None:
            return quick, {}
    return _by_value(values, lambda text: _read(text, form))


def _by_value(
    values: Sequence[str], reading: Callable[[str], str | None]
) -> tuple[Sequence[str | None], dict[int, str]]:
    known: dict[str, str | None] = {}
    for value in set(values):
        text = value.strip()
        known[value] = text if _ISO_PLAIN.fullmatch(text) else reading(text)
    bad: dict[int, str] = {}
    if None in known.values():
        for index, value in enumerate(values):
            if known[value] is None:
                bad[index] = (
                    "A time is ISO 8601 (2025-05-09T06:00:00Z, UTC where no zone is given), a date "
                    "of which the whole file says what comes first, or Unix time of 10 digits "
                    f"(seconds), 13, 16 or 19 (is {value[:_SHOWN]!r})"
                )
    return list(map(known.__getitem__, values)), bad


def _read_day_first(values: Sequence[str]) -> list[str] | None:
    """Dates like 31/12/2025 all at once; None if some are not like that."""
    together = "\n".join(values)
    if not values or not _DAY_FIRST_COLUMN.fullmatch(together):
        return None
    found = [f"{value[6:]}-{value[3:5]}-{value[:2]}" for value in values]
    # Days that a month does not have are left to validation, which says so.
    return found if all("01" <= value[5:7] <= "12" for value in found) else None


def _read_joined(
    values: Sequence[str], form: TimeForm, clocks: Sequence[str]
) -> tuple[Sequence[str | None], dict[int, str]]:
    joined = [
        f"{value.strip()}\n{clock.strip()}" for value, clock in zip(values, clocks, strict=True)
    ]

    def reading(text: str) -> str | None:
        day, _, clock = text.partition("\n")
        found = _read(day, form)
        if found is None or clock in BLANK:
            return found if clock in BLANK else None
        at = _joined_clock(clock)
        if at is None or "T" in found or found.isdecimal():
            return None
        return _instant(datetime.fromisoformat(found), *at)

    return _by_value(joined, reading)


def _joined_clock(text: str) -> tuple[int, int, int, str, str] | None:
    found = (
        _CLOCK_ALONE.fullmatch(text) or _CLOCK_SHORT.fullmatch(text) or _CLOCK_BASIC.fullmatch(text)
    )
    if found is None and text.isdecimal() and len(text) < 6:  # noqa: PLR2004 - 93000 is 9:30
        found = _CLOCK_BASIC.fullmatch(text.zfill(6 if len(text) > 4 else 4))  # noqa: PLR2004
    return None if found is None else _clock_of(found)


def _read(text: str, form: TimeForm) -> str | None:
    """One time as a text that validation reads; None if it is none."""
    if text in ("0", "0.0"):
        return _ZERO
    if form.serial and _SERIAL.fullmatch(text):
        return _serial(text)
    return (
        _read_digits(text)
        if text[:1].isdigit() and text.isascii() and not _parted(text)
        else (_read_parted(text, form))
    )


def _parted(text: str) -> bool:
    """Whether signs part the date in a time."""
    return (
        any(sign in text for sign in "/-")
        or text.count(".") > 1
        or any(c.isalpha() and c not in "eETZUCGM" for c in text)
    )


def _read_digits(text: str) -> str | None:
    """A time of digits: 20250509T060000Z, or an epoch."""
    basic = _BASIC.fullmatch(text)
    if (
        basic is not None
        and _FIRST_YEAR <= int(basic["y"]) <= _LAST_BASIC_YEAR
        and len(text) not in _EPOCH_LENGTHS
    ):
        return _date_time(basic, int(basic["y"]), int(basic["mo"]), int(basic["d"]))
    epoch = _EPOCH.fullmatch(text)
    if epoch is not None:
        return _epoch(epoch[1], epoch[2] or "")
    exponent = _EXPONENT.fullmatch(text)
    return None if exponent is None else _from_exponent(exponent)


_LAST_BASIC_YEAR = 2100


def _read_parted(text: str, form: TimeForm) -> str | None:
    """A time whose date is parted: 2025-05-09, 9/5/2025, 9 May 2025."""
    basic = _BASIC.fullmatch(text)
    if basic is not None:
        return _date_time(basic, int(basic["y"]), int(basic["mo"]), int(basic["d"]))
    found = _YEAR_FIRST.fullmatch(text)
    if found is not None:
        return _date_time(found, int(found["y"]), int(found["mo"]), int(found["d"]))
    found = _ORDERED.fullmatch(text)
    if found is not None:
        return _ordered(found, form)
    for pattern in (_NAMED_DAY_FIRST, _NAMED_MONTH_FIRST, _ASCTIME):
        found = pattern.fullmatch(text)
        if found is not None and found["name"].casefold() in _MONTHS:
            month = _MONTHS[found["name"].casefold()]
            return _date_time(found, _year(found["y"].lstrip("'")), month, int(found["d"]))
    return None


def _epoch(digits: str, fraction: str) -> str | None:
    units = _EPOCH_UNITS.get(len(digits))
    if units is None:
        return None
    if units == 1 and not fraction.strip("0"):
        return digits if len(digits) == _SECONDS_DIGITS else _iso_of(int(digits) * 10**6)
    if units == 10**3 and not fraction.strip("0"):
        return digits
    micros = int(Decimal(f"{digits}.{fraction or '0'}") * 10**6 / units)
    return _iso_of(micros)


def _iso_of(micros: int) -> str:
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    return time.isoformat().replace("+00:00", "Z")


def _from_exponent(found: re.Match[str]) -> str | None:
    """`1.7467704E+09`, whose last zeros were dropped; digits that were rounded away are others'."""
    exponent = int(found[3])
    digits = found[1] + (found[2] or "")
    length = exponent + 1
    if length not in _EPOCH_UNITS or len(digits) < _FEWEST_DIGITS:
        return None
    whole = digits.ljust(length, "0")
    return _epoch(whole[:length], whole[length:])


def _serial(text: str) -> str:
    seconds = round(Decimal(text) * 86_400)
    time = _SERIAL_BEGIN + timedelta(seconds=int(seconds))
    return time.strftime("%Y-%m-%d") if "." not in text else time.isoformat().replace("+00:00", "Z")


def _ordered(found: re.Match[str], form: TimeForm) -> str | None:
    a, b = int(found["a"]), int(found["b"])
    if form.order == "day_first":
        day, month = a, b
    elif form.order == "month_first" or a == b:
        day, month = b, a
    else:
        # Nobody has said; a part above 12 settles this one date.
        day, month = (a, b) if a > 12 else (b, a) if b > 12 else (0, 0)  # noqa: PLR2004
    return _date_time(found, _year(found["y"]), month, day)


def _valid(found: re.Match[str], day: int, month: int) -> bool:
    return _date_time(found, _year(found["y"]), month, day) is not None


def _year(text: str) -> int:
    year = int(text)
    return year if len(text) > 2 else year + (2000 if year < _PIVOT else 1900)  # noqa: PLR2004


def _date_time(found: re.Match[str], year: int, month: int, day: int) -> str | None:
    try:
        at = datetime(year, month, day)  # noqa: DTZ001 - its zone comes with its clock
    except ValueError:
        return None
    if not (_FIRST_YEAR <= year <= _LAST_YEAR) and year != 1899:  # noqa: PLR2004 - how day 0 is written
        return None
    groups = found.groupdict()
    if groups.get("h") is None:
        return f"{year:04}-{month:02}-{day:02}"
    clock = _clock_of(found)
    return None if clock is None else _instant(at, *clock)


def _clock_of(found: re.Match[str]) -> tuple[int, int, int, str, str] | None:
    """Hour, minute, second, fraction and offset; None if there is no such time of day."""
    groups = found.groupdict()
    hour, minute, second = int(groups["h"]), int(groups.get("m") or 0), int(groups.get("s") or 0)
    half = (groups.get("half") or "").lower().replace(".", "")
    if half:
        if not 1 <= hour <= 12:  # noqa: PLR2004
            return None
        hour = hour % 12 + (12 if half == "pm" else 0)
    if hour > 24 or minute > 59 or second > 59 or (hour == 24 and (minute or second)):  # noqa: PLR2004
        return None
    offset = groups.get("o") or ""
    if offset:
        digits = offset[1:].replace(":", "").ljust(4, "0")
        if int(digits[:2]) > 15 or int(digits[2:]) > 59:  # noqa: PLR2004
            return None
        offset = f"{offset[0]}{digits[:2]}:{digits[2:]}"
    return hour, minute, second, (groups.get("f") or "")[:6], offset or "Z"


def _instant(day: datetime, hour: int, minute: int, second: int, fraction: str, zone: str) -> str:
    if hour == 24:  # noqa: PLR2004 - the midnight that ends the day
        day, hour = day + timedelta(days=1), 0
    said = f".{fraction}" if fraction.strip("0") else ""
    return f"{day:%Y-%m-%d}T{hour:02}:{minute:02}:{second:02}{said}{zone}"
