"""Notes why a step of an input failed. Its run goes on, with what was received before."""

from __future__ import annotations

from typing import Any, TypedDict

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.handlers.caught import read_caught
from marketdata.handlers.tasks import task
from marketdata.runs import failures


class Noted(TypedDict):
    """What is left to do for an input that failed."""

    numbers: list[int]
    """Numbers of the batches that were received before and are still to be loaded."""


@task("note_failure")
def handler(event: dict[str, Any], _context: LambdaContext) -> Noted:
    """`{run_id, input, caught}` in; what is left to do for the input out."""
    error = read_caught(event["caught"])
    numbers = failures.note_failure(bootstrap.store(), event["run_id"], event["input"], error)
    return {"numbers": numbers}
