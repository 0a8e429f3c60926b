"""`/health`: how the service is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from time import perf_counter
from typing import Any

from aws_lambda_powertools.event_handler import Request, Response, content_types

from marketdata import clock
from marketdata.aws.schedule import Rule, RuleState, Timetable, between_firings, timetable
from marketdata.documents.runs import Run, RunStatus
from marketdata.documents.sources import Failures, Frozen
from marketdata.errors import MarketDataError, TransientError
from marketdata.store import alerts, reading, run_queries, schedule
from marketdata.store.connection import Store
from marketdata.store.server_time import server_clock
from marketdata.web.models.common import Part
from marketdata.web.models.health import Health
from marketdata.web.responses import responses
from marketdata.web.routing import new_router
from marketdata.web.services import deployment, services

router = new_router()

type _Look = Callable[[RuleState, datetime | None, Timetable | None], datetime | None]

PING_SECONDS = 3.0
_LONGEST_RUN = timedelta(days=1)
_EVENTS_EXCUSED = 5
"""Events in a row that may have met a run under way, before nothing is said any more."""
_GRACE = timedelta(minutes=2)
"""What a rule may be late, and a run take to be created, before it counts as overdue."""


@router.get(
    "/health",
    summary="Health of the service",
    description="The state of the API, the database and the scheduler, with the last and the "
    "next run. 200 while reads work, 503 when they do not.",
    responses=responses("Reads work; `status` says whether everything else does.")
    | {503: {"description": "The database does not answer."}},
    tags=["operations"],
    operation_id="getHealth",
)
def get_health(request: Request) -> Response[Health]:
    """Health, with HTTP status 200 or 503."""
    given = services(request)
    mongodb, runs = _mongodb(given.store)
    last, ended = runs.last, runs.ended
    # Ages are judged by the clock that set the times; a function's own may be off.
    now, look = runs.now, None
    if mongodb["status"] == "ok":
        look = partial(_due, given.store, deployment(request), now)
    scheduler = _scheduler(given.rule(), runs.scheduled, now, look)
    data = _data(runs, scheduler, now)
    if mongodb["status"] != "ok":
        status = "down"
    elif (
        scheduler["status"] in ("ok", "unconfigured")
        and data["status"] != "stale"
        and not data["frozen_sources"]
        and (ended is None or ended["status"] != RunStatus.FAILED)
    ):
        status = "ok"
    else:
        status = "degraded"
    body = {
        "status": status,
        "api": {"status": "ok"},
        "mongodb": mongodb,
        "scheduler": scheduler,
        "data": data,
        "last_run": brief(last),
        "run_id": last and last["_id"],
    }
    return Response(
        status_code=503 if status == "down" else 200,
        content_type=content_types.APPLICATION_JSON,
        body=body,  # type: ignore[arg-type]
    )


@dataclass(frozen=True, slots=True)
class _Runs:
    """What the database tells of runs; nothing, when it does not answer."""

    now: datetime
    """By its clock; without it by the function's, which nothing is judged by then."""
    last: Run | None = None
    """The last one that says how the service is; it may be under way."""
    ended: Run | None = None
    """The last one of these that has ended."""
    scheduled: Run | None = None
    """The last one that the rule started."""
    success: Run | None = None
    """The last one of all sources that brought everything."""
    first: Run | None = None
    failing: Sequence[tuple[str, Failures]] = ()
    frozen: Sequence[tuple[str, Frozen]] = ()


def _mongodb(store: Any) -> tuple[Part, _Runs]:
    """The database's state, and what it tells of runs."""
    started = perf_counter()
    try:
        database: Store = store()
        reading.ping(database, seconds=PING_SECONDS)
        milliseconds = round((perf_counter() - started) * 1000, 3)
        runs = _Runs(
            now=server_clock(database).now(),
            last=run_queries.last_telling_run(database),
            ended=run_queries.last_telling_run(database, ended=True),
            scheduled=run_queries.last_run(database, trigger="schedule"),
            success=run_queries.last_whole_success(database),
            first=run_queries.first_run(database),
            failing=[one for one in alerts.failures(database) if one[1]["consecutive"]],
            frozen=[
                (source["_id"], frozen)
                for source in alerts.answered(database)
                if (frozen := source.get("frozen"))
            ],
        )
    except MarketDataError as error:
        # The message names hosts; the log has it, and the code says enough here.
        transient = isinstance(error, TransientError)
        text = "MongoDB does not answer." if transient else "MongoDB is not configured rightly."
        return {"status": "down", "ping_ms": None, "message": text}, _Runs(clock.now())
    return {"status": "ok", "ping_ms": milliseconds, "message": None}, runs


def _data(runs: _Runs, scheduler: Part, now: datetime) -> Part:
    """How fresh the data is: stale when the rule has been due twice since the last success.

    With `rate(...)` that is twice the interval. With `cron(...)` it is the second firing after the
    success, so that nights and weekends on which nothing is due make nothing old.
    """
    success = runs.success["started_at"] if runs.success else None
    # Where nothing ever succeeded, the time counts from the first try.
    begun = runs.success or runs.first
    table = timetable(scheduler["expression"] or "")
    status = "unknown"
    if table is not None:
        once = table.after(_begun(begun)) if begun else None
        twice = table.after(once) if once else None
        status = "stale" if twice is not None and now > twice + _GRACE else "ok"
    return {
        "status": status,
        "last_success_at": clock.iso(success) if success else None,
        "failing_sources": [
            {
                "source": source,
                "failures": failures["consecutive"],
                "alerted": failures.get("alerted") is not None,
            }
            for source, failures in runs.failing
        ],
        "frozen_sources": [
            {
                "source": source,
                "since": clock.iso(frozen["since"]),
                "newest": clock.iso(frozen["newest"]),
            }
            for source, frozen in runs.frozen
        ],
    }


def _scheduler(rule: Rule | None, last: Run | None, now: datetime, look: _Look | None) -> Part:
    """The rule's state. What it is late by is judged with `look`, and not without a database."""
    started: datetime | None = last["started_at"] if last else None
    known: Part = {
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
    table = timetable(state.expression)
    due = look(state, _begun(last) if last else None, table) if look else None
    if not state.enabled:
        return known | {"status": "disabled", "message": "The rule that starts runs is disabled."}
    if due is None or now <= due + _GRACE:
        # A time that has passed is nobody's next one: the run may start any moment.
        future = clock.iso(due) if due is not None and due > now else None
        return known | {"status": "ok", "next_run_at": future}
    return known | {
        "status": "overdue",
        "overdue": True,
        "message": f"The rule should have started a run at {clock.iso(due)} or before.",
    }


def _due(
    make_store: Callable[[], Store],
    deployment: str,
    now: datetime,
    state: RuleState,
    started: datetime | None,
    table: Timetable | None,
) -> datetime | None:
    """When the rule has to start its next run at the latest; None if nobody can know.

    It counts from the last run that it started or, where that run is too long ago, from when
    the rule was first seen as it is: a rule that was made or enabled only then owes no run
    before. An event that met a run under way started none of its own, so it is not missed either.
    """
    try:
        store = make_store()
        since = schedule.seen_since(
            store,
            deployment,
            enabled=state.enabled,
            expression=state.expression,
            now=now,
            silence=between_firings(table, now),
        )
        if table is None:
            return None
        due = table.after(started) if started else None
        if due is None or due + _GRACE < now:
            due = table.after(max(since, started or since))
        for _ in range(_EVENTS_EXCUSED):
            if due is None:
                return None
            if due + _GRACE >= now or not run_queries.run_under_way(
                store, begin=due - _GRACE, end=due + _GRACE, longest=_LONGEST_RUN
            ):
                return due
            due = table.after(due)
    except MarketDataError:
        return None
    return due if due is not None and due + _GRACE >= now else None


def _begun(run: Run) -> datetime:
    """When a run began, in the rule's time where it started it.

    The clocks of the database and of the rule differ by a little: a run must not seem to have
    begun just before the firing that started it.
    """
    began: datetime = run["started_at"]
    told: datetime | None = run.get("event_time") if run.get("trigger") == "schedule" else None
    return max(began, told) if told else began


def brief(run: Run | None) -> Part | None:
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
