"""Query parameters that several routes take, and how their texts are read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, NoReturn

from aws_lambda_powertools.event_handler.openapi.params import Query
from pydantic import Field

from marketdata import clock
from marketdata.errors import InvalidInput
from marketdata.web import patterns
from marketdata.web.cursor import PATTERN

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100
MAX_SYMBOLS = 200

Limit = Annotated[
    int, Query(ge=1, le=MAX_LIMIT, description="The most entries on a page.", examples=[10])
]
CursorText = Annotated[
    str | None,
    Query(
        pattern=PATTERN,
        description="`next_cursor` of the previous page. It keeps the list's filters and "
        "order, so you need not repeat them.",
    ),
]
_TICKER = "[^ ,](?:[^,]{0,62}[^ ,])?"
Symbols = Annotated[
    list[Annotated[str, Field(json_schema_extra={"pattern": f"^{_TICKER}(?:,{_TICKER})*$"})]]
    | None,
    Query(
        min_length=1,
        max_length=20,
        description="Ticker, in any case; several separated by commas, or the parameter again. "
        f"At most {MAX_SYMBOLS} in all.",
        examples=[["BTC"]],
    ),
]

_TIME = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "date"},
        {"type": "string", "pattern": "^(?:0|[1-9][0-9]{11,14})$"},
    ]
}
_TIME_FORMS = "ISO 8601 (UTC where no zone is given), a date, or milliseconds since 1970."
Start = Annotated[
    str | None,
    Query(
        description=f"First time that belongs to it: {_TIME_FORMS}",
        json_schema_extra=_TIME,
        examples=["2025-05-09T08:15:00Z"],
    ),
]
End = Annotated[
    str | None,
    Query(
        description=f"Last time that belongs to it: {_TIME_FORMS} A date is its whole day.",
        json_schema_extra=_TIME,
        examples=["2025-05-09"],
    ),
]
Source = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=256,
        description="Only from this source.",
        examples=["coingecko"],
    ),
]
RunId = Annotated[
    str | None,
    Query(pattern=patterns.RUN_ID, description="Only those of this run."),
]

MAX_MS = clock.to_ms(datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC))
"""The last time that a parameter may name, in milliseconds since 1970; the first is 0."""

_INTEGER = re.compile(r"-?[0-9]+")
_MILLISECONDS = re.compile(r"0|[1-9][0-9]{11,14}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LOST_PLUS = re.compile(r"(T[0-9:.,]+) ([0-9]{2}(:?[0-9]{2})?)")
_LEAP_SECOND = re.compile(r"(T[0-9]{2}:[0-9]{2}):60")
_MAX_SYMBOL = 64


def malformed(name: str, message: str, where: str = "query") -> NoReturn:
    """Refuse a parameter of the query, or a field of the body.

    Raises:
        InvalidInput: always, with its name.
    """
    raise InvalidInput(
        f"{name}: {message}", faults=[{"in": where, "name": name, "message": message}]
    )


def check_same(name: str, given: object, kept: object) -> None:
    """Refuse a parameter that says something else than the cursor it is given with.

    Raises:
        InvalidInput: names it.
    """
    if given is not None and given != kept:
        malformed(name, "is not what the cursor's list was asked with; start without cursor")


def read_symbols(values: Iterable[str] | None) -> tuple[str, ...]:
    """Tickers in upper case, each once, in the order given."""
    if values is None:
        return ()
    parts = [part.strip(" ") for value in values for part in value.split(",")]
    for part in parts:
        if not part:
            malformed("symbol", "is empty, or has an empty part between commas")
        if len(part) > _MAX_SYMBOL:
            malformed("symbol", f"{part[:80]!r} is longer than a ticker's {_MAX_SYMBOL} characters")
        read_text("symbol", part)
    symbols = tuple(dict.fromkeys(part.upper() for part in parts))
    if len(symbols) > MAX_SYMBOLS:
        malformed("symbol", f"has {len(symbols)} tickers; at most {MAX_SYMBOLS} are taken")
    return symbols


def read_text(name: str, value: str | None, *, where: str = "query") -> str | None:
    """A text that is compared with a field, as it is."""
    if value is not None:
        try:
            value.encode()
        except UnicodeEncodeError:
            malformed(name, "is not UTF-8 text", where)
    return value


def read_time(
    name: str, value: str | int | None, *, end: bool = False, where: str = "query"
) -> datetime | None:
    """A time: ISO 8601 (UTC where no zone is given), a date, or milliseconds since 1970.

    Times before 1970 and after 9999 bound nothing, so they are as good as the nearest that is
    in between.

    Args:
        name: of the parameter, for the message.
        value: as given; milliseconds may be a number.
        end: a date stands for the last of its milliseconds, not for the first.
        where: what it is a part of, `query` or `body`.
    """
    if value is None:
        return None
    text = str(value).strip()
    if _MILLISECONDS.fullmatch(text):
        return clock.from_ms(min(int(text), MAX_MS))
    if _INTEGER.fullmatch(text):
        malformed(
            name,
            f"{text[:80]!r} is no number of milliseconds since 1970 that is meant: those have 12 "
            "to 15 digits. Give such a number, or an ISO 8601 time",
            where,
        )
    # A plus sign that was not percent-encoded arrives as a space.
    iso = _LOST_PLUS.sub(r"\1+\2", text.upper())
    leap = _LEAP_SECOND.search(iso) is not None
    try:
        time = datetime.fromisoformat(_LEAP_SECOND.sub(r"\1:59", iso))
    except ValueError:
        malformed(
            name,
            f"{text[:80]!r} is no time: give ISO 8601 (2025-05-09T08:15:00Z), a date (2025-05-09) "
            "or milliseconds since 1970",
            where,
        )
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    since = time - clock.EPOCH + timedelta(seconds=leap)
    if end and _DATE.fullmatch(text):
        since += timedelta(days=1, milliseconds=-1)
    return clock.from_ms(min(max(since // timedelta(milliseconds=1), 0), MAX_MS))
