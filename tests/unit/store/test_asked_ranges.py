"""How a range that was asked joins those that were asked before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from marketdata.documents.asked_ranges import AskedRange
from marketdata.store.asked_ranges import with_range

BEGIN = datetime(2025, 5, 1, tzinfo=UTC)


def hour(number: int) -> datetime:
    return BEGIN + timedelta(hours=number)


def asked(start: int, end: int, run: str = "run", at: int = 0) -> AskedRange:
    return {"start": hour(start), "end": hour(end), "run_id": run, "asked_at": hour(at)}


@st.composite
def some_ranges(draw: st.DrawFn) -> list[AskedRange]:
    found = []
    for at in range(draw(st.integers(1, 8))):
        start = draw(st.integers(0, 20))
        end = draw(st.integers(start + 1, 22))
        found.append(asked(start, end, draw(st.sampled_from("ab")), at))
    return found


@given(some_ranges())
def test_each_hour_is_told_as_it_was_asked_last(ranges: list[AskedRange]) -> None:
    kept: list[AskedRange] = []
    last: dict[int, str] = {}
    for one in ranges:
        kept = with_range(kept, one)
        last |= {n: one["run_id"] for n in range(22) if one["start"] <= hour(n) < one["end"]}
    told = {n: r["run_id"] for r in kept for n in range(22) if r["start"] <= hour(n) < r["end"]}
    assert told == last
    assert all(r["start"] < r["end"] for r in kept)
    assert all(a["end"] <= b["start"] for a, b in pairwise(kept))


@given(some_ranges())
def test_a_range_noted_a_third_time_changes_nothing(ranges: list[AskedRange]) -> None:
    kept: list[AskedRange] = []
    for one in ranges:
        kept = with_range(kept, one)
    again = with_range(kept, ranges[-1])
    assert with_range(again, ranges[-1]) == again


def test_neighbours_of_one_run_are_one_range_since_its_first_answer() -> None:
    kept = with_range([asked(0, 2, at=5)], asked(2, 4, at=6))
    assert kept == [asked(0, 4, at=5)]
    assert with_range(kept, asked(4, 5, "other")) == [asked(0, 4, at=5), asked(4, 5, "other")]


def test_a_range_within_another_cuts_it_in_two() -> None:
    assert with_range([asked(0, 9)], asked(3, 5, "other")) == [
        asked(0, 3),
        asked(3, 5, "other"),
        asked(5, 9),
    ]
