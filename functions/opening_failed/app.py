"""After `open_run` failed: ends the run, if it had been created by then, and alerts.

When the execution fails right after this, `execution_ended` is called as well, and finds nothing
left to do. It knows only that the execution failed; here it is known what `open_run` met.
"""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.aws.sns import Topic
from marketdata.handlers.caught import read_caught
from marketdata.handlers.tasks import task
from marketdata.runs import alerts, closing
from marketdata.runs.alerts import AlertSettings
from marketdata.runs.closing import Closed, NothingToClose
from marketdata.runs.resuming import ResumptionSettings
from marketdata.settings import read_settings

ALERTS = read_settings(AlertSettings)
RESUMPTION = read_settings(ResumptionSettings)
TOPIC = Topic(ALERTS.alert_topic_arn) if ALERTS.alert_topic_arn else None


@task("opening_failed")
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """`{event: EventBridge envelope, execution: ARN, caught}` in; the run that was ended out."""
    store = bootstrap.store()
    outcome = closing.close_execution(
        store,
        event["execution"],
        event["event"],
        read_caught(event["caught"]),
        most_resumptions=RESUMPTION.batch_max_resumptions,
    )
    alerts.review(store, ALERTS.alert_after_failures)
    alerts.send_or_log(store, TOPIC)
    match outcome:
        case Closed(run):
            return {"run_id": run["_id"], "status": run["status"]}
        case NothingToClose(why):
            return {"nothing_to_close": why}
