"""What an extracting step tells the state machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extracted:
    """What the state machine needs to know after a call."""

    state: str
    """`extracted`, `throttled` (call again after `wait_seconds`), `again` (call again at
    once: the time of this call was up), or `failed`."""
    numbers: list[int]
    """Numbers of the batches to load; only with `extracted`, or `failed` after some pages."""
    wait_seconds: int = 0
