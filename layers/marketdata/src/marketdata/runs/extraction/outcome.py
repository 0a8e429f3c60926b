"""What an extracting step tells the state machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extracted:
    """What the state machine needs to know after a call."""

    state: str
    """What to do: with `unfinished` load what an earlier run has left, and call again; with
    `throttled` and `wait_seconds` call again after them; with `again` call again at once, as the
    time of this call was up. All else is final for the run, and `numbers` are to be loaded:
    `extracted`; `skipped`, as the source was unchanged or its circuit is open; `throttled` without
    a wait, as the run has waited enough; `failed`. The run's note on the input has the reason."""
    numbers: list[int]
    """Numbers of the batches to load."""
    wait_seconds: int = 0
