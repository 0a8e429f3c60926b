"""Notes why a step of an input failed. Its run goes on, with what was received before."""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.handlers.caught import read_caught
from marketdata.handlers.tasks import task
from marketdata.runs import failures


@task("note_failure")
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """`{run_id, input, caught}` in; `{numbers}` out, of its batches that are still to be loaded."""
    error = read_caught(event["caught"])
    return {
        "numbers": failures.note_failure(bootstrap.store(), event["run_id"], event["input"], error)
    }
