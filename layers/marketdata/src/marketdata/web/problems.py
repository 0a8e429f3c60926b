"""What goes wrong, as HTTP: one map from errors to answers, one shape for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import (
    RequestUnsupportedContentType,
    RequestValidationError,
)

from marketdata.errors import (
    InvalidInput,
    MarketDataError,
    NotFound,
    SettingsError,
    StateConflict,
    StoreFull,
    TransientError,
    Unauthorized,
)
from marketdata.web import cursor, patterns

RETRY_AFTER_SECONDS = 5

_SHOWN_CHARACTERS = 80


class UnknownRoute(NotFound):
    """No route has this path."""

    code = "unknown_route"


class MethodNotAllowed(InvalidInput):
    """The path exists, with other methods."""

    code = "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        super().__init__(
            f"{path} does not take {method}, but {', '.join(allowed)}.", allowed=list(allowed)
        )
        self.allowed = tuple(allowed)


class NoTokenSet(SettingsError):
    """The stack has no refresh token, so that nobody can be let through."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the client sees it."""

    status: int
    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    defect: bool = False
    """Nobody expected it: the log gets the traceback, the client none of it."""

    def body(self, request_id: str, latency_ms: float) -> dict[str, Any]:
        """The JSON body."""
        return {
            "error": {"code": self.code, "message": self.message, "details": dict(self.details)},
            "request_id": request_id,
            "api_latency_ms": latency_ms,
        }


def problem(error: Exception) -> Problem:
    """The answer to a request that ended in this error.

    Messages about what the client sent are passed on. Messages about what is behind the API
    name hosts and resources, so they stay in the log.
    """
    if isinstance(error, RequestValidationError | RequestUnsupportedContentType):
        return _invalid(error.errors())
    if isinstance(error, NotFoundError):
        return Problem(HTTPStatus.NOT_FOUND, UnknownRoute.code, "There is no such route.")
    if isinstance(error, TransientError):
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            error.code,
            _BEHIND.get(error.code, "Something this service needs does not answer.")
            + ("" if isinstance(error, StoreFull) else " Try again in a few seconds."),
            {"retry_after_seconds": RETRY_AFTER_SECONDS},
            {"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    for kind, status in _TOLD:
        if isinstance(error, kind):
            details = error.details if status != HTTPStatus.BAD_REQUEST else _faults(error)
            return Problem(status, error.code, error.message, details, _headers(error))
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        error.code if isinstance(error, MarketDataError) else "internal",
        "Something went wrong here, not with the request. The log has the details under the "
        "request id.",
        defect=True,
    )


_TOLD: tuple[tuple[type[MarketDataError], HTTPStatus], ...] = (
    (MethodNotAllowed, HTTPStatus.METHOD_NOT_ALLOWED),
    (InvalidInput, HTTPStatus.BAD_REQUEST),
    (Unauthorized, HTTPStatus.UNAUTHORIZED),
    (NotFound, HTTPStatus.NOT_FOUND),
    (StateConflict, HTTPStatus.CONFLICT),
    (NoTokenSet, HTTPStatus.SERVICE_UNAVAILABLE),
)
"""Errors whose message and details are the client's own affair; the first that fits counts."""

_FORMS = {
    cursor.PATTERN: "is no cursor; take `next_cursor` of a page as it is",
    patterns.FILENAME: "is no name for an upload: it begins with a letter or a digit, goes on with "
    "letters, digits, spaces, `.`, `_` and `-` (ASCII, 121 characters at most), and ends in .csv, "
    ".tsv or .txt, or in one of these and .gz",
    patterns.CURRENCY: "is no currency: those have 2 to 10 letters or digits, as USD or USDT",
    patterns.DATASET: "is no name of a dataset: it begins with a letter or a digit and goes on "
    "with letters, digits, `.`, `_` and `-` (ASCII, 64 characters at most)",
    patterns.REASON: "is no reason: those consist of small letters, digits, `_` and `.`, such as "
    "greater_than; GET /quarantine shows which there are",
    patterns.SAID: "is to be one line without blanks at its ends",
    patterns.RUN_ID: "is no id of a run: those consist of letters, digits, `_`, `.`, `:` and `-` "
    "(128 characters at most); GET /runs lists them",
}
"""What to say of a text that has not the form of its parameter, by the form."""

_BEHIND = {
    "store_unavailable": "The database does not answer at the moment.",
    "store_full": "The database has no room for what is to be written. Reads work; whoever "
    "operates this service has to enlarge it.",
    "query_timeout": "The query took longer than it may. Narrow it by symbol, start or end.",
}


def _headers(error: MarketDataError) -> Mapping[str, str]:
    if isinstance(error, MethodNotAllowed):
        return {"Allow": ", ".join(error.allowed)}
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    return {}


def _faults(error: MarketDataError) -> Mapping[str, Any]:
    """The details that every 400 has."""
    whole = [{"in": "request", "name": "request", "message": error.message}]
    return {"faults": error.details.get("faults", whole)}


def _invalid(faults: Sequence[Mapping[str, Any]]) -> Problem:
    """Faults that validation found, each with the name of what it is about."""
    named = [_fault(fault) for fault in faults]
    text = "; ".join(f"{f['name']}: {f['message']}" for f in named)
    return Problem(HTTPStatus.BAD_REQUEST, InvalidInput.code, text, {"faults": named})


def _fault(fault: Mapping[str, Any]) -> dict[str, str]:
    where, *names = [str(part) for part in fault["loc"]]
    value = fault.get("input")
    context = fault.get("ctx") or {}
    if where == "query" and len(names) == 1 and isinstance(value, list):
        most = context.get("max_length") if fault["type"] == "too_long" else None
        allowed = f"at most {most} are taken" if most else "give it once"
        message = f"is given {len(value)} times; {allowed}"
    else:
        # A regular expression is an answer to nobody but programmers.
        message = _FORMS.get(str(context.get("pattern")), str(fault["msg"]))
        if isinstance(value, str | int | float):
            shown = repr(value)
            if len(shown) > _SHOWN_CHARACTERS:
                shown = shown[:_SHOWN_CHARACTERS] + "..."
            message += f" (is {shown})"
    return {"in": where, "name": ".".join(names) or where, "message": message}
