"""What the suite for sources knows of each source: the one place to add for a new one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from marketdata.store.connection import Store
from tests.support.documents import Document
from tests.support.pipeline import Pipeline
from tests.support.upstream import Reply, Seen, Upstream

type Row = dict[str, Any]
type Path = tuple[str, ...]
type Query = Mapping[str, str]


@dataclass(frozen=True)
class Recorded:
    """Real answers of the source, one run after the other, and what each run must count."""

    files: Sequence[str]
    inserted: Sequence[int]
    nulls: Mapping[str, int] = MappingProxyType({})
    """How many of the first answer's records have null in a field."""


@dataclass(frozen=True, kw_only=True)
class SourceCase:
    """A source as the suite sees it from outside."""

    url_variable: str
    """The setting with the address of the resource."""
    row: Callable[[int], Row]
    """A made-up row with every field filled; another asset for each number."""
    fields: Mapping[str, Path]
    """Where each canonical field stands in a row."""
    settings: Mapping[str, str] = MappingProxyType({})
    """Further settings; with several pages, if the source has them."""
    page: Callable[[Query], slice] = lambda _: slice(None)
    """Which rows the API answers to a query; all of them, if it has no pages."""
    page_rows: int | None = None
    """Rows of a full page, if it has pages."""
    unknown: Mapping[str, Sequence[Any]] = MappingProxyType({})
    """How a field that may be null says that, where not (or not only) by null."""
    recorded: Sequence[Recorded] = ()


def _coingecko_row(number: int) -> Row:
    return {
        "id": f"coin-{number}",
        "symbol": f"c{number % 7}",
        "name": f"Coin {number}",
        "image": "https://images.example/coin.png",
        "current_price": 1 + number / 8,
        "market_cap": 1_000_000 - number,
        "market_cap_rank": number + 1,
        "total_volume": 7.60358e-07,
        "price_change_percentage_24h": -1.25,
        "roi": None,
        "last_updated": "2025-05-09T06:00:07.123Z",
    }


def _coinpaprika_row(number: int) -> Row:
    return {
        "id": f"c{number}-coin-{number}",
        "name": f"Coin {number}",
        "symbol": f"C{number % 7}",
        "rank": number + 1,
        "circulating_supply": 10,
        "max_supply": 0,
        "last_updated": "2021-08-12T19:06:04Z",
        "quotes": {
            "USD": {
                "price": 3.6e-10 + number,
                "volume_24h": 5,
                "market_cap": 1_000_000 - number,
                "percent_change_24h": 0.25,
                "ath_date": None,
            }
        },
    }


CASES: dict[str, SourceCase] = {
    "coingecko": SourceCase(
        url_variable="COINGECKO_API_URL",
        settings={"COINGECKO_PAGES": "2"},
        row=_coingecko_row,
        fields={
            "symbol": ("symbol",),
            "name": ("name",),
            "asset_id": ("id",),
            "price_usd": ("current_price",),
            "volume_24h": ("total_volume",),
            "market_cap": ("market_cap",),
            "percent_change_24h": ("price_change_percentage_24h",),
            "timestamp": ("last_updated",),
        },
        page_rows=250,
        page=lambda query: slice(
            (int(query["page"]) - 1) * int(query["per_page"]),
            int(query["page"]) * int(query["per_page"]),
        ),
        recorded=[
            Recorded(["coingecko_markets_2025-05-09.json"], [250]),
            Recorded(["coingecko_markets_2024-01-02.json"], [250]),
            Recorded(
                [
                    "coingecko_markets_2022-02-23T113145Z.json",
                    "coingecko_markets_2022-02-23T113146Z.json",
                ],
                [250, 3],
            ),
        ],
    ),
    "coinpaprika": SourceCase(
        url_variable="COINPAPRIKA_API_URL",
        row=_coinpaprika_row,
        fields={
            "symbol": ("symbol",),
            "name": ("name",),
            "asset_id": ("id",),
            "price_usd": ("quotes", "USD", "price"),
            "volume_24h": ("quotes", "USD", "volume_24h"),
            "market_cap": ("quotes", "USD", "market_cap"),
            "percent_change_24h": ("quotes", "USD", "percent_change_24h"),
            "timestamp": ("last_updated",),
        },
        unknown={"market_cap": [None, 0, 0.0]},
        recorded=[
            Recorded(["coinpaprika_tickers_2021-08-12_part1.json"], [600], {"market_cap": 79}),
            Recorded(["coinpaprika_tickers_2021-10-22_top15.json"], [15]),
        ],
    ),
}

REQUIRED = ("symbol", "asset_id", "price_usd", "timestamp")
OPTIONAL = ("name", "volume_24h", "market_cap", "percent_change_24h")


def case_of(name: str) -> SourceCase:
    """The case of a source; without one the suite fails and says what to do."""
    assert name in CASES, (
        f"The source {name!r} has no case: add CASES[{name!r}] to tests/support/source_cases.py, "
        "with a made-up row, where the canonical fields stand in it, and how it is paged. "
        "docs/adding-a-source.md shows one."
    )
    return CASES[name]


@dataclass
class Bench:
    """One source under test, with all other sources beside it."""

    store: Store
    server: Upstream
    name: str
    names: Sequence[str] = field(default_factory=lambda: sorted(CASES))

    @property
    def case(self) -> SourceCase:
        """What is known of the source under test."""
        return case_of(self.name)

    def rows(self, count: int = 5) -> list[Row]:
        """Made-up rows of the source, each its own copy."""
        return [copy.deepcopy(self.case.row(number)) for number in range(count)]

    def put(self, row: Row, field_name: str, value: Any) -> None:
        """Give a canonical field another value in a row."""
        *way, last = self.case.fields[field_name]
        self._inner(row, way)[last] = value

    def drop(self, row: Row, field_name: str) -> None:
        """Take a canonical field out of a row."""
        *way, last = self.case.fields[field_name]
        del self._inner(row, way)[last]

    def run(self, answer: Reply | Iterable[Row], *, others: bool = False) -> Document:
        """A whole run with the source answering rows in its pages, or a reply to the first.

        Args:
            answer: what it answers.
            others: also take the other sources, each with three good rows.
        """
        self._serve(self.name, answer)
        names = [self.name]
        if others:
            names = [self.name, *(n for n in self.names if n != self.name)]
            for name in names[1:]:
                self._serve(name, [case_of(name).row(n) for n in range(3)])
        environment: dict[str, str] = {}
        for name in names:
            case = case_of(name)
            environment |= {**case.settings, case.url_variable: f"{self.server.url}/{name}"}
        return Pipeline(self.store, environment, names).run()

    def records(self) -> list[Document]:
        """The records of the source under test, by asset."""
        return list(self.store.market_data.find({"source": self.name}).sort("asset_id"))

    def _serve(self, name: str, answer: Reply | Iterable[Row]) -> None:
        page = case_of(name).page
        rows = [] if isinstance(answer, Reply) else list(answer)

        def reply(seen: Seen) -> Reply:
            asked = page(seen.query)
            if isinstance(answer, Reply) and not asked.start:
                return answer
            return Reply(rows[asked])

        self.server.replies[f"/{name}"] = reply

    @staticmethod
    def _inner(row: Row, way: Sequence[str]) -> Row:
        for name in way:
            row = row[name]
        return row
