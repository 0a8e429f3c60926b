"""`/health`: how the service is."""

from __future__ import annotations

from datetime import datetime, timedelta
from time import perf_counter
from typing import Any

from aws_lambda_powertools.event_handler import Request, Response, content_types

from marketdata import clock
from marketdata.aws.schedule import Rule, RuleState, interval
from marketdata.errors import MarketDataError, TransientError
from marketdata.store import queries
from marketdata.store.connection import Document, Store
from marketdata.web.models.health import Health
from marketdata.web.responses import responses
from marketdata.web.routing import new_router
from marketdata.web.services import services

router = new_router()

PING_SECONDS = 3.0
_GRACE = timedelta(minutes=2)
"""What a rule may be late, and a run take to be created, before it counts as overdue."""


@router.get(
    "/health",
    summary="How the service is",
    description="The API, the database and the scheduler, with the last and the next run. "
    "200 while reads work, 503 when they do not.",
    responses=responses("It works, perhaps not in every part: see `status`.")
    | {503: {"description": "The database does not answer."}},
    tags=["operations"],
    operation_id="getHealth",
)
def get_health(request: Request) -> Response[Health]:
    """Health, with HTTP status 200 or 503."""
    given = services(request)
    mongodb, last, scheduled = _mongodb(given.store)
    scheduler = _scheduler(given.rule(), scheduled, clock.now())
    if mongodb["status"] != "ok":
        status = "down"
    elif scheduler["status"] in ("ok", "unconfigured") and (last or {}).get("status") != "failed":
        status = "ok"
    else:
        status = "degraded"
    body = {
        "status": status,
        "api": {"status": "ok"},
        "mongodb": mongodb,
        "scheduler": scheduler,
        "last_run": brief(last),
        "run_id": last and last["_id"],
    }
    return Response(
        status_code=503 if status == "down" else 200,
        content_type=content_types.APPLICATION_JSON,
        body=body,  # type: ignore[arg-type]
    )


def _mongodb(store: Any) -> tuple[Document, Document | None, Document | None]:
    """The database's state, the last run, and the last one that the rule started."""
    started = perf_counter()
    try:
        database: Store = store()
        queries.ping(database, seconds=PING_SECONDS)
        milliseconds = round((perf_counter() - started) * 1000, 3)
        last = queries.last_run(database)
        scheduled = queries.last_run(database, trigger="schedule")
    except MarketDataError as error:
        # The message names hosts; the log has it, and the code says enough here.
        transient = isinstance(error, TransientError)
        text = "MongoDB does not answer." if transient else "MongoDB is not configured rightly."
        return {"status": "down", "ping_ms": None, "message": text}, None, None
    return {"status": "ok", "ping_ms": milliseconds, "message": None}, last, scheduled


def _scheduler(rule: Rule | None, last: Document | None, now: datetime) -> Document:
    started: datetime | None = last["started_at"] if last else None
    known: Document = {
        "status": "unconfigured",
        "enabled": None,
        "expression": None,
        "last_run_at": clock.iso(started) if started else None,
        "next_run_at": None,
        "overdue": False,
        "message": None,
    }
    if rule is None:
        return known
    try:
        state: RuleState = rule.state()
    except MarketDataError:
        return known | {"status": "unknown", "message": "EventBridge can't be asked for the rule."}
    known |= {"enabled": state.enabled, "expression": state.expression}
    if not state.enabled:
        return known | {"status": "disabled", "message": "The rule that starts runs is disabled."}
    every = interval(state.expression)
    if every is None or started is None:
        return known | {"status": "ok"}
    due = started + every
    if now <= due + _GRACE:
        return known | {"status": "ok", "next_run_at": clock.iso(due)}
    return known | {
        "status": "overdue",
        "next_run_at": clock.iso(due),
        "overdue": True,
        "message": "The rule should have started a run by now.",
    }


def brief(run: Document | None) -> Document | None:
    """A run in brief."""
    if run is None:
        return None
    return {
        "run_id": run["_id"],
        "status": run["status"],
        "trigger": run["trigger"],
        "started_at": clock.iso(run["started_at"]),
        "ended_at": clock.iso(run["ended_at"]) if run["ended_at"] else None,
    }
