"""Errors that a source answers with status 200, in place of its rows.

Forms, as they were seen, or as the sources document them:

- CoinGecko: `{"status": {"error_code": 429, "error_message": "..."}}`, also inside of `"error"`;
  codes from 10002 on are of keys and plans;
- CoinPaprika: `{"error": "..."}`;
- others: `{"code": 429, "message": "..."}`, `{"status": 429, "error": "..."}`,
  `{"errors": [{"status": "500", "title": "..."}]}` (JSON:API).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_CODES = ("error_code", "errno", "code", "status_code", "statusCode", "status")
_CODES_OF_ERRORS = ("error_code", "errno")
"""Of these, the ones that nothing but an error has."""
_TEXTS = ("error_message", "message", "error", "detail", "title", "reason", "description", "msg")
_NESTED = ("status", "error", "errors", "meta", "fault")
_DEEPEST = 3

_TOO_MANY, _UNAVAILABLE = 429, 503
_KNOWN_CODES = {1015: _TOO_MANY}
"""Codes of Cloudflare, which stands before many sources: 1015 is "You are being rate limited"."""
_TOO_MANY_WORDS = re.compile(
    r"rate.?limit|too many|throttl|quota|limit (?:was )?(?:reached|exceeded)", re.IGNORECASE
)
_UNAVAILABLE_WORDS = re.compile(
    r"internal|unavailable|time.?out|timed out|maintenance|overload|try again|temporar"
    r"|bad gateway|upstream",
    re.IGNORECASE,
)
_ERRORS = range(400, 600)


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
    codes = [code for part in parts for name in _CODES if (code := _code(part.get(name)))]
    texts = [said for part in parts for name in _TEXTS if (said := _text(part.get(name)))]
    status = next((code for code in codes if code in _ERRORS), None)
    is_error = any(_code(part.get(name)) for part in parts for name in _CODES_OF_ERRORS)
    if status is None and not is_error and not texts:
        return None
    own = next((code for code in codes if code not in _ERRORS), None)
    if status is None:
        status = _KNOWN_CODES.get(own or 0) or _meant(" ".join(texts))
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


def _code(value: object) -> int | None:
    """A code, which some write as text; 0 is how others write that there is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 9:  # noqa: PLR2004 - no code is as long
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value else None


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _meant(words: str) -> int | None:
    """The status that words stand for."""
    if _TOO_MANY_WORDS.search(words):
        return _TOO_MANY
    return _UNAVAILABLE if _UNAVAILABLE_WORDS.search(words) else None
