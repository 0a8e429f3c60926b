"""Keeping to a source's quota: each request takes a permit first, and a short wait is sat out.

Retries and conditional requests take permits, too: sources count them all. A longer wait is the
state machine's, which waits at no cost.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from marketdata.documents.runs import StoredThrottling
from marketdata.errors import Throttled, UpstreamUnavailable
from marketdata.sources.base import Quota, Upstream
from marketdata.store.connection import Store
from marketdata.store.server_time import ServerClock
from marketdata.store.sources import limiter
from marketdata.store.sources.limiter import Permit

_LONGEST_WAIT_SECONDS = 2.0
_ASIDE_SECONDS = 30.0
"""How long somebody of low priority waits who meets a run that goes first."""
_WAITS_SECONDS = 10.0
"""What a call may wait in all; beyond that the state machine waits, however short it is."""
_JITTER = 0.2
"""Of a wait: those who were told the same time don't all come back in the same moment."""


class RateLimited(Exception):
    """The source must not be fetched from now; how long to wait, and on whose word."""

    def __init__(
        self, seconds: float, message: str, *, refused: bool, asked_seconds: float = 0
    ) -> None:
        """Of a wait.

        Args:
            seconds: how long it is.
            message: why, in words.
            refused: whether it is for a refusal of the source; else it is our own quota's.
            asked_seconds: of it, what the source itself asked for.
        """
        super().__init__(message)
        self.seconds = seconds
        self.refused = refused
        self.asked_seconds = asked_seconds


@dataclass(slots=True)
class Throttling:
    """How much a source's limits have held a run back, over all its calls."""

    events: int = 0
    """Times that the run was rate-limited: by a refusal of the source, or for want of a permit."""
    refusals: int = 0
    """Of these, the ones by the source (429 and 402)."""
    waited_seconds: float = 0
    """Seconds that the run has waited in all."""
    permits_left: float | None = None
    """Permits in the source's bucket, when it was asked last."""
    quota_per_minute: float | None = None
    """Requests a minute, by the settings."""
    rate_per_minute: float | None = None
    """Requests a minute at most, when it was asked last; lower after refusals."""
    retry_latency_seconds: float | None = None
    """The longest time from being rate-limited to the answer that came at last."""
    since: datetime | None = None
    """While the run waits: when it was rate-limited."""

    @classmethod
    def of(cls, stored: StoredThrottling | None) -> Throttling:
        """As a run has stored it; from the beginning if it has stored nothing."""
        stored = stored or {}
        return cls(
            events=stored.get("events", 0),
            refusals=stored.get("refusals", 0),
            waited_seconds=stored.get("waited_seconds", 0),
            permits_left=stored.get("tokens_left"),
            quota_per_minute=stored.get("quota_per_minute"),
            rate_per_minute=stored.get("rate_per_minute"),
            retry_latency_seconds=stored.get("retry_latency_seconds"),
            since=stored.get("since"),
        )

    def document(self) -> StoredThrottling:
        """As it is stored."""
        return {
            "events": self.events,
            "refusals": self.refusals,
            "waited_seconds": self.waited_seconds,
            "tokens_left": self.permits_left,
            "quota_per_minute": self.quota_per_minute,
            "rate_per_minute": self.rate_per_minute,
            "retry_latency_seconds": self.retry_latency_seconds,
            "since": self.since,
        }

    def note_limit(self, now: datetime, *, refusal: bool) -> None:
        """Count being rate-limited; waiting on after a first wait is the same event."""
        if refusal or self.since is None:
            self.events += 1
        self.refusals += refusal
        self.since = self.since or now

    def note_wait(self, seconds: float) -> None:
        """Count a wait."""
        self.waited_seconds = round(self.waited_seconds + seconds, 3)

    def note_answer(self, now: datetime) -> float | None:
        """The answer came; returns the seconds since being rate-limited, if the run was."""
        if self.since is None:
            return None
        latency = max(0.0, (now - self.since).total_seconds())
        self.retry_latency_seconds = round(max(self.retry_latency_seconds or 0, latency), 3)
        self.since = None
        return latency


@dataclass(frozen=True, slots=True)
class LowPriority:
    """What somebody leaves to the other runs of a source, who never wait for it."""

    reserve: int
    """Permits that must be there for a run that begins now, after one is taken."""
    others_under_way: Callable[[], bool]
    """Whether such a run is under way; then no permit is taken."""


class Permits:
    """Takes permits of one source's quota, on behalf of one call of its extractor."""

    def __init__(
        self,
        store: Store,
        quota: Quota,
        *,
        server: ServerClock,
        throttling: Throttling,
        remaining_seconds: Callable[[], float],
        max_wait_seconds: float,
        sleep: Callable[[float], None],
        low_priority: LowPriority | None = None,
    ) -> None:
        """Of a source's quota.

        Args:
            store: the database.
            quota: by the settings.
            server: the database's clock.
            throttling: where waits and refusals are counted.
            remaining_seconds: what the call may wait yet.
            max_wait_seconds: what the run may wait in all.
            sleep: waits.
            low_priority: what is left to others; None for a run that goes first.
        """
        self._store = store
        self._quota = quota
        self._server = server
        self._throttling = throttling
        self._remaining = remaining_seconds
        self._max_wait_seconds = max_wait_seconds
        self._sleep = sleep
        self._low_priority = low_priority
        self._waited = 0.0
        self._slowed = False

    def take(self, upstream: Upstream, *, wait: bool = True) -> None:
        """Take a permit; one that comes soon is waited for.

        Args:
            upstream: who is asked.
            wait: false to wait for none.

        Raises:
            RateLimited: there is none for longer than that.
            StoreUnavailable: MongoDB is out of reach.
        """
        while True:
            reserve = self._step_aside(upstream)
            asked = time.monotonic()
            permit = limiter.take(self._store, upstream, self._quota, reserve=reserve)
            self._note(permit)
            self._slowed |= permit.strikes > 0
            self._slowed |= permit.rate_per_minute < round(self._quota.per_minute, 3)
            if permit.granted:
                if time.monotonic() - asked <= limiter.STALE_SECONDS:
                    return
                continue
            limited = _limited(permit, _why(upstream, permit), refused=permit.blocked)
            if not wait:
                raise limited
            self._throttling.note_limit(self._server.now(), refusal=False)
            seconds = permit.wait_seconds * (1 + random.uniform(0, _JITTER))  # noqa: S311 - no secret
            if permit.wait_seconds > _LONGEST_WAIT_SECONDS or not self._may_wait(seconds):
                raise limited
            self._sleep(seconds)
            self._waited += seconds
            self._throttling.note_wait(seconds)

    def _step_aside(self, upstream: Upstream) -> int:
        """How many permits are to be left to others.

        Raises:
            RateLimited: one of them is under way.
        """
        if self._low_priority is None:
            return 0
        if self._low_priority.others_under_way():
            self._throttling.note_limit(self._server.now(), refusal=False)
            message = f"A run of {upstream.name} is under way, and goes first."
            raise RateLimited(_ASIDE_SECONDS, message, refused=False)
        return self._low_priority.reserve

    def _may_wait(self, seconds: float) -> bool:
        of_run = self._max_wait_seconds - self._throttling.waited_seconds
        return seconds < min(self._remaining(), _WAITS_SECONDS - self._waited, of_run)

    def note_refusal(
        self, upstream: Upstream, refusal: Throttled | UpstreamUnavailable
    ) -> RateLimited:
        """Note that the source refused a request, or asked for a pause as it failed.

        Returns:
            How long to wait.
        """
        permit = limiter.note_refusal(
            self._store, upstream, self._quota, refusal.retry_after_seconds
        )
        self._slowed = True
        self._note(permit)
        self._throttling.note_limit(self._server.now(), refusal=isinstance(refusal, Throttled))
        return _limited(permit, refusal.message, refused=True)

    def note_answer(self, upstream: Upstream, page: int, *, was_failing: bool) -> None:
        """Note that the source answered, if that changes what others know of it.

        Args:
            upstream: who answered.
            page: which page it was.
            was_failing: the source had failed before.
        """
        latency = self._throttling.note_answer(self._server.now())
        if was_failing or self._slowed or latency is not None:
            limiter.note_answer(self._store, upstream, page, retry_latency=latency)
        self._slowed = False

    def _note(self, permit: Permit) -> None:
        self._throttling.permits_left = permit.permits_left
        self._throttling.rate_per_minute = permit.rate_per_minute
        self._throttling.quota_per_minute = self._quota.per_minute


def _limited(permit: Permit, message: str, *, refused: bool) -> RateLimited:
    return RateLimited(
        permit.wait_seconds, message, refused=refused, asked_seconds=permit.asked_seconds
    )


def _why(upstream: Upstream, permit: Permit) -> str:
    if permit.blocked:
        return f"{upstream.name} ({upstream.host}) asked for a cooldown that is not over yet."
    return f"The quota of {upstream.name} ({upstream.host}) has no permit left."
