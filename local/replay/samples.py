"""Sample payloads of the public APIs: made up by a seeded generator, the same every time.

Shapes and types follow the real answers, with what makes those hard to read: prices that are
integers, decimals or have an exponent; nulls; tickers that several coins share; zeros that mean
"unknown".
"""

import math
import random
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

Row = dict[str, Any]

TAKEN_AT = datetime(2025, 6, 2, 9, 0, tzinfo=UTC)
"""The moment that the samples pretend to show."""

COINGECKO_COINS = 300
COINPAPRIKA_COINS = 640
WHOLE_FROM = 10_000

# id, ticker, name, price in USD, market cap in USD, largest supply there can be
_KNOWN: list[tuple[str, str, str, float, float, float | None]] = [
    ("bitcoin", "btc", "Bitcoin", 91234, 1_823_000_000_000, 21_000_000),
    ("ethereum", "eth", "Ethereum", 3120.55, 376_400_000_000, None),
    ("tether", "usdt", "Tether", 1.0, 184_000_000_000, None),
    ("ripple", "xrp", "XRP", 2.17, 131_500_000_000, 100_000_000_000),
    ("binancecoin", "bnb", "BNB", 887.4, 122_200_000_000, 200_000_000),
    ("solana", "sol", "Solana", 139.82, 78_900_000_000, None),
    ("usd-coin", "usdc", "USDC", 0.999812, 76_300_000_000, None),
    ("tron", "trx", "TRON", 0.281745, 26_700_000_000, None),
    ("dogecoin", "doge", "Dogecoin", 0.150236, 24_300_000_000, None),
    ("cardano", "ada", "Cardano", 0.421903, 15_400_000_000, 45_000_000_000),
    ("bridged-usdt", "usdt", "Bridged USDT", 1.001, 9_100_000_000, None),
    ("wrapped-bitcoin", "wbtc", "Wrapped Bitcoin", 91102, 11_700_000_000, None),
    ("chainlink", "link", "Chainlink", 13.41, 9_340_000_000, 1_000_000_000),
    ("bitcoin-cash", "bch", "Bitcoin Cash", 556.02, 11_100_000_000, 21_000_000),
    ("stellar", "xlm", "Stellar", 0.244871, 7_900_000_000, 50_001_806_812),
    ("litecoin", "ltc", "Litecoin", 82.67, 6_340_000_000, 84_000_000),
    ("bridged-usdc", "usdc", "Bridged USDC", 0.99971, 2_050_000_000, None),
    ("polkadot", "dot", "Polkadot", 2.31, 3_790_000_000, 2_100_000_000),
    ("shiba-inu", "shib", "Shiba Inu", 8.41e-06, 4_960_000_000, 589_552_695_333_683),
    ("pepe", "pepe", "Pepe", 4.6172e-06, 1_940_000_000, 420_690_000_000_000),
]

_BEGINNINGS = (
    *("Alba", "Astra", "Boreal", "Cinder", "Cobalt", "Delta", "Ember", "Fathom", "Garnet"),
    *("Harbor", "Ivory", "Juniper", "Keel", "Lumen", "Meridian", "Nimbus", "Onyx", "Pavo"),
    *("Quartz", "Ridge", "Saffron", "Tundra", "Umber", "Vesper", "Willow", "Xeno", "Yarrow"),
    "Zephyr",
)
_ENDINGS = (
    *("Chain", "Coin", "Dollar", "Finance", "Gold", "Network", "Pay", "Protocol", "Swap"),
    *("Token", "Vault", "World"),
)


def _rounded(value: float, digits: int = 6) -> float:
    """Round to significant digits, as the APIs do; large numbers come without a fraction."""
    if value >= WHOLE_FROM:
        return round(value)
    return float(f"{value:.{digits}g}")


def _one_in(times: int, chance: random.Random) -> bool:
    return chance.randrange(times) == 0


def _name(number: int) -> tuple[str, str, str]:
    beginning = _BEGINNINGS[number % len(_BEGINNINGS)]
    ending = _ENDINGS[number // len(_BEGINNINGS) % len(_ENDINGS)]
    series = number // (len(_BEGINNINGS) * len(_ENDINGS))
    name = f"{beginning} {ending}" + (f" {series + 1}" if series else "")
    # Three letters of one word and one of the other: some coins end up with the same ticker.
    ticker = (beginning[:3] + ending[0] + (str(series + 1) if series else "")).lower()
    return name.lower().replace(" ", "-"), ticker, name


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _markets_row(number: int, chance: random.Random) -> Row:
    """One coin as of CoinGecko; the first ones are known coins, the rest invented."""
    if number < len(_KNOWN):
        coin_id, ticker, name, price, market_cap, largest = _KNOWN[number]
    else:
        coin_id, ticker, name = _name(number)
        price = _rounded(10 ** chance.uniform(-9, 3.2))
        market_cap = 1_800_000_000 * math.exp(-number / 60) * chance.uniform(0.9, 1.1)
        largest = round(market_cap / price * 1.5) if _one_in(2, chance) else None
    supply = market_cap / price
    change = chance.gauss(0, 3.5)
    price_before = price / (1 + change / 100)
    cap_change = change + chance.gauss(0, 0.2)
    high = _rounded(max(price, price_before) * (1 + abs(chance.gauss(0, 0.01))))
    low = _rounded(min(price, price_before) * (1 - abs(chance.gauss(0, 0.01))))
    best = high * (chance.uniform(1.05, 1.9) if number < len(_KNOWN) else chance.uniform(1.05, 40))
    worst = low / chance.uniform(2, 2000)
    # What was not traded for a while has no figures of the day.
    fresh = number < len(_KNOWN) or not _one_in(30, chance)
    total = min(supply * chance.uniform(1, 1.4), largest or math.inf)
    return {
        "id": coin_id,
        "symbol": ticker,
        "name": name,
        "image": f"https://images.example/coins/{coin_id}.png",
        "current_price": price,
        "market_cap": round(market_cap),
        "market_cap_rank": None,
        "fully_diluted_valuation": round((largest or total) * price),
        "total_volume": round(market_cap * chance.uniform(0.002, 0.2)) if fresh else None,
        "high_24h": high if fresh else None,
        "low_24h": low if fresh else None,
        "price_change_24h": _rounded(price - price_before) if fresh else None,
        "price_change_percentage_24h": round(change, 5) if fresh else None,
        "market_cap_change_24h": _rounded(market_cap * cap_change / 100) if fresh else None,
        "market_cap_change_percentage_24h": round(cap_change, 5) if fresh else None,
        "circulating_supply": round(supply, 3),
        "total_supply": None if _one_in(50, chance) else round(total, 3),
        "max_supply": None if largest is None else float(largest),
        "ath": _rounded(best),
        "ath_change_percentage": round((price / best - 1) * 100, 5),
        "ath_date": _stamp(TAKEN_AT - timedelta(days=chance.uniform(30, 2500))),
        "atl": _rounded(worst),
        "atl_change_percentage": round((price / worst - 1) * 100, 5),
        "atl_date": _stamp(TAKEN_AT - timedelta(days=chance.uniform(2500, 3500))),
        "roi": (
            {
                "times": 27.5 * chance.random(),
                "currency": "btc",
                "percentage": 2750 * chance.random(),
            }
            if _one_in(10, chance)
            else None
        ),
        "last_updated": _stamp(
            TAKEN_AT - timedelta(seconds=chance.uniform(1, 240) if fresh else 500_000)
        ),
    }


@cache
def coingecko_markets() -> tuple[Row, ...]:
    """All coins as CoinGecko's ``/coins/markets`` gives them, largest market cap first."""
    chance = random.Random(20250602)  # noqa: S311 - repeatable, not secret
    rows = [_markets_row(number, chance) for number in range(COINGECKO_COINS)]
    rows.sort(key=lambda row: -row["market_cap"])
    for rank, row in enumerate(rows, start=1):
        row["market_cap_rank"] = rank
    return tuple(rows)


def _ticker_row(number: int, chance: random.Random) -> Row:
    """One coin as of CoinPaprika, which writes 0 for what it does not know."""
    if number < len(_KNOWN):
        coin_id, ticker, name, price, market_cap, largest = _KNOWN[number]
        price *= chance.uniform(0.998, 1.002)
    else:
        coin_id, ticker, name = _name(number)
        price = 10 ** chance.uniform(-10, 3.2)
        market_cap = 1_800_000_000 * math.exp(-number / 60) * chance.uniform(0.9, 1.1)
        largest = market_cap / price * 1.5 if _one_in(2, chance) else None
    unknown = number >= len(_KNOWN) and _one_in(8, chance)
    supply = 0 if unknown else round(market_cap / price)
    best = price * (chance.uniform(1.05, 1.9) if number < len(_KNOWN) else chance.uniform(1.2, 60))
    changes = {
        period: round(chance.gauss(0, spread), 2)
        for period, spread in (
            ("15m", 0.2),
            ("30m", 0.3),
            ("1h", 0.5),
            ("6h", 1.2),
            ("12h", 2),
            ("24h", 3.5),
            ("7d", 9),
            ("30d", 20),
            ("1y", 120),
        )
    }
    return {
        "id": f"{ticker}-{coin_id}",
        "name": name,
        "symbol": ticker.upper(),
        "rank": 0,
        "circulating_supply": supply,
        "total_supply": supply,
        "max_supply": 0 if largest is None else round(largest),
        "beta_value": round(chance.uniform(0.1, 1.6), 6),
        "first_data_at": (TAKEN_AT - timedelta(days=chance.uniform(60, 3500))).strftime(
            "%Y-%m-%dT00:00:00Z"
        ),
        "last_updated": (TAKEN_AT - timedelta(seconds=chance.uniform(1, 900))).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        ),
        "quotes": {
            "USD": {
                "price": float(f"{price:.14g}"),
                "volume_24h": round(market_cap * chance.uniform(0.0001, 0.2), 4),
                "volume_24h_change_24h": round(chance.gauss(0, 20), 2),
                "market_cap": 0 if unknown else round(market_cap),
                "market_cap_change_24h": 0 if unknown else changes["24h"],
                **{f"percent_change_{period}": change for period, change in changes.items()},
                "ath_price": None if unknown else float(f"{best:.10g}"),
                "ath_date": (
                    None
                    if unknown
                    else (TAKEN_AT - timedelta(days=chance.uniform(30, 2500))).strftime(
                        "%Y-%m-%dT%H:%M:%SZ"
                    )
                ),
                "percent_from_price_ath": None if unknown else round((price / best - 1) * 100, 2),
            }
        },
    }


@cache
def coinpaprika_tickers() -> tuple[Row, ...]:
    """All coins as CoinPaprika's ``/v1/tickers`` gives them; like there, not ordered by rank."""
    chance = random.Random(20250603)  # noqa: S311 - repeatable, not secret
    rows = [_ticker_row(number, chance) for number in range(COINPAPRIKA_COINS)]
    rows.sort(key=lambda row: -row["quotes"]["USD"]["market_cap"])
    for rank, row in enumerate(rows, start=1):
        row["rank"] = rank
    rest = rows[1:]
    chance.shuffle(rest)
    return (rows[0], *rest)
