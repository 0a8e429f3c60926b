"""Last step of an execution: the run's status and totals, and the alerts that follow from it.

Also what is noted before that of an input of which a step has failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.aws.sns import Topic
from marketdata.errors import TerminalError, TransientError
from marketdata.handlers.tasks import task
from marketdata.runs import alerts, closing, failures
from marketdata.runs.alerts import AlertSettings
from marketdata.runs.resuming import ResumptionSettings
from marketdata.settings import read_settings

ALERTS = read_settings(AlertSettings)
RESUMPTION = read_settings(ResumptionSettings)
TOPIC = Topic(ALERTS.alert_topic_arn) if ALERTS.alert_topic_arn else None


@task("close_run")
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Ends a run.

    `{run_id, results}` in, with one result per input; the run's status and totals out. After
    opening the run failed, `{execution, event, results}`: whether there is a run is seen here.
    With `{run_id, input, caught}` the run goes on: why one of its inputs failed is noted, and
    `{numbers}` are the batches of it that are to be loaded yet.
    """
    store = bootstrap.store()
    if "input" in event:
        (error,) = _errors([event])
        numbers = failures.note_failure(store, event["run_id"], error.pop("input"), error)
        return {"numbers": numbers}
    errors = list(_errors(event["results"]))
    most = RESUMPTION.batch_max_resumptions
    run: dict[str, Any] | None
    if "run_id" in event:
        run = closing.close(store, event["run_id"], errors, most_resumptions=most)
    else:
        run = closing.close_execution(
            store, event["execution"], event["event"], errors[0], most_resumptions=most
        )
    alerts.review(store, ALERTS.alert_after_failures)
    alerts.send_or_log(store, TOPIC)
    return {name: run.get(field) for name, field in _TOLD.items()} if run else {}


_TOLD = {"run_id": "_id", "status": "status", "totals": "totals"}


_CLASSES = (TransientError.__name__, TerminalError.__name__)
_CODED = re.compile(r"([a-z_]+): (.*)", re.DOTALL)
"""See `handlers.tasks`."""


def _errors(results: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What Step Functions caught, as `{code, message, input}`.

    A Lambda's error arrives as `{Error: class, Cause: JSON with errorMessage}`, and an error of
    this library as one of two classes, with its code before its message. Of one of many inputs
    there is no `Cause`: it was noted before, unless MongoDB was out of reach then.
    """
    for result in results:
        caught = result.get("caught")
        if not caught:
            continue
        code = caught.get("Error", "unknown")
        cause = caught.get("Cause") or (
            f"One of its steps failed with {code}; the log of its function has the cause."
        )
        try:
            message = json.loads(cause).get("errorMessage", cause)
        except (ValueError, AttributeError):
            message = cause
        if code in _CLASSES and (told := _CODED.match(str(message))):
            code, message = told.groups()
        error = {"code": code, "message": str(message)[:2000]}
        yield error | ({"input": result["input"]} if "input" in result else {})
