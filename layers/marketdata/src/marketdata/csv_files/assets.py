"""Which asset a price is of, and in which currency: from symbols, pairs and keys of objects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

DOLLAR = "USD"

# fmt: off
STABLECOINS = frozenset((
    "USDT", "USDC", "BUSD", "TUSD", "FDUSD", "DAI", "USDP", "GUSD", "USDD", "USDE", "PYUSD",
    "LUSD", "USDS",
))
"""Coins that are meant to be a dollar each: a price in them counts as one in dollars."""
CURRENCIES = frozenset((
    DOLLAR, "EUR", "GBP", "JPY", "CNY", "KRW", "INR", "AUD", "CAD", "CHF", "HKD", "SGD", "NZD",
    "SEK", "NOK", "DKK", "PLN", "CZK", "HUF", "TRY", "RUB", "UAH", "BRL", "ZAR", "MXN", "ARS",
    "COP", "CLP", "THB", "IDR", "MYR", "PHP", "VND", "TWD", "ILS", "AED", "SAR", "NGN", "RON",
))
"""ISO 4217 codes in which prices are quoted."""
QUOTE_COINS = frozenset(("BTC", "XBT", "ETH", "BNB", "SOL", "TRX", "XRP", "DOGE"))
"""Coins in which other coins are quoted."""
QUOTES = CURRENCIES | STABLECOINS | QUOTE_COINS
_WRITTEN_TOGETHER = tuple(sorted(QUOTES, key=len, reverse=True))

_NO_PAIRS = frozenset((
    "STETH", "WSTETH", "CBETH", "RETH", "WETH", "WBETH", "CBBTC", "WBTC", "HBTC", "RENBTC", "TBTC",
    "SBTC", "LBTC", "SOLVBTC", "EETH", "WEETH", "EZETH", "RSETH", "METH", "SWETH", "OSETH", "SETH",
    "MSOL", "JITOSOL", "BNSOL", "WBNB", "JITOSOL", "BSOL", "SUSD", "CUSD", "CEUR", "CRVUSD",
    "EURUSD", "FRXUSD", "FRXETH", "SFRXETH", "ALUSD", "OUSD", "HUSD", "MUSD", "NUSD", "RUSD",
    "SUSDE", "SUSDS", "SDAI", "XDAI", "USDEUR", "BABYDOGE",
)) - {"EURUSD", "USDEUR"}
"""Assets whose symbols end like a pair's."""

_KNOWN = {
    "BTC": "bitcoin", "ETH": "ethereum", "XRP": "xrp ripple", "LTC": "litecoin",
    "BCH": "bitcoincash", "BNB": "binancecoin", "SOL": "solana", "ADA": "cardano",
    "DOGE": "dogecoin", "DOT": "polkadot", "TRX": "tron", "AVAX": "avalanche",
    "MATIC": "polygon", "LINK": "chainlink", "XLM": "stellar", "XMR": "monero",
    "ETC": "ethereumclassic", "ATOM": "", "UNI": "uniswap", "EOS": "", "XTZ": "tezos",
    "ALGO": "algorand", "AAVE": "", "FIL": "filecoin", "VET": "vechain", "ICP": "",
    "SHIB": "", "NEO": "", "DASH": "", "ZEC": "zcash", "USDT": "tether", "USDC": "usdcoin",
    "XBT": "", "HBAR": "hedera", "XEM": "", "MIOTA": "iota", "WBTC": "", "CRO": "", "FTM": "fantom",
    "BSV": "", "QTUM": "", "GRT": "", "KSM": "kusama", "WAVES": "", "MKR": "", "SNX": "",
}
"""Tickers that are recognised when they stand alone in a key, and names that mean them."""
_ALONE = frozenset(_KNOWN) - {"DOT", "LINK", "UNI", "DASH", "NEO", "ATOM", "WAVES", "SOL", "ADA"}
KNOWN_TICKERS = frozenset(_KNOWN)
"""Tickers of the coins that are traded most."""
_BY_NAME = {name: ticker for ticker, names in _KNOWN.items() for name in names.split()}

_INTERVALS = {
    **dict.fromkeys(("1m", "minute", "min", "1min"), "1m"), "3m": "3m", "5m": "5m", "5min": "5m",
    "15m": "15m", "15min": "15m", "30m": "30m", "30min": "30m",
    **dict.fromkeys(("1h", "hourly", "hour", "60m", "60min", "1hour"), "1h"),
    "2h": "2h", "4h": "4h", "6h": "6h", "8h": "8h", "12h": "12h",
    **dict.fromkeys(("d", "1d", "daily", "day", "1day", "24h"), "1d"), "3d": "3d",
    **dict.fromkeys(("w", "1w", "weekly", "week", "1wk"), "1w"),
    **dict.fromkeys(("1mo", "monthly", "month"), "1M"),
}
_FOLDERS_THAT_SAY_NOTHING = frozenset((
    "INCOMING", "CSV", "DATA", "FILES", "UPLOAD", "UPLOADS", "OHLC", "OHLCV", "SPOT", "CRYPTO",
    "RAW",
    "PRICES", "HISTORY", "DAILY", "TEST", "NEW", "OLD", "TMP", "BACKUP", "DUMP", "EXPORT", "KLINES",
    "STOCKS", "STOCK", "FOREX", "FX", "ETF", "INDEX", "METALS", "COINS", "COIN", "MARKET",
    "MARKETS",
    "KAGGLE", "US", "EU", "UK", "DE", "FR", "EMEA", "APAC", "PROD", "DEV", "INBOX", "BINANCE",
    "KRAKEN", "GEMINI", "YAHOO", "NASDAQ", "STOOQ", "CMC",
))
# fmt: on

_SEPARATED = re.compile(r"([A-Z0-9.$]{1,20})([/_:-])([A-Z]{2,6})")
_SHORTEST = 3
_ORDINAL = re.compile(r"[A-Z]{1,2}\d{1,4}")
"""Q1, V2, FY24: folders that name a quarter, a version or a year."""
_TICKER = re.compile(r"[A-Z][A-Z0-9.]{1,9}")
_PARTS = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class Pair:
    """What is priced, and in which currency."""

    base: str
    quote: str

    @property
    def in_dollars(self) -> bool:
        """Whether a price in this quote counts as one in dollars."""
        return is_dollar(self.quote)


def is_dollar(currency: str) -> bool:
    """Whether a price in a currency counts as one in dollars."""
    return currency == DOLLAR or currency in STABLECOINS


@lru_cache(maxsize=50_000)
def pair_of(symbol: str, *, together: bool) -> Pair | None:
    """The base and the quote that a symbol names; None if it is no pair.

    Args:
        symbol: as `BTC/USDT`, `BTC-USD`, `btc_eur`; in upper case where it is written together.
        together: `BTCUSD` is a pair, too. Of a list of coins it is not: `TUSD` and `STETH` end
            like pairs and are coins.
    """
    text = symbol.strip().upper()
    apart = _SEPARATED.fullmatch(text)
    if apart is not None:
        base, sign, quote = apart.groups()
        return Pair(base, quote) if sign == "/" or quote in QUOTES else None
    if not together or text in _NO_PAIRS or text in STABLECOINS:
        return None
    found = [
        Pair(base, quote)
        for quote in _WRITTEN_TOGETHER
        if (base := text.removesuffix(quote)) != text and base.isalnum()
    ]
    # XBTUSD is XBT in USD, and not XB in TUSD. Two letters alone are more often a ticker's.
    known = [pair for pair in found if pair.base in _KNOWN or pair.base in CURRENCIES]
    return next(iter(known or [p for p in found if len(p.base) >= _SHORTEST]), None)


@dataclass(frozen=True, slots=True)
class KeyHints:
    """What an object's key says about its content."""

    symbol: str | None = None
    """The asset."""
    quote: str | None = None
    """The currency of its prices."""
    interval: str | None = None
    """How long its candles are."""
    suggestion: str | None = None
    """What might be the asset, and is to be confirmed."""


def hints_of(key: str, prefix: str = "incoming/") -> KeyHints:
    """What a key says: `incoming/BTC/…`, `btc-usd-max.csv`, `Binance_BTCUSDT_d.csv`.

    A pair in the file's name comes first, then a folder that is a ticker in capitals, then a
    ticker or name that is widely known.

    Args:
        key: the object's key.
        prefix: what all keys begin with; it says nothing.
    """
    *folders, file = key.removeprefix(prefix).split("/")
    stem = re.sub(r"(\.(csv|tsv|txt|gz))+$", "", file, flags=re.IGNORECASE)
    parts = [part for part in _PARTS.split(stem) if part]
    interval = next((_INTERVALS[p.lower()] for p in parts if p.lower() in _INTERVALS), None)
    pair = _pair_in(parts)
    if pair is not None:
        return KeyHints(pair.base, pair.quote, interval)
    for folder in reversed(folders):
        found = pair_of(folder, together=False)
        if found is None and _known_pair(folder) is not None:
            found = _known_pair(folder)
        if found is not None:
            return KeyHints(found.base, found.quote, interval)
        says = folder not in _FOLDERS_THAT_SAY_NOTHING and not _ORDINAL.fullmatch(folder)
        if says and _TICKER.fullmatch(folder):
            return KeyHints(folder, None, interval)
    known = {ticker for part in parts if (ticker := _ticker_of(part)) is not None}
    if len(known) == 1:
        return KeyHints(known.pop(), None, interval)
    return KeyHints(None, None, interval, _suggestion(parts))


def _ticker_of(part: str) -> str | None:
    upper = part.upper()
    return upper if upper in _ALONE else _BY_NAME.get(part.lower())


def _pair_in(parts: list[str]) -> Pair | None:
    """The one pair that parts of a name tell: written together, or as two parts."""
    found: set[Pair] = set()
    for place, (first, second) in enumerate(pairwise(parts)):
        quote = second.upper()
        if quote not in QUOTES or first.lower() in _INTERVALS or _is_word(first):
            continue
        known = _ticker_of(first) or (first.upper() if first.upper() in _KNOWN else None)
        # `btc-usd-max`; an unknown ticker only at the beginning, and in money.
        unknown = (
            place == 0 and quote in CURRENCIES | STABLECOINS and _TICKER.fullmatch(first.upper())
        )
        if known is not None or unknown:
            found.add(Pair(known or first.upper(), quote))
    found.update(pair for part in parts if (pair := _known_pair(part)) is not None)
    return found.pop() if len(found) == 1 else None


def _known_pair(part: str) -> Pair | None:
    """A pair that is written together; its base must be known, or all be in capitals."""
    pair = pair_of(part, together=True)
    if pair is None or (pair.base not in _KNOWN and not part.isupper()):
        return None
    return pair if pair.base in _KNOWN or pair.quote in CURRENCIES | STABLECOINS else None


_WORDS = frozenset(
    [
        "kaggle",
        "export",
        "binance",
        "kraken",
        "gemini",
        "bitstamp",
        "coinbase",
        "yahoo",
        "prices",
        "price",
        "history",
        "daily",
        "data",
        "market",
        "markets",
        "in",
        "to",
        "all",
        "max",
        "coins",
        "crypto",
        "stocks",
        "quotes",
        "rates",
        "converted",
        "values",
    ]
)


def _is_word(part: str) -> bool:
    return part.lower() in _WORDS


def _suggestion(parts: list[str]) -> str | None:
    for part in parts:
        upper = part.upper()
        if (
            _TICKER.fullmatch(upper)
            and len(upper) <= 6  # noqa: PLR2004
            and not _is_word(part)
            and part.lower() not in _INTERVALS
            and upper not in _FOLDERS_THAT_SAY_NOTHING
        ):
            return upper
    return None
