"""A Lambda function that does what its event names."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deep  # type: ignore[import-not-found] # the second layer's
import greeting  # type: ignore[import-not-found] # in both layers
import own  # type: ignore[import-not-found]
import shadowed  # type: ignore[import-not-found]

CALLS = 0


def where(_event: dict[str, Any], context: Any) -> dict[str, Any]:
    return {
        "variables": dict(os.environ),
        "path": sys.path,
        "folder": str(Path.cwd()),
        "greeting": greeting.TEXT,
        "deep": deep.TEXT,
        "shadowed": shadowed.TEXT,
        "compiled": Path(own.__cached__ or "").exists() and Path(greeting.__cached__).exists(),
        "milliseconds": context.get_remaining_time_in_millis(),
        "stream": context.log_stream_name,
    }


def say(event: dict[str, Any], _context: Any) -> None:
    print(event["text"])  # noqa: T201
    print("to standard error", file=sys.stderr)  # noqa: T201
    logging.getLogger().warning("by a logger")


def fail(event: dict[str, Any], _context: Any) -> None:
    raise ValueError(event["text"])


def leave(event: dict[str, Any], _context: Any) -> None:
    os._exit(event["code"])


def large(event: dict[str, Any], _context: Any) -> str:
    return "x" * int(event["bytes"])


def hang(event: dict[str, Any], _context: Any) -> None:
    """Never end; the file gets the ids of this process and of one that it has started."""
    with subprocess.Popen(["sleep", "600"]) as child:
        unfinished = Path(event["file"] + ".new")
        unfinished.write_text(f"{os.getpid()} {child.pid}", encoding="ascii")
        unfinished.rename(event["file"])


def meet(event: dict[str, Any], _context: Any) -> None:
    """Wait until as many processes as the event says are in this function at the same time."""
    folder = Path(event["folder"])
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < event["count"]:
        time.sleep(0.01)


def wait(event: dict[str, Any], _context: Any) -> None:
    """Say that this has begun, and wait until it may end."""
    Path(event["begun"]).touch()
    while not Path(event["end"]).exists():
        time.sleep(0.01)


def allocate(event: dict[str, Any], _context: Any) -> int:
    return len(bytearray(os.urandom(event["megabytes"] * 1024 * 1024)))


ACTIONS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    action.__name__: action
    for action in (where, say, fail, leave, large, hang, meet, wait, allocate)
}


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    global CALLS  # noqa: PLW0603 - what a warm environment keeps
    CALLS += 1
    result = ACTIONS[event["do"]](event, context)
    return {"pid": os.getpid(), "calls": CALLS, "result": result}
