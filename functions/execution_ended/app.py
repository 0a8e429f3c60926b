"""Told by Step Functions that an execution ended badly: ends its run in its place, and alerts."""

from __future__ import annotations

import json
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.handlers.ending import RunEnding
from marketdata.handlers.tasks import task

ENDING = RunEnding.from_environment()

_MESSAGE_CHARACTERS = 2_000


@task("execution_ended")
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """An event "Step Functions Execution Status Change" in; the run that was ended out."""
    detail = event["detail"]
    status = str(detail["status"])
    cause = f": {detail['cause']}" if detail.get("cause") else ""
    message = f"Its execution ended as {status}{cause}."[:_MESSAGE_CHARACTERS]
    return ENDING.close_execution(
        bootstrap.store(),
        detail["executionArn"],
        _input_of(detail.get("input")),
        {"code": f"execution_{status.lower()}", "message": message},
    )


def _input_of(text: object) -> dict[str, Any]:
    """What the execution was started with; empty where the event does not carry it."""
    try:
        given = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return {}
    return given if isinstance(given, dict) else {}
