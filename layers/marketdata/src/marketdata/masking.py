"""Addresses as they may be shown and kept: without what could be a key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlsplit

MASK = "…"

_LIKE_A_KEY = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_.~-]{16,}|[0-9a-fA-F-]{24,}", re.ASCII)
"""Letters and digits, too many for a word or a version: a part of a path that names a customer."""
_NAMES_A_KEY = re.compile(r"key|token|secret|auth|pass|sign|appid|api_id", re.IGNORECASE)
_SHORTEST = 4
"""Characters from which a value is taken for a key, where nothing but its place says so."""


def masked(url: str) -> str:
    """An address without user, password, parameters and fragment; any text will do.

    A part of its path that looks like a key is masked as well. What is left says who is asked for
    which resource.
    """
    scheme, separator, rest = url.partition("?")[0].partition("#")[0].rpartition("://")
    host, *path = rest.split("/")
    shown = [MASK if _LIKE_A_KEY.fullmatch(part) else part for part in path]
    return f"{scheme}{separator}{'/'.join([host.rpartition('@')[2], *shown])}"


def keys_in(url: str) -> Iterator[str]:
    """What of an address could be a key, as it may be repeated in an answer."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    for value in (parts.username, parts.password):
        if value and len(value) >= _SHORTEST:
            yield from {value, unquote(value)}
    for part in parts.path.split("/"):
        if _LIKE_A_KEY.fullmatch(part):
            yield part
    for name, value in parse_qsl(parts.query):
        named = _NAMES_A_KEY.search(name) and len(value) >= _SHORTEST
        if named or _LIKE_A_KEY.fullmatch(value):
            yield value
