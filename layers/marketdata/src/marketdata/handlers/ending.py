"""What the handlers share that end runs: their settings, and the alerts that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from marketdata.aws.sns import Topic
from marketdata.documents.errors import StoredError
from marketdata.runs import alerts, closing
from marketdata.runs.alerts import AlertSettings, Notifier
from marketdata.runs.closing import Closed, NothingToClose
from marketdata.runs.resuming import ResumptionSettings
from marketdata.settings import read_settings
from marketdata.store.connection import Store


@dataclass(frozen=True, slots=True)
class RunEnding:
    """Made once per execution environment, at the function's start."""

    most_resumptions: int
    """How often a batch or an object that failed is tried by later runs."""
    alert_after: int
    """Failures in a row of one source that are alerted."""
    notifier: Notifier | None
    """Carries alerts to people; None where nobody is to be told."""

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
        )

    def send_alerts(self, store: Store) -> None:
        """Write and send the alerts that follow from how runs ended."""
        alerts.review(store, self.alert_after)
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
