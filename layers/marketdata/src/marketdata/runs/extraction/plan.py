"""The requests of a backfill: numbered, and the same whoever looks at its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from marketdata.documents.runs import BackfilledAsset, StoredBackfill, StoredWindow
from marketdata.sources.history import Asset, Interval, Window


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request of a backfill."""

    number: int
    """From 1."""
    asset: Asset
    window: Window
    """What it asks for. How much of it the source's plan still gives is seen when it is sent."""


class Plan:
    """What a backfill asks for: of each asset in turn, each window in turn."""

    def __init__(self, stored: StoredBackfill) -> None:
        """Of a backfill, as its run has it."""
        self.interval = Interval(stored["interval"])
        self._assets = stored["assets"]
        self._windows = stored["windows"]
        # How many requests there are up to an asset, with it.
        self._ends: list[int] = []
        total = 0
        for asset in self._assets:
            total += len(self._windows_of(asset))
            self._ends.append(total)
        self.requests = total
        """How many requests there are."""

    def _windows_of(self, asset: BackfilledAsset) -> Sequence[StoredWindow]:
        return asset.get("windows", self._windows)

    def request(self, number: int) -> PlannedRequest | None:
        """The request of a number; None beyond the last."""
        begin = 0
        for asset, end in zip(self._assets, self._ends, strict=True):
            if number <= end:
                window = self._windows_of(asset)[number - begin - 1]
                known = Asset(asset["id"], asset["symbol"], asset["name"])
                return PlannedRequest(number, known, Window(window["start"], window["end"]))
            begin = end
        return None

    def assets_done(self, requests: int) -> int:
        """Assets of which nothing is to be asked any more, after so many requests."""
        return sum(end <= requests for end in self._ends)
