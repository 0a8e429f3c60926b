"""Whether a step of a run still has anything to do."""

from __future__ import annotations

from marketdata.errors import (
    StateConflict,
)
from marketdata.store import leases, runs
from marketdata.store.connection import Store


def require_running(store: Store, run_id: str, input_id: str | None = None) -> None:
    """Refuse work for a run that has ended, or that has lost an input to another one.

    Raises:
        StateConflict: names the run.
    """
    if not runs.heartbeat(store, run_id):
        raise StateConflict(f"Run {run_id} has ended; its steps have nothing more to do.")
    if input_id is not None:
        leases.require(store, run_id, input_id)
