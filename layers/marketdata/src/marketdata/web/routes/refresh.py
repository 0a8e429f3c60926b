"""`POST /refresh`: a run on demand."""

from __future__ import annotations

from typing import Annotated

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Body

from marketdata.runs import lifecycle
from marketdata.store import queries, runs
from marketdata.web.models.runs import PreRunCounts, Refresh, RefreshRequest
from marketdata.web.responses import responses
from marketdata.web.routing import new_router
from marketdata.web.services import services

router = new_router()

_NOTHING = RefreshRequest()


@router.post(
    "/refresh",
    summary="Start a run",
    description="Starts a run over all sources and answers at once. While one is under way, "
    "no second one is started and its id is given again.",
    status_code=202,
    responses=responses("The run is under way.", 400, 401, status=202),
    tags=["control"],
    operation_id="refresh",
    security=[{"bearer": []}],
)
def refresh(
    request: Request,
    body: Annotated[RefreshRequest, Body(description="May be left out.")] = _NOTHING,  # noqa: ARG001
) -> Refresh:
    """Start a run, or find the one under way."""
    given = services(request)
    store = given.store()
    counts = queries.row_counts(store)
    run_id, started = lifecycle.request(store, given.engine(), given.sources, counts)
    if not started:
        # Of the run that is under way, if it was asked for as well.
        counts = runs.get(store, run_id).get("pre_run_counts") or counts
    return Refresh(
        run_id=run_id,
        status="running" if started else "already_running",
        pre_run_counts=PreRunCounts(**counts),
    )
