"""The EventBridge rule that starts runs by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Protocol

from marketdata.aws import cron

_RATE = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")
_UNITS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}
_KEPT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RuleState:
    """A rule as EventBridge knows it."""

    enabled: bool
    expression: str


class Timetable(Protocol):
    """When a rule fires."""

    def after(self, moment: datetime) -> datetime | None:
        """The first firing after one, or after the rule was made; None if it fires no more."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Fires again and again, so long after it fired last; when that was, nobody can compute."""

    every: timedelta

    def after(self, moment: datetime) -> datetime | None:
        """See `Timetable`."""
        return moment + self.every


def timetable(expression: str) -> Timetable | None:
    """When a rule with a schedule of `rate(...)` or `cron(...)` fires; None for other texts."""
    match = _RATE.fullmatch(expression.strip())
    return Rate(int(match[1]) * _UNITS[match[2]]) if match else cron.parse(expression)


def between_firings(table: Timetable | None, now: datetime) -> timedelta:
    """The time between the next two firings; zero if there are none, or nobody knows."""
    first = table.after(now) if table else None
    second = table.after(first) if table and first else None
    return second - first if first and second else timedelta(0)


def after_firings(table: Timetable | None, moment: datetime, number: int) -> datetime | None:
    """The time of so many firings after a moment; None if there are not as many."""
    for _ in range(number):
        following = table.after(moment) if table else None
        if following is None:
            return None
        moment = following
    return moment


class Rule:
    """One rule, asked at most once a minute."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._state: RuleState | None = None
        self._asked = 0.0

    def state(self) -> RuleState:
        """The rule's state, at most a minute old.

        Raises:
            TransientError: EventBridge can't be asked, or does not know the rule.
        """
        if self._state is None or monotonic() - self._asked > _KEPT_SECONDS:
            self._state = _describe(self._name)
            self._asked = monotonic()
        return self._state


def _describe(name: str) -> RuleState:
    # Imported here: only /health needs it, and boto3 costs a third of a second.
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    from marketdata.errors import TransientError  # noqa: PLC0415

    config = Config(connect_timeout=2, read_timeout=2, retries={"total_max_attempts": 1})
    try:
        rule = boto3.client("events", config=config).describe_rule(Name=name)
    except (BotoCoreError, ClientError) as error:
        raise TransientError(f"The rule {name} can't be read from EventBridge: {error}") from error
    return RuleState(rule.get("State") != "DISABLED", rule.get("ScheduleExpression", ""))
