"""How certainly the name of a column means a field of the canonical record.

How close a name is to a canonical one, or to a known alias, is the confidence, from 0 to 1.
Closeness of letters alone would read `price_usdt` as a price in dollars and `volume_1h` as the
volume of a day. So a name is taken apart into tokens, and confidence reaches 0.8 only if

- every token that the canonical name needs is there (long ones may be misspelt, short ones such
  as `usd` and `24h`, which carry the unit, may not), and
- no token is left over, except words that do not change the meaning (`coin_symbol`,
  `market_cap_usd`).

This module knows names only; `csv_files.judging` decides by names and values.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from rapidfuzz import fuzz
from rapidfuzz.distance import DamerauLevenshtein

APPLIED_FROM = 0.8
"""Confidence from which a column is used."""
QUARANTINED_FROM = 0.5
"""Confidence from which a column that is not used is a question rather than something else."""
_UNSURE = 0.79
_SHOWN_COLUMNS = 40

REQUIRED = ("symbol", "price_usd", "timestamp")
"""Without these a row is no observation of a price."""


@dataclass(frozen=True, slots=True)
class _Field:
    """How a canonical field may be called."""

    names: tuple[str, ...]
    """The canonical name, then known aliases; where several are there, the first one wins."""
    harmless: frozenset[str] = frozenset()
    """Words that do not change the meaning."""
    fuzzy: bool = True
    """False: only under exactly these names."""


_UNITS_OF_DOLLARS = frozenset({"usd", "in", "value"})
_THING = frozenset({"coin", "asset", "token", "crypto"})

FIELDS: Mapping[str, _Field] = {
    "symbol": _Field(("symbol", "ticker"), _THING),
    "name": _Field(("name",), _THING),
    "asset_id": _Field(("asset_id", "id"), _THING - {"asset"}),
    "price_usd": _Field(
        ("price_usd", "usd_price"), _THING | {"in", "current", "last", "latest", "spot"}
    ),
    "volume_24h": _Field(("volume_24h", "tx_volume"), _THING | {"usd", "in", "total", "trading"}),
    "market_cap": _Field(("market_cap",), _THING | {"usd", "in", "current"}),
    "percent_change_24h": _Field(("percent_change_24h",), frozenset({"price", "usd", "in"})),
    # What was created at some time may be the row of a table; any other time is the price's own.
    "timestamp": _Field(
        ("timestamp", "price_timestamp", "time", "created_at"),
        frozenset({"utc", "unix", "epoch", "iso", "ms", "milliseconds", "seconds", "in"}),
    ),
    # A CSV's `source` is its publisher; the record's own `source` is "csv".
    "dataset": _Field(("source", "dataset"), frozenset({"data", "name"})),
    "interval": _Field(("interval",), fuzzy=False),
    "open": _Field(("open",), fuzzy=False),
    "high": _Field(("high",), fuzzy=False),
    "low": _Field(("low",), fuzzy=False),
}

_SIGNS = {
    "%": "percent",
    "$": "usd",
    "€": "eur",
    "£": "gbp",
    "¥": "jpy",
    "₿": "btc",
    "#": "number",
}
_PUNCTUATION = frozenset(" _-.,:;()[]{}'\"`\t\r\n\u00a0\ufeff")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_TOKEN = re.compile(r"\d+[^\W\d_]*|[^\W\d_]+")
_HOURS = frozenset({"h", "hr", "hrs", "hour", "hours"})
_DAYS = frozenset({"d", "day"})

_SYNONYMS = {
    "vol": "volume",
    "pct": "percent",
    "perc": "percent",
    "percentage": "percent",
    "chg": "change",
    "mkt": "market",
    "capitalization": "cap",
    "capitalisation": "cap",
    **dict.fromkeys(("24", "24hr", "24hrs", "24hour", "24hours", "1d", "1day"), "24h"),
}
_COMPOUNDS = {"mcap": ("market", "cap"), "mktcap": ("market", "cap")}

# fmt: off
CURRENCY_WORDS = frozenset((
    "usd", "usdt", "usdc", "usdd", "usde", "busd", "tusd", "fdusd", "dai", "eur", "gbp",
    "jpy", "cny", "krw", "inr", "aud", "cad", "chf", "hkd", "sgd", "nzd", "sek",
    "nok", "dkk", "pln", "try", "rub", "brl", "zar", "mxn", "btc", "eth", "bnb",
    "xrp", "sol", "ltc", "sats", "satoshi", "wei",
))
_WORDS = frozenset((
    "price", "volume", "market", "cap", "percent", "change", "symbol", "ticker",
    "name", "timestamp", "time", "stamp", "created", "asset", "coin", "token",
    "crypto", "source", "dataset", "id", "tx", "exchange", "resource", "ticket",
    "date", "rank", "open", "high", "low", "close", "average", "adjusted",
    "quote", "base", "total", "trading", "current", "last", "latest", "realized",
    "diluted", "supply",
))
# fmt: on
_VOCABULARY = _WORDS | CURRENCY_WORDS | frozenset(_SYNONYMS) | frozenset(_COMPOUNDS)
_LONG = 5
"""Letters from which a token may be misspelt and is still recognised."""
_MAY_BE_MISSPELT = frozenset({"cap", "name"})
"""Shorter ones that carry no unit."""
_TYPO = 80.0


def confidence(column: str, to: str) -> float:
    """How certainly a column's name means a canonical field, from 0 to 1."""
    spec = FIELDS[to]
    key = key_of(column)
    if not key:
        return 0.0
    if key in (key_of(name) for name in spec.names):
        return 1.0
    if not spec.fuzzy:
        return 0.0
    sure = max(
        _certainty(tokens, tuple(_tokens(name)), spec.harmless)
        for tokens in readings(column)
        for name in spec.names
    )
    return max(APPLIED_FROM, sure) if sure else min(_UNSURE, _likeness(column, spec.names))


def likeness(column: str, to: str, before: str) -> float:
    """How certainly a name means what another name of a source has meant so far, from 0 to 1.

    Args:
        column: the name.
        to: the canonical field that the other one is.
        before: the other name.
    """
    harmless = FIELDS[to].harmless | _UNITS_OF_DOLLARS
    needed = tuple(_tokens(before))
    sure = max(_certainty(tokens, needed, harmless) for tokens in readings(column))
    if sure:
        return max(APPLIED_FROM, sure)
    return max(confidence(column, to), min(_UNSURE, _likeness(column, [before])))


def words(name: str) -> tuple[str, ...]:
    """The words that a name is made of, in one spelling."""
    return max(readings(name), key=len)


def _clean(name: str) -> str:
    """The name with its signs as words; a sign without one becomes a word of its own."""
    said = []
    for character in unicodedata.normalize("NFKC", name):
        if character in _PUNCTUATION:
            said.append(" ")
        elif character.isalnum():
            said.append(character)
        else:
            said.append(f" {_SIGNS.get(character, 'sign')} ")
    return "".join(said)


@cache
def key_of(name: str) -> str:
    """The name without case, spaces and punctuation."""
    return "".join(_clean(name).split()).casefold()


def _tokens(name: str) -> list[str]:
    words: list[str] = []
    for word in _TOKEN.findall(_CAMEL.sub(" ", _clean(name)).casefold()):
        if words and words[-1].isdecimal() and word in _HOURS | _DAYS:
            # `24 h` is one token, as `24h` is.
            words[-1] += word
        else:
            words.append(word)
    return [token for word in words for token in _plain(word)]


def _plain(word: str) -> tuple[str, ...]:
    if word in _COMPOUNDS:
        return _COMPOUNDS[word]
    word = _SYNONYMS.get(word, word)
    singular = word.removesuffix("s")
    return (singular,) if singular in _WORDS else (word,)


def readings(column: str) -> Iterator[tuple[str, ...]]:
    """The tokens of a name as they stand, then with words that were written together apart."""
    tokens = tuple(_tokens(column))
    yield tokens
    apart = tuple(part for token in tokens for part in _apart(token))
    if apart != tokens:
        yield apart


def _apart(token: str) -> tuple[str, ...]:
    """`marketcap` as `market`, `cap`; a rest that is no known word stays, to be judged."""
    if token in _VOCABULARY or not token.isalpha():
        return (token,)
    for word in sorted(_VOCABULARY, key=len, reverse=True):
        if len(word) > 2 and token.startswith(word):  # noqa: PLR2004
            return (*_plain(word), *_apart(token.removeprefix(word)))
        if len(word) > 2 and token.endswith(word):  # noqa: PLR2004
            return (*_apart(token.removesuffix(word)), *_plain(word))
    return (token,)


def _certainty(tokens: tuple[str, ...], needed: tuple[str, ...], harmless: frozenset[str]) -> float:
    """The confidence that the tokens say what is needed and nothing else; 0 if they don't."""
    left = list(tokens)
    likeness = []
    for want in needed:
        if want in left:
            left.remove(want)
            likeness.append(1.0)
            continue
        near = max(left, key=lambda token: _misspelling(token, want), default="")
        alike = _misspelling(near, want)
        if not alike:
            return 0.0
        left.remove(near)
        likeness.append(alike)
    if any(token not in harmless for token in left):
        return 0.0
    return min(likeness) * 0.98 ** len(left) * 0.99


def _misspelling(token: str, want: str) -> float:
    """How alike a misspelt token is to the one that is wanted; 0 if it is another word.

    A first or last letter more makes other words (`qvolume`, `priceo`), so those two must
    agree, unless the token is cut short.
    """
    if token in _VOCABULARY or not token.isalpha() or not want.isalpha():
        return 0.0
    if want in _MAY_BE_MISSPELT:
        near = DamerauLevenshtein.distance(token, want) == 1 and token[0] == want[0]
        return APPLIED_FROM if near and token[-1] == want[-1] else 0.0
    if len(want) < _LONG:
        return 0.0
    if len(token) >= _LONG - 1 and want.startswith(token):
        return max(APPLIED_FROM, fuzz.ratio(token, want) / 100)
    if token[0] != want[0] or token[-1] != want[-1]:
        return 0.0
    alike = fuzz.ratio(token, want)
    return alike / 100 if alike >= _TYPO else 0.0


def _likeness(column: str, names: Sequence[str]) -> float:
    """How alike the letters are, whatever they mean."""
    said = " ".join(_tokens(column))
    return max(
        max(fuzz.ratio(said, other), fuzz.token_sort_ratio(said, other)) / 100
        for other in (" ".join(_tokens(name)) for name in names)
    )
