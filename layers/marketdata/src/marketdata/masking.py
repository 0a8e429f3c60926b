"""Addresses and texts as they may be shown and kept: without what could be a key."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator
from html import escape
from urllib.parse import quote, unquote, unquote_plus, urlsplit

MASK = "…"

_LIKE_A_KEY = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_.~-]{16,}|[0-9a-fA-F-]{24,}", re.ASCII)
"""Letters and digits, too many for a word or a version."""
_NAMES_A_KEY = re.compile(r"key|token|secret|auth|pass|sign|appid|api_id", re.IGNORECASE)
_SHORTEST = 4
"""Characters from which a value is taken for a key, where nothing but its place says so."""

_VERSION = re.compile(r"v?\d{1,3}(?:\.\d{1,3}){0,3}", re.ASCII | re.IGNORECASE)
_WORDS = frozenset(
    {
        *("api", "rest", "public", "pro", "data", "coingecko", "coinpaprika"),
        *("market", "markets", "market_chart", "coin", "coins", "ticker", "tickers", "assets"),
        *("cryptocurrency", "currencies", "exchange", "exchanges", "global", "ping"),
        *("simple", "price", "prices", "list", "listings", "latest", "quotes"),
        *("history", "historical", "past", "range", "ohlc", "ohlcv"),
    }
)
"""What paths of market data are made of. Any other part of a path could name a customer."""


def masked(url: str, shown: Collection[str] = ()) -> str:
    """An address without user, password, parameters and fragment; any text will do.

    Of its path, words of APIs, versions and parts that the host has as well are shown; any other
    part is masked, as it could be a key. What is left says who is asked for which resource.

    Args:
        url: the address.
        shown: further parts of the path that are no secret, such as an asset's id.
    """
    scheme, separator, rest = url.partition("?")[0].partition("#")[0].rpartition("://")
    host, *path = rest.split("/")
    host = host.rpartition("@")[2]
    parts = [part if _is_known(part, host, shown) else MASK for part in path]
    return f"{scheme}{separator}{'/'.join([host, *parts])}"


def _is_known(part: str, host: str, shown: Collection[str]) -> bool:
    """Whether a part of a path may be shown."""
    word = part.lower()
    return (
        part in ("", ".", "..", MASK)
        or word in _WORDS
        or _VERSION.fullmatch(part) is not None
        or unquote(part) in shown
        or word in re.split(r"[.:]", host.lower())
    )


def keys_in(url: str, shown: Collection[str] = ()) -> Iterator[str]:
    """What of an address could be a key, as it may be repeated in an answer.

    Args:
        url: the address.
        shown: parts of its path that are none.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    for value in (parts.username, parts.password):
        if value and len(value) >= _SHORTEST:
            yield from {value, unquote(value)}
    if parts.password:
        # As it is sent.
        both = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
        yield b64encode(both.encode("utf-8", "replace")).decode()
    for part in parts.path.split("/"):
        if len(part) >= _SHORTEST and not _is_known(part, parts.netloc.rpartition("@")[2], shown):
            yield from {part, unquote(part)}
    for text in parts.query.split("&"):
        yield from _keys_in_parameter(text)


def _keys_in_parameter(text: str) -> Iterator[str]:
    name, _, raw = text.partition("=")
    value = unquote_plus(raw)
    if (_NAMES_A_KEY.search(name) and len(value) >= _SHORTEST) or _LIKE_A_KEY.fullmatch(value):
        yield from {value, raw}
    elif not raw and _LIKE_A_KEY.fullmatch(name):
        yield name


def without(text: str, keys: Iterable[str]) -> str:
    """A text without keys, in whatever form it repeats them: as they are, encoded, or cut off.

    Args:
        text: what somebody else said.
        keys: what it must not repeat; see `forms_of`.
    """
    longest_first = sorted(keys, key=len, reverse=True)
    for key in longest_first:
        text = text.replace(key, MASK)
    for key in longest_first:
        text = _without(text, key)
    return text


def forms_of(keys: Iterable[str]) -> frozenset[str]:
    """Keys in all forms in which an answer may repeat them."""
    found = set[str]()
    for key in keys:
        for form in {key, unquote(key), unquote_plus(key)}:
            percent = {quote(form, safe, errors="replace") for safe in ("", "/")}
            percent |= {text.replace("%20", "+") for text in percent}
            lower = {re.sub("%..", lambda code: code[0].lower(), text) for text in percent}
            found |= {form, *percent, *lower, escape(form), repr(form)[1:-1]}
            found |= {json.dumps(form)[1:-1], json.dumps(form, ensure_ascii=False)[1:-1]}
            found.add(json.dumps(form)[1:-1].replace("/", r"\/"))
    return frozenset(form for form in found if len(form) >= _SHORTEST)


def _without(text: str, key: str) -> str:
    """A text without a part of a key that its end or its beginning has cut off.

    A message may show the piece of a payload between quotes.
    """
    head, tail = key[:_SHORTEST], key[-_SHORTEST:]
    at = text.find(head)
    while at >= 0:
        end = at + _alike(text[at : at + len(key)], key)
        if end == len(text) or text[end] in "'\"":
            text = text[:at] + MASK + text[end:]
        at = text.find(head, at + 1)
    at = text.find(tail)
    while at >= 0:
        end = at + len(tail)
        before = text[max(0, end - len(key)) : end]
        begin = end - _alike(before[::-1], key[::-1])
        if begin == 0 or text[begin - 1] in "'\"":
            text = text[:begin] + MASK + text[end:]
            end = begin + len(MASK)
        at = text.find(tail, end)
    return text


def _alike(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
