"""The past of the samples' coins: a random walk through their present prices, made up by hashing.

A price is a function of the coin and the time, so that a point is the same whatever range is asked
and whenever. It passes through the sample's price at ``TAKEN_AT`` and goes on to this day: whoever
asks for the past year gets one. Both sources tell nearly the same price of a coin.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property

from local.replay.samples import TAKEN_AT, Row, coingecko_markets, coinpaprika_tickers

DAY = timedelta(days=1)
PLAN_DAYS = 365
"""How far back the free plans reach."""

_MASK = 2**64 - 1
_DAILY = 0.03
"""Standard deviation of a day's change, roughly."""
_PEGGED = 0.0003
"""The same of a coin that follows the dollar."""
_PERIODS_MINUTES = (22, 90, 360, 1_440, 4 * 1_440, 16 * 1_440, 64 * 1_440, 256 * 1_440)
_MISSING = 400
"""One in so many points is not there at all: a hole that the source itself has."""
_NO_CAP = 50
_NO_VOLUME = 70
"""One in so many points of CoinGecko has no market cap, or no volume."""


@dataclass(frozen=True)
class Coin:
    """What a coin's past is made of."""

    seed: int
    price: float
    market_cap: float
    volume: float
    began: datetime
    """Before it there are no points."""

    def price_at(self, time: datetime) -> float:
        """Return the price in USD."""
        return self.price * math.exp(self._walk(time) - self._present)

    def market_cap_at(self, price: float) -> float:
        """Return the market cap in USD at a price: the supply stays what it is."""
        return self.market_cap * price / self.price

    def volume_at(self, time: datetime) -> float:
        """Return the turnover of the 24 hours before."""
        return self.volume * math.exp(0.5 * _noise(self.seed ^ 1, time.timestamp(), 7 * 60))

    @cached_property
    def _present(self) -> float:
        return self._walk(TAKEN_AT)

    def _walk(self, time: datetime) -> float:
        pegged = abs(self.price - 1) < 0.02  # noqa: PLR2004
        daily = _PEGGED if pegged else _DAILY
        seconds = time.timestamp()
        return daily * sum(
            math.sqrt(minutes / 1_440) * _noise(self.seed + minutes, seconds, minutes)
            for minutes in _PERIODS_MINUTES
        )

    def chance(self, what: str, time: datetime, times: int) -> bool:
        """Return true for one in so many times, always the same ones."""
        return _mixed(self.seed + _number(what) + int(time.timestamp())) % times == 0

    def points(
        self, start: datetime, end: datetime, step: timedelta, now: datetime
    ) -> Iterator[datetime]:
        """Yield the times of the grid from start to end, and past, that have a point."""
        at = max(start, self.began)
        at += (datetime(1970, 1, 1, tzinfo=UTC) - at) % step
        while at <= min(end, now):
            if not self.chance(f"missing {step}", at, _MISSING):
                yield at
            at += step


def _mixed(value: int) -> int:
    """Mix the bits of a number (the finaliser of SplitMix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@cache
def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _noise(seed: int, seconds: float, minutes: int) -> float:
    """Return smooth noise from -1 to 1 that turns every so many minutes."""
    at = seconds / (60 * minutes)
    first = math.floor(at)
    low, high = (_mixed(seed * 31 + first + n) / 2**63 - 1 for n in (0, 1))
    share = (1 - math.cos(math.pi * (at - first))) / 2
    return low + (high - low) * share


@cache
def _coingecko_coins() -> dict[str, Coin]:
    return {row["id"]: _coingecko_coin(row) for row in coingecko_markets()}


def _coingecko_coin(row: Row) -> Coin:
    return Coin(
        seed=_number(row["id"]),
        price=row["current_price"],
        market_cap=row["market_cap"],
        volume=row["total_volume"] or row["market_cap"] / 100,
        began=_began(row["id"]),
    )


@cache
def _coinpaprika_coins() -> dict[str, Coin]:
    return {row["id"]: _coinpaprika_coin(row) for row in coinpaprika_tickers()}


def _coinpaprika_coin(row: Row) -> Coin:
    usd = row["quotes"]["USD"]
    name = row["id"].removeprefix(f"{row['symbol'].lower()}-")
    return Coin(
        seed=_number(name),
        price=usd["price"],
        market_cap=usd["market_cap"],
        volume=usd["volume_24h"],
        began=_began(name),
    )


def _began(name: str) -> datetime:
    """Return when a coin's history begins, at midnight: some coins are younger than a year."""
    days = 200 + _number(f"began {name}") % 3_000
    return TAKEN_AT.replace(hour=0) - timedelta(days=days)


# --- CoinGecko ----------------------------------------------------------------------------------


def market_chart(coin_id: str, start: datetime, end: datetime, now: datetime) -> Row | None:
    """Return CoinGecko's three lists for a range, or None for a coin that there is not.

    How far apart points are follows from the range, as it does there. The lists differ in length
    now and then; a range that reaches the present ends with the present price.
    """
    coin = _coingecko_coins().get(coin_id)
    if coin is None:
        return None
    length = end - start
    if length <= DAY and end >= now - timedelta(minutes=5):
        step, late = timedelta(minutes=5), 60_000
    elif length <= 90 * DAY:
        step, late = timedelta(hours=1), 110_000
    else:
        step, late = DAY, 0
    lists: Row = {"prices": [], "market_caps": [], "total_volumes": []}
    # A point that is late may belong to a range that begins after the full hour.
    for at in coin.points(start - step, end, step, now):
        after = _mixed(coin.seed + int(at.timestamp())) % (late + 1)
        time = at + timedelta(milliseconds=after)
        if start <= time <= min(end, now):
            _add(
                lists,
                coin,
                time,
                cap=not coin.chance("cap", at, _NO_CAP),
                volume=not coin.chance("volume", at, _NO_VOLUME),
            )
    if end >= now:
        _add(lists, coin, now, cap=True, volume=True)
    return lists


def _add(lists: Row, coin: Coin, time: datetime, *, cap: bool, volume: bool) -> None:
    milliseconds = int(time.timestamp()) * 1000 + time.microsecond // 1000
    price = coin.price_at(time)
    lists["prices"].append([milliseconds, price])
    if cap:
        lists["market_caps"].append([milliseconds, coin.market_cap_at(price)])
    if volume:
        lists["total_volumes"].append([milliseconds, coin.volume_at(time)])


# --- CoinPaprika --------------------------------------------------------------------------------

INTERVALS = {
    **{f"{n}m": timedelta(minutes=n) for n in (5, 10, 15, 30, 45)},
    **{f"{n}h": timedelta(hours=n) for n in (1, 2, 3, 6, 12, 24)},
    **{f"{n}d": timedelta(days=n) for n in (1, 7, 14, 30, 90, 365)},
}
"""What its parameter ``interval`` takes."""
MAX_TICKS = 5_000


def ticks(
    coin_id: str, start: datetime, end: datetime, step: timedelta, limit: int, now: datetime
) -> list[Row] | None:
    """Return CoinPaprika's points of a range, or None for a coin that there is not."""
    coin = _coinpaprika_coins().get(coin_id)
    if coin is None:
        return None
    found: list[Row] = []
    for at in coin.points(start, end, step, now):
        if len(found) == limit:
            break
        price = coin.price_at(at)
        found.append(
            {
                "timestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "price": float(f"{price:.14g}"),
                "volume_24h": round(coin.volume_at(at)),
                "market_cap": round(coin.market_cap_at(price)),
            }
        )
    return found


def plan_days(step: timedelta) -> int:
    """Return how many days back CoinPaprika's free plan gives points that are so far apart."""
    if step >= DAY:
        return PLAN_DAYS
    return 1 if step >= timedelta(hours=1) else 0
