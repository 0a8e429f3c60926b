"""Fetching a page of a source: within its quota, past its circuit breaker, with retries."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from marketdata.documents.errors import StoredError
from marketdata.documents.raw_batches import PageOrigin
from marketdata.documents.sources import KnownPage
from marketdata.errors import (
    MarketDataError,
    Throttled,
    UpstreamMalformed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from marketdata.load.raw import Payload, pack_json
from marketdata.runs.extraction.circuit import Circuit
from marketdata.runs.extraction.selection import Selection
from marketdata.runs.extraction.throttling import Permits, RateLimited, Throttling
from marketdata.settings import UpstreamSettings
from marketdata.sources import http
from marketdata.sources.base import ApiSource, PageRequest, Upstream, Validators
from marketdata.sources.json_stream import elements
from marketdata.store.batches import batch
from marketdata.store.connection import Store
from marketdata.store.server_time import ServerClock
from marketdata.store.sources import overview

RESERVE_SECONDS = 10.0
"""Of a call's time, what is kept back for writing what was fetched."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How much is tried for one page within one call; the state machine's retries come on top."""

    attempts: int = 3
    longest_pause_seconds: float = 5.0
    """Between two attempts; the pause is random, and shorter at first."""
    limits: http.Limits = http.LIMITS
    sleep: Callable[[float], None] = time.sleep


RETRY_POLICY = RetryPolicy()


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


class PageFetcher:
    """Fetches pages of one source, on behalf of one call of its extractor."""

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
        retry_policy: RetryPolicy = RETRY_POLICY,
    ) -> None:
        """Of one call.

        Args:
            store: the database.
            run_id: the run.
            source: the source, configured.
            server: the database's clock.
            throttling: how much the source's limits have held the run back; it is kept up.
            remaining_seconds: what is left of the call's time.
            settings: how long and how often the source is tried.
            retry_policy: how much is tried for one page.

        Raises:
            StoreUnavailable: MongoDB is out of reach.
        """
        self._source = source
        self._server = server
        self._remaining = remaining_seconds
        self._retry_policy = retry_policy
        document = overview.get(store, source.name)
        self._pages = document.get("pages", {})
        self._circuit = Circuit(
            store,
            run_id,
            document.get("breaker"),
            remaining_seconds=remaining_seconds,
            settings=settings,
        )
        self._permits = Permits(
            store,
            source.quota,
            server=server,
            throttling=throttling,
            remaining_seconds=self._left,
            max_wait_seconds=settings.max_wait_minutes * 60,
            sleep=retry_policy.sleep,
        )

    def known_page(self, page: int) -> KnownPage | None:
        """What is remembered of a page as it was fetched last."""
        return self._pages.get(str(page))

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
            request: what to fetch.
            rows_per_batch: rows in one batch at most.
            known: the page's validators, if it may answer that it is unchanged.

        Raises:
            RateLimited: the quota is used up, ours or the source's.
            CircuitOpen: the source has failed too often of late.
            UpstreamUnavailable: it failed now; it may be tried again.
            TerminalError: it answered, and would do so again, what can't be used.
            StoreUnavailable: MongoDB is out of reach.
        """
        upstream = Upstream.of(self._source.name, request)
        self._circuit.require_closed(upstream)
        policy = self._retry_policy
        attempts = 1 if self._circuit.probing else policy.attempts
        left = max(0.0, self._left())
        retrying = Retrying(
            retry=retry_if_exception_type(UpstreamUnavailable),
            # Exponential with full jitter.
            wait=wait_random_exponential(multiplier=0.5, max=policy.longest_pause_seconds),
            stop=stop_after_attempt(attempts) | stop_before_delay(left),
            sleep=policy.sleep,
            reraise=True,
            before=lambda _state: self._permits.take(upstream),
        )

        def once() -> Page | Unchanged:
            limits = policy.limits.within(left / attempts).within(self._left())
            return self._request(session, request, rows_per_batch, limits, known)

        try:
            found = retrying(once)
        except RateLimited:
            self._circuit.release_probe()
            raise
        except Throttled as error:
            rate_limited = self._permits.note_refusal(upstream, error)
            self._circuit.release_probe()
            raise rate_limited from error
        except (UpstreamUnavailable, UpstreamRefused, UpstreamMalformed) as error:
            self._circuit.note_failure(upstream, request.page, error)
            raise
        self._permits.note_answer(upstream, request.page, was_failing=self._circuit.was_failing)
        self._circuit.note_answer(request.page)
        return found

    def _request(
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
            selection = Selection(source.row_filter())
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

    def note_all_answered(self) -> None:
        """Note that the source has answered for all its pages."""
        self._circuit.note_all_answered()

    def leave(self) -> None:
        """End the call; see `Circuit.leave`."""
        self._circuit.leave()


def describe(error: MarketDataError) -> StoredError:
    """An error as a run stores it, with the beginning of the payload that it is about."""
    described = batch.describe(error)
    if head := error.details.get("payload_head"):
        described["payload_head"] = str(head)
    return described
