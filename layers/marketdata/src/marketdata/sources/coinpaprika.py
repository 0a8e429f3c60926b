"""CoinPaprika's `/tickers`: every coin it knows in one answer of several megabytes. With history.

Format and plans: CoinPaprika API reference 1.7, "Get tickers for all active coins". The free
plan needs no key; a paid plan's key goes as it is into the header `Authorization`, and its
host is api-pro.coinpaprika.com (https://api-pro.coinpaprika.com/v1/tickers in
COINPAPRIKA_API_URL). The free plan's quota being used up is a 402, which counts as throttled.
Whether its answers carry validators is not documented, so pages are not asked for conditionally.

The history is `/tickers/{id}/historical`, reference "Get historical ticks for a specific coin": an
array of points, at most 5,000, of the interval that is asked for. The free plan has daily values of
a year and hourly ones of a day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, StringConstraints

from marketdata.settings import Settings, read_settings
from marketdata.sources import json_stream
from marketdata.sources.base import PageRequest, Quota, number, unknown_if_zero
from marketdata.sources.history import Asset, HistorySource, Interval, Window

# fmt: off
_OTHER_FIELDS = frozenset((
    "rank", "circulating_supply", "total_supply", "max_supply", "beta_value", "first_data_at",
    "quotes", "quotes.USD", "quotes.USD.volume_24h_change_24h", "quotes.USD.market_cap_change_24h",
    *(f"quotes.USD.percent_change_{span}"
      for span in ("15m", "30m", "1h", "6h", "12h", "7d", "30d", "1y")),
    "quotes.USD.ath_price", "quotes.USD.ath_date", "quotes.USD.percent_from_price_ath",
))
# fmt: on
"""What else a coin's row may have, by the reference and by what was recorded."""

_PAID_HOST = "api-pro."
_POINTS = 5_000
"""The most points that the API gives at once."""


class CoinPaprikaSettings(Settings):
    """CoinPaprika's settings."""

    coinpaprika_api_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] = (
        "https://api.coinpaprika.com/v1/tickers"
    )
    coinpaprika_top: int = Field(default=0, ge=0)
    """Only coins up to this rank; 0 for all."""
    coinpaprika_rate_per_minute: float = Field(default=10, gt=0, le=1_000_000)
    coinpaprika_burst: int = Field(default=15, ge=1, le=1_000_000)
    coinpaprika_history_days: int = Field(default=365, ge=1, le=10_000)
    """How many days back the plan gives daily values."""
    coinpaprika_history_hourly_days: int = Field(default=1, ge=0, le=10_000)
    """How many days back it gives hourly values; 0 if none."""
    coinpaprika_history_five_minute_days: int = Field(default=0, ge=0, le=10_000)
    """How many days back it gives values of 5 minutes; 0 if none."""


class CoinPaprika(HistorySource):
    """All coins of CoinPaprika, or those up to a rank."""

    name: ClassVar[str] = "coinpaprika"
    fields: ClassVar[Mapping[str, str]] = {
        "symbol": "symbol",
        "name": "name",
        "asset_id": "id",
        "price_usd": "quotes.USD.price",
        "volume_24h": "quotes.USD.volume_24h",
        "market_cap": "quotes.USD.market_cap",
        "percent_change_24h": "quotes.USD.percent_change_24h",
        "timestamp": "last_updated",
    }
    documented: ClassVar[frozenset[str]] = _OTHER_FIELDS
    history_setting: ClassVar[Mapping[Interval, str]] = {
        Interval.FIVE_MINUTES: "COINPAPRIKA_HISTORY_FIVE_MINUTE_DAYS",
        Interval.HOUR: "COINPAPRIKA_HISTORY_HOURLY_DAYS",
        Interval.DAY: "COINPAPRIKA_HISTORY_DAYS",
    }
    longest_window: ClassVar[Mapping[Interval, timedelta]] = {
        interval: _POINTS * interval.step for interval in Interval
    }

    def __init__(self, settings: CoinPaprikaSettings, key: str = "") -> None:
        self._url = settings.coinpaprika_api_url
        self._top = settings.coinpaprika_top
        self._history_days = {
            Interval.FIVE_MINUTES: settings.coinpaprika_history_five_minute_days,
            Interval.HOUR: settings.coinpaprika_history_hourly_days,
            Interval.DAY: settings.coinpaprika_history_days,
        }
        # The free host takes no key, and a key is not for any other host to see.
        paid = (urlsplit(self._url).hostname or "").startswith(_PAID_HOST)
        self._headers = {"Authorization": key} if key and paid else {}
        self.quota = Quota(settings.coinpaprika_rate_per_minute, settings.coinpaprika_burst)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], secret: Mapping[str, str]) -> Self:
        """See `ApiSource`; the key is the secret's `coinpaprika_api_key`."""
        settings = read_settings(CoinPaprikaSettings, environment)
        return cls(settings, secret.get("coinpaprika_api_key", ""))

    def page(self, number: int) -> PageRequest:
        """The one page there is."""
        return PageRequest(number, self._url, {"quotes": "USD"}, self._headers)

    def row_filter(self) -> Callable[[Any], bool] | None:
        """The coins up to a rank: the API itself knows no limit and no order."""
        return self._is_ranked if self._top else None

    def _is_ranked(self, row: Any) -> bool:
        if not isinstance(row, dict):
            return True
        # An inactive or new coin has rank 0 or none, and is beyond every limit.
        rank = row.get("rank") or 0
        return not isinstance(rank, int | float) or 0 < rank <= self._top

    @staticmethod
    def map_row(row: Mapping[str, Any]) -> dict[str, Any]:
        """A coin under canonical names.

        A market cap of 0 is how CoinPaprika writes "unknown": it comes with a supply of 0. A
        volume or a change of 0 is a number like any other: nothing was traded, nothing moved.
        A price of 0 is no price, and validation sets such a row aside.
        """
        quotes = row.get("quotes")
        usd = quotes.get("USD") if isinstance(quotes, Mapping) else None
        usd = usd if isinstance(usd, Mapping) else {}
        return {
            "symbol": row.get("symbol"),
            "name": row.get("name"),
            "asset_id": row.get("id"),
            "price_usd": number(usd.get("price")),
            "volume_24h": number(usd.get("volume_24h")),
            "market_cap": unknown_if_zero(usd.get("market_cap")),
            "percent_change_24h": number(usd.get("percent_change_24h")),
            "timestamp": row.get("last_updated"),
        }

    def history_days(self) -> Mapping[Interval, int]:
        """See `HistorySource`."""
        return self._history_days

    def history_request(
        self, page: int, asset: Asset, window: Window, interval: Interval, *, now: datetime
    ) -> PageRequest:
        """See `HistorySource`; the interval is a parameter here."""
        del now
        parts = urlsplit(self._url)
        url = parts._replace(path=f"{parts.path}/{quote(asset.id, safe='')}/historical").geturl()
        params = {
            "start": _time(window.start),
            # The range has its end, and the window has not.
            "end": _time(window.end - timedelta(seconds=1)),
            "interval": interval.value,
            "limit": str(_POINTS),
            "quote": "usd",
        }
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
        """See `HistorySource`: a row is the point as it was sent, beside whose it is."""
        known = json.dumps(
            {"id": asset.id, "symbol": asset.symbol, "name": asset.name, "interval": interval}
        )
        for point in json_stream.elements(chunks, what=what):
            if _may_be_within(point, window):
                yield f'{known[:-1]}, "point": {point}}}'

    @staticmethod
    def map_history_row(row: Mapping[str, Any]) -> dict[str, Any]:
        """See `HistorySource`; a market cap of 0 is unknown, as in `map_row`."""
        point = row.get("point")
        point = point if isinstance(point, Mapping) else {}
        return {
            "symbol": row.get("symbol"),
            "name": row.get("name"),
            "asset_id": row.get("id"),
            "price_usd": number(point.get("price")),
            "volume_24h": number(point.get("volume_24h")),
            "market_cap": unknown_if_zero(point.get("market_cap")),
            "percent_change_24h": None,
            "timestamp": point.get("timestamp"),
            "interval": row.get("interval"),
        }


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _may_be_within(point: str, window: Window) -> bool:
    """Whether a point belongs to a window, or can't be read well enough to say that it does not."""
    try:
        read = json_stream.parse(point)
        time = datetime.fromisoformat(read["timestamp"])
    except (RecursionError, ValueError, TypeError, LookupError):
        return True
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return window.start <= time < window.end


SOURCE = CoinPaprika
