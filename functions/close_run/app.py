"""Last step of an execution: the run's status and totals, and the alerts that follow from them."""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.aws.sns import Topic
from marketdata.handlers.caught import read_results
from marketdata.handlers.tasks import task
from marketdata.runs import alerts, closing
from marketdata.runs.alerts import AlertSettings
from marketdata.runs.resuming import ResumptionSettings
from marketdata.settings import read_settings

ALERTS = read_settings(AlertSettings)
RESUMPTION = read_settings(ResumptionSettings)
TOPIC = Topic(ALERTS.alert_topic_arn) if ALERTS.alert_topic_arn else None


@task("close_run")
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Ends a run: `{run_id, results}` in, with one result per input; its status and totals out."""
    store = bootstrap.store()
    run = closing.close(
        store,
        event["run_id"],
        read_results(event["results"]),
        most_resumptions=RESUMPTION.batch_max_resumptions,
    )
    alerts.review(store, ALERTS.alert_after_failures)
    alerts.send_or_log(store, TOPIC)
    return {"run_id": run["_id"], "status": run["status"], "totals": run["totals"]}
