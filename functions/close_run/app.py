"""Last step of an execution: the run's status and totals, and the alerts that follow from them."""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.handlers.caught import read_results
from marketdata.handlers.ending import RunEnding
from marketdata.handlers.tasks import task
from marketdata.runs import closing

ENDING = RunEnding.from_environment()


@task("close_run")
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Ends a run: `{run_id, results}` in, with one result per input; its status and totals out."""
    store = bootstrap.store()
    run = closing.close(
        store,
        event["run_id"],
        read_results(event["results"]),
        most_resumptions=ENDING.most_resumptions,
    )
    ENDING.send_alerts(store)
    return {"run_id": run["_id"], "status": run["status"], "totals": run["totals"]}
