"""CoinPaprika's `/tickers`: every coin it knows in one answer of several megabytes.

Format and plans: CoinPaprika API reference 1.7, "Get tickers for all active coins". The free
plan needs no key; a paid plan's key goes as it is into the header `Authorization`, and its
host is api-pro.coinpaprika.com (https://api-pro.coinpaprika.com/v1/tickers in
COINPAPRIKA_API_URL). The free plan's quota being used up is a 402, which counts as throttled.
Whether its answers carry validators is not documented, so pages are not asked for conditionally.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints

from marketdata.settings import Settings, read_settings
from marketdata.sources.base import ApiSource, PageRequest, Quota, number, unknown_if_zero

_PAID_HOST = "api-pro."


class CoinPaprikaSettings(Settings):
    """CoinPaprika's settings."""

    coinpaprika_api_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] = (
        "https://api.coinpaprika.com/v1/tickers"
    )
    coinpaprika_top: int = Field(default=0, ge=0)
    """Only coins up to this rank; 0 for all."""
    coinpaprika_rate_per_minute: float = Field(default=10, gt=0, le=1_000_000)
    coinpaprika_burst: int = Field(default=15, ge=1, le=1_000_000)


class CoinPaprika(ApiSource):
    """All coins of CoinPaprika, or those up to a rank."""

    name: ClassVar[str] = "coinpaprika"

    def __init__(self, settings: CoinPaprikaSettings, key: str = "") -> None:
        self._url = settings.coinpaprika_api_url
        self._top = settings.coinpaprika_top
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


SOURCE = CoinPaprika
