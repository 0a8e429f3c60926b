"""`/backfills`: runs that fetch the past."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, NoReturn

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Body, Path

from marketdata import clock, sources
from marketdata.errors import InvalidInput, NotFound, SettingsError
from marketdata.runs import backfills
from marketdata.sources.history import HistorySource, Interval
from marketdata.web.models.backfills import Backfill, BackfillRequest, Cancelled
from marketdata.web.models.common import RUN_ID
from marketdata.web.parameters import read_text, read_time
from marketdata.web.responses import responses
from marketdata.web.routes.refresh import LONGEST_ID
from marketdata.web.routing import new_router
from marketdata.web.services import Services, services

router = new_router()

_MILLISECOND = timedelta(milliseconds=1)


@router.post(
    "/backfills",
    summary="Fetch the past",
    description="Starts a run that fetches the past of assets from a source, behind the source's "
    "other runs: it uses the quota that they leave. A range that is fetched twice inserts nothing "
    "the second time.",
    status_code=202,
    responses=responses("The backfill is under way.", 400, 401, 404, 409, status=202),
    tags=["control"],
    operation_id="backfill",
    security=[{"bearer": []}],
)
def start(request: Request, body: Annotated[BackfillRequest, Body()]) -> Backfill:
    """Start a backfill."""
    given = services(request)
    if (body.assets is None) == (body.top is None):
        _refuse("assets", "Give either `assets` or `top`.")
    source = _source(given, body.source)
    first = read_time("start", body.start, where="body")
    last = read_time("end", body.end, end=True, where="body")
    if first is None:
        _refuse("start", "Give the first time that is asked for.")
    for name in body.assets or ():
        read_text("assets", name, where="body")
    asked = backfills.BackfillRequest(
        assets=body.assets,
        top=body.top,
        start=first,
        end=None if last is None else last + _MILLISECOND,
        interval=None if body.interval is None else Interval(body.interval),
        gaps=body.gaps,
    )
    started = backfills.request(
        given.store(), given.engine(), source, asked, most_resumptions=given.most_resumptions
    )
    plan = started.plan
    return Backfill.model_validate(
        {
            "run_id": started.run_id,
            "status": "running",
            "source": source.name,
            "interval": plan["interval"],
            "start": clock.iso(plan["start"]),
            "end": clock.iso(plan["end"]),
            "assets": len(plan["assets"]),
            "requests": plan["requests"],
            "warnings": started.warnings,
        }
    )


@router.post(
    "/runs/<run_id>/cancel",
    summary="Cancel a backfill",
    description="Ends a backfill: what was received is loaded, and no more is asked for. Asking "
    "twice changes nothing.",
    status_code=202,
    responses=responses("It is cancelled.", 400, 401, 404, 409, status=202),
    tags=["control"],
    operation_id="cancelRun",
    security=[{"bearer": []}],
)
def cancel(
    request: Request,
    run_id: Annotated[str, Path(description="The backfill's run.", examples=[RUN_ID])],
) -> Cancelled:
    """Cancel a backfill."""
    if len(run_id) > LONGEST_ID or not run_id.isprintable():
        raise NotFound(f"There is no run {run_id[:LONGEST_ID]!r}. GET /runs lists them.")
    given = services(request)
    run = backfills.cancel(given.store(), run_id, most_resumptions=given.most_resumptions)
    return Cancelled.model_validate({"run_id": run_id, "status": run["status"]})


def _source(given: Services, name: str) -> HistorySource:
    """The source of a name, configured; its key is not needed to plan.

    Raises:
        InvalidInput: this stack has no such source, or it has no history.
    """
    if name not in given.sources:
        _refuse(
            "source", f"There is no source {name[:80]!r}. Sources are: {', '.join(given.sources)}."
        )
    try:
        return sources.load_with_history(name).from_environment(given.environment(), {})
    except SettingsError as error:
        if name in sources.with_history():
            raise
        _refuse("source", error.message)


def _refuse(name: str, message: str) -> NoReturn:
    raise InvalidInput(
        f"{name}: {message}", faults=[{"in": "body", "name": name, "message": message}]
    )
