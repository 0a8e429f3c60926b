"""What an extracting step tells the state machine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ExtractionState(StrEnum):
    """What the state machine is to do next; it goes by these very words."""

    UNFINISHED = "unfinished"
    """Load what an earlier run has left, then call again."""
    AGAIN = "again"
    """Call again at once: the time of this call was up."""
    THROTTLED = "throttled"
    """Rate-limited: wait, if there is a wait, and call again. Without one the run has waited
    enough, and this is final."""
    EXTRACTED = "extracted"
    """All of the input is there."""
    SKIPPED = "skipped"
    """Nothing is new, or the source's circuit is open."""
    WAITING = "waiting"
    """A file asks something: there is nothing to load before somebody has answered."""
    FAILED = "failed"
    """The extraction ended without all of the input; the run has stored the reason with it."""
    CANCELLED = "cancelled"
    """The run was cancelled: load what was received."""
    HANDED_OVER = "handed_over"
    """Of a backfill: this execution has reached its limits. Load what was received; the next
    execution goes on."""
    BROKEN_OFF = "broken_off"
    """A step failed. The definition sets this itself, to load what had come before."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What the state machine needs to know after a call."""

    state: ExtractionState
    numbers: list[int]
    """Numbers of the batches to load."""
    wait_seconds: int = 0
    """How long to wait before the next call, with `THROTTLED`."""
