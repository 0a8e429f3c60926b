"""After `open_run` failed: ends the run, if it had been created by then, and alerts.

When the execution fails right after this, `execution_ended` is called as well, and finds nothing
left to do. It knows only that the execution failed; here it is known what `open_run` met.
"""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.handlers.caught import read_caught
from marketdata.handlers.ending import RunEnding
from marketdata.handlers.tasks import task

ENDING = RunEnding.from_environment()


@task("opening_failed")
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """`{event: the execution's input, execution: ARN, caught}` in; the run that was ended out."""
    return ENDING.close_execution(
        bootstrap.store(), event["execution"], event["event"], read_caught(event["caught"])
    )
