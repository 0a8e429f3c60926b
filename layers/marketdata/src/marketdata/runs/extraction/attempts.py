"""The budget of one page: how often and how long it is tried within one run.

Attempts and time belong to the page within the run. Each failure is stored before anything else
happens, so neither a wait for quota nor another call begins the budget anew. Time counts from the
beginning of the first attempt that failed; a pause that the source itself asked for is added to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from marketdata.documents.errors import StoredError
from marketdata.documents.runs import StoredAttempts
from marketdata.errors import UpstreamUnavailable
from marketdata.runs.extraction.policy import RetryPolicy
from marketdata.store.batches import batch


class GivenUp(Exception):
    """The budget of a page is spent: the source has failed, for this run."""

    def __init__(self, error: StoredError) -> None:
        super().__init__(error["message"])
        self.error = error


class OutOfTime(Exception):
    """The call has no time for another attempt, and the page's budget is not spent."""


@dataclass(slots=True)
class Attempts:
    """What was tried for one page in one run."""

    page: int
    store: Callable[[StoredAttempts], None]
    """Stores a failure with the input."""
    failures: int = 0
    since: datetime | None = None
    """By the database's clock: the beginning of the first attempt that failed."""
    paused_seconds: float = 0
    """Seconds that the source asked for."""
    error: StoredError | None = None
    """The last failure."""

    @classmethod
    def of(
        cls,
        stored: StoredAttempts | None,
        page: int,
        store: Callable[[StoredAttempts], None],
    ) -> Attempts:
        """As the run has stored them; none if it has stored those of another page."""
        if stored is None or stored["page"] != page:
            return cls(page, store)
        return cls(
            page,
            store,
            stored["failures"],
            stored["since"],
            stored["paused_seconds"],
            stored["error"],
        )

    def note_failure(self, error: UpstreamUnavailable, begun: datetime) -> None:
        """Count a failed attempt, and store it.

        Args:
            error: what it met.
            begun: when it began, by the database's clock.
        """
        self.failures += 1
        self.since = self.since or begun
        self.paused_seconds += error.retry_after_seconds or 0
        self.error = batch.describe(error)
        if head := error.details.get("payload_head"):
            self.error["payload_head"] = str(head)
        self.store(
            {
                "page": self.page,
                "failures": self.failures,
                "since": self.since,
                "paused_seconds": self.paused_seconds,
                "error": self.error,
            }
        )

    def seconds_left(self, policy: RetryPolicy, now: datetime) -> float:
        """Of the page's time."""
        if self.since is None:
            return policy.page_seconds
        end = self.since + timedelta(seconds=policy.page_seconds + self.paused_seconds)
        return (end - now).total_seconds()

    def spent(self, policy: RetryPolicy, now: datetime) -> bool:
        """Whether the page is not to be tried again."""
        return self.failures >= policy.attempts or (
            self.failures > 0 and self.seconds_left(policy, now) <= 0
        )

    def give_up(self, now: datetime) -> GivenUp:
        """The end of a page that has failed: its last error, and what was tried."""
        assert self.error is not None and self.since is not None  # noqa: PT018, S101 - it failed
        times = "once" if self.failures == 1 else f"{self.failures} times"
        seconds = max(0.0, (now - self.since).total_seconds())
        said = f"Page {self.page} was tried {times} in {seconds:.0f} s. The next run tries again."
        error = self.error.copy()
        error["message"] = f"{error['message']} {said}"
        return GivenUp(error)
