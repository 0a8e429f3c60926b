"""What a batch is called and counted by: its key, its states, the law of conservation."""

from __future__ import annotations

from dataclasses import dataclass

from marketdata.documents.batches import BatchState
from marketdata.documents.errors import StoredError
from marketdata.errors import StateConflict
from marketdata.store.connection import Filter, Store, Update, store_errors

COUNTS = ("inserted", "updated", "unchanged", "duplicate", "quarantined")
UNFINISHED = (BatchState.PENDING, BatchState.LOADING, BatchState.FAILED)
"""The states of batches that are not loaded; the index `unfinished` has exactly these."""
MAX_RESUMPTIONS = 3
"""How often a batch whose loading failed is reclaimed by a later run, unless a setting says."""
_ERROR_CHARACTERS = 2_000
DUPLICATE_KEY = 11000
WRITTEN_TOGETHER = 1_000


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Which batch: the run that owns it, the input within that run, its number there."""

    run_id: str
    input: str
    number: int

    @property
    def id(self) -> str:
        """For messages; also the `_id` of a batch that no later run has reclaimed."""
        return f"{self.run_id}/{self.input}/{self.number}"

    def filter(self) -> Filter:
        """Finds the batch while that run owns it."""
        return {"run_id": self.run_id, "input": self.input, "number": self.number}


def update_owned(store: Store, key: BatchKey, change: Update) -> None:
    """Update a batch, provided that the run of the key still owns it.

    Raises:
        StateConflict: a later run has reclaimed the batch; nothing is changed.
    """
    with store_errors(f"updating batch {key.id}"):
        result = store.batches.update_one(key.filter(), change)
    if result.matched_count == 0:
        raise StateConflict(
            f"Batch {key.id} was reclaimed by a later run, which loads it.", batch=key.id
        )


def describe(error: BaseException) -> StoredError:
    """An error as it is stored: its stable code, its class and its message."""
    return {
        "code": getattr(error, "code", "unexpected"),
        "type": type(error).__name__,
        "message": str(error)[:_ERROR_CHARACTERS],
    }
