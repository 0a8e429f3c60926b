"""The commands behind the Makefile's targets."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from local.build import architecture, sam, tool_environment
from local.build import build as build_template
from local.client import ApiError, Client
from local.console import Screen
from local.errors import LocalError, PartlyLoadedError, RunFailedError
from local.processes import write_atomically
from local.sample_upload import put_sample, wait_until_taken
from local.settings import ROOT, Settings
from local.stack import RUNS_IN, Stack, run_in_foreground
from marketdata.errors import MarketDataError
from marketdata.store.batches.reclaiming import dead_lettered_by_source
from marketdata.store.connection import connect, store_errors
from marketdata.store.growth import Growth, growth

COUNTS = ("extracted", "inserted", "updated", "unchanged", "quarantined")
MIB = 1024 * 1024


def up(settings: Settings, screen: Screen) -> None:
    """Start the stack without running the pipeline."""
    stack = Stack(settings, screen)
    screen.heading("Starting the local stack")
    description = stack.up()
    show_addresses(screen, description, stack.file)


def run(settings: Settings, screen: Screen) -> None:
    """Start the stack and run the pipeline once.

    Raises:
        PartlyLoadedError: a part was not loaded; the stack runs, and the rest is in it.
        LocalError: the stack did not start or the run failed; what was started has ended by then.
    """
    stack = Stack(settings, screen)
    with stack.undone_on_failure():
        screen.heading("Starting the local stack")
        description = stack.up()
        screen.heading("Running the pipeline")
        problems = _run_pipeline(stack, description, screen, upload=True)
    show_addresses(screen, description, stack.file)
    _require_all_loaded(problems)


def refresh(settings: Settings, screen: Screen) -> None:
    """Run the pipeline on the stack that is up.

    Raises:
        PartlyLoadedError: a part was not loaded.
        LocalError: the stack is not up, or the run failed.
    """
    stack = Stack(settings, screen)
    _require_all_loaded(_run_pipeline(stack, _description(stack), screen))


def down(settings: Settings, screen: Screen, *, nested: bool = False) -> None:
    """End every process of the stack; keep the data."""
    stack = Stack(settings, screen)
    with screen.step("stopping the local stack") as step:
        ended = stack.down(nested=nested)
        step.done(f"stopped: {', '.join(ended)}" if ended else "nothing was running")
    _say_what_goes_on(stack, screen)


def clean(settings: Settings, screen: Screen) -> None:
    """End the stack and remove all its state."""
    stack = Stack(settings, screen)
    with screen.step("removing the local stack's state") as step:
        removed = stack.clean()
        folder = settings.local_state_dir.relative_to(ROOT)
        step.done(
            f"removed from {folder}: {', '.join(removed)}"
            if removed
            else f"there was nothing in {folder}"
        )
    if settings.mongodb_uri is not None:
        screen.say("  the database of MONGODB_URI is yours and was not touched")
    _say_what_goes_on(stack, screen)


def _say_what_goes_on(stack: Stack, screen: Screen) -> None:
    if stack.in_containers:
        screen.say("  the stack in containers is still running; `make compose-down` stops it")


def build(settings: Settings, screen: Screen) -> None:
    """Build the template and layers as for a deployment."""
    stack = Stack(settings, screen)
    with screen.step("building the template (sam build)") as step:
        folder, anew = build_template(stack.runner("build", step))
        step.done(f"{'built' if anew else 'unchanged'}: {folder.relative_to(ROOT)}")


def migrate(settings: Settings, screen: Screen) -> None:
    """Make the collections and indexes in the database of the running stack, or of MONGODB_URI.

    Raises:
        LocalError: no database is running, or a migration failed.
    """
    stack = Stack(settings, screen)
    _require_database(settings, stack)
    with screen.step("migrating") as step:
        stack.migrate(step)
        step.done("collections and indexes are up to date")


def rebuild(settings: Settings, screen: Screen) -> None:
    """Make the records anew from the raw batches, in the running stack's database or MONGODB_URI's.

    Raises:
        LocalError: no database is running, or it could not be done.
    """
    stack = Stack(settings, screen)
    _require_database(settings, stack)
    screen.heading("Rebuilding the records from the raw batches")
    database = {"MONGODB_URI": stack.mongodb_uri, "MONGODB_DATABASE": settings.database}
    command = [sys.executable, "-m", "marketdata.load.rebuild"]
    run_in_foreground(command, {**os.environ, **database})


def _require_database(settings: Settings, stack: Stack) -> None:
    if settings.mongodb_uri is None and stack.mongod.part.process() is None:
        raise LocalError("mongod is not running; start it with `make up`, or set MONGODB_URI")


def validate(settings: Settings, screen: Screen) -> None:
    """Check the template with cfn-lint.

    Raises:
        CommandError: it has a fault; what is on the terminal says which.
    """
    template = ["--template-file", str(ROOT / "template.yaml")]
    run_in_foreground(
        [*sam(), "validate", "--lint", *template, "--region", settings.aws_region],
        tool_environment(architecture()),
    )
    screen.say("the template is valid")


def logs(settings: Settings, screen: Screen, part: str) -> None:
    """Show a log and what is added to it, until interrupted.

    Raises:
        LocalError: there is no such log.
    """
    folder = settings.local_state_dir / "logs"
    file = folder / f"{part}.log"
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.log"))) or "none yet"
        raise LocalError(f"there is no log named '{part}'; there are: {known}")
    screen.say(f"{file} (Ctrl-C ends this)")
    try:
        _follow(file)
    except KeyboardInterrupt:
        return


def _follow(file: Path, start_bytes: int = 8192) -> None:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - start_bytes))
        if stream.tell():
            stream.readline()  # the rest of a line
        while True:
            chunk = stream.read()
            if chunk:
                sys.stdout.write(chunk.decode("utf-8", errors="replace"))
                sys.stdout.flush()
            else:
                time.sleep(0.2)


def status(settings: Settings, screen: Screen) -> None:
    """Say how each part is, and what the last run did.

    Raises:
        LocalError: a part has ended by itself.
    """
    stack = Stack(settings, screen)
    if stack.in_containers:
        screen.say("  the stack runs in containers; `docker compose ps` shows the state of each")
    parts = [] if stack.in_containers else stack.status()
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("part", "state", "pid", "port", "memory"):
        table.add_column(column, justify="right" if column in {"pid", "port", "memory"} else "left")
    for part in parts:
        memory = "" if part.memory is None else f"{part.memory / MIB:.0f} MiB"
        table.add_row(part.name, part.state, _text(part.pid), _text(part.port), memory)
    if parts:
        screen.console.print(table)
    for part in parts:
        if part.detail and part.state == "healthy":
            screen.say(f"  {part.name}: {part.detail}")
    description = stack.description()
    if description is None:
        screen.say("  the stack is not running; start it with `make up` or `make run`")
    else:
        _show_last_run(screen, description)
        show_addresses(screen, description, stack.file)
    failed = [part for part in parts if part.state in {"died", "not answering"}]
    if failed:
        raise LocalError(
            "\n".join(f"{part.name}: {part.state}. {part.detail}".rstrip() for part in failed)
        )


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _show_last_run(screen: Screen, description: dict[str, Any]) -> None:
    try:
        store = connect(
            description["mongodb_uri"], description["mongodb_database"], server_selection_ms=2000
        )
        with store.client, store_errors("being asked for the last run"):
            last = store.runs.find_one({}, sort=[("started_at", -1)])
            parked = dead_lettered_by_source(store)
            waiting = store.objects.count_documents({"state": "waiting"}, limit=1_000)
            _show_growth(screen, growth(store))
    except MarketDataError as error:
        screen.say(f"  the database does not answer: {error}")
        return
    if waiting:
        screen.say(
            f"  {waiting} files wait for an answer: GET /uploads?state=waiting has the questions"
        )
    if last is not None:
        screen.say(
            f"  last run: {last['_id']}, {last.get('status')}, started {last.get('started_at')}"
        )
    for source, found in parked.items():
        screen.say(
            f"  {source}: {found.batches:,} batches are dead-lettered: loading them failed too"
            " often. Their rows are kept; POST /runs/RUN/retry tries them again, for RUN in"
            f" {', '.join(found.runs)}"
        )


def _show_growth(screen: Screen, found: Growth) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("collection")
    for column in ("documents", "data", "indexes"):
        table.add_column(column, justify="right")
    for size in found.collections:
        sizes = (_megabytes(size.data_bytes), _megabytes(size.index_bytes))
        table.add_row(size.name, f"{size.documents:,}", *sizes)
    screen.console.print(table)
    days = Table(box=box.SIMPLE_HEAD)
    days.add_column("day (UTC)")
    for column in ("batches", "rows", "new records", "quarantined", "about"):
        days.add_column(column, justify="right")
    for day in found.days:
        counts = (day.batches, day.rows, day.inserted, day.quarantined)
        days.add_row(
            day.date.isoformat(), *(f"{n:,}" for n in counts), _megabytes(found.bytes_of(day))
        )
    screen.console.print(days)
    screen.say(
        f"  raw batches: {found.raw_rows:,} rows, {_megabytes(found.raw_bytes)} on disk,"
        f" {found.raw_bytes_per_row:.0f} bytes a row; a record takes {found.record_bytes:.0f}"
        " with its indexes"
    )
    raw, snapshots = (
        "for ever" if days is None else f"for {days:g} days" for days in found.retention.values()
    )
    screen.say(f"  kept: raw batches {raw}, records of APIs {snapshots} (RAW_RETENTION_DAYS,")
    screen.say("  SNAPSHOT_RETENTION_DAYS; `make migrate` applies them)")


def _megabytes(size: float) -> str:
    return f"{size / MIB:,.1f} MiB"


def _description(stack: Stack) -> dict[str, Any]:
    stack.check_parts()
    return stack.description() or {}


def _run_pipeline(
    stack: Stack, description: dict[str, Any], screen: Screen, *, upload: bool = False
) -> list[str]:
    """Run the pipeline once; returns what was not loaded and why, where the rest was."""
    client = Client(description["api_url"], description["refresh_token"])
    began = time.monotonic()
    sample = None
    if upload:
        with screen.step("uploading a sample CSV") as step:
            sample = put_sample(description)
            step.done(f"sample CSV put to s3://{sample.bucket}/{sample.key}")
    with screen.step("running the pipeline") as step:
        try:
            run_id = client.refresh()
        except ApiError as error:
            stack.check_parts()
            raise RunFailedError(f"the run could not be started: {error}") from error
        ended = client.wait_for(
            run_id,
            seconds=stack.settings.run_timeout,
            look=_progress(stack, screen, f"run {run_id}", began),
        )
        sources = list(ended.get("sources", []))
        # Either this run has taken the upload as well, or the upload's own event was faster.
        if sample is not None and (other := wait_until_taken(description, sample)) != run_id:
            loaded = client.wait_for(
                other,
                seconds=stack.settings.run_timeout,
                look=_progress(stack, screen, f"run {other}", began),
            )
            sources += loaded.get("sources", [])
        step.done(f"run {run_id}: {ended.get('status')}")
    write_atomically(stack.state / "last-run.json", json.dumps(ended, indent=2) + "\n")
    screen.console.print(_table(sources))
    _show_waiting(screen, sources)
    problems = [
        f"{source.get('source')}: {_reason(source['error'])}"
        for source in sources
        if source.get("error")
    ]
    if ended.get("status") not in {"success", "partial_success"}:
        reason = "; ".join(problems) or ended.get("error") or "no reason was recorded"
        raise RunFailedError(
            f"run {run_id} ended as {ended.get('status')}: {reason}."
            f" See the functions' log: {stack.localstack.console_log}"
        )
    return problems


def _show_waiting(screen: Screen, sources: Sequence[dict[str, Any]]) -> None:
    """Say which files of a run ask something."""
    waiting = [source for source in sources if source.get("status") == "waiting"]
    for source in waiting[:5]:
        screen.say(f"  {source.get('reason')}")
    if waiting:
        screen.say(
            f"  {len(waiting)} of the files that were taken wait for an answer: "
            "GET /uploads?state=waiting lists all that do"
        )


def _reason(error: Any) -> str:
    """An error of the API in words."""
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _require_all_loaded(problems: Sequence[str]) -> None:
    if problems:
        raise PartlyLoadedError(
            "partial_success: a part was not loaded, the rest is. " + " ".join(problems)
        )


def _progress(
    stack: Stack, screen: Screen, title: str, began: float
) -> Callable[[dict[str, Any]], None]:
    """Return what shows a run's state, each time it changes where there is no terminal."""
    shown = ""

    def look(state: dict[str, Any]) -> None:
        nonlocal shown
        stack.check_parts()
        sources = ", ".join(
            f"{source.get('source')} {source.get('status')} ({source.get('extracted') or 0} rows)"
            for source in state.get("sources", [])
        )
        text = f"{title}: {state.get('problem') or sources or state.get('status')}"
        if screen.live:
            screen.update(f"{text}, {time.monotonic() - began:.0f} s")
        elif text != shown:
            screen.say(f"    {text}")
        shown = text

    return look


def _table(sources: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("source")
    for column in (*COUNTS, "seconds"):
        table.add_column(column, justify="right")
    for source in sources:
        seconds = source.get("seconds")
        table.add_row(
            str(source.get("source")),
            *(_text(source.get(column)) for column in COUNTS),
            "" if seconds is None else f"{seconds:.1f}",
        )
    return table


def show_addresses(screen: Screen, description: dict[str, Any], file: Path) -> None:
    """Say where a stack that is up can be reached, and what to do with it.

    Args:
        screen: to say it on.
        description: what its ``stack.json`` says.
        file: that file.
    """
    api = description["api_url"]
    contained = description.get("runs_in") == RUNS_IN
    client = Client(api, description["refresh_token"])
    screen.heading("Where to look")
    rows = [
        ("API", api),
        ("health", f"{api}/health"),
        ("data", f"{api}/data?symbol=BTC&sortBy=price_usd:desc&limit=10"),
        *(
            (name, f"{api}{path}")
            for name, path in (("docs", "/docs"), ("OpenAPI", "/openapi.json"))
            if _answers(client, path)
        ),
        ("uploads", f"s3://{description['bucket']}/incoming/ at {description['aws_endpoint_url']}"),
        ("MongoDB", f"{description['mongodb_uri']} database {description['mongodb_database']}"),
        ("upstream", description["upstream"]),
        ("logs", description["logs"] if contained else f"{description['logs']} (make logs)"),
        ("all of it", str(file.relative_to(ROOT))),
    ]
    for name, value in rows:
        screen.say(f"  {name:<10} {value}")
    down = "make compose-down" if contained else "make down"
    screen.say(
        "  `make refresh` runs the pipeline again, `make status` shows the state,"
        f" `{down}` stops the stack"
    )


def _answers(client: Client, path: str) -> bool:
    try:
        client.get(path)
    except ApiError as error:
        return "no JSON" in str(error) or "Expecting value" in str(error)
    return True
