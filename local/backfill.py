"""``make backfill``: fetch the past from a source, with progress on the terminal."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from local.client import ApiError, Client
from local.console import Screen
from local.errors import LocalError, PartlyLoadedError, RunFailedError
from local.settings import Settings
from local.stack import Stack


@dataclass(frozen=True)
class Asked:
    """What is asked for on the command line, as the API takes it."""

    body: Mapping[str, Any]

    @classmethod
    def read(cls, given: Mapping[str, str], now: datetime | None = None) -> Self:
        """Read options, which are empty texts where nothing was given.

        Raises:
            LocalError: they contradict each other, or one is malformed.
        """
        assets = [name.strip() for name in given["assets"].split(",") if name.strip()]
        if bool(assets) == bool(given["top"]):
            raise LocalError("give either ASSETS=bitcoin,ethereum or TOP=50")
        if bool(given["days"]) == bool(given["start"]):
            raise LocalError("give either DAYS=365 or START=2025-01-01")
        body: dict[str, Any] = {"source": given["source"], "start": given["start"]}
        if given["days"]:
            end = _day(given["end"]) if given["end"] else (now or datetime.now(UTC))
            body["start"] = (end - timedelta(days=_number("DAYS", given["days"]))).isoformat()
        if assets:
            body["assets"] = assets
        else:
            body["top"] = _number("TOP", given["top"])
        for name in ("end", "interval"):
            if given[name]:
                body[name] = given[name]
        if given["gaps"]:
            body["gaps"] = True
        return cls(body)


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise LocalError(f"{name} must be a number from 1 on, and is {text!r}")
    return int(text)


def _day(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise LocalError(f"END must be a date or a time (ISO 8601), and is {text!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def backfill(settings: Settings, screen: Screen, asked: Asked) -> None:
    """Start a backfill on the stack that is up, and follow it to its end.

    Ctrl-C ends the following, and not the backfill.

    Raises:
        PartlyLoadedError: a part was not received or not loaded, or it was cancelled.
        LocalError: the stack is not up, or the backfill was refused or failed.
        KeyboardInterrupt: Ctrl-C; what to do then was said.
    """
    client = _client(settings, screen)
    try:
        answer = client.post("/backfills", asked.body)
    except ApiError as error:
        raise LocalError(f"the backfill was not started: {error}") from error
    run_id = str(answer["run_id"])
    screen.say(
        f"run {run_id}: {answer['assets']} assets of {answer['source']}, {answer['interval']} from"
        f" {answer['start']} to {answer['end']}, {answer['requests']} requests"
    )
    for warning in answer["warnings"]:
        screen.say(f"  {warning}")
    try:
        with screen.step("fetching the past") as step:
            run = client.wait_for(run_id, seconds=math.inf, look=_look(screen))
            step.done(f"run {run_id}: {run.get('status')}")
    except KeyboardInterrupt:
        screen.say(f"the backfill goes on: run {run_id}")
        screen.say(f"  {client.api_url}/runs/{run_id} says how far it is")
        screen.say(f"  `make cancel RUN={run_id}` ends it; what was received stays")
        raise
    _tell(screen, run)


def cancel(settings: Settings, screen: Screen, run_id: str) -> None:
    """Cancel a backfill on the stack that is up.

    Raises:
        LocalError: the stack is not up, or there is no such backfill under way.
    """
    try:
        answer = _client(settings, screen).post(f"/runs/{run_id}/cancel")
    except ApiError as error:
        raise LocalError(f"nothing was cancelled: {error}") from error
    done = "and has ended" if answer["status"] == "cancelled" else "and ends after this request"
    screen.say(f"run {run_id} is cancelled {done}; what was received is loaded")


def _client(settings: Settings, screen: Screen) -> Client:
    stack = Stack(settings, screen)
    stack.check_parts()
    description = stack.description()
    if description is None:
        raise LocalError("the stack is not up; start it with `make up` or `make run`")
    return Client(description["api_url"], description["refresh_token"])


def _look(screen: Screen) -> Callable[[dict[str, Any]], None]:
    shown = ""

    def look(run: dict[str, Any]) -> None:
        nonlocal shown
        text = describe(run)
        if screen.live:
            screen.update(text)
        elif text != shown:
            screen.say(f"    {text}")
        shown = text

    return look


def describe(run: Mapping[str, Any]) -> str:
    """Say how far a backfill is, in one line."""
    far = run.get("backfill")
    if far is None:
        return str(run.get("problem") or run.get("status"))
    text = (
        f"{far['requests_done']} of {far['requests']} requests ({far['percent']:g} %),"
        f" {far['assets_done']} of {far['assets']} assets, {far['rows']:,} rows"
    )
    end = far.get("estimated_end")
    return f"{text}, done about {end[:16].replace('T', ' ')} UTC" if end else text


def _tell(screen: Screen, run: Mapping[str, Any]) -> None:
    totals, far = run["totals"], run["backfill"]
    screen.say(
        f"  {far['rows']:,} rows received: {totals['inserted']:,} inserted,"
        f" {totals['updated']:,} updated, {totals['unchanged']:,} unchanged,"
        f" {totals['quarantined']:,} quarantined"
    )
    (source,) = run["sources"]
    for warning in source["warnings"]:
        screen.say(f"  {warning}")
    status = run["status"]
    if status == "success":
        return
    error = source.get("error") or run.get("error") or {}
    reason = error.get("message", "no reason was recorded")
    if status in ("partial_success", "cancelled"):
        raise PartlyLoadedError(f"{status}: {reason}")
    raise RunFailedError(f"run {run['run_id']} ended as {status}: {reason}")
