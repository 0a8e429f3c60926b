"""When cron expressions of EventBridge fire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.aws import cron

START = datetime(2025, 5, 9, 8, 20, 30, tzinfo=UTC)
"""A Friday."""


def firings(expression: str, count: int, start: datetime = START) -> list[str]:
    parsed = cron.parse(expression)
    assert parsed is not None
    found, moment = [], start
    for _ in range(count):
        following = parsed.after(moment)
        assert following is not None
        found.append(f"{following:%Y-%m-%d %H:%M}")
        moment = following
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("cron(0 * * * ? *)", ["2025-05-09 09:00", "2025-05-09 10:00"]),
        ("cron(0/20 8 * * ? *)", ["2025-05-09 08:40", "2025-05-10 08:00"]),
        ("cron(20 8 * * ? *)", ["2025-05-10 08:20", "2025-05-11 08:20"]),
        ("cron(5,35 14 * * ? *)", ["2025-05-09 14:05", "2025-05-09 14:35", "2025-05-10 14:05"]),
        ("cron(0 9 ? * MON-FRI *)", ["2025-05-09 09:00", "2025-05-12 09:00"]),
        ("cron(0 9 ? * 2-6 *)", ["2025-05-09 09:00", "2025-05-12 09:00"]),
        ("cron(0 9 ? * fri-mon *)", ["2025-05-09 09:00", "2025-05-10 09:00", "2025-05-11 09:00",
                                     "2025-05-12 09:00", "2025-05-16 09:00"]),
        ("cron(0 9 ? * 6#3 *)", ["2025-05-16 09:00", "2025-06-20 09:00"]),
        ("cron(0 9 ? * 6L *)", ["2025-05-30 09:00", "2025-06-27 09:00"]),
        ("cron(0 9 ? * L *)", ["2025-05-10 09:00", "2025-05-17 09:00"]),
        ("cron(0 8 1 * ? *)", ["2025-06-01 08:00", "2025-07-01 08:00"]),
        ("cron(0 8 L FEB,MAY ? *)", ["2025-05-31 08:00", "2026-02-28 08:00"]),
        # The 1st of June and the 31st of May are on a weekend.
        ("cron(0 8 1W * ? *)", ["2025-06-02 08:00", "2025-07-01 08:00", "2025-08-01 08:00"]),
        ("cron(0 8 31W * ? *)", ["2025-05-30 08:00", "2025-07-31 08:00", "2025-08-29 08:00"]),
        ("cron(0 8 29 2 ? *)", ["2028-02-29 08:00", "2032-02-29 08:00"]),
        ("cron(30 23-1 * * ? *)", ["2025-05-09 23:30", "2025-05-10 00:30", "2025-05-10 01:30"]),
        ("cron(0 0 1 1/6 ? 2027-2030)", ["2027-01-01 00:00", "2027-07-01 00:00"]),
    ],
)  # fmt: skip
def test_firings(expression: str, expected: list[str]) -> None:
    assert firings(expression, len(expected)) == expected


def test_an_expression_of_the_past_fires_no_more() -> None:
    parsed = cron.parse("cron(0 8 1 * ? 2024)")
    assert parsed is not None
    assert parsed.after(START) is None


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "rate(1 hour)",
        "cron()",
        "cron(0 * * * *)",
        "cron(60 * * * ? *)",
        "cron(0 24 * * ? *)",
        "cron(0/0 * * * ? *)",
        "cron(0 8 0 * ? *)",
        "cron(0 8 ? * HOLIDAY *)",
        "cron(0 8 ? * 2#6 *)",
        "cron(0 8 32W * ? *)",
        "cron(0 - * * ? *)",
    ],
)
def test_what_is_no_expression(expression: str) -> None:
    assert cron.parse(expression) is None


@given(
    minute=st.integers(0, 59),
    step=st.integers(1, 23),
    days=st.sampled_from(["*", "1/5", "L", "15W", "1,20-25"]),
    start=st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1)),  # noqa: DTZ001 - given below
)
def test_firings_ascend_and_none_is_left_out(
    minute: int, step: int, days: str, start: datetime
) -> None:
    expression = f"cron({minute} 0/{step} {days} * ? *)"
    found = [
        datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
        for text in firings(expression, 4, start.replace(tzinfo=UTC))
    ]
    parsed = cron.parse(expression)
    assert parsed is not None
    for first, second in pairwise(found):
        assert first < second
        # Whoever asks at any time in between is told of the second.
        assert parsed.after(first + (second - first) / 2) == second
        assert parsed.after(second - timedelta(microseconds=1)) == second
