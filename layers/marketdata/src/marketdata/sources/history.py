"""The form of a source that has a history: values of the past, asked asset by asset.

A history is a series: one source, one asset, one interval. Its times lie on a grid that begins
with the day in UTC, and each interval has one point. Ranges here are half-open: `start` belongs
to them and `end` does not. Nothing here does I/O or asks for the time: who calls says what now is.

A range is asked in three steps. `limited` says what of it the source's plan gives at all.
`windows` cuts that into ranges of one request each. `history_request` is that request, and
`history_rows` turns its answer into rows, which a raw batch of the format `history` keeps and
`map_history_row` reads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar

from marketdata import clock
from marketdata.sources.base import ApiSource, PageRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

MARGIN = timedelta(minutes=15)
"""How much of a plan's reach is not used: a request is sent later than it was planned, and clocks
differ. What is asked beyond the reach is refused as a whole."""


class Interval(StrEnum):
    """How far apart the points of a series are; also the value of a record's `interval`."""

    FIVE_MINUTES = "5m"
    HOUR = "1h"
    DAY = "1d"

    @property
    def step(self) -> timedelta:
        """The time from one point to the next."""
        return _STEPS[self]

    def floor(self, time: datetime) -> datetime:
        """The last time of the grid that is not after `time`, in UTC."""
        return time.astimezone(UTC) - (time - _EPOCH) % self.step

    def ceil(self, time: datetime) -> datetime:
        """The first time of the grid that is not before `time`, in UTC."""
        return time.astimezone(UTC) + (_EPOCH - time) % self.step


_STEPS: Mapping[Interval, timedelta] = {
    Interval.FIVE_MINUTES: timedelta(minutes=5),
    Interval.HOUR: timedelta(hours=1),
    Interval.DAY: timedelta(days=1),
}


@dataclass(frozen=True, slots=True)
class Asset:
    """An asset as its source knows it; a history names no more than its id."""

    id: str
    """The source's id; `asset_id` of records."""
    symbol: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Window:
    """A range of a series: from `start` on, up to and without `end`."""

    start: datetime
    end: datetime

    def points(self, interval: Interval) -> int:
        """How many points of a grid belong to it."""
        return (interval.ceil(self.end) - interval.ceil(self.start)) // interval.step


@dataclass(frozen=True, slots=True)
class Limited:
    """What of a range can be asked."""

    window: Window | None
    """On the interval's grid; None if nothing can be asked."""
    cut_off: str = ""
    """What can't be asked, and why, in a sentence with figures; empty if all of it can."""


class HistorySource(ApiSource):
    """A source that also tells the past of an asset.

    A subclass says how far back each interval reaches (`history_days`), how a request is made
    (`history_request`), what its answer holds (`history_rows`), and what a row of that means
    (`map_history_row`).
    """

    history_setting: ClassVar[Mapping[Interval, str]]
    """The setting that says how far back an interval reaches; of an interval without one, the
    source itself never gives more."""
    longest_window: ClassVar[Mapping[Interval, timedelta]]
    """The longest range that one request can be asked for, whole steps, by interval."""
    longest_default: ClassVar[Mapping[Interval, timedelta]] = {
        Interval.FIVE_MINUTES: timedelta(days=1),
        Interval.HOUR: timedelta(days=90),
    }
    """The longest range for which an interval is chosen if nobody names one."""

    @abstractmethod
    def history_days(self) -> Mapping[Interval, int]:
        """How many days back the plan gives each interval; 0 if not at all. The finest first."""

    def history_intervals(self) -> list[Interval]:
        """The intervals that the plan gives, the finest first."""
        return [interval for interval, days in self.history_days().items() if days]

    def default_interval(self, start: datetime, end: datetime, *, now: datetime) -> Interval:
        """The interval of a range if nobody names one.

        It is the finest that reaches back to the range's start and is not too fine for its
        length; failing that, the coarsest that the plan gives.
        """
        days = self.history_days()
        for interval in self.history_intervals():
            reaches = start + MARGIN >= now - timedelta(days=days[interval])
            if reaches and end - start <= self.longest_default.get(interval, timedelta.max):
                return interval
        return self.history_intervals()[-1]

    def earliest(self, interval: Interval, now: datetime) -> datetime:
        """The first time of the grid that can be asked for now, if the plan gives the interval."""
        return interval.ceil(now - timedelta(days=self.history_days()[interval]) + MARGIN)

    def limited(
        self, start: datetime, end: datetime, interval: Interval, *, now: datetime
    ) -> Limited:
        """What of a range can be asked now: what the plan gives, and intervals that are over.

        A plan's reach moves with the time. So what was planned days ago is limited again when it
        is asked. Whoever asks for the past 365 days up to today has all of that: the interval in
        which the plan's reach ends, and the rest of today, are left without a word.
        """
        days = self.history_days().get(interval, 0)
        first, asked = interval.ceil(start), interval.ceil(end)
        last = min(asked, interval.floor(now))
        begin = max(first, self.earliest(interval, now) if days else last)
        told = []
        window = Window(begin, last) if begin < last else None
        lost = Window(first, min(begin, last))
        if lost.start < lost.end and not (window and self._is_border(first, interval, now)):
            told.append(
                f"{self.name} gives {self._reach(interval, days)}: {_said(lost, interval)} "
                "can't be asked for."
            )
        today_ends = Interval.DAY.floor(now) + Interval.DAY.step
        if asked > today_ends:
            future = Window(max(first, last), asked)
            told.append(
                f"What is after {clock.iso(now)} has not happened yet: {_said(future, interval)} "
                "can't be asked for."
            )
        return Limited(window, " ".join(told))

    def _is_border(self, first: datetime, interval: Interval, now: datetime) -> bool:
        """Whether a time lies no further back than the interval in which the plan's reach ends."""
        return first >= interval.floor(now - timedelta(days=self.history_days()[interval]))

    def _reach(self, interval: Interval, days: int) -> str:
        setting = self.history_setting.get(interval)
        by = f" ({setting}={days})" if setting else ""
        if not days:
            return f"no values of the interval {interval}{by}"
        past = "day" if days == 1 else f"{days} days"
        return f"the interval {interval} for the past {past} only{by}"

    def windows(self, start: datetime, end: datetime, interval: Interval) -> list[Window]:
        """A range as ranges of one request each, in order, without overlap."""
        longest = self.longest_window[interval]
        found = []
        while start < end:
            until = min(start + longest, end)
            found.append(Window(start, until))
            start = until
        return found

    @abstractmethod
    def history_request(
        self, page: int, asset: Asset, window: Window, interval: Interval, *, now: datetime
    ) -> PageRequest:
        """The request whose answer has a window's points; it may have others as well.

        Args:
            page: the number that the request gets, from 1.
            asset: of which asset.
            window: one of `windows`, within what `limited` allows now.
            interval: how far apart the points are.
            now: the time of the request.
        """

    @abstractmethod
    def history_rows(
        self,
        asset: Asset,
        window: Window,
        interval: Interval,
        chunks: Iterable[bytes],
        *,
        what: str,
    ) -> Iterator[str]:
        """The rows of an answer, each a JSON object as text, with the values as they were sent.

        Points outside the window are not among them: they belong to another window, or to no
        series. A point that can't be read is a row like any other, for validation to judge.

        Args:
            asset: of which asset; its id, symbol and name become part of each row.
            window: what was asked.
            interval: what was asked.
            chunks: the body, in pieces of any size.
            what: who answered, for messages.

        Raises:
            UpstreamMalformed: the answer is not of the documented form, or its points lie as far
                apart as another interval's.
            UpstreamUnavailable: the answer ends too early: asking again may help.
        """

    @staticmethod
    @abstractmethod
    def map_history_row(row: Mapping[str, Any]) -> dict[str, Any]:
        """One row of `history_rows` under canonical names, without validation; see `map_row`.

        It has `interval`, which is part of the record's identity, so that a point of a series is
        never taken for the present price of the same time.
        """


def _said(window: Window, interval: Interval) -> str:
    points = window.points(interval)
    return (
        f"{clock.iso(window.start)} to {clock.iso(window.end)} "
        f"({points} {'point' if points == 1 else 'points'})"
    )
