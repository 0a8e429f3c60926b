"""Which column of a file is which field of the canonical record.

A column is *mapped* when its name says the same as a canonical name: the name itself or a known
alias, whatever its case, spaces and punctuation; or a close variant of it. How close is the
confidence, from 0 to 1. From 0.8 on the column is used; from 0.5 on it is set aside as a
question; below, it is skipped.

Closeness of letters alone would read `price_usdt` as a price in dollars and `volume_1h` as the
volume of a day. So a name is taken apart into tokens, and confidence reaches 0.8 only if

- every token that the canonical name needs is there (long ones may be misspelt, short ones such
  as `usd` and `24h`, which carry the unit, may not), and
- no token is left over, except words that do not change the meaning (`coin_symbol`,
  `market_cap_usd`).

This module knows names only; what a column holds is judged row by row, when it is loaded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from rapidfuzz import fuzz
from rapidfuzz.distance import DamerauLevenshtein

from marketdata.documents.runs import ColumnNote
from marketdata.errors import FileRefused

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


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """What became of the columns of one header."""

    header: tuple[str, ...]
    columns: Mapping[str, int]
    """The index of the column of each canonical field that the file has."""
    applied: list[ColumnNote] = field(default_factory=list)
    """`{from, to, confidence}` of columns used under another name than their own."""
    quarantined: list[ColumnNote] = field(default_factory=list)
    """`{from, to, confidence, reason}` of columns that might be a field and are not used."""
    skipped: list[ColumnNote] = field(default_factory=list)
    """`{from, to, confidence, reason}` of the other columns; `to` is the nearest field."""

    @property
    def missing(self) -> list[str]:
        """The required fields that no column was mapped to."""
        return [name for name in REQUIRED if name not in self.columns]

    def require_usable(self, what: str) -> None:
        """Refuse a file in which nothing can be found.

        Args:
            what: names the file, for the message.

        Raises:
            FileRefused: names what is missing, the columns there are, and the way out.
        """
        if not self.missing:
            return
        names = {name: " or ".join(FIELDS[name].names) for name in self.missing}
        wanted = "; ".join(f"{name} (a column {said})" for name, said in names.items())
        shown = ", ".join(repr(name) for name in self.header[:_SHOWN_COLUMNS])
        more = len(self.header) - _SHOWN_COLUMNS
        questions = [q for q in self.quarantined if q["to"] in names]
        unsure = "".join(f" {q['from']!r} might be {q['to']} but {q['reason']}." for q in questions)
        only = self.header[0] if len(self.header) == 1 else ""
        separator = next((sign for sign in (";", "\t", "|") if sign in only), "")
        if separator:
            unsure = f" They seem to be separated by {separator!r}, which is to be a comma."
        raise FileRefused(
            f"{what} has no usable {wanted}. Its columns are: {shown}"
            f"{f' and {more} more' if more > 0 else ''}.{unsure} Rename the columns and upload "
            "the file again.",
            missing=self.missing,
            columns=list(self.header[:_SHOWN_COLUMNS]),
        )


@dataclass(frozen=True, slots=True)
class _Claim:
    """One column's nearest field."""

    index: int
    column: str
    to: str
    confidence: float
    rank: int
    """Of an exact name: how much it is preferred; 0 for a near one."""

    def note(self, reason: str = "") -> ColumnNote:
        confidence = round(self.confidence, 2)
        said: ColumnNote = {"from": self.column, "to": self.to, "confidence": confidence}
        if reason:
            said["reason"] = reason
        return said


def map_columns(header: Sequence[str]) -> ColumnMapping:
    """The mapping of a header's columns; it depends on their names alone.

    Of several columns that claim one field the best wins: the canonical name before aliases,
    those before near names, and the nearer before the less near. Equals are ambiguous, and
    none of them is used.
    """
    mapping = ColumnMapping(tuple(header), {})
    claims: dict[str, list[_Claim]] = {}
    for index, column in enumerate(header):
        claim = _nearest(index, column)
        if claim.confidence >= APPLIED_FROM:
            claims.setdefault(claim.to, []).append(claim)
        elif claim.confidence >= QUARANTINED_FROM:
            mapping.quarantined.append(claim.note("its name does not say so for certain"))
        elif column.strip():
            mapping.skipped.append(claim.note("no field of the record has a name like it"))
    columns: dict[str, int] = {}
    for to, rivals in claims.items():
        best = max((c.rank, c.confidence) for c in rivals)
        winners = [c for c in rivals if (c.rank, c.confidence) == best]
        for claim in rivals:
            if claim not in winners:
                mapping.skipped.append(
                    claim.note(f"column {winners[0].column!r} says it more exactly")
                )
            elif len(winners) > 1:
                mapping.quarantined.append(
                    claim.note(f"{len(winners)} columns claim it, which is ambiguous")
                )
            else:
                columns[to] = claim.index
                if claim.column != to:
                    mapping.applied.append(claim.note())
    return ColumnMapping(
        mapping.header, columns, mapping.applied, mapping.quarantined, mapping.skipped
    )


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


@cache
def _nearest_field(column: str) -> tuple[str, float, int]:
    found = []
    for to, spec in FIELDS.items():
        sure = confidence(column, to)
        keys = [key_of(name) for name in spec.names]
        rank = len(keys) - keys.index(key_of(column)) if sure == 1.0 else 0
        found.append((sure, rank, to))
    # The first field wins among equals, whatever their names are.
    sure, rank, to = max(found, key=lambda f: (f[0], f[1]))
    return to, sure, rank


def _nearest(index: int, column: str) -> _Claim:
    to, sure, rank = _nearest_field(column)
    return _Claim(index, column, to, sure, rank)


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
