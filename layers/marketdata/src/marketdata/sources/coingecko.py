"""CoinGecko's `/coins/markets`: one row per coin, by market cap, 250 a page.

Format and limits: CoinGecko API v3 reference, "Coins List with Market Data". The public plan
needs no key; a demo key goes into `x-cg-demo-api-key`, a paid one into `x-cg-pro-api-key`
(and asks for the host pro-api.coingecko.com in COINGECKO_API_URL). Without a key the limit is
per address, shared and not stated; every request counts, whatever its status. The plans' limits
are listed in docs/adding-a-source.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, StringConstraints

from marketdata.settings import Settings, read_settings
from marketdata.sources.base import ApiSource, PageRequest, Quota, number

PER_PAGE = 250
"""The most that the API gives on a page."""


class CoinGeckoSettings(Settings):
    """CoinGecko's settings."""

    coingecko_api_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] = (
        "https://api.coingecko.com/api/v3/coins/markets"
    )
    coingecko_pages: int = Field(default=1, ge=1, le=100)
    coingecko_rate_per_minute: float = Field(default=3, gt=0, le=1_000_000)
    coingecko_burst: int = Field(default=5, ge=1, le=1_000_000)


class CoinGecko(ApiSource):
    """The coins with the highest market cap, as many pages as the settings say."""

    name: ClassVar[str] = "coingecko"
    conditional: ClassVar[bool] = True
    page_size: ClassVar[int | None] = PER_PAGE

    def __init__(self, settings: CoinGeckoSettings, key: str = "") -> None:
        self._url = settings.coingecko_api_url
        self.pages = settings.coingecko_pages
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
        rank = row.get("market_cap_rank")
        return rank if isinstance(rank, int) and not isinstance(rank, bool) else None

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


SOURCE = CoinGecko
