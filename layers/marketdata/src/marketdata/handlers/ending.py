"""What the handlers share that end runs: their settings, and the alerts that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from marketdata.aws.schedule import after_firings, between_firings, timetable
from marketdata.aws.sns import Topic
from marketdata.documents.errors import StoredError
from marketdata.runs import alerts, closing
from marketdata.runs.alerts import AlertSettings, FrozenSettings, MustMove, Notifier
from marketdata.runs.closing import Closed, NothingToClose
from marketdata.runs.resuming import ResumptionSettings
from marketdata.settings import SourceSettings, read_settings
from marketdata.store.connection import Store

_EARLY = timedelta(minutes=5)
"""By so much, or by half of the time between two firings, a run may come sooner after the one
before: it is not started, and its source does not answer, at the very second."""


@dataclass(frozen=True, slots=True)
class RunEnding:
    """Made once per execution environment, at the function's start."""

    most_resumptions: int
    """How often a batch or an object that failed is tried by later runs."""
    alert_after: int
    """Failures in a row of one source that are alerted."""
    notifier: Notifier | None
    """Carries alerts to people; None where nobody is to be told."""
    must_move: MustMove
    """When a source's newest observation counts as standing still."""

    @classmethod
    def from_environment(cls) -> Self:
        """By the function's variables.

        Raises:
            SettingsError: one of them is malformed.
        """
        alerting = read_settings(AlertSettings)
        topic = alerting.alert_topic_arn
        return cls(
            read_settings(ResumptionSettings).batch_max_resumptions,
            alerting.alert_after_failures,
            Topic(topic) if topic else None,
            _must_move(read_settings(FrozenSettings), read_settings(SourceSettings).names()),
        )

    def send_alerts(self, store: Store) -> None:
        """Write and send the alerts that follow from how runs ended."""
        alerts.review(store, self.alert_after)
        alerts.review_frozen(store, self.must_move)
        alerts.send_or_log(store, self.notifier)

    def close_execution(
        self, store: Store, execution: str, event: Mapping[str, Any], error: StoredError
    ) -> dict[str, Any]:
        """End the run of an execution that is over, and alert; see `closing.close_execution`.

        Returns:
            What a handler answers: the run's id and status, or why there was nothing to close.
        """
        outcome = closing.close_execution(
            store, execution, event, error, most_resumptions=self.most_resumptions
        )
        self.send_alerts(store)
        match outcome:
            case Closed(run):
                return {"run_id": run["_id"], "status": run["status"]}
            case NothingToClose(why):
                return {"nothing_to_close": why}


def _must_move(settings: FrozenSettings, sources: list[str]) -> MustMove:
    """By when newest observations must have moved, by the schedule and the settings."""
    table = timetable(settings.schedule)

    def must_move(source: str, since: datetime) -> datetime | None:
        firings = settings.firings_of(source) if source in sources else 0
        due = after_firings(table, since, firings) if firings else None
        early = min(_EARLY, between_firings(table, since) / 2)
        return None if due is None else due - early

    return must_move
