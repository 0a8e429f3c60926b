"""Files whose whole header is recognised: what a publisher means by its columns.

A header tells a publisher apart by all its names together. So a profile may say what no name and
no value says: that the volume of a Kaggle file is in dollars and that of Nasdaq's is in shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from marketdata.csv_files.fields import ASSET_UNITS, QUOTE_UNITS, Role
from marketdata.schema.mapping import key_of


@dataclass(frozen=True, slots=True)
class Profile:
    """What the columns of a publisher's files are."""

    name: str
    columns: Mapping[str, Role]
    """By column, as `schema.mapping.key_of` has it; other columns are judged as usual."""
    units: Mapping[str, str] = field(default_factory=dict)
    """By column: the unit of a volume, where it is not that of its name."""
    unused: frozenset[str] = frozenset()
    """Columns that are known and that no record has."""
    needs: frozenset[str] = frozenset()
    """Columns that all must be there; those of `columns` where it is empty."""
    volume_of_a_day: bool = False
    """A volume is that of 24 hours, whatever the distance of the rows."""
    shares_unless_pair: bool = False
    """A volume is in dollars for a pair of coins, and in shares otherwise."""
    order: str = ""
    """How its dates are written, where that is known."""
    is_own: bool = False
    """What this service itself gives: each column is what it is called."""


def _keys(names: str) -> list[str]:
    return [key_of(name) for name in names.split("|")]


def _profile(
    name: str,
    columns: Mapping[str, Role],
    *,
    units: Mapping[str, str] | None = None,
    unused: str = "",
    optional: str = "",
    volume_of_a_day: bool = False,
    shares_unless_pair: bool = False,
    order: str = "",
) -> Profile:
    by_key = {key_of(column): role for column, role in columns.items()}
    return Profile(
        name,
        by_key,
        {key_of(column): unit for column, unit in (units or {}).items()},
        frozenset(_keys(unused)) - {""},
        frozenset(by_key) - set(_keys(optional)),
        volume_of_a_day,
        shares_unless_pair,
        order,
    )


_CANDLE = {"Open": Role.OPEN, "High": Role.HIGH, "Low": Role.LOW, "Close": Role.PRICE}

_INVESTING = (
    Role.TIME,
    Role.PRICE,
    Role.OPEN,
    Role.HIGH,
    Role.LOW,
    Role.VOLUME,
    Role.CHANGE,
)

PROFILES = (
    _profile(
        "CoinMarketCap history (Kaggle)",
        {
            **_CANDLE,
            "SNo": Role.ROW_NUMBER,
            "Name": Role.NAME,
            "Symbol": Role.SYMBOL,
            "Date": Role.TIME,
            "Volume": Role.VOLUME,
            "Marketcap": Role.MARKET_CAP,
        },
        units={"Volume": "USD"},
        optional="SNo",
        volume_of_a_day=True,
    ),
    _profile(
        "CoinMarketCap export",
        {
            **_CANDLE,
            "volume": Role.VOLUME,
            "marketCap": Role.MARKET_CAP,
            "timestamp": Role.TIME,
        },
        units={"volume": "USD"},
    ),
    _profile(
        "CoinGecko export",
        {
            "snapped_at": Role.TIME,
            "price": Role.PRICE,
            "market_cap": Role.MARKET_CAP,
            "total_volume": Role.VOLUME,
        },
        units={"total_volume": QUOTE_UNITS},
        volume_of_a_day=True,
    ),
    _profile(
        "CoinGecko export",
        {
            "timestamp": Role.TIME,
            "price": Role.PRICE,
            "market_cap": Role.MARKET_CAP,
            "total_volume": Role.VOLUME,
        },
        units={"total_volume": QUOTE_UNITS},
        volume_of_a_day=True,
    ),
    _profile(
        "CoinGecko markets",
        {
            "id": Role.ASSET_ID,
            "symbol": Role.SYMBOL,
            "name": Role.NAME,
            "current_price": Role.PRICE,
            "market_cap": Role.MARKET_CAP,
            "total_volume": Role.VOLUME,
            "price_change_percentage_24h": Role.CHANGE,
            "last_updated": Role.TIME,
        },
        optional="name|market_cap|price_change_percentage_24h|total_volume",
        units={"total_volume": QUOTE_UNITS},
        unused="image|ath|atl|ath_date|atl_date|roi|market_cap_rank",
        volume_of_a_day=True,
    ),
    _profile(
        "Coin Metrics",
        {
            "date": Role.TIME,
            "price(USD)": Role.PRICE,
            "marketcap(USD)": Role.MARKET_CAP,
            "exchangeVolume(USD)": Role.VOLUME,
        },
        unused="txVolume(USD)|adjustedTxVolume(USD)|realizedCap(USD)|medianTxValue(USD)",
        volume_of_a_day=True,
    ),
    _profile(
        "Yahoo Finance",
        {
            **_CANDLE,
            "Date": Role.TIME,
            "Volume": Role.VOLUME,
            "Adj Close": Role.ROW_NUMBER,
        },
        shares_unless_pair=True,
    ),
    *(
        _profile(
            "Investing.com",
            dict(zip(names.split("|"), _INVESTING, strict=True)),
            units={"Vol.": ASSET_UNITS},
            optional="Vol.",
            order=order,
        )
        for names, order in (
            ("Date|Price|Open|High|Low|Vol.|Change %", "month_first"),
            ("Datum|Zuletzt|Eröffn.|Hoch|Tief|Vol.|+/- %", "day_first"),
            ("Date|Dernier|Ouv.|Plus Haut|Plus Bas|Vol.|Variation %", "day_first"),
            ("Fecha|Último|Apertura|Máximo|Mínimo|Vol.|% var.", "day_first"),
            ("Data|Ultimo|Apertura|Massimo|Minimo|Vol.|Var. %", "day_first"),
            ("Data|Último|Abertura|Máxima|Mínima|Vol.|Var%", "day_first"),
        )
    ),
    _profile(
        "Nasdaq.com",
        {
            "Date": Role.TIME,
            "Close/Last": Role.PRICE,
            "Volume": Role.VOLUME,
            "Open": Role.OPEN,
            "High": Role.HIGH,
            "Low": Role.LOW,
        },
        units={"Volume": ASSET_UNITS},
        optional="Volume",
        order="month_first",
    ),
    _profile(
        "CryptoCompare",
        {
            "time": Role.TIME,
            "high": Role.HIGH,
            "low": Role.LOW,
            "open": Role.OPEN,
            "close": Role.PRICE,
            "volumefrom": Role.VOLUME,
            "volumeto": Role.VOLUME,
        },
        units={"volumefrom": ASSET_UNITS, "volumeto": QUOTE_UNITS},
    ),
    _profile(
        "Stooq",
        {
            "TICKER": Role.SYMBOL,
            "PER": Role.INTERVAL,
            "DATE": Role.TIME,
            "TIME": Role.TIME,
            "OPEN": Role.OPEN,
            "HIGH": Role.HIGH,
            "LOW": Role.LOW,
            "CLOSE": Role.PRICE,
            "VOL": Role.VOLUME,
        },
        units={"VOL": ASSET_UNITS},
        optional="VOL",
    ),
)

_OWN = frozenset(_keys("symbol|price_usd|asset_id|source|dataset|revision|timestamp"))


def profile_of(header: Sequence[str]) -> Profile | None:
    """The publisher's profile whose columns a header has, all of them; None if there is none.

    Of several the one that knows the most columns is taken.
    """
    keys = {key_of(name.strip("<> ")) for name in header}
    if keys >= _OWN:
        return Profile("this service", {}, is_own=True)
    found = [profile for profile in PROFILES if profile.needs <= keys]
    return max(found, key=lambda profile: len(profile.needs), default=None)


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A publisher whose files have no header: their columns by place."""

    profile: Profile
    header: tuple[str, ...]
    fits: Callable[[Sequence[Sequence[float | None]]], bool]
    """Whether rows of numbers look like it."""


def _is_candle(row: Sequence[float | None], open_: int, high: int, low: int, close: int) -> bool:
    opened, highest, lowest, closed = row[open_], row[high], row[low], row[close]
    if opened is None or highest is None or lowest is None or closed is None:
        return False
    return lowest <= min(opened, closed) and highest >= max(opened, closed)


_EPOCHS = (10**9, 10**19)


def _is_epoch(value: float | None) -> bool:
    return value is not None and _EPOCHS[0] <= value < _EPOCHS[1]


def _binance(rows: Sequence[Sequence[float | None]]) -> bool:
    return all(
        _is_epoch(row[0])
        and _is_epoch(row[6])
        and row[6] > row[0]  # type: ignore[operator]
        and _is_candle(row, 1, 2, 3, 4)
        for row in rows
    )


def _kraken(rows: Sequence[Sequence[float | None]]) -> bool:
    return all(_is_epoch(row[0]) and _is_candle(row, 1, 2, 3, 4) for row in rows)


UNNAMED: Mapping[int, tuple[Unnamed, ...]] = {
    12: (
        Unnamed(
            _profile(
                "Binance klines",
                {
                    **_CANDLE,
                    "Open time": Role.TIME,
                    "Volume": Role.VOLUME,
                    "Quote volume": Role.VOLUME,
                    "Close time": Role.ROW_NUMBER,
                },
                units={"Volume": ASSET_UNITS, "Quote volume": QUOTE_UNITS},
            ),
            (
                "Open time",
                "Open",
                "High",
                "Low",
                "Close",
                "Volume",
                "Close time",
                "Quote volume",
                "Trades",
                "Taker buy base",
                "Taker buy quote",
                "Ignore",
            ),
            _binance,
        ),
    ),
    7: (
        Unnamed(
            _profile(
                "Kraken OHLCVT",
                {**_CANDLE, "Time": Role.TIME, "Volume": Role.VOLUME},
                units={"Volume": ASSET_UNITS},
            ),
            ("Time", "Open", "High", "Low", "Close", "Volume", "Trades"),
            _kraken,
        ),
    ),
}


def unnamed_profile(rows: Sequence[Sequence[float | None]]) -> Unnamed | None:
    """The publisher of a file without a header, told by its numbers; None if nobody knows.

    Args:
        rows: some of its rows; a cell that is no number is None.
    """
    if not rows:
        return None
    return next((found for found in UNNAMED.get(len(rows[0]), ()) if found.fits(rows)), None)
