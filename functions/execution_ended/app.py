"""Told by Step Functions that an execution ended badly: ends its run in its place, and alerts."""

from __future__ import annotations

import json
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.aws.sns import Topic
from marketdata.handlers.tasks import task
from marketdata.runs import alerts, closing
from marketdata.runs.alerts import AlertSettings
from marketdata.runs.closing import Closed, NothingToClose
from marketdata.runs.resuming import ResumptionSettings
from marketdata.settings import read_settings

ALERTS = read_settings(AlertSettings)
RESUMPTION = read_settings(ResumptionSettings)
TOPIC = Topic(ALERTS.alert_topic_arn) if ALERTS.alert_topic_arn else None

_MESSAGE_CHARACTERS = 2_000


@task("execution_ended")
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """An event "Step Functions Execution Status Change" in; the run that was ended out."""
    detail = event["detail"]
    status = str(detail["status"])
    cause = f": {detail['cause']}" if detail.get("cause") else ""
    message = f"Its execution ended as {status}{cause}."[:_MESSAGE_CHARACTERS]
    store = bootstrap.store()
    outcome = closing.close_execution(
        store,
        detail["executionArn"],
        _envelope(detail.get("input")),
        {"code": f"execution_{status.lower()}", "message": message},
        most_resumptions=RESUMPTION.batch_max_resumptions,
    )
    alerts.review(store, ALERTS.alert_after_failures)
    alerts.send_or_log(store, TOPIC)
    match outcome:
        case Closed(run):
            return {"run_id": run["_id"], "status": run["status"]}
        case NothingToClose(why):
            return {"nothing_to_close": why}


def _envelope(text: object) -> dict[str, Any]:
    """What the execution was started with; empty where the event does not carry it."""
    try:
        envelope = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return {}
    return envelope if isinstance(envelope, dict) else {}
