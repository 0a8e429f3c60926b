"""How much is tried for one page of a source."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from marketdata.sources import http


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How much is tried for one page within one run, whatever waits in between."""

    attempts: int = 3
    page_seconds: float = 100.0
    """For all attempts, with the waits for quota between them; a pause that the source asks for is
    added. A source that fails, or refuses, for good ends its part of the run within this time."""
    longest_pause_seconds: float = 5.0
    """Between two attempts of one call; the pause is random, and shorter at first."""
    limits: http.Limits = http.LIMITS
    sleep: Callable[[float], None] = time.sleep


RETRY_POLICY = RetryPolicy()
