"""A quota that the replay server enforces when it is asked to, as the real APIs enforce theirs."""

import threading
import time
from collections import deque


class Quota:
    """So many requests in any minute, of one API."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._lock = threading.Lock()
        self._granted: deque[float] = deque()

    def take(self, now: float | None = None) -> float:
        """Count a request. Returns 0 if it is granted, else the seconds until one will be.

        Args:
            now: the time in seconds by a clock that only goes forward; by default its own.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            while self._granted and self._granted[0] <= now - 60:
                self._granted.popleft()
            if len(self._granted) < self._per_minute:
                self._granted.append(now)
                return 0
            return self._granted[0] + 60 - now
