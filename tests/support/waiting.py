"""Waiting for a condition, with a limit and a reason."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))
"""How many times as long everything may take: containers start more slowly than processes."""


def wait_for[T](
    condition: Callable[[], T | None], *, what: str, seconds: float = 60, every: float = 0.1
) -> T:
    """What `condition` gives once it gives something true; fails with `what` when time is up.

    The time is `seconds`, times what TEST_PATIENCE says.
    """
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)
