"""Query parameters that several routes take, and how their texts are read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, NoReturn

from aws_lambda_powertools.event_handler.openapi.params import Query

from marketdata import clock
from marketdata.errors import InvalidInput
from marketdata.web.cursor import MAX_CHARACTERS

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100
MAX_SYMBOLS = 50

Limit = Annotated[
    int, Query(ge=1, le=MAX_LIMIT, description="Entries on a page at most.", examples=[10])
]
CursorText = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=MAX_CHARACTERS,
        pattern=r"^[A-Za-z0-9_=-]+$",
        description="`next_cursor` of the page before. It keeps the list's filters and order, "
        "which need not be given again.",
    ),
]
Symbols = Annotated[
    list[str] | None,
    Query(
        description="Ticker, in any case; several separated by commas, or the parameter again. "
        f"At most {MAX_SYMBOLS}.",
        examples=[["BTC"]],
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
    Query(pattern=r"^[A-Za-z0-9_.:-]{1,128}$", description="Only of this run."),
]

MAX_MS = clock.to_ms(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
"""The last time that a parameter may name, in milliseconds since 1970."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LOST_PLUS = re.compile(r"(T[\d:.,]+) (\d{2}(:?\d{2})?)")
_SHORTEST_MS = 12
_MAX_SYMBOL = 64


def malformed(name: str, message: str) -> NoReturn:
    """Refuse a query parameter.

    Raises:
        InvalidInput: always, with its name.
    """
    raise InvalidInput(
        f"{name}: {message}", faults=[{"in": "query", "name": name, "message": message}]
    )


def check_same(name: str, given: object, kept: object) -> None:
    """Refuse a parameter that says something else than the cursor it is given with.

    Raises:
        InvalidInput: names it.
    """
    if given is not None and given != kept:
        malformed(name, "is not what the cursor's list was asked with; start without cursor")


def text_is_clean(text: str) -> bool:
    """Whether a text is printable, so that it can be stored, compared and shown."""
    return text.isprintable()


def read_symbols(values: Iterable[str] | None) -> tuple[str, ...]:
    """Tickers in upper case, each once, in the order given."""
    if values is None:
        return ()
    symbols = tuple(
        dict.fromkeys(part.strip().upper() for value in values for part in value.split(","))
    )
    for symbol in symbols:
        if not symbol:
            malformed("symbol", "is empty, or has an empty part between commas")
        if len(symbol) > _MAX_SYMBOL or not text_is_clean(symbol):
            malformed("symbol", f"{symbol[:80]!r} is no ticker: up to 64 printable characters")
    if len(symbols) > MAX_SYMBOLS:
        malformed("symbol", f"has {len(symbols)} tickers; at most {MAX_SYMBOLS} are taken")
    return symbols


def read_text(name: str, value: str | None) -> str | None:
    """A text that is compared with a field, as it is."""
    if value is not None and not text_is_clean(value):
        malformed(name, "has characters that are not printable")
    return value


def read_time(name: str, value: str | None, *, end: bool = False) -> datetime | None:
    """A time: ISO 8601 (UTC where no zone is given), a date, or milliseconds since 1970.

    Args:
        name: of the parameter, for the message.
        value: as given.
        end: a date stands for the last of its milliseconds, not for the first.
    """
    if value is None:
        return None
    text = value.strip()
    if _INTEGER.fullmatch(text):
        digits = text.lstrip("+-")
        if 1 < len(digits) < _SHORTEST_MS:
            malformed(
                name,
                f"{text} would be milliseconds since 1970, of {_day_of(int(text))}; give "
                "milliseconds, or an ISO 8601 time",
            )
        return _within(name, text, timedelta(milliseconds=int(text)))
    try:
        # A plus sign that was not percent-encoded arrives as a space.
        time = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
    except ValueError:
        malformed(
            name,
            f"{text[:80]!r} is no time: give ISO 8601 (2025-05-09T08:15:00Z), a date (2025-05-09) "
            "or milliseconds since 1970",
        )
    if end and _DATE.fullmatch(text):
        time += timedelta(days=1, milliseconds=-1)
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return _within(name, text, aware - clock.EPOCH)


def _day_of(milliseconds: int) -> str:
    return f"{clock.EPOCH + timedelta(milliseconds=milliseconds):%Y-%m-%d}"


def _within(name: str, text: str, since: timedelta) -> datetime:
    milliseconds = since // timedelta(milliseconds=1)
    if not 0 <= milliseconds <= MAX_MS:
        malformed(name, f"{text[:80]!r} is not between 1970 and 9999")
    return clock.from_ms(milliseconds)
