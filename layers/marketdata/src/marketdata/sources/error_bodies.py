"""Errors that a source answers with status 200, in place of its rows.

Forms, as they were seen, or as the sources document them:

- CoinGecko: `{"status": {"error_code": 429, "error_message": "..."}}`, also inside of `"error"`;
  codes from 10002 on are of keys and plans;
- CoinPaprika: `{"error": "..."}`;
- others: `{"error": 429}`, `{"code": 429, "message": "..."}`, `{"status": 429, "error": "..."}`,
  `{"errors": ["..."]}`, `{"errors": {"page": ["..."]}}`, `{"errors": [{"message": "..."}]}`
  (GraphQL), `{"errors": [{"status": "500", "title": "..."}]}` (JSON:API).

A body that says that there is no error (`{"error": null}`, `{"errors": []}`, `{"error_code": 0}`,
`{"code": 200}`) tells none, whatever else it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_NAMES_OF_ERRORS = ("error", "errors", "fault", "error_code", "errno", "error_message")
"""What nothing but an error has, unless it is empty."""
_CODES = (
    *("error_code", "errno", "code", "status_code", "statusCode", "status"),
    *("error", "errors", "fault"),
)
_TEXTS = (
    *("error_message", "message", "error", "errors", "fault"),
    *("detail", "title", "reason", "description", "msg"),
)
_NESTED = ("status", "error", "errors", "meta", "fault")
_DEEPEST = 3

_TOO_MANY, _UNAVAILABLE = 429, 503
_KNOWN_CODES = {1015: _TOO_MANY}
"""Codes of Cloudflare, which stands before many sources: 1015 is "You are being rate limited"."""
_TOO_MANY_WORDS = re.compile(
    r"rate.?limit|too.?many|throttl|quota|limit (?:was )?(?:reached|exceeded)", re.IGNORECASE
)
_UNAVAILABLE_WORDS = re.compile(
    r"internal|unavailable|time.?out|timed out|maintenance|overload|try again|temporar"
    r"|bad gateway|upstream",
    re.IGNORECASE,
)
_ERRORS = range(400, 600)
_FINE = range(200, 300)


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error that a body tells."""

    status: int | None
    """The HTTP status that it means; None if it tells none, and its words mean none."""
    code: int | None
    """The source's own code, if it is no HTTP status."""
    text: str
    """What it says, in the source's words; empty if it says nothing."""


def read_error(text: str) -> ErrorBody | None:
    """The error that a body tells; None if it is no JSON object that tells one.

    Args:
        text: the body, whole.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    parts = list(_parts(body, _DEEPEST))
    codes = [code for name in _CODES for part in parts for code in _codes(part.get(name))]
    texts = [said for part in parts for name in _TEXTS for said in _texts(part.get(name))]
    marks = [_tells(part[name]) for part in parts for name in _NAMES_OF_ERRORS if name in part]
    status = next((code for code in codes if code in _ERRORS), None)
    own = next((code for code in codes if code not in _ERRORS), None)
    if status is None and not any(marks) and (marks or own in _FINE or not texts):
        return None
    if status is None:
        status = _KNOWN_CODES.get(own or 0) or _meant(" ".join([*texts, *_names(parts)]))
    return ErrorBody(status, own, texts[0] if texts else "")


def _parts(body: Mapping[str, Any], deepest: int) -> Iterator[Mapping[str, Any]]:
    """The objects in which an error may be told, the outermost first."""
    yield body
    if not deepest:
        return
    for name in _NESTED:
        inner = body.get(name)
        for one in inner if isinstance(inner, list) else [inner]:
            if isinstance(one, dict):
                yield from _parts(one, deepest - 1)


def _codes(value: object) -> Iterator[int]:
    """Codes, which some write as text; 0 is how others write that there is none."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str) and one.isascii() and one.isdigit() and len(one) < 9:  # noqa: PLR2004 - no code is as long
            one = int(one)  # noqa: PLW2901 - the same code
        if isinstance(one, int) and not isinstance(one, bool) and one:
            yield one


def _texts(value: object) -> Iterator[str]:
    """What is said: a text, texts in a list, or texts by the names of fields."""
    if isinstance(value, str):
        if said := value.strip():
            yield said
    elif isinstance(value, list):
        for one in value:
            if isinstance(one, str):
                yield from _texts(one)
    elif isinstance(value, dict):
        for one in value.values():
            if isinstance(one, list):
                yield from _texts(one)


def _tells(value: object) -> bool:
    """Whether what stands under the name of an error tells one, and not that there is none."""
    if isinstance(value, dict):
        return any(_tells(inner) for inner in value.values())
    if isinstance(value, list):
        return any(_tells(inner) for inner in value)
    if isinstance(value, str):
        return value.strip() not in ("", "0")
    return bool(value)


def _names(parts: list[Mapping[str, Any]]) -> Iterator[str]:
    """Codes that are words, as `RATE_LIMITED`."""
    return (said for part in parts for name in _CODES for said in _texts(part.get(name)))


def _meant(words: str) -> int | None:
    """The status that words stand for."""
    if _TOO_MANY_WORDS.search(words):
        return _TOO_MANY
    return _UNAVAILABLE if _UNAVAILABLE_WORDS.search(words) else None
