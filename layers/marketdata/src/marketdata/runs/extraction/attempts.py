"""The budget of one page: how often and how long it is tried within one run.

Attempts and time belong to the page within the run. Each failure is stored before anything else
happens, so neither a wait for quota nor another call begins the budget anew. Time counts from the
beginning of the first attempt that failed or was refused; a pause that the source itself asked for
is added to it. A refusal takes of the time and not of the attempts: it is no failure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from marketdata.documents.errors import StoredError
from marketdata.documents.runs import StoredAttempts
from marketdata.errors import Throttled, UpstreamUnavailable
from marketdata.runs.extraction.policy import RetryPolicy
from marketdata.store.batches import batch

THROTTLED = Throttled.code


class GivenUp(Exception):
    """The budget of a page is spent: the source has failed, for this run."""

    def __init__(self, error: StoredError) -> None:
        super().__init__(error["message"])
        self.error = error


class HeldBack(Exception):
    """A source has refused a page for as long as this run waits for that."""

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
    """By the database's clock: the beginning of the first attempt that failed or was refused."""
    paused_seconds: float = 0
    """Seconds that the source asked for."""
    error: StoredError | None = None
    """The last failure or refusal."""

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
        self._note(_described(error), begun, error.retry_after_seconds or 0)

    def note_refusal(self, error: Throttled, begun: datetime) -> None:
        """Store that an attempt was refused: from then on the page's time passes.

        Args:
            error: what it met.
            begun: when it began, by the database's clock.
        """
        self._note(_described(error), begun, error.retry_after_seconds or 0)

    def note_cooldown(self, message: str, now: datetime, asked_seconds: float) -> None:
        """Store that the page has to wait for the end of a cooldown that is under way.

        Args:
            message: why, in words.
            now: the time, by the database's clock.
            asked_seconds: of it, what the source itself asked for.
        """
        self._note({"code": THROTTLED, "type": "Throttled", "message": message}, now, asked_seconds)

    def _note(self, error: StoredError, begun: datetime, asked_seconds: float) -> None:
        self.since = self.since or begun
        self.paused_seconds += asked_seconds
        self.error = error
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

    @property
    def refused(self) -> bool:
        """Whether it was a refusal that the page met last."""
        return self.error is not None and self.error["code"] == THROTTLED

    def hold_back(self, now: datetime, wait_seconds: float) -> HeldBack:
        """The end of a page that was refused: the refusal, and how long it was waited for."""
        assert self.error is not None and self.since is not None  # noqa: PT018, S101 - refused
        seconds = max(0.0, (now - self.since).total_seconds())
        error = self.error.copy()
        error["message"] = (
            f"{error['message']} Page {self.page} was waited for during {seconds:.0f} s, and would "
            f"have to wait {wait_seconds:.0f} s more, which is longer than a page is tried where "
            f"the source asks for no pause. What was fetched is loaded; POST /refresh with this "
            f"run as `resume` goes on at page {self.page}, and the next run by schedule starts "
            f"anew."
        )
        return HeldBack(error)

    def give_up(self, now: datetime) -> GivenUp:
        """The end of a page that has failed: its last error, and what was tried."""
        assert self.error is not None and self.since is not None  # noqa: PT018, S101 - it failed
        times = "once" if self.failures == 1 else f"{self.failures} times"
        seconds = max(0.0, (now - self.since).total_seconds())
        said = f"Page {self.page} was tried {times} in {seconds:.0f} s. The next run tries again."
        error = self.error.copy()
        error["message"] = f"{error['message']} {said}"
        return GivenUp(error)


def _described(error: Throttled | UpstreamUnavailable) -> StoredError:
    described = batch.describe(error)
    if head := error.details.get("payload_head"):
        described["payload_head"] = str(head)
    return described
