"""Noting why a step of a run failed."""

from __future__ import annotations

from marketdata.documents.errors import StoredError
from marketdata.documents.runs import InputState
from marketdata.store import leases, run_inputs, runs
from marketdata.store.batches import queue
from marketdata.store.connection import Store


def note_failure(store: Store, run_id: str, input_id: str, error: StoredError) -> list[int]:
    """Note why a step of an input failed.

    Returns:
        The numbers of the batches that had been received by then and are to be loaded yet.
    """
    run_inputs.note_error(store, run_id, input_id, error)
    stored = runs.get(store, run_id)["inputs"].get(input_id)
    if stored is None:
        return []
    state = InputState.of(stored)
    if leases.is_object(input_id) and not state.status.complete:
        # As long as not all of a file was seen it may be refused, which is as a whole.
        return []
    return queue.numbers(store, run_id, input_id, state.batches)
