"""Waiting for a condition, with a limit and a reason."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for[T](
    condition: Callable[[], T | None], *, what: str, seconds: float = 60, every: float = 0.1
) -> T:
    """What `condition` gives once it gives something true; fails with `what` when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)
