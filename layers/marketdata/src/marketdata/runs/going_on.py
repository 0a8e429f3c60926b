"""Going on with backfills: an execution ends before its limits, and the next is started here."""

from __future__ import annotations

from marketdata.logs import make_logger
from marketdata.runs import triggers
from marketdata.runs.starting import WorkflowStarter
from marketdata.store import backfills
from marketdata.store.connection import Store

_LOG = make_logger()


def start_waiting(store: Store, starter: WorkflowStarter) -> None:
    """Start the next execution of each backfill that waits for one.

    One that can't be started is logged and left to the next run that opens: it must stop no other.
    Starting one twice starts it once, as its name says which execution it is.
    """
    for run in backfills.let_go_runs(store):
        try:
            starter.start(backfills.execution_name(run), triggers.execution_input(run["_id"]))
        except Exception:  # noqa: BLE001 - see above
            _LOG.exception(
                "Execution %s of the backfill %s could not be started. Nothing is lost; the next "
                "run tries again.",
                run["backfill"]["part"],
                run["_id"],
            )
