"""Noting why a step of a run failed."""

from __future__ import annotations

from marketdata.documents.errors import StoredError
from marketdata.runs.summary import DONE
from marketdata.store import leases, run_inputs, runs
from marketdata.store.batches import queue
from marketdata.store.connection import Store


def note_failure(store: Store, run_id: str, input_id: str, error: StoredError) -> list[int]:
    """Note why a step of an input failed.

    Returns:
        The numbers of the batches that had been received by then and are to be loaded yet.
    """
    run_inputs.note_error(store, run_id, input_id, error)
    note = runs.get(store, run_id)["inputs"].get(input_id, {})
    if leases.is_object(input_id) and note.get("status") not in DONE:
        # As long as not all of a file was seen it may be refused, which is as a whole.
        return []
    received = note.get("progress", note).get("batches", 0)
    return queue.numbers(store, run_id, input_id, received)
