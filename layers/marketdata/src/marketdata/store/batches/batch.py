"""What a batch is called and counted by: its key, its states, the law of conservation."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from marketdata.errors import ConservationBroken
from marketdata.store.connection import Document

COUNTS = ("inserted", "updated", "unchanged", "duplicate", "quarantined")
UNFINISHED = ("pending", "loading", "failed")
"""The states of batches that are not loaded; the index `unfinished` has exactly these."""
MAX_RESUMPTIONS = 3
"""How often a batch whose loading failed is taken over by a later run, unless a setting says."""
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
        """For messages; also the `_id` of a batch that no later run has taken over."""
        return f"{self.run_id}/{self.input}/{self.number}"

    def filter(self) -> Document:
        """Finds the batch while that run owns it."""
        return {"run_id": self.run_id, "input": self.input, "number": self.number}


@dataclass(slots=True)
class Counts:
    """What became of the rows of a batch, a source or a run."""

    rows_in: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicate: int = 0
    quarantined: int = 0

    def check(self, what: str) -> None:
        """The law of conservation: rows in = what became of them.

        Raises:
            ConservationBroken: names all six numbers.
        """
        out = self.inserted + self.updated + self.unchanged + self.duplicate + self.quarantined
        if out != self.rows_in:
            raise ConservationBroken(
                f"{what}: {self.rows_in} rows came in, but {self.inserted} inserted + "
                f"{self.updated} updated + {self.unchanged} unchanged + {self.duplicate} duplicate "
                f"+ {self.quarantined} quarantined = {out}. This is a defect of the loader; the "
                "batch stays failed and its raw rows are kept.",
                **asdict(self),
            )


def describe(error: BaseException) -> Document:
    """An error as it is stored: its stable code, its class and its message."""
    return {
        "code": getattr(error, "code", "unexpected"),
        "type": type(error).__name__,
        "message": str(error)[:_ERROR_CHARACTERS],
    }
