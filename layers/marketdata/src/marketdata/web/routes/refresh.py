"""`POST /refresh`: a run on demand."""

from __future__ import annotations

from typing import Annotated

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Body, Path

from marketdata.errors import NotFound
from marketdata.runs import starting
from marketdata.runs.triggers import RunRequest
from marketdata.store import counts, runs
from marketdata.web.models.common import RUN_ID
from marketdata.web.models.runs import PreRunCounts, Refresh, RefreshRequest, UnderWay
from marketdata.web.responses import responses
from marketdata.web.routing import new_router
from marketdata.web.services import Services, services

router = new_router()

LONGEST_ID = 128
"""Of a run, in characters."""

_NOTHING = RefreshRequest()


@router.post(
    "/refresh",
    summary="Start a run",
    description="Starts a run over all sources, or over what the body asks for, and answers at "
    "once. Sources that another run has locked are left to it and listed in "
    "`under_way`. If no source is free, no run is started, and the answer has the "
    "id of the run that is under way.",
    status_code=202,
    responses=responses("The run is under way.", 400, 401, 404, 409, status=202),
    tags=["control"],
    operation_id="refresh",
    security=[{"bearer": []}],
)
def refresh(
    request: Request,
    body: Annotated[RefreshRequest, Body(description="Optional.")] = _NOTHING,
) -> Refresh:
    """Start a run, or find the one under way."""
    sources = None if body.sources is None else tuple(dict.fromkeys(body.sources))
    return start(services(request), RunRequest(sources, body.force, body.resume))


@router.post(
    "/runs/<run_id>/retry",
    summary="Try again what a run gave up",
    description="Starts a run that continues what this one has left, like `resume` of `POST "
    "/refresh`. It also tries what was given up: dead-lettered batches and refused "
    "files.",
    status_code=202,
    responses=responses("The run is under way.", 400, 401, 404, 409, status=202),
    tags=["control"],
    operation_id="retryRun",
    security=[{"bearer": []}],
)
def retry(
    request: Request,
    run_id: Annotated[str, Path(description="The run that ended.", examples=[RUN_ID])],
) -> Refresh:
    """Start a run for what another one gave up."""
    if len(run_id) > LONGEST_ID or not run_id.isprintable():
        raise NotFound(f"There is no run {run_id[:LONGEST_ID]!r}. GET /runs lists them.")
    return start(services(request), RunRequest(resume=run_id, retry=True))


def start(given: Services, asked: RunRequest) -> Refresh:
    """Start a run, or find the one in the way."""
    store = given.store()
    before = counts.row_counts(store)
    run_id, started = starting.request(
        store,
        given.engine(),
        given.sources,
        before,
        asked,
        most_resumptions=given.most_resumptions,
    )
    run = runs.get(store, run_id)
    if started:
        # As it was when the run was made, which has some of the sources itself.
        elsewhere = run["under_way"]
    else:
        elsewhere = starting.under_way(store, asked, given.sources)
        # Of the run that is under way, if it was asked for as well.
        before = run.get("pre_run_counts") or before
    return Refresh(
        run_id=run_id,
        status="running" if started else "already_running",
        pre_run_counts=PreRunCounts(**before),
        under_way=[UnderWay(source=name, run_id=other) for name, other in elsewhere.items()],
    )
