"""Asking a source for a page: within its quota, past its circuit breaker, with retries.

Every request takes a token of the source's bucket first, retries and conditional requests too:
sources count them all. A short wait for a token is sat out here; a longer one is the state
machine's, which waits at no cost.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from marketdata import clock
from marketdata.documents.errors import StoredError
from marketdata.documents.raw_batches import PageOrigin
from marketdata.documents.runs import StoredThrottling
from marketdata.documents.sources import BreakerState, KnownPage, Source
from marketdata.errors import (
    MarketDataError,
    StoreUnavailable,
    Throttled,
    UpstreamMalformed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from marketdata.load.raw import Payload, pack_json
from marketdata.settings import UpstreamSettings
from marketdata.sources import http
from marketdata.sources.base import ApiSource, PageRequest, Upstream, Validators
from marketdata.sources.json_stream import elements, parse
from marketdata.store.batches import batch
from marketdata.store.connection import Store
from marketdata.store.server_time import ServerClock
from marketdata.store.sources import breaker, limiter, overview
from marketdata.store.sources.breaker import Admission
from marketdata.store.sources.limiter import Permit

RESERVE_SECONDS = 10.0
"""Of a call's time, what is kept back for writing what was fetched."""

_LONGEST_REST_SECONDS = 2.0
_RESTS_SECONDS = 10.0
"""What a call may sit out in all; beyond that the state machine waits, however short it is."""
_JITTER = 0.2
"""Of a rest: those who were told the same time don't all come back in the same moment."""
_PROBE_SLACK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How much is tried for one page within one call; the state machine's retries come on top."""

    attempts: int = 3
    longest_pause_seconds: float = 5.0
    """Between two attempts; the pause is random, and shorter at first."""
    limits: http.Limits = http.LIMITS
    sleep: Callable[[float], None] = time.sleep


PATIENCE = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Page:
    """One page, fetched and packed."""

    payloads: list[Payload]
    origin: PageOrigin
    validators: Validators
    rows: int
    """Rows that the source answered."""
    filtered: int
    """Of these, the ones that the source's settings do not ask for."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A page that is as it was when it was fetched last."""

    received_at: datetime


class RateLimited(Exception):
    """The source must not be asked now; how long to wait, and on whose word."""

    def __init__(self, seconds: float, message: str) -> None:
        super().__init__(message)
        self.seconds = seconds


class CircuitOpen(Exception):
    """The source's circuit breaker lets nobody ask."""

    def __init__(self, admission: Admission) -> None:
        super().__init__()
        self.admission = admission


@dataclass(slots=True)
class Throttling:
    """How much a source's limits have held a run back."""

    events: int = 0
    """Times that the run was held back: by a refusal of the source, or for want of a token."""
    refusals: int = 0
    """Of these, the ones by the source (429 and 402)."""
    waited_seconds: float = 0
    tokens_left: float | None = None
    quota_per_minute: float | None = None
    rate_per_minute: float | None = None
    retry_latency_seconds: float | None = None
    """The longest time from being held back to the answer that came at last."""
    since: datetime | None = None
    """When it was held back, while it waits."""

    @classmethod
    def of(cls, document: StoredThrottling | None) -> Throttling:
        """As a run's note on its input has it; from the beginning if that has nothing."""
        # Functions of another version may have noted more.
        known: Any = {k: v for k, v in (document or {}).items() if k in cls.__slots__}
        return cls(**known)

    def document(self) -> StoredThrottling:
        """As it is stored."""
        return {
            "events": self.events,
            "refusals": self.refusals,
            "waited_seconds": self.waited_seconds,
            "tokens_left": self.tokens_left,
            "quota_per_minute": self.quota_per_minute,
            "rate_per_minute": self.rate_per_minute,
            "retry_latency_seconds": self.retry_latency_seconds,
            "since": self.since,
        }

    def hold(self, now: datetime, *, refusal: bool) -> None:
        """Count being held back; waiting on after a first wait is the same event."""
        if refusal or self.since is None:
            self.events += 1
        self.refusals += refusal
        self.since = self.since or now

    def wait(self, seconds: float) -> None:
        """Count a wait."""
        self.waited_seconds = round(self.waited_seconds + seconds, 3)

    def resume(self, now: datetime) -> float | None:
        """The answer came; seconds since being held back, if the run was."""
        if self.since is None:
            return None
        latency = max(0.0, (now - self.since).total_seconds())
        self.retry_latency_seconds = round(max(self.retry_latency_seconds or 0, latency), 3)
        self.since = None
        return latency


class PageFetcher:
    """Asks one source on behalf of one call of its extractor."""

    def __init__(
        self,
        store: Store,
        run_id: str,
        source: ApiSource,
        *,
        server: ServerClock,
        throttling: Throttling,
        remaining_seconds: Callable[[], float],
        settings: UpstreamSettings,
        patience: RetryPolicy = PATIENCE,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._source = source
        self._server = server
        self._remaining = remaining_seconds
        self._settings = settings
        self._patience = patience
        self._known: Source | None = None
        self._probe: str | None = None
        self._upstream: Upstream | None = None
        self._strained = False
        self._rested = 0.0
        self.throttling = throttling

    def known_page(self, page: int) -> KnownPage | None:
        """What the source's document remembers of a page."""
        return self._document().get("pages", {}).get(str(page))

    def page(
        self,
        session: http.Session,
        request: PageRequest,
        rows_per_batch: int,
        known: Validators | None = None,
    ) -> Page | Unchanged:
        """One page: tried several times within the call's time, read as a stream, packed.

        Args:
            session: keeps the connection between pages.
            request: what to ask.
            rows_per_batch: rows in one batch at most.
            known: the page's validators, if it may answer that it is unchanged.

        Raises:
            RateLimited: the quota is used up, ours or the source's.
            CircuitOpen: the source has failed too often of late.
            UpstreamUnavailable: it failed now; it may be tried again.
            TerminalError: it answered, and would do so again, what can't be used.
            StoreUnavailable: MongoDB is out of reach.
        """
        upstream = self._upstream = Upstream.of(self._source.name, request)
        self._require_closed_circuit(upstream)
        attempts = 1 if self._probe else self._patience.attempts
        left = max(0.0, self._left())
        retrying = Retrying(
            retry=retry_if_exception_type(UpstreamUnavailable),
            # Exponential with full jitter.
            wait=wait_random_exponential(multiplier=0.5, max=self._patience.longest_pause_seconds),
            stop=stop_after_attempt(attempts) | stop_before_delay(left),
            sleep=self._patience.sleep,
            reraise=True,
            before=lambda state: self._take_token(upstream, state),
        )

        def once() -> Page | Unchanged:
            limits = self._patience.limits.within(left / attempts).within(self._left())
            return self._ask(session, request, rows_per_batch, limits, known)

        try:
            found = retrying(once)
        except RateLimited:
            self._give_up_probe(upstream)
            raise
        except Throttled as error:
            permit = limiter.refused(
                self._store, upstream, self._source.quota, error.retry_after_seconds
            )
            self._strained = True
            self._note(permit)
            self.throttling.hold(self._server.now(), refusal=True)
            self._give_up_probe(upstream)
            raise RateLimited(permit.wait_seconds, error.message) from error
        except (UpstreamUnavailable, UpstreamRefused, UpstreamMalformed) as error:
            self._note_failure(upstream, request.page, error)
            raise
        self._note_answer(upstream, request.page)
        return found

    # --- the request itself ---------------------------------------------------------------

    def _ask(
        self,
        session: http.Session,
        request: PageRequest,
        rows_per_batch: int,
        limits: http.Limits,
        known: Validators | None,
    ) -> Page | Unchanged:
        source = self._source
        with http.get(session, request, limits=limits, known=known, now=self._server.now) as answer:
            if answer.not_modified:
                return Unchanged(answer.received_at)
            what = f"{source.name} ({answer.url}, page {request.page})"
            selection = _Selection(source.row_filter())
            texts = selection.of(elements(answer.chunks, what=what))
            payloads = list(pack_json(texts, rows_per_batch=rows_per_batch))
            selection.require_rows(what)
            origin: PageOrigin = {
                "url": answer.url,
                "page": request.page,
                "status": answer.status,
                "etag": answer.validators.etag,
                "content_type": answer.content_type,
                "fetched_at": answer.received_at,
                "rows": selection.rows,
                "left_out": selection.filtered,
            }
        return Page(payloads, origin, answer.validators, selection.rows, selection.filtered)

    def _left(self) -> float:
        return self._remaining() - RESERVE_SECONDS

    # --- quota ----------------------------------------------------------------------------

    def _take_token(self, upstream: Upstream, _state: RetryCallState) -> None:
        while True:
            asked = time.monotonic()
            permit = limiter.take(self._store, upstream, self._source.quota)
            self._note(permit)
            self._strained |= permit.strikes > 0
            self._strained |= permit.rate_per_minute < round(self._source.quota.per_minute, 3)
            if permit.granted:
                if time.monotonic() - asked <= limiter.STALE_SECONDS:
                    return
                continue
            self.throttling.hold(self._server.now(), refusal=False)
            rest = permit.wait_seconds * (1 + random.uniform(0, _JITTER))  # noqa: S311 - no secret
            if permit.wait_seconds > _LONGEST_REST_SECONDS or not self._may_rest(rest):
                raise RateLimited(permit.wait_seconds, _why(upstream, permit))
            self._patience.sleep(rest)
            self._rested += rest
            self.throttling.wait(rest)

    def _may_rest(self, seconds: float) -> bool:
        budget = self._settings.max_wait_minutes * 60 - self.throttling.waited_seconds
        return seconds < min(self._left(), _RESTS_SECONDS - self._rested, budget)

    def _note(self, permit: Permit) -> None:
        self.throttling.tokens_left = permit.tokens_left
        self.throttling.rate_per_minute = permit.rate_per_minute
        self.throttling.quota_per_minute = self._source.quota.per_minute

    # --- circuit breaker ------------------------------------------------------------------

    def _document(self) -> Source:
        if self._known is None:
            self._known = overview.get(self._store, self._source.name)
        return self._known

    def _require_closed_circuit(self, upstream: Upstream) -> None:
        if self._probe is not None:
            return
        seconds = max(0.0, self._remaining()) + _PROBE_SLACK_SECONDS
        admission = breaker.admit(
            self._store, upstream, self._document(), uuid4().hex, seconds=seconds
        )
        if not admission.allowed:
            raise CircuitOpen(admission)
        self._probe = admission.probe

    def all_answered(self) -> None:
        """The source has answered for all its pages, which may be fewer than when it failed."""
        if self._upstream is not None and self._unsound():
            breaker.close_circuit(self._store, self._upstream)
            self._probe = None

    def leave(self) -> None:
        """Let somebody else probe, if this call's probe has come to no result."""
        if self._upstream is not None:
            # Else another one may in a while: a probe has an end.
            with suppress(StoreUnavailable):
                self._give_up_probe(self._upstream)

    def _unsound(self) -> bool:
        known = self._document().get("breaker")
        return known is not None and bool(
            known["state"] != BreakerState.CLOSED or known["failures"]
        )

    def _give_up_probe(self, upstream: Upstream) -> None:
        if self._probe is not None:
            breaker.release_probe(self._store, upstream, self._probe)
            self._probe = None

    def _note_failure(self, upstream: Upstream, page: int, error: MarketDataError) -> None:
        breaker.failed(
            self._store,
            upstream,
            self._run_id,
            {"code": error.code, "message": error.message},
            most_failures=self._settings.circuit_breaker_failures,
            rest=timedelta(minutes=self._settings.circuit_breaker_minutes),
            page=page,
            probe=self._probe,
        )
        self._probe = None

    def _note_answer(self, upstream: Upstream, page: int) -> None:
        latency = self.throttling.resume(self._server.now())
        if self._unsound() or self._strained or latency is not None:
            limiter.answered(self._store, upstream, page, retry_latency=latency)
        known = self._document()
        if "breaker" not in known or page >= known["breaker"].get("page", 0):
            self._known = known.copy()
            self._known.pop("breaker", None)
            self._probe = None
        self._strained = False


def _why(upstream: Upstream, permit: Permit) -> str:
    if permit.blocked:
        return f"{upstream.name} ({upstream.host}) asked for a pause that is not over yet."
    return f"The quota of {upstream.name} ({upstream.host}) has no token left."


def describe(error: MarketDataError) -> StoredError:
    """An error as a run's note keeps it, with the beginning of the payload that it is about."""
    described = batch.describe(error)
    if head := error.details.get("payload_head"):
        described["payload_head"] = str(head)
    return described


def circuit_open(name: str, admission: Admission) -> StoredError:
    """An open circuit as a run's note keeps it."""
    reason = admission.reason
    said = f"{reason['code']}: {reason['message']}".rstrip(": ") if reason else "unknown"
    at = clock.iso(admission.next_probe_at) if admission.next_probe_at else "the next run"
    return {
        "code": "circuit_open",
        "type": "CircuitOpen",
        "message": (
            f"{name} was not asked: the last {admission.failures} runs that asked it failed, the "
            f"last one with {said} It is tried again by the first run from {at} on."
        ),
        "reason": reason,
        "next_probe_at": admission.next_probe_at,
    }


class _Selection:
    """The rows of a page that were asked for, and the count of the others."""

    def __init__(self, keep: Callable[[Any], bool] | None) -> None:
        self._keep = keep
        self._objects = 0
        self.rows = 0
        self.filtered = 0

    def of(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            self.rows += 1
            self._objects += text.startswith("{")
            if self._keep is None or self._keep(parse(text)):
                yield text
            else:
                self.filtered += 1

    def require_rows(self, what: str) -> None:
        """Refuse a list of which nothing can be a row that was asked for.

        Raises:
            UpstreamMalformed: says so.
        """
        if self.rows and not self._objects:
            raise UpstreamMalformed(
                f"{what} answered a list of {self.rows} values of which none is an object, as rows "
                "are. Its format has changed, or it is another resource; check the source's URL."
            )
        if self.rows and self.rows == self.filtered:
            raise UpstreamMalformed(
                f"{what} answered {self.rows} rows, and by the source's settings none of "
                "them was asked for. Either a field that they go by has changed, or they ask "
                "for nothing."
            )
