"""Fetching a page of a source: within its quota, past its circuit breaker, with retries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf

from tenacity import (
    Retrying,
    retry_if_exception,
    stop_before_delay,
    wait_random_exponential,
)

from marketdata.documents.errors import StoredError
from marketdata.documents.raw_batches import PageOrigin
from marketdata.documents.sources import KnownPage
from marketdata.errors import (
    MarketDataError,
    StoreUnavailable,
    Throttled,
    UpstreamEmpty,
    UpstreamMalformed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from marketdata.load.raw import Payload, pack_json
from marketdata.runs.extraction.attempts import Attempts, GivenUp, HeldBack, OutOfTime
from marketdata.runs.extraction.circuit import Circuit
from marketdata.runs.extraction.paging import Extent, ExtentReader
from marketdata.runs.extraction.policy import RETRY_POLICY, RetryPolicy
from marketdata.runs.extraction.selection import Selection
from marketdata.runs.extraction.throttling import LowPriority, Permits, RateLimited, Throttling
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


type Reader = Callable[[Iterable[bytes], str], Iterator[str]]
"""Turns the body of an answer, and the name of who answered, into rows as JSON texts."""


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
    extent: Extent | None
    """Which rows it has; None of a source that has one page."""


class NotAskedAgain(Exception):
    """A page could not be fetched once more; the message says why."""


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
        low_priority: LowPriority | None = None,
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
            low_priority: what is left to other runs of the source. Who leaves that waits as long
                as it takes: neither MAX_WAIT_MINUTES nor a page's time, which are theirs, ends it.

        Raises:
            StoreUnavailable: MongoDB is out of reach.
        """
        self._source = source
        self._server = server
        self._remaining = remaining_seconds
        self._retry_policy = retry_policy
        self._patient = low_priority is not None
        document = overview.get(store, source.name)
        self._pages = document.get("pages", {})
        self._watermark = document.get("watermarks")
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
            max_wait_seconds=inf if low_priority else settings.max_wait_minutes * 60,
            sleep=retry_policy.sleep,
            low_priority=low_priority,
        )

    def known_page(self, page: int) -> KnownPage | None:
        """What is remembered of a page as it was fetched last."""
        return self._pages.get(str(page))

    def page(
        self,
        session: http.Session,
        request: PageRequest,
        rows_per_batch: int,
        attempts: Attempts,
        known: Validators | None = None,
        read: Reader | None = None,
    ) -> Page | Unchanged:
        """One page: tried several times within its budget, read as a stream, packed.

        Args:
            session: keeps the connection between pages.
            request: what to fetch.
            rows_per_batch: rows in one batch at most.
            attempts: what this run has tried for the page; it is kept up.
            known: the page's validators, if it may answer that it is unchanged.
            read: makes rows of a body that is no page of present values. What such a request is
                refused for is its own: it says nothing of the source, and no circuit opens.

        Raises:
            RateLimited: the quota is used up, ours or the source's, or it asked for a pause.
            CircuitOpen: the source has failed too often of late.
            GivenUp: it failed, and the page's budget is spent.
            HeldBack: it refuses, and the next wait is longer than what is left of the page's time.
            OutOfTime: it failed, and the call has no time to try again.
            TerminalError: it answered, and would do so again, what can't be used.
            StoreUnavailable: MongoDB is out of reach.
        """
        upstream = Upstream.of(self._source.name, request)
        # The number of a request for the past says nothing of the pages of the present.
        page = 1 if read else request.page
        self._circuit.require_closed(upstream)
        policy = self._retry_policy
        if self._circuit.probing:
            policy = replace(policy, attempts=attempts.failures + 1)

        before_end = stop_before_delay(max(0.0, self._left()))

        def spent() -> bool:
            return attempts.spent(policy, self._server.now())

        retrying = Retrying(
            retry=retry_if_exception(_may_pass_soon),
            # Exponential with full jitter.
            wait=wait_random_exponential(multiplier=0.5, max=policy.longest_pause_seconds),
            stop=lambda state: spent() or before_end(state),
            sleep=policy.sleep,
            reraise=True,
        )
        try:
            found = retrying(
                lambda: self._try(
                    upstream, session, request, rows_per_batch, attempts, policy, known, read
                )
            )
        except (UpstreamRefused, UpstreamMalformed) as error:
            if read is not None:
                self._circuit.release_probe()
                raise
            self._circuit.note_failure(
                upstream, request.page, {"code": error.code, "message": error.message}
            )
            raise
        except UpstreamUnavailable as error:
            if spent():
                self._keep_pause(upstream, error)
                raise self._give_up(upstream, attempts, page) from error
            self._circuit.release_probe()
            raise self._later(upstream, error) from error
        except Throttled as error:
            self._circuit.release_probe()
            limit = self._permits.note_refusal(upstream, error)
            raise self._limited(upstream, attempts, page, limit) from error
        except RateLimited as limit:
            if limit.refused and not self._patient:
                attempts.note_cooldown(str(limit), self._server.now(), limit.asked_seconds)
            limited = self._limited(upstream, attempts, page, limit)
            raise limited from None if limited is limit else limit
        self._permits.note_answer(upstream, page, was_failing=self._circuit.was_failing)
        self._circuit.note_answer(page)
        return found

    def again(
        self,
        session: http.Session,
        request: PageRequest,
        rows_per_batch: int,
        known: frozenset[str],
    ) -> Page:
        """A page that was fetched before, once more, without the rows that are known.

        It is asked for if the quota has a permit now, and tried once: what it may bring is not
        worth a wait.

        Args:
            session: keeps the connection between pages.
            request: what to fetch.
            rows_per_batch: rows in one batch at most.
            known: the ids of rows that are not wanted again, as `Extent` has them.

        Raises:
            NotAskedAgain: there was no permit or no time, or the source gave no answer.
            StoreUnavailable: MongoDB is out of reach.
        """
        upstream = Upstream.of(self._source.name, request)
        limits = self._retry_policy.limits
        if self._left() < limits.read_seconds:
            raise NotAskedAgain("the call had no time left")
        rows = ExtentReader(self._source)
        selection = Selection(lambda row: (id_ := rows.id_of(row)) is not None and id_ not in known)
        limits = limits.within(self._left())
        try:
            self._permits.take(upstream, wait=False)
            asked = self._showing(request)
            with http.get(session, asked, limits=limits, now=self._server.now) as answer:
                return self._read(answer, request, rows_per_batch, selection)
        except RateLimited as limit:
            raise NotAskedAgain(f"the quota has no permit for {limit.seconds:.0f} s") from limit
        except StoreUnavailable:
            raise
        except (Throttled, UpstreamUnavailable) as error:
            self._keep_pause(upstream, error)
            raise NotAskedAgain(error.message) from error
        except (UpstreamRefused, UpstreamMalformed) as error:
            raise NotAskedAgain(error.message) from error

    def _try(
        self,
        upstream: Upstream,
        session: http.Session,
        request: PageRequest,
        rows_per_batch: int,
        attempts: Attempts,
        policy: RetryPolicy,
        known: Validators | None,
        read: Reader | None,
    ) -> Page | Unchanged:
        """One attempt, which has its share of the page's time; a failure is stored."""
        self._permits.take(upstream)
        begun = self._server.now()
        share = max(1, policy.attempts - attempts.failures)
        seconds = attempts.seconds_left(policy, begun) / share
        limits = policy.limits.within(min(seconds, self._left()))
        try:
            return self._request(session, request, rows_per_batch, limits, known, read)
        except UpstreamUnavailable as error:
            attempts.note_failure(error, begun)
            raise
        except Throttled as error:
            if not self._patient:
                attempts.note_refusal(error, begun)
            raise

    def _limited(
        self, upstream: Upstream, attempts: Attempts, page: int, limit: RateLimited
    ) -> RateLimited | GivenUp | HeldBack:
        """How a page is gone on with that has to wait: no longer than for the rest of its time.

        The time is counted once it has failed or was refused; a pause that the source asks for is
        no part of it.
        """
        now = self._server.now()
        too_long = limit.seconds > attempts.seconds_left(self._retry_policy, now)
        if too_long and attempts.refused:
            self._circuit.release_probe()
            return attempts.hold_back(now, limit.seconds)
        if too_long and attempts.failures and not limit.refused:
            return self._give_up(upstream, attempts, page)
        self._circuit.release_probe()
        return limit

    def _later(self, upstream: Upstream, error: UpstreamUnavailable) -> RateLimited | OutOfTime:
        """How a page is gone on with that failed, and may be tried again."""
        if error.retry_after_seconds is None:
            return OutOfTime()
        return self._permits.note_refusal(upstream, error)

    def _keep_pause(self, upstream: Upstream, error: Throttled | UpstreamUnavailable) -> None:
        """Have others keep the pause that a source asks for, though this page is left."""
        if isinstance(error, Throttled) or error.retry_after_seconds is not None:
            self._permits.note_refusal(upstream, error)

    def _give_up(self, upstream: Upstream, attempts: Attempts, page: int) -> GivenUp:
        given_up = attempts.give_up(self._server.now())
        error = given_up.error
        self._circuit.note_failure(
            upstream, page, {"code": error["code"], "message": error["message"]}
        )
        return given_up

    def _request(
        self,
        session: http.Session,
        request: PageRequest,
        rows_per_batch: int,
        limits: http.Limits,
        known: Validators | None,
        read: Reader | None,
    ) -> Page | Unchanged:
        asked = self._showing(request)
        with http.get(session, asked, limits=limits, known=known, now=self._server.now) as answer:
            if answer.not_modified:
                return Unchanged(answer.received_at)
            selection = Selection(None if read else self._source.row_filter())
            page = self._read(answer, request, rows_per_batch, selection, read)
            selection.require_rows(self._what(answer, request))
            if read is None:
                self._require_any(page, answer, request)
        return page

    def _read(
        self,
        answer: http.Answer,
        request: PageRequest,
        rows_per_batch: int,
        selection: Selection,
        read: Reader | None = None,
    ) -> Page:
        """An answer's rows, packed as they arrive."""
        source = self._source
        reader = None if read or source.page_size is None else ExtentReader(source)
        texts = (read or _rows_of_page)(answer.chunks, self._what(answer, request))
        seen = texts if reader is None else reader.of(texts)
        payloads = list(pack_json(selection.of(seen), rows_per_batch=rows_per_batch))
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
        extent = reader.extent() if reader is not None and selection.rows else None
        return Page(payloads, origin, answer.validators, selection.rows, selection.filtered, extent)

    def _showing(self, request: PageRequest) -> PageRequest:
        """A request whose address may show the name of the source: no key is so called."""
        return replace(request, shown=request.shown | {self._source.name})

    def _what(self, answer: http.Answer, request: PageRequest) -> str:
        return f"{self._source.name} ({answer.url}, page {request.page})"

    def _require_any(self, page: Page, answer: http.Answer, request: PageRequest) -> None:
        """Refuse a list without rows of a source that has had rows before."""
        if page.rows or request.page > 1 or self._watermark is None:
            return
        raise UpstreamEmpty(
            f"{self._what(answer, request)} answered a list without rows, and had rows before, up "
            f"to run {self._watermark['run_id']}. What they brought stays."
        )

    def _left(self) -> float:
        return self._remaining() - RESERVE_SECONDS

    def note_all_answered(self) -> None:
        """Note that the source has answered for all its pages."""
        self._circuit.note_all_answered()

    def leave(self) -> None:
        """End the call; see `Circuit.leave`."""
        self._circuit.leave()


def _rows_of_page(chunks: Iterable[bytes], what: str) -> Iterator[str]:
    return elements(chunks, what=what)


def _may_pass_soon(error: BaseException) -> bool:
    """Whether a failure may be over in seconds: the source has not asked for a pause."""
    return isinstance(error, UpstreamUnavailable) and error.retry_after_seconds is None


def describe(error: MarketDataError) -> StoredError:
    """An error as a run stores it, with the beginning of the payload that it is about."""
    described = batch.describe(error)
    if head := error.details.get("payload_head"):
        described["payload_head"] = str(head)
    return described
