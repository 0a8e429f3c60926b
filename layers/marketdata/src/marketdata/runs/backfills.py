"""Backfills: runs that ask a source for the past of assets, behind its other runs.

A backfill is planned when it is requested, and its run keeps the plan: which windows of which
assets, each one request. `runs.extraction.history` makes these requests. A backfill has an input of
its own, so it and the hourly runs never wait for each other's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import NoReturn

from marketdata import clock
from marketdata.documents.errors import FailedInput
from marketdata.documents.runs import (
    BackfilledAsset,
    InputState,
    InputStatus,
    NewRun,
    Result,
    Run,
    RunStatus,
    StoredBackfill,
    StoredWindow,
)
from marketdata.errors import InvalidInput, StateConflict
from marketdata.runs import closing, triggers
from marketdata.runs.extraction.plan import Plan
from marketdata.runs.starting import WorkflowStarter, end_orphans
from marketdata.sources.history import HistorySource, Interval, Window
from marketdata.store import backfills, gaps, latest_prices, runs
from marketdata.store.batches import batch
from marketdata.store.connection import Store
from marketdata.store.gaps import Series
from marketdata.store.latest_prices import KnownAsset
from marketdata.store.leases import backfill_of
from marketdata.store.runs import Blocked
from marketdata.store.server_time import server_clock

MOST_ASSETS = 500
"""Assets of one backfill."""
MOST_REQUESTS = 20_000
"""Requests of one backfill: at three a minute, more than four days."""
_LISTED = 10


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """What a backfill is asked to fetch."""

    assets: Sequence[str] | None
    """Ids of the source's, or tickers that only one of its assets has."""
    top: int | None
    """In place of them: so many assets with the highest market cap."""
    start: datetime
    """The first time that is asked for."""
    end: datetime | None
    """The first time that is not; None for now."""
    interval: Interval | None
    """How far apart the points are; None to choose it by the range."""
    gaps: bool = False
    """Only what is missing and was not asked for before."""


@dataclass(frozen=True, slots=True)
class Requested:
    """A backfill that was started."""

    run_id: str
    plan: StoredBackfill
    warnings: list[str]
    """What of the request can't be asked for, and why."""


def request(
    store: Store,
    starter: WorkflowStarter,
    source: HistorySource,
    asked: BackfillRequest,
    *,
    most_resumptions: int = batch.MAX_RESUMPTIONS,
) -> Requested:
    """Start a backfill.

    Args:
        store: the database.
        starter: starts its execution.
        source: the source, configured.
        asked: what is to be fetched.
        most_resumptions: how often a batch that failed is tried by later runs.

    Raises:
        InvalidInput: what is asked for can't be fetched; the message says what to change.
        StateConflict: a backfill of the source is under way.
        TransientError: Step Functions or MongoDB did not answer.
    """
    end_orphans(store, most_resumptions=most_resumptions)
    now = server_clock(store).now()
    end = asked.end or now
    if asked.start >= end:
        _refuse(
            "start",
            f"{clock.iso(asked.start)} is not before the end, {clock.iso(end)}. Give an earlier "
            "start, or a later end.",
        )
    interval = _interval(source, asked, end, now)
    limited = source.limited(asked.start, end, interval, now=now)
    if limited.window is None:
        _refuse(
            "start",
            limited.cut_off
            or f"There is no interval {interval} between {clock.iso(asked.start)} and "
            f"{clock.iso(end)} that is over. Give a longer range, or a shorter interval.",
        )
    assets = _assets(store, source.name, asked)
    plan = _plan(store, source, assets, limited.window, interval, gaps_only=asked.gaps)
    warnings = [limited.cut_off] if limited.cut_off else []
    trigger = triggers.of_backfill()
    document = _new_run(trigger, source.name, plan, warnings)
    if isinstance(created := runs.create(store, document), Blocked):
        raise StateConflict(
            f"A backfill of {source.name} is under way, run {created.run_id}. Nothing was "
            f"started. Wait for it (GET /runs/{created.run_id}), or end it (POST /runs/"
            f"{created.run_id}/cancel).",
            run_id=created.run_id,
        )
    try:
        starter.start(trigger.run_id, triggers.execution_input(trigger.run_id))
    except Exception as error:
        # Without an execution nobody would ever go on with it.
        told = batch.describe(error)
        why: FailedInput = {"code": told["code"], "message": told["message"], "type": told["type"]}
        backfills.cancel(store, trigger.run_id)
        closing.close(store, trigger.run_id, [why], most_resumptions=most_resumptions)
        raise
    return Requested(trigger.run_id, plan, warnings)


def _interval(
    source: HistorySource, asked: BackfillRequest, end: datetime, now: datetime
) -> Interval:
    given = source.history_intervals()
    if asked.interval is None:
        return source.default_interval(asked.start, end, now=now)
    if asked.interval not in given:
        setting = source.history_setting.get(asked.interval)
        by = f" by the setting {setting}" if setting else ""
        _refuse(
            "interval",
            f"{source.name} gives no values of {asked.interval}{by}. Intervals that it gives are: "
            f"{', '.join(given)}.",
        )
    return asked.interval


def _assets(store: Store, source: str, asked: BackfillRequest) -> list[KnownAsset]:
    """The assets that are asked for, each once, in the order given or by market cap."""
    if asked.top is not None:
        found = latest_prices.largest_assets(store, source, asked.top)
        if not found:
            _refuse(
                "top",
                f"No asset of {source} is known yet. Start a run first (POST /refresh), and ask "
                "again when it has ended.",
            )
        return found
    wanted = list(dict.fromkeys(asked.assets or ()))
    known = latest_prices.find_assets(store, source, wanted)
    unknown = [name for name in wanted if not known[name]]
    if unknown:
        _refuse(
            "assets",
            f"{source} has no asset {_listed(unknown)} that this database knows. GET "
            f"/latest?source={source} lists those there are; an asset that is new to it is known "
            "after the next run (POST /refresh).",
        )
    for name in wanted:
        if len(known[name]) > 1:
            ids = _listed([one.asset_id for one in known[name]])
            _refuse(
                "assets",
                f"{len(known[name])} assets of {source} have the ticker {name!r}. Give one of "
                f"these ids: {ids}.",
            )
    return list({known[name][0].asset_id: known[name][0] for name in wanted}.values())


def _plan(
    store: Store,
    source: HistorySource,
    assets: Sequence[KnownAsset],
    range_: Window,
    interval: Interval,
    *,
    gaps_only: bool,
) -> StoredBackfill:
    windows = source.windows(range_.start, range_.end, interval)
    found: list[BackfilledAsset] = []
    requests = 0
    for asset in assets:
        entry: BackfilledAsset = {"id": asset.asset_id, "symbol": asset.symbol, "name": asset.name}
        if gaps_only:
            own = _with_holes(store, source.name, asset, range_, windows, interval)
            if not own:
                continue
            entry["windows"] = _stored(own)
            requests += len(own)
        else:
            requests += len(windows)
        found.append(entry)
    if not found:
        _refuse(
            "gaps",
            f"None of these {len(assets)} assets lacks a point of {interval} between "
            f"{clock.iso(range_.start)} and {clock.iso(range_.end)} that {source.name} was not "
            "asked for already. Nothing was started, and there is nothing to do.",
        )
    if requests > MOST_REQUESTS:
        _refuse(
            "assets" if len(found) > 1 else "start",
            f"This would be {requests:,} requests; {MOST_REQUESTS:,} are the most. Ask for fewer "
            "assets, a shorter range, or a longer interval.",
        )
    return {
        "interval": interval,
        "start": range_.start,
        "end": range_.end,
        "gaps": gaps_only,
        "windows": [] if gaps_only else _stored(windows),
        "assets": found,
        "requests": requests,
        "part": 1,
        "part_calls": 0,
        "part_began_at": 0,
        "idle_parts": 0,
    }


def _stored(windows: Sequence[Window]) -> list[StoredWindow]:
    return [{"start": window.start, "end": window.end} for window in windows]


def _with_holes(
    store: Store,
    source: str,
    asset: KnownAsset,
    range_: Window,
    windows: Sequence[Window],
    interval: Interval,
) -> list[Window]:
    """Of some windows, those that lack a point, from the first that is missing to the last.

    What the source was asked for and lacks as well is not asked for again.
    """
    series = Series(source, asset.asset_id, asset.symbol, interval)
    found = gaps.find_gaps(store, series, range_, interval.step)
    holes = [hole for hole in found.holes if hole.asked is None]
    own = []
    for window in windows:
        inside = [h for h in holes if h.start < window.end and h.end > window.start]
        if inside:
            start = max(window.start, inside[0].start)
            own.append(Window(start, min(window.end, inside[-1].end)))
    return own


def _new_run(
    trigger: triggers.Trigger, source: str, plan: StoredBackfill, warnings: list[str]
) -> NewRun:
    input_id = backfill_of(source)
    state = InputState(source, InputStatus.PENDING, warnings=warnings)
    return {
        "_id": trigger.run_id,
        "trigger": trigger.kind,
        "event_id": trigger.event_id,
        "event_time": trigger.time,
        "execution": None,
        "status": RunStatus.RUNNING,
        "ended_at": None,
        "holds": [input_id],
        "force": False,
        "inputs": {input_id: state.document()},
        "under_way": {},
        "pre_run_counts": None,
        "backfill": plan,
    }


def cancel(store: Store, run_id: str, *, most_resumptions: int = batch.MAX_RESUMPTIONS) -> Run:
    """End a backfill: what was received is loaded, and no more is asked for.

    The step that is under way sees it at its next request, and the run ends after that.

    Returns:
        The run as it is now. Cancelling twice changes nothing.

    Raises:
        NotFound: there is no such run.
        StateConflict: it is no backfill, or it has ended already.
    """
    run = runs.get(store, run_id)
    if "backfill" not in run:
        raise StateConflict(
            f"Run {run_id} is no backfill, and can't be cancelled. It ends by itself.",
            run_id=run_id,
        )
    if not backfills.cancel(store, run_id):
        run = runs.get(store, run_id)
        if run["status"] == RunStatus.CANCELLED:
            return run
        raise StateConflict(
            f"Run {run_id} has ended already, as {run['status']}. Nothing was changed.",
            run_id=run_id,
        )
    run = runs.get(store, run_id)
    if backfills.is_let_go(run):
        # No execution is at it; the next one would have nothing to do but this.
        closing.close(store, run_id, most_resumptions=most_resumptions)
    return runs.get(store, run_id)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backfill is."""

    requests: int
    requests_done: int
    requests_refused: int
    """Of these, the ones that brought nothing, as they failed for good."""
    assets: int
    assets_done: int
    rows: int
    """Rows that were received."""
    percent: float
    estimated_end: datetime | None
    """When it will be done at this quota; None before its first request, and once it has ended."""


def progress(run: Run, results: Sequence[Result], now: datetime) -> Progress:
    """How far a backfill is.

    Args:
        run: the run.
        results: what became of its input so far.
        now: the time.
    """
    stored = run["backfill"]
    plan = Plan(stored)
    (state,) = (InputState.of(one) for one in run["inputs"].values())
    done = state.pages.pages if state.pages else 0
    left = plan.requests - done
    estimated = None
    if run["status"] == RunStatus.RUNNING and state.started_at and "rate_per_minute" in stored:
        seconds = 60 / stored["rate_per_minute"]
        if done:
            # Where answers take longer than the quota, or other runs went first.
            seconds = max(seconds, (now - state.started_at).total_seconds() / done)
        estimated = now + timedelta(seconds=ceil(left * seconds))
    return Progress(
        requests=plan.requests,
        requests_done=done,
        requests_refused=state.refused_requests,
        assets=len(stored["assets"]),
        assets_done=plan.assets_done(done),
        rows=sum(result["extracted"] for result in results),
        percent=round(100 * done / plan.requests, 1) if plan.requests else 100.0,
        estimated_end=estimated,
    )


def _refuse(name: str, message: str) -> NoReturn:
    """Refuse a part of the request.

    Raises:
        InvalidInput: always, with its name.
    """
    raise InvalidInput(
        f"{name}: {message}", faults=[{"in": "body", "name": name, "message": message}]
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:_LISTED])
    more = len(names) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown
