"""Work in a process of its own that dies by SIGKILL between two commands to the database."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

from pymongo import monitoring

from marketdata.load.rebuild import rebuild
from marketdata.runs.replaying import replay
from marketdata.store.connection import Store, connect
from marketdata.store.quarantine import Selection
from tests.support.backfills import Backfills
from tests.support.waiting import PATIENCE

_LONGEST_LIFE = 60 * PATIENCE
"""Seconds after which a process hangs."""

type Work = Callable[[Store], object]
"""Something that is imported already: it costs the other process nothing to find it."""


def do_replay(store: Store) -> None:
    """Replay all of quarantine."""
    replay(store, Selection())


def do_rebuild(store: Store) -> None:
    """Rebuild the records; whoever comes after a death here does not wait for long."""
    rebuild(store, lease_seconds=0.3, loader_seconds=60)


def do_backfill(environment: Mapping[str, str], run_id: str, store: Store) -> None:
    """Carry out a backfill that was requested."""
    Backfills(store, environment).execute(run_id)


class _Watch(monitoring.CommandListener):
    """Counts commands, and ends the process right before one of them leaves it."""

    def __init__(self, deadly: int | None) -> None:
        self.commands: list[str] = []
        self._deadly = deadly
        self._lock = threading.Lock()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        with self._lock:
            self.commands.append(event.command_name)
            if len(self.commands) == self._deadly:
                os.kill(os.getpid(), signal.SIGKILL)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@cache
def _warm() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "marketdata.sources.coingecko"])
    return context


def _live(work: Work, uri: str, database: str, deadly: int | None, pipe: Connection) -> None:
    watch = _Watch(deadly)
    monitoring.register(watch)
    try:
        work(connect(uri, database))
    except BaseException:
        pipe.send(("error", traceback.format_exc()))
        raise
    pipe.send(("done", list(watch.commands)))
    os._exit(0)


def live(
    work: Work, uri: str, database: str, *, dies_before: int | None = None
) -> list[str] | None:
    """Do some work in a process of its own.

    Args:
        work: what it does.
        uri: of the database.
        database: its name.
        dies_before: which of its commands, from 1, it does not live to send.

    Returns:
        All its commands; None if it was killed.
    """
    ours, theirs = _warm().Pipe(duplex=False)
    process = _warm().Process(
        target=_live, args=(work, uri, database, dies_before, theirs), daemon=True
    )
    process.start()
    theirs.close()
    try:
        assert ours.poll(_LONGEST_LIFE), f"it hangs; it was to die before command {dies_before}"
        what, detail = ours.recv()
    except EOFError:
        process.join(30)
        assert process.exitcode == -signal.SIGKILL, process.exitcode
        return None
    else:
        assert what == "done", detail
        found: list[str] = detail
        return found
    finally:
        process.kill()
        process.join()
        ours.close()
