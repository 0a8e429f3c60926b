"""A source's circuit breaker, as one call of its extractor sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

from marketdata import clock
from marketdata.documents.errors import StoredError
from marketdata.documents.sources import Breaker, BreakerState
from marketdata.errors import StoreUnavailable
from marketdata.settings import UpstreamSettings
from marketdata.sources.base import Upstream
from marketdata.store.connection import Store
from marketdata.store.sources import breaker
from marketdata.store.sources.breaker import Admission

_PROBE_SLACK_SECONDS = 5.0
"""What a probe has beyond the time of its call, before another caller may probe."""


class CircuitOpen(Exception):
    """The source's circuit breaker lets nobody fetch."""

    def __init__(self, admission: Admission) -> None:
        super().__init__()
        self.admission = admission


class Circuit:
    """The circuit breaker of one source; this call may be the one that probes it."""

    def __init__(
        self,
        store: Store,
        run_id: str,
        known: Breaker | None,
        *,
        remaining_seconds: Callable[[], float],
        settings: UpstreamSettings,
    ) -> None:
        """Of one call.

        Args:
            store: the database.
            run_id: the run.
            known: the source's circuit breaker as it was read; None if it never failed.
            remaining_seconds: what is left of the call's time.
            settings: how many failures open the circuit, and for how long.
        """
        self._store = store
        self._run_id = run_id
        self._known = known
        self._remaining = remaining_seconds
        self._settings = settings
        self._probe: str | None = None
        self._upstream: Upstream | None = None

    @property
    def probing(self) -> bool:
        """Whether this call probes: it sends one request for each page."""
        return self._probe is not None

    @property
    def was_failing(self) -> bool:
        """Whether the source had failed before, and no answer of this call has shown otherwise."""
        known = self._known
        return known is not None and bool(
            known["state"] != BreakerState.CLOSED or known["failures"]
        )

    def require_closed(self, upstream: Upstream) -> None:
        """Refuse to fetch while the circuit is open, unless this call is to probe.

        Raises:
            CircuitOpen: the source has failed too often of late.
            StoreUnavailable: MongoDB is out of reach.
        """
        self._upstream = upstream
        if self._probe is not None:
            return
        seconds = max(0.0, self._remaining()) + _PROBE_SLACK_SECONDS
        admission = breaker.admit(self._store, upstream, self._known, uuid4().hex, seconds=seconds)
        if not admission.allowed:
            raise CircuitOpen(admission)
        self._probe = admission.probe

    def note_failure(self, upstream: Upstream, page: int, error: StoredError) -> None:
        """Note that the source failed, which may open the circuit."""
        breaker.note_failure(
            self._store,
            upstream,
            self._run_id,
            error,
            most_failures=self._settings.circuit_breaker_failures,
            cooldown=timedelta(minutes=self._settings.circuit_breaker_minutes),
            page=page,
            probe=self._probe,
        )
        self._probe = None

    def note_answer(self, page: int) -> None:
        """Know the circuit as closed, unless a later page was the one that had failed.

        The store is told with the answer itself; see `limiter.note_answer`.
        """
        if self._known is None or page >= self._known.get("page", 0):
            self._known = None
            self._probe = None

    def note_all_answered(self) -> None:
        """The source has answered for all its pages, which may be fewer than when it failed."""
        if self._upstream is not None and self.was_failing:
            breaker.close_circuit(self._store, self._upstream)
            self._probe = None

    def release_probe(self) -> None:
        """Let somebody else probe, if this call's probe has come to no result."""
        if self._upstream is not None and self._probe is not None:
            breaker.release_probe(self._store, self._upstream, self._probe)
            self._probe = None

    def leave(self) -> None:
        """Release the probe at the end of the call, if MongoDB is there."""
        # Else another one may probe in a while: a probe has an end.
        with suppress(StoreUnavailable):
            self.release_probe()


def circuit_open(name: str, admission: Admission) -> StoredError:
    """An open circuit as a run stores it with its input."""
    reason = admission.reason
    said = f"{reason['code']}: {reason['message']}".rstrip(": ") if reason else "unknown"
    at = clock.iso(admission.next_probe_at) if admission.next_probe_at else "the next run"
    return {
        "code": "circuit_open",
        "type": "CircuitOpen",
        "message": (
            f"Nothing was fetched from {name}: it failed in the last {admission.failures} runs, in "
            f"the last one with {said} The first run from {at} on tries it again."
        ),
        "reason": reason,
        "next_probe_at": admission.next_probe_at,
    }
