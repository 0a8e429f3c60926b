"""Extracting an API source: pages in, raw batches and pending batches out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil
from typing import Unpack

from marketdata.documents.batches import Batch, NewBatch, ReceivedRows
from marketdata.documents.errors import StoredError
from marketdata.documents.raw_batches import RawBatch
from marketdata.documents.runs import (
    InputChanges,
    InputState,
    PageProgress,
    Run,
    ShortPage,
    StoredAttempts,
)
from marketdata.documents.sources import KnownPage
from marketdata.errors import StateConflict, StoreRefused, TerminalError, TransientError
from marketdata.load.context import context_of
from marketdata.load.raw import raw_id
from marketdata.runs.extraction.attempts import (
    THROTTLED,
    Attempts,
    GivenUp,
    HeldBack,
    OutOfTime,
)
from marketdata.runs.extraction.circuit import CircuitOpen, circuit_open
from marketdata.runs.extraction.fetching import (
    RESERVE_SECONDS,
    NotAskedAgain,
    Page,
    PageFetcher,
    Unchanged,
    describe,
)
from marketdata.runs.extraction.outcome import Extracted, ExtractionState
from marketdata.runs.extraction.paging import (
    Extent,
    Shift,
    describe_repeated,
    describe_short,
    describe_unpaged,
    repeated_in,
)
from marketdata.runs.extraction.policy import RETRY_POLICY, RetryPolicy
from marketdata.runs.extraction.protocol import Extraction, Overtaken, Written
from marketdata.runs.extraction.throttling import RateLimited, Throttling
from marketdata.runs.heartbeat import require_running
from marketdata.settings import UpstreamSettings
from marketdata.sources import http
from marketdata.sources.base import ApiSource, PageRequest, Validators
from marketdata.store import run_inputs, runs
from marketdata.store.batches import queue
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Filter, Store
from marketdata.store.raw_batches import save_raw
from marketdata.store.server_time import server_clock
from marketdata.store.sources import pages


def extract(
    store: Store,
    run_id: str,
    source: ApiSource,
    *,
    rows_per_batch: int,
    remaining_seconds: Callable[[], float],
    settings: UpstreamSettings | None = None,
    retry_policy: RetryPolicy = RETRY_POLICY,
) -> Extracted:
    """Fetch all pages of a source that this run does not have yet.

    What earlier runs have left is loaded first: the first call fetches nothing then. A page's
    batches are written before the run knows that the page is there. So a call that died in between
    fetches the page again, and replaces them.

    Two calls at once (Lambda may make one twice, or go on with one that was given up) do no harm:
    for each page the first that notes it wins, and the other goes on behind it.

    Args:
        store: the database.
        run_id: the run.
        source: the source, configured.
        rows_per_batch: rows in one batch at most.
        remaining_seconds: what is left of this call's time.
        settings: how long and how often the source is tried.
        retry_policy: how much is tried for one page.

    Raises:
        StateConflict: the run has ended, or has lost the source to another one.
        TransientError: the source or the database is out of reach; the state machine retries.
    """
    require_running(store, run_id, source.name)
    run = runs.get(store, run_id)
    state = InputState.of(run["inputs"][source.name])
    if state.status.ended:
        numbers = Extraction(store, run_id, source.name).numbers(state.batches)
        return Extracted(ExtractionState(state.status), numbers)
    if not state.reclaimed_loaded:
        reclaimed = queue.reclaimed(store, run_id, source.name)
        run_inputs.set_input(store, run_id, source.name, {"unfinished_done": True})
        if reclaimed:
            return Extracted(ExtractionState.UNFINISHED, reclaimed)
    return _SourceExtraction(
        store,
        run,
        source,
        rows_per_batch=rows_per_batch,
        remaining_seconds=remaining_seconds,
        settings=settings or UpstreamSettings(),
        retry_policy=retry_policy,
    ).run()


@dataclass(frozen=True, slots=True)
class _Known:
    """A page as it was loaded last, which a conditional request can be about."""

    validators: Validators
    rows: int
    filtered: int
    batches: list[Batch]
    extent: Extent | None


@dataclass(frozen=True, slots=True)
class _Received:
    """A page as it was received now, cut and not numbered yet."""

    raw: list[RawBatch]
    """Its raw batches, as far as they are not stored yet."""
    batches: list[ReceivedRows]
    validators: Validators
    rows: int
    """Rows that the source answered."""
    filtered: int
    """Of these, the ones that the settings do not ask for."""
    extent: Extent | None
    """Which rows it has; None of a source that has one page, and of a page without rows."""
    unchanged: bool
    """Whether the source said that it is as it was."""


class _SourceExtraction:
    """One call's part of the extraction of a source."""

    def __init__(
        self,
        store: Store,
        run: Run,
        source: ApiSource,
        *,
        rows_per_batch: int,
        remaining_seconds: Callable[[], float],
        settings: UpstreamSettings,
        retry_policy: RetryPolicy,
    ) -> None:
        self._store = store
        self._run_id: str = run["_id"]
        self._source = source
        self._name = source.name
        self._rows_per_batch = rows_per_batch
        self._remaining = remaining_seconds
        self._settings = settings
        self._retry_policy = retry_policy
        self._extraction = Extraction(store, self._run_id, source.name)
        self._read(run)
        self._throttling = Throttling.of(self._state.throttling)
        self._conditional = (
            source.conditional and not run.get("force") and source.row_filter() is None
        )
        self._server = server_clock(store)
        self._fetcher = PageFetcher(
            store,
            self._run_id,
            source,
            server=self._server,
            throttling=self._throttling,
            remaining_seconds=remaining_seconds,
            settings=settings,
            retry_policy=retry_policy,
        )

    def _read(self, run: Run) -> None:
        """Go by what the run knows about the source now."""
        self._state = InputState.of(run["inputs"][self._name])
        self._at = self._state.pages or PageProgress(batches=self._state.batches)
        self._warnings = self._state.warnings.copy()
        self._list_ended = False

    def run(self) -> Extracted:
        """Fetch pages until there are no more, or something is in the way."""
        if self._state.started_at is None:
            self._extraction.begin(self._server.now())
        first = self._at.pages
        try:
            with http.Session() as session:
                return self._fetch(session, first)
        finally:
            self._fetcher.leave()

    def _fetch(self, session: http.Session, first: int) -> Extracted:
        while True:
            try:
                return self._fetch_missing(session, first)
            except Overtaken:
                require_running(self._store, self._run_id, self._name)
                self._read(runs.get(self._store, self._run_id))
                if self._state.status.ended:
                    return Extracted(ExtractionState(self._state.status), self._numbers())

    def _fetch_missing(self, session: http.Session, first: int) -> Extracted:
        """Fetch the pages that are missing, in a call that began with `first` of them.

        Raises:
            Overtaken: another call has got further meanwhile.
        """
        while (number := self._next_page()) is not None:
            request = self._source.page(number)
            left = self._remaining() - RESERVE_SECONDS
            if self._at.pages > first and left < self._retry_policy.limits.read_seconds:
                return Extracted(ExtractionState.AGAIN, [])
            try:
                self._page(session, request)
            except (RateLimited, CircuitOpen, GivenUp, HeldBack, OutOfTime) as stopped:
                return self._stop(request, stopped)
            except StateConflict:
                # Whoever has the run now goes on.
                raise
            except StoreRefused as error:
                # Not of the source, which is asked again when that is mended.
                self._extraction.note(error=describe(error))
                raise
            except TerminalError as error:
                if self._looks_beyond(request):
                    return self._end_unknown(describe(error))
                return self._end(ExtractionState.FAILED, error=describe(error))
            except TransientError as error:
                # Kept in case that the last of the state machine's retries fails as well.
                self._extraction.note(error=describe(error), throttling=self._throttling.document())
                raise
        return self._end_of_list()

    def _next_page(self) -> int | None:
        """The number of the page to fetch now; None at the end of the list.

        The list ends at a page without rows, or with the pages that the settings ask for. If the
        last of these is not full, the page beyond shows whether that is the list's end.
        """
        at, source = self._at, self._source
        if self._list_ended or (at.pages and not at.last_rows):
            return None
        last_is_short = source.page_size is not None and at.last_rows < source.page_size
        if at.pages < source.pages or (at.pages == source.pages and last_is_short):
            return at.pages + 1
        return None

    def _looks_beyond(self, request: PageRequest) -> bool:
        """Whether a page is only to show that the list has ended before it."""
        return request.page > self._source.pages

    def _end_unknown(self, error: StoredError) -> Extracted:
        """End behind the last page, where it could not be seen whether more rows follow."""
        self._warn(
            f"Page {self._at.pages} had {self._at.last_rows} of {self._source.page_size} rows, and "
            f"whether more follow is not known: {error['message']}"
        )
        return self._end_of_list()

    def _end_of_list(self) -> Extracted:
        self._fetcher.note_all_answered()
        if self._at.pages and self._at.unchanged == self._at.pages:
            pages = "The page is" if self._at.pages == 1 else f"All {self._at.pages} pages are"
            reason = f"{pages} as when last loaded: {self._name} says that nothing has changed."
            return self._end(
                ExtractionState.SKIPPED, extracted_at=self._server.now(), reason=reason, error=None
            )
        return self._end(ExtractionState.EXTRACTED, extracted_at=self._server.now(), error=None)

    # --- one page -------------------------------------------------------------------------

    def _page(self, session: http.Session, request: PageRequest) -> None:
        known = self._known(request) if self._conditional else None
        validators = known.validators if known else None
        attempts = Attempts.of(self._state.attempts, request.page, self._note_attempts)
        found = self._fetcher.page(session, request, self._rows_per_batch, attempts, validators)
        if isinstance(found, Unchanged):
            assert known is not None  # noqa: S101 - the request was conditional
            received = self._as_before(known, found.received_at)
        else:
            received = self._received(request, found)
        repeated = self._repeated(received)
        if self._list_has_ended(request, received, repeated):
            self._list_ended = True
            return
        again = None if repeated else self._fetch_slipped(session, received)
        self._put(request, received, again, repeats=repeated is not None)

    def _note_attempts(self, attempts: StoredAttempts) -> None:
        """Store a failed attempt; its error is the input's, should the run die now.

        That of a refusal is not: the run waits, and what it may die of is something else.
        """
        changes: InputChanges = {"attempts": attempts}
        if attempts["error"]["code"] != THROTTLED:
            changes["error"] = attempts["error"]
        self._extraction.note(**changes)

    def _known(self, request: PageRequest) -> _Known | None:
        """What a conditional request for a page can be about: what was fetched last, and loaded."""
        found = self._fetcher.known_page(request.page)
        if found is None or found["request"] != request.fingerprint:
            return None
        batches = pages.loaded_batches(self._store, found["batches"])
        if batches is None or any(b.get("context") != context_of(b) for b in batches):
            return None
        if [batch["raw_id"] for batch in batches] != found["raw_ids"]:
            # The validators are of an answer whose batches were not the ones that counted.
            return None
        validators = Validators(found["etag"], found["last_modified"])
        extent = Extent.of(found.get("extent"))
        return _Known(validators, found["rows"], found["left_out"], batches, extent)

    def _received(self, request: PageRequest, page: Page, suffix: str = "") -> _Received:
        """A page's rows as raw batches, and as batches that refer to them.

        Args:
            request: what was asked for.
            page: what came.
            suffix: what tells its raw batches from those of an earlier answer for the same page.
        """
        raw: list[RawBatch] = []
        batches: list[ReceivedRows] = []
        received_at = page.origin["fetched_at"]
        first_row = 0
        for part, payload in enumerate(page.payloads):
            place = f"page {request.page}{suffix} part {part}"
            id_ = raw_id(self._name, place, payload.digest)
            raw.append(
                {
                    "_id": id_,
                    "source": self._name,
                    "format": "json",
                    "origin": page.origin,
                    "first_row": first_row,
                    "rows": payload.rows,
                    "size": payload.size,
                    "digest": payload.digest,
                    "received_at": received_at,
                    "data": payload.data,
                }
            )
            batches.append(
                {
                    "source": self._name,
                    "raw_id": id_,
                    "place": f"{self._name} {place}",
                    "digest": payload.digest,
                    "page": request.page,
                    "first_row": first_row,
                    "rows": payload.rows,
                    "received_at": received_at,
                }
            )
            first_row += payload.rows
        return _Received(
            raw, batches, page.validators, page.rows, page.filtered, page.extent, unchanged=False
        )

    def _as_before(self, known: _Known, received_at: datetime) -> _Received:
        """Batches of a page's known content, received once more.

        They are new batches, since it matters that the content was still this one now: another
        page, or an upload, may have said otherwise of a record meanwhile. The loader sees that the
        content is known, and parses nothing unless something has.
        """
        batches: list[ReceivedRows] = [
            {
                "source": batch["source"],
                "raw_id": batch["raw_id"],
                "place": batch["place"],
                "digest": batch["digest"],
                "page": batch["page"],
                "first_row": batch["first_row"],
                "rows": batch["rows"],
                "received_at": received_at,
            }
            for batch in known.batches
        ]
        return _Received(
            [], batches, known.validators, known.rows, known.filtered, known.extent, unchanged=True
        )

    def _digests(self) -> list[str]:
        """By page, which rows the pages before have; empty where that is not known."""
        at = self._at
        known = [*at.digests, *[""] * (at.pages - len(at.digests))]
        if known and at.extent is not None:
            # That is all that notes of earlier versions have.
            known[-1] = at.extent["digest"]
        return known

    def _repeated(self, received: _Received) -> int | None:
        """The page before that a page repeats, the last one if there are several."""
        if received.extent is None:
            return None
        known = enumerate(self._digests(), start=1)
        return max((page for page, of in known if of == received.extent.digest), default=None)

    def _list_has_ended(
        self, request: PageRequest, received: _Received, repeated: int | None
    ) -> bool:
        """Whether the list has ended before a page: the page is then not kept.

        It has if the source does not know of pages and answers each alike; and, of course, before
        a page that is beyond those of the settings. What that means of the last page is noted.
        """
        at, source = self._at, self._source
        if repeated is not None and repeated == at.pages:
            assert source.page_size is not None  # noqa: S101 - else there is one page
            self._warn(
                describe_unpaged(
                    at.pages,
                    source.pages,
                    page_size=source.page_size,
                    rows=at.last_rows,
                    received=at.rows,
                )
            )
            return True
        if not self._looks_beyond(request):
            return False
        if repeated is not None:
            self._warn(describe_repeated([(request.page, repeated)]))
        elif received.rows:
            self._at = replace(at, short=self._short_pages(received))
        return True

    def _short_pages(self, received: _Received) -> tuple[ShortPage, ...]:
        """The pages that are known to have lacked rows, now that a further one has come."""
        at, full = self._at, self._source.page_size
        if not at.pages or full is None or at.last_rows >= full or not received.rows:
            return at.short
        return (*at.short, {"page": at.pages, "rows": at.last_rows})

    def _fetch_slipped(self, session: http.Session, received: _Received) -> _Received | None:
        """Rows that are on neither of two pages, as the order moved in between; None if it did not.

        The page before is fetched once more, for the rows that neither had.
        """
        page, before = self._at.pages, Extent.of(self._at.extent)
        if before is None or received.extent is None:
            return None
        shift = Shift.between(page, before, received.extent)
        if shift is None:
            return None
        request = self._source.page(page)
        known = before.ids | received.extent.ids
        try:
            again = self._fetcher.again(session, request, self._rows_per_batch, known)
        except NotAskedAgain as why:
            self._warn(f"{shift.describe()} Page {page} was not fetched once more: {why}")
            return None
        found = sum(payload.rows for payload in again.payloads)
        if found:
            rows = "1 more row, which is" if found == 1 else f"{found} more rows, which are"
            self._warn(
                f"{shift.describe()} Page {page} was fetched once more. It had {rows} loaded."
            )
            return self._received(request, again, suffix=" again")
        if shift.missing_ranks:
            self._warn(
                f"{shift.describe()} Page {page} was fetched once more, and had no further row."
            )
        return None

    def _warn(self, warning: str) -> None:
        """Have the run tell it, once."""
        if warning not in self._warnings:
            self._warnings.append(warning)

    def _put(
        self,
        request: PageRequest,
        received: _Received,
        again: _Received | None,
        *,
        repeats: bool,
    ) -> None:
        """Write a page's raw batches, then its batches, and note that the page is there.

        Their numbers follow from what is noted when they are taken: an answer of another call may
        have been cut into another number of batches.

        Args:
            request: what was asked for.
            received: what came.
            again: of the page before, rows that had slipped through.
            repeats: whether it is an earlier page once more; it says nothing of its neighbours.

        Raises:
            Overtaken: another call has noted the page, or has ended the extraction.
        """
        slipped = again.batches if again else []
        save_raw(self._store, [*received.raw, *(again.raw if again else [])])
        after = replace(
            self._at,
            pages=request.page,
            last_rows=received.rows,
            rows=self._at.rows + received.rows,
            filtered=self._at.filtered + received.filtered,
            unchanged=self._at.unchanged + received.unchanged,
            short=self._at.short if repeats else self._short_pages(received),
            extent=received.extent.document() if received.extent and not repeats else None,
            digests=(*self._digests(), received.extent.digest if received.extent else ""),
        )
        noted = after

        def cut(state: InputState) -> Written:
            nonlocal noted
            first = state.batches
            numbered: list[NewBatch] = [
                {"number": number, **batch, "context": context_of(batch)}
                for number, batch in enumerate([*received.batches, *slipped], first)
            ]
            # Before they are written: a validator must never outlive the content it stands for.
            self._remember(request, numbered[: len(received.batches)], received)
            noted = replace(after, batches=first + len(numbered))
            changes = noted.document()
            changes["throttling"] = self._throttling.document()
            changes["warnings"] = self._warnings
            changes["error"] = None
            return Written(numbered, noted.batches, changes)

        while not self._extraction.write(self._known_position(), cut):
            pass
        self._at = noted

    def _known_position(self) -> Filter:
        """What the run knows about the source as long as nobody is further than this call."""
        before_any = None if self._state.pages is None else 0
        return {"pages": self._at.pages or before_any}

    def _remember(
        self, request: PageRequest, numbered: list[NewBatch], received: _Received
    ) -> None:
        """Have the source's document say what the next request for the page can refer to."""
        if not self._source.conditional:
            return
        validators, kept = received.validators, None
        if validators.headers and numbered:
            kept = KnownPage(
                etag=validators.etag,
                last_modified=validators.last_modified,
                request=request.fingerprint,
                rows=received.rows,
                left_out=received.filtered,
                batches=[BatchKey(self._run_id, self._name, b["number"]).id for b in numbered],
                raw_ids=[batch["raw_id"] for batch in numbered],
                received_at=numbered[0]["received_at"],
                extent=received.extent.document(ids=False) if received.extent else None,
            )
        pages.remember_page(self._store, self._name, request.page, kept)

    # --- ends and pauses ------------------------------------------------------------------

    def _numbers(self) -> list[int]:
        return self._extraction.numbers(self._at.batches)

    def _end(self, state: ExtractionState, **noted: Unpack[InputChanges]) -> Extracted:
        """End the extraction here.

        Raises:
            Overtaken: another call is further, or has ended it, or the run has ended.
        """
        at, source = self._at, self._source
        self._throttling.since = None
        if at.short and source.page_size is not None:
            self._warn(
                describe_short(
                    at.short,
                    source.pages,
                    pages=at.pages,
                    page_size=source.page_size,
                    received=at.rows,
                )
            )
        if repeats := repeated_in(self._digests()):
            self._warn(describe_repeated(repeats))
        changes: InputChanges = {"throttling": self._throttling.document(), **noted}
        changes["status"] = state
        changes["warnings"] = self._warnings
        self._extraction.end(self._known_position(), self._at.batches, changes)
        return Extracted(state, self._numbers())

    def _stop(
        self,
        request: PageRequest,
        reason: RateLimited | CircuitOpen | GivenUp | HeldBack | OutOfTime,
    ) -> Extracted:
        """End this call's part at a page that it did not get."""
        match reason:
            case RateLimited():
                return self._pause(request, reason)
            case CircuitOpen():
                if self._looks_beyond(request):
                    return self._end_unknown(circuit_open(self._name, reason.admission))
                return self._skip(reason)
            case GivenUp() | HeldBack():
                if self._looks_beyond(request):
                    return self._end_unknown(reason.error)
                held_back = isinstance(reason, HeldBack)
                ended = ExtractionState.THROTTLED if held_back else ExtractionState.FAILED
                return self._end(ended, error=reason.error)
            case OutOfTime():
                self._extraction.note(throttling=self._throttling.document())
                return Extracted(ExtractionState.AGAIN, [])

    def _pause(self, request: PageRequest, limit: RateLimited) -> Extracted:
        """Have the state machine wait, unless this run has waited enough."""
        seconds = max(1, ceil(limit.seconds))
        throttling, minutes = self._throttling, self._settings.max_wait_minutes
        if throttling.waited_seconds + seconds > minutes * 60:
            message = (
                f"{limit} Page {request.page} would have to wait {seconds} s more; this run was "
                f"rate-limited {throttling.events} times and has waited "
                f"{throttling.waited_seconds:.0f} s, and MAX_WAIT_MINUTES allows {minutes} "
                f"minutes. What was fetched is loaded; POST /refresh with this run as `resume` "
                f"goes on at page {request.page}, and the next run by schedule starts anew."
            )
            error: StoredError = {"code": THROTTLED, "type": "Throttled", "message": message}
            if self._looks_beyond(request):
                return self._end_unknown(error)
            return self._end(ExtractionState.THROTTLED, error=error)
        throttling.note_wait(seconds)
        self._extraction.note(throttling=throttling.document())
        runs.heartbeat(self._store, self._run_id, pause_seconds=seconds)
        return Extracted(ExtractionState.THROTTLED, [], seconds)

    def _skip(self, circuit: CircuitOpen) -> Extracted:
        admission = circuit.admission
        error = self._state.error
        if admission.opened_by == self._run_id and error:
            # An earlier call of this very run did fetch, and its failure opened the circuit.
            return self._end(ExtractionState.FAILED, error=error)
        return self._end(ExtractionState.SKIPPED, error=circuit_open(self._name, admission))
