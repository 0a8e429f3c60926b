"""CoinGecko's `/coins/markets`: one row per coin, by market cap, 250 a page. And its history.

Format and limits: CoinGecko API v3 reference, "Coins List with Market Data". The public plan
needs no key; a demo key goes into `x-cg-demo-api-key`, a paid one into `x-cg-pro-api-key`
(and asks for the host pro-api.coingecko.com in COINGECKO_API_URL). Without a key the limit is
per address, shared and not stated; every request counts, whatever its status. The plans' limits
are listed in docs/adding-a-source.md.

The history is `/coins/{id}/market_chart/range`, reference "Coin Historical Chart Data within Time
Range by ID": three lists of [milliseconds, value]. How far apart the points are follows from the
length of the range: up to a day that ends now, 5 minutes; up to 90 days, an hour; beyond, a day, at
00:00 UTC. Points of 5 minutes and of an hour come somewhat after the full one. The last point may
be the present price, which is no part of the series.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, StringConstraints

from marketdata import clock
from marketdata.errors import UpstreamMalformed
from marketdata.settings import Settings, read_settings
from marketdata.sources import json_stream
from marketdata.sources.base import PageRequest, Quota, number, rank_in
from marketdata.sources.history import Asset, HistorySource, Interval, Window
from marketdata.sources.json_stream import ObjectAnswered

PER_PAGE = 250
"""The most that the API gives on a page."""

_SHORTEST_ASKED: Mapping[Interval, timedelta] = {
    Interval.FIVE_MINUTES: timedelta(0),
    Interval.HOUR: timedelta(days=2),
    Interval.DAY: timedelta(days=91),
}
"""What a range must be long at least, lest the API answers with points that are closer together."""

# fmt: off
_OTHER_FIELDS = frozenset((
    "image", "market_cap_rank", "market_cap_rank_with_rehypothecated", "fully_diluted_valuation",
    "high_24h", "low_24h", "price_change_24h", "market_cap_change_24h",
    "market_cap_change_percentage_24h", "circulating_supply", "total_supply", "max_supply",
    "outstanding_supply", "outstanding_token_value_usd",
    "ath", "ath_change_percentage", "ath_date", "atl", "atl_change_percentage", "atl_date",
    "roi", "roi.times", "roi.currency", "roi.percentage",
    "sparkline_in_7d", "sparkline_in_7d.price",
    *(f"price_change_percentage_{span}_in_currency"
      for span in ("1h", "24h", "7d", "14d", "30d", "200d", "1y")),
))
# fmt: on
"""What else a coin's row may have, by the reference and by what was recorded."""

_LISTS = {"prices": "price", "market_caps": "market_cap", "total_volumes": "total_volume"}
"""The lists of an answer, and what a row calls their values."""

_ON_TIME = timedelta(minutes=15)
"""How long after the full hour or day a point of the series may come."""
_SPARSE = 6
"""How many steps apart points may typically be, and still be a series with holes."""


class CoinGeckoSettings(Settings):
    """CoinGecko's settings."""

    coingecko_api_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] = (
        "https://api.coingecko.com/api/v3/coins/markets"
    )
    coingecko_pages: int = Field(default=1, ge=1, le=100)
    coingecko_rate_per_minute: float = Field(default=3, gt=0, le=1_000_000)
    coingecko_burst: int = Field(default=5, ge=1, le=1_000_000)
    coingecko_history_days: int = Field(default=365, ge=2, le=10_000)
    """How many days back the plan gives hourly and daily values."""


class CoinGecko(HistorySource):
    """The coins with the highest market cap, as many pages as the settings say."""

    name: ClassVar[str] = "coingecko"
    conditional: ClassVar[bool] = True
    page_size: ClassVar[int | None] = PER_PAGE
    fields: ClassVar[Mapping[str, str]] = {
        "symbol": "symbol",
        "name": "name",
        "asset_id": "id",
        "price_usd": "current_price",
        "volume_24h": "total_volume",
        "market_cap": "market_cap",
        "percent_change_24h": "price_change_percentage_24h",
        "timestamp": "last_updated",
    }
    documented: ClassVar[frozenset[str]] = _OTHER_FIELDS
    history_setting: ClassVar[Mapping[Interval, str]] = dict.fromkeys(
        (Interval.HOUR, Interval.DAY), "COINGECKO_HISTORY_DAYS"
    )
    longest_window: ClassVar[Mapping[Interval, timedelta]] = {
        Interval.FIVE_MINUTES: timedelta(days=1),
        Interval.HOUR: timedelta(days=90),
        Interval.DAY: timedelta(days=365),
    }

    def __init__(self, settings: CoinGeckoSettings, key: str = "") -> None:
        self._url = settings.coingecko_api_url
        self.pages = settings.coingecko_pages
        self._history_days = settings.coingecko_history_days
        # CoinGecko tells plans apart by host; its own documentation says so.
        header = "x-cg-pro-api-key" if "://pro-api." in self._url else "x-cg-demo-api-key"
        self._headers = {header: key} if key else {}
        self.quota = Quota(settings.coingecko_rate_per_minute, settings.coingecko_burst)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], secret: Mapping[str, str]) -> Self:
        """See `ApiSource`; the key is the secret's `coingecko_api_key`."""
        settings = read_settings(CoinGeckoSettings, environment)
        return cls(settings, secret.get("coingecko_api_key", ""))

    def page(self, number: int) -> PageRequest:
        """A page of coins, by market cap."""
        params = {
            "vs_currency": "usd",
            "order": "market_cap_desc",
            "per_page": str(PER_PAGE),
            "page": str(number),
            "price_change_percentage": "24h",
        }
        return PageRequest(number, self._url, params, self._headers)

    @staticmethod
    def rank_of(row: Mapping[str, Any]) -> int | None:
        """The rank by market cap; some coins have none."""
        return rank_in(row.get("market_cap_rank"))

    @staticmethod
    def map_row(row: Mapping[str, Any]) -> dict[str, Any]:
        """A coin under canonical names."""
        return {
            "symbol": row.get("symbol"),
            "name": row.get("name"),
            "asset_id": row.get("id"),
            "price_usd": number(row.get("current_price")),
            "volume_24h": number(row.get("total_volume")),
            "market_cap": number(row.get("market_cap")),
            "percent_change_24h": number(row.get("price_change_percentage_24h")),
            "timestamp": row.get("last_updated"),
        }

    def history_days(self) -> Mapping[Interval, int]:
        """See `HistorySource`; only of the last day are there points of 5 minutes."""
        return {
            Interval.FIVE_MINUTES: 1,
            Interval.HOUR: self._history_days,
            Interval.DAY: self._history_days,
        }

    def history_request(
        self, page: int, asset: Asset, window: Window, interval: Interval, *, now: datetime
    ) -> PageRequest:
        """See `HistorySource`: a window that is short is asked for as a part of a longer range."""
        shortest = _SHORTEST_ASKED[interval]
        earliest = self.earliest(interval, now)
        start = min(window.start, max(window.end - shortest, earliest))
        end = max(window.end, start + shortest)
        if interval is Interval.FIVE_MINUTES:
            # A range that ends before now has hourly points, however short it is.
            end = max(end, now)
        parts = urlsplit(self._url)
        path = f"{parts.path.removesuffix('/markets')}/{quote(asset.id, safe='')}"
        params = {
            "vs_currency": "usd",
            "from": str(clock.to_ms(start) // 1000),
            # The range has its end, and the window has not.
            "to": str(clock.to_ms(end) // 1000 - 1),
        }
        url = parts._replace(path=f"{path}/market_chart/range").geturl()
        return PageRequest(page, url, params, self._headers, frozenset({asset.id}))

    def history_rows(
        self,
        asset: Asset,
        window: Window,
        interval: Interval,
        chunks: Iterable[bytes],
        *,
        what: str,
    ) -> Iterator[str]:
        """See `HistorySource`: the lists are joined by time, so that a point is one row.

        A time without a price is a row as well, which validation sets aside.
        """
        points, unread = _points(chunks, what)
        times = sorted(points)
        if times and _is_present(times, interval):
            points.pop(times.pop())
        _require_interval(sorted({time for time, _ in times}), interval, what)
        known = {"id": asset.id, "symbol": asset.symbol, "name": asset.name, "interval": interval}
        begin, end = clock.to_ms(window.start), clock.to_ms(window.end)
        for time, again in times:
            if begin <= time < end:
                yield _row({**known, "timestamp": _Number(time), **points[time, again]})
        for place, point in unread:
            yield _row({**known, "list": place, "point": point})

    @staticmethod
    def map_history_row(row: Mapping[str, Any]) -> dict[str, Any]:
        """See `HistorySource`."""
        return {
            "symbol": row.get("symbol"),
            "name": row.get("name"),
            "asset_id": row.get("id"),
            "price_usd": number(row.get("price")),
            "volume_24h": number(row.get("total_volume")),
            "market_cap": number(row.get("market_cap")),
            "percent_change_24h": None,
            "timestamp": row.get("timestamp"),
            "interval": row.get("interval"),
        }


class _Number(str):
    """A number as it was written, which may be more digits than a float has."""

    __slots__ = ()


_MILLISECONDS = re.compile(r"\d{1,15}", re.ASCII)


def _points(
    chunks: Iterable[bytes], what: str
) -> tuple[dict[tuple[int, int], dict[str, Any]], list[tuple[str, Any]]]:
    """The points of an answer, and what stands in its lists and is none.

    A point's key is its time in milliseconds, and how often that has come before in the list: a
    list that says two things of one time has two rows.
    """
    answer = json_stream.document(chunks, what=what, parse_number=_Number)
    if not isinstance(answer, dict):
        raise UpstreamMalformed(_wrong(what, "is no JSON object"), head=_kept(answer)[:200])
    points: dict[tuple[int, int], dict[str, Any]] = {}
    unread: list[tuple[str, Any]] = []
    for name, field in _LISTS.items():
        found = answer.get(name)
        if not isinstance(found, list):
            # It may tell an error, in place of the lists.
            body = _kept(answer)
            raise ObjectAnswered(_wrong(what, f"has no list {name!r}"), body, body[:200])
        seen: Counter[int] = Counter()
        for point in found:
            match point:
                case [_Number() as time, value] if _MILLISECONDS.fullmatch(time):
                    at = int(time)
                    key = (at, seen[at])
                    seen[at] += 1
                    points.setdefault(key, dict.fromkeys(_LISTS.values()))[field] = value
                case _:
                    unread.append((name, point))
    return points, unread


def _wrong(what: str, how: str) -> str:
    return (
        f"{what} answered something that {how}, where the lists {', '.join(_LISTS)} belong. Its "
        "format has changed, or it is another resource: asking again gives the same."
    )


def _is_present(times: list[tuple[int, int]], interval: Interval) -> bool:
    """Whether the last point is the present price, which comes in between the series' own."""
    step, on_time = interval.step, _ON_TIME
    last = timedelta(milliseconds=times[-1][0])
    if last % step >= on_time:
        return True
    before = next((time for time, _ in reversed(times) if time != times[-1][0]), None)
    return before is not None and last - timedelta(milliseconds=before) < step / 2


def _require_interval(times: list[int], interval: Interval, what: str) -> None:
    """Refuse points that lie as far apart as another interval's.

    Raises:
        UpstreamMalformed: they do; kept as this interval's, they would be a false series.
    """
    if len(times) < 3:  # noqa: PLR2004 - one distance alone may be a hole
        return
    apart = sorted(later - earlier for earlier, later in pairwise(times))
    typical = timedelta(milliseconds=apart[len(apart) // 2])
    if interval.step / 2 < typical < interval.step * _SPARSE:
        return
    raise UpstreamMalformed(
        f"{what} answered {len(times)} points that lie {typical.total_seconds() / 60:g} minutes "
        f"apart, where points of the interval {interval} were asked for. None of them was kept. "
        "The source has changed how the interval follows from a range's length."
    )


def _row(fields: Mapping[str, Any]) -> str:
    return f"{{{', '.join(f'{json.dumps(name)}: {_kept(v)}' for name, v in fields.items())}}}"


def _kept(value: object) -> str:
    try:
        return _text(value)
    except RecursionError:
        return '"nested too deeply to be kept"'


def _text(value: object) -> str:
    """JSON in which numbers are written as they came."""
    if isinstance(value, _Number):
        return value
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)}: {_text(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return json.dumps(value)


SOURCE = CoinGecko
