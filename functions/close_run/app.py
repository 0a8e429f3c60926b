"""Last step of an execution: the run's status and totals, from its batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.aws.tasks import task
from marketdata.runs import lifecycle


@task("close_run")
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """`{run_id, results}` in, with one result per input; the run's status and totals out."""
    run = lifecycle.close(bootstrap.store(), event["run_id"], list(_errors(event["results"])))
    return {"run_id": run["_id"], "status": run["status"], "totals": run.get("totals", {})}


def _errors(results: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What Step Functions caught, as `{code, message, input}`.

    A Lambda's error arrives as `{Error: class, Cause: JSON with errorMessage}`.
    """
    for result in results:
        caught = result.get("caught")
        if not caught:
            continue
        cause = caught.get("Cause", "")
        try:
            message = json.loads(cause).get("errorMessage", cause)
        except (ValueError, AttributeError):
            message = cause
        yield {
            "code": caught.get("Error", "unknown"),
            "message": str(message)[:2000],
            "input": result.get("input"),
        }
