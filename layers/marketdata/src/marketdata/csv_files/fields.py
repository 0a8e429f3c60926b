"""What the name of a column may mean. What it holds decides with it: see `judging`.

A name is taken apart into tokens. Words of currencies are its unit, some words say nothing, and
what is left is looked up. A name that is not found may still be a misspelt canonical one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from marketdata.csv_files.assets import QUOTES
from marketdata.schema import mapping
from marketdata.schema.mapping import CURRENCY_WORDS, readings


class Role(StrEnum):
    """What a column may be. Most are fields of the record; the others lead to one."""

    SYMBOL = "symbol"
    NAME = "name"
    ASSET_ID = "asset_id"
    PRICE = "price_usd"
    VOLUME = "volume_24h"
    """Any turnover; its unit and the interval decide which field it becomes."""
    MARKET_CAP = "market_cap"
    CHANGE = "percent_change_24h"
    TIME = "timestamp"
    DATASET = "dataset"
    INTERVAL = "interval"
    OPEN = "open"
    HIGH = "high"
    LOW = "low"
    CURRENCY = "currency"
    """The currency of the row's prices."""
    ROW_NUMBER = "row number"
    """Nothing that a record has."""


NUMBERS = frozenset({
    Role.PRICE, Role.VOLUME, Role.MARKET_CAP, Role.CHANGE, Role.OPEN, Role.HIGH, Role.LOW,
})  # fmt: skip
"""Roles whose cells are numbers."""

ASSET_UNITS = "asset"
"""The unit of a volume in coins, shares or contracts."""
QUOTE_UNITS = "quote"
"""The unit of a volume in whatever the prices are in."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a name may mean."""

    role: Role
    confidence: float
    """From 0 to 1."""
    rank: int = 0
    """Among claims of one role the highest is preferred."""
    unit: str | None = None
    """A currency, `ASSET_UNITS` or `QUOTE_UNITS`; None if the name says none."""
    of_a_day: bool = False
    """The name says that it is of 24 hours."""
    of_the_row: bool = False
    """A time at which the row was written, rather than the price's own."""
    canonical: bool = False
    """The name is the field's own, or an alias that says the same."""


_WORDS_OF: Mapping[Role, tuple[tuple[float, str], ...]] = {
    # Confidence, then phrases, the preferred ones first.
    Role.TIME: (
        (
            1.0,
            (
                "timestamp|price timestamp|mts|price time|price ts|ts|price date|datetime|"
                "date time|time|unix|unix timestamp|unix time|epoch|epoch time|time stamp|"
                "open time|candle time|bar time|date|day|snapped at|observed at|quote time|"
                "trade time|trade date|trading date|trading day|last updated|last update|"
                "as of|datum|fecha|zeit|zeitpunkt|data|datum uhrzeit|quote date|price at|"
                "recorded at|market time|start|begin|time open|time start|start time|"
                "time period start|opentime"
            ),
        ),
        (0.9, "close time|time close|end time|time end"),
    ),
    Role.PRICE: (
        (
            1.0,
            (
                "price usd|close|price|last|close last|last price|closing price|close price|"
                "price close|current price|latest price|spot price|spot|coin price|"
                "market price|closing|zuletzt|schluss|schlusskurs|kurs|preis|letzter|ultimo|"
                "último|precio|cierre|dernier|prix|cours|cloture|clôture|chiusura|prezzo|"
                "unit price|trade price|price last"
            ),
        ),
        (
            0.7,
            ("adjusted close|adj close|rate|value|average price|vwap|weighted price|mid|quote"),
        ),
        (0.6, "avg price|typical price|mean price|c|amount price"),
    ),
    Role.OPEN: (
        (
            1.0,
            (
                "open|open price|opening price|opening|price open|eröffn|eröffnung|eroffn|"
                "eroffnung|apertura|abertura|ouverture|ouv|offnung"
            ),
        ),
    ),
    Role.HIGH: (
        (
            1.0,
            (
                "high|high price|highest|price high|day high|hoch|hochst|höchst|máximo|"
                "maximo|max|massimo|plus haut|haut|maximum"
            ),
        ),
    ),
    Role.LOW: (
        (
            1.0,
            (
                "low|low price|lowest|price low|day low|tief|tiefst|mínimo|minimo|min|"
                "minimum|plus bas|bas"
            ),
        ),
    ),
    Role.VOLUME: (
        (
            1.0,
            (
                "volume 24h|24h volume|exchange volume|volume|tx volume|total volume|"
                "trading volume|quote volume|quote asset volume|volume quote|turnover|"
                "volumeto|volume to|base volume|volume base|volumefrom|volume from|"
                "share volume|volume share|share|base asset volume|volumen|umsatz|"
                "tick volume|tickvol|real volume|dollar volume|trading volume 24h|"
                "24h trading volume|spot volume|volumne|volume traded|vol"
            ),
        ),
    ),
    Role.MARKET_CAP: (
        (
            1.0,
            (
                "market cap|cap|market capitalization|market value|marktkapitalisierung|"
                "capitalizacion|capitalisation|current market cap"
            ),
        ),
    ),
    Role.CHANGE: (
        (
            1.0,
            (
                "percent change 24h|change percent 24h|change 24h percent|"
                "price change percent 24h|24h change percent|24h percent change|24h percent|"
                "percent 24h"
            ),
        ),
        (
            0.85,
            (
                "change percent|percent change|daily change percent|day change percent|"
                "sign sign percent|sign percent|var percent|variacion percent|"
                "variation percent|change p"
            ),
        ),
        (0.6, "change 24h|24h change|change|price change 24h"),
    ),
    Role.SYMBOL: (
        (
            1.0,
            (
                "symbol|ticker|coin symbol|asset symbol|ticker symbol|stock symbol|"
                "token symbol|crypto symbol|pair|trading pair|currency pair|market pair|"
                "instrument|security|base asset|base currency|base symbol|product id|product|"
                "crypto"
            ),
        ),
        (
            0.85,
            ("coin|asset|market|token|base|stock|cryptocurrency|sym|code|instrument id|index"),
        ),
    ),
    Role.ASSET_ID: (
        (1.0, "asset id|coin id|token id|crypto id|cryptocurrency id|id"),
        (0.85, "slug|coin slug|uid"),
    ),
    Role.NAME: (
        (
            1.0,
            (
                "name|coin name|asset name|token name|full name|company|company name|"
                "security name|crypto name|cryptocurrency name|display name"
            ),
        ),
    ),
    Role.CURRENCY: (
        (
            1.0,
            (
                "currency|quote currency|price currency|quote asset|quote|versus currency|"
                "vs currency|vs|ccy|denomination|währung|wahrung|moneda|devise|quote symbol|"
                "unit currency"
            ),
        ),
    ),
    Role.DATASET: ((1.0, "source|dataset|data source|source name|dataset name"),),
    Role.INTERVAL: (
        (1.0, "interval|per|timeframe|time frame|granularity|resolution|candle size|period"),
    ),
    Role.ROW_NUMBER: (
        (
            1.0,
            (
                "s no|sno|no|nr|row|row number|row id|row no|number|unnamed 0|serial|"
                "serial no|record id|rank|unnamed"
            ),
        ),
    ),
}
_ROW_TIMES = (
    "created at|updated at|modified at|inserted at|ingested at|fetched at|scraped at|"
    "retrieved at|loaded at|imported at|created|updated|modified|created on|updated on|"
    "date added|created time|created date|create time|update time|insert time|inserted|"
    "ingestion time|load time|downloaded at|collected at|processed at|crawled at|"
    "created timestamp|updated timestamp|insertion date|date created|date updated|etl time|added at"
)
_UNITS_OF = {
    "price usd": "USD",
    "quote volume": QUOTE_UNITS, "quote asset volume": QUOTE_UNITS, "volume quote": QUOTE_UNITS,
    "turnover": QUOTE_UNITS, "volumeto": QUOTE_UNITS, "volume to": QUOTE_UNITS,
    "base volume": ASSET_UNITS, "volume base": ASSET_UNITS, "volumefrom": ASSET_UNITS,
    "volume from": ASSET_UNITS, "share volume": ASSET_UNITS, "volume share": ASSET_UNITS,
    "share": ASSET_UNITS, "base asset volume": ASSET_UNITS, "tick volume": "ticks",
    "tickvol": "ticks", "dollar volume": "USD", "real volume": ASSET_UNITS,
}  # fmt: skip
_SAYS_NOTHING = frozenset(
    ("utc", "gmt", "iso", "ms", "milliseconds", "millisecond", "seconds", "second", "sec", "in",
     "coin", "token", "crypto", "asset")
)  # fmt: skip
_CANONICAL = {
    Role.SYMBOL: {"symbol", "ticker"},
    Role.NAME: {"name"},
    Role.ASSET_ID: {"asset id", "id"},
    Role.PRICE: {"price usd"},
    Role.VOLUME: {"volume 24h", "tx volume"},
    Role.MARKET_CAP: {"market cap"},
    Role.CHANGE: {"percent change 24h"},
    Role.TIME: {"timestamp", "price timestamp", "time", "created at"},
}
_MORE_CURRENCIES = frozenset(quote.lower() for quote in QUOTES) | {"usd", "dollar", "euro"}
_NOT_UNITS = frozenset({"try", "sol", "link", "dot"})
"""Words of currencies that are ordinary words, too."""


def _phrases() -> dict[tuple[str, ...], Claim]:
    found: dict[tuple[str, ...], Claim] = {}
    for role, groups in _WORDS_OF.items():
        for confidence, phrases in groups:
            for place, phrase in enumerate(phrases.split("|")):
                tokens = next(iter(readings(phrase)))
                claim = Claim(
                    role,
                    confidence,
                    rank=int(confidence * 1000) - place,
                    unit=_UNITS_OF.get(phrase),
                    of_a_day="24h" in tokens,
                    canonical=phrase in _CANONICAL.get(role, ()),
                )
                found.setdefault(tokens, claim)
    for phrase in _ROW_TIMES.split("|"):
        tokens = next(iter(readings(phrase)))
        found.setdefault(tokens, Claim(Role.TIME, 1.0, rank=1, of_the_row=True, canonical=True))
    return found


_PHRASES = _phrases()
_NUMBERED = re.compile(r"^\s*\d+[a-z]?\.\s+")
"""`1. open`, `1a. open (USD)`, as Alpha Vantage numbers its columns."""


@cache
def claims_of(column: str) -> tuple[Claim, ...]:
    """What a column's name may mean, the likeliest first; empty if nobody knows."""
    found: list[Claim] = []
    column = _NUMBERED.sub("", column.replace("/", " ").replace("<", " ").replace(">", " "))
    for tokens in readings(column):
        units = {_currency(token) for token in tokens} - {None}
        # A name with two currencies is a rate between them, or a pair.
        unit = units.pop() if len(units) == 1 else None
        core = tuple(token for token in tokens if not _currency(token))
        for said in dict.fromkeys((tokens, core, _meaningful(core))):
            claim = _PHRASES.get(said)
            if claim is None or (units and said != tokens):
                continue
            if unit is not None and said != tokens and claim.role is not Role.SYMBOL:
                claim = _with_unit(claim, unit)
            if claim.role not in {known.role for known in found}:
                found.append(claim)
            elif claim.unit is not None:
                # What says the unit as well says more.
                found = [claim if known.role is claim.role else known for known in found]
        if found:
            break
    return tuple(found) or _misspelt(column)


def _with_unit(claim: Claim, unit: str) -> Claim:
    # A name that says its unit outranks one that does not.
    return Claim(
        claim.role,
        claim.confidence,
        claim.rank + 2000,
        claim.unit if claim.unit == ASSET_UNITS else unit,
        claim.of_a_day,
        claim.of_the_row,
        canonical=False,
    )


def _meaningful(tokens: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(token for token in tokens if token not in _SAYS_NOTHING)


def _currency(token: str) -> str | None:
    if token in _NOT_UNITS or token not in _MORE_CURRENCIES | CURRENCY_WORDS:
        return None
    return {"dollar": "USD", "euro": "EUR"}.get(token, token.upper())


def _misspelt(column: str) -> tuple[Claim, ...]:
    """The canonical field whose name this may be a variant of."""
    best = max(((mapping.confidence(column, to), to) for to in mapping.FIELDS), key=lambda c: c[0])
    confidence, to = best
    if confidence < mapping.QUARANTINED_FROM:
        return ()
    of_a_day = to in (Role.VOLUME, Role.CHANGE)
    unit = "USD" if "usd" in next(iter(readings(column))) else None
    return (
        Claim(
            Role(to),
            round(confidence, 2),
            0,
            unit,
            of_a_day,
            canonical=confidence >= mapping.APPLIED_FROM,
        ),
    )
