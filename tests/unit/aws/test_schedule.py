"""Schedules of EventBridge: the rule as it is read, and its interval."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import boto3
import pytest

from marketdata.aws.schedule import Rate, Rule, RuleState, between_firings, timetable
from marketdata.errors import TransientError

HOURLY = RuleState(enabled=True, expression="rate(1 hour)")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("rate(1 minute)", timedelta(minutes=1)),
        ("rate(5 minutes)", timedelta(minutes=5)),
        ("rate(1 hour)", timedelta(hours=1)),
        ("rate(2 days)", timedelta(days=2)),
        ("rate(5)", None),
        ("", None),
    ],
)
def test_the_interval_of_a_schedule(expression: str, expected: timedelta | None) -> None:
    assert timetable(expression) == (expected and Rate(expected))


@pytest.mark.parametrize(
    ("expression", "minutes"),
    [
        ("rate(5 minutes)", 5),
        ("cron(0 * * * ? *)", 60),
        ("cron(0 8,20 * * ? *)", 12 * 60),
        ("cron(0 8 1 1 ? 2025)", 0),
        ("", 0),
    ],
)
def test_the_time_between_two_firings(expression: str, minutes: int) -> None:
    now = datetime(2025, 5, 9, 6, tzinfo=UTC)
    assert between_firings(timetable(expression), now) == timedelta(minutes=minutes)


def test_a_rule_is_read_from_eventbridge(aws: None) -> None:
    events = boto3.client("events")
    events.put_rule(Name="hourly", ScheduleExpression="rate(1 hour)")
    rule = Rule("hourly")
    assert rule.state() == HOURLY
    events.disable_rule(Name="hourly")
    assert rule.state() == HOURLY, "asked at most once a minute"
    assert Rule("hourly").state().enabled is False
    with pytest.raises(TransientError, match="The rule nothing can't be read"):
        Rule("nothing").state()
