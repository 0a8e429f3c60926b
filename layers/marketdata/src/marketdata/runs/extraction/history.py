"""Extracting the past of assets: the requests of a backfill in, raw batches and batches out.

The protocol is that of pages (`runs/extraction/protocol.py`): the requests are numbered, and the
progress is the number of the last one that is done. What differs:

- A backfill comes after the other runs of its source: it leaves them the permits that they need,
  and asks nothing while one of them is under way (`LowPriority`). It waits as long as it takes.
- A request that fails for good is told in the run's warnings, and the next one is made. Only if
  several in a row fail the backfill ends.
- What was received is loaded every now and then, and not at the end alone.
- An execution lasts for a day and has so many events at most: before that the backfill is let go,
  and another execution goes on (`store/backfills.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from math import ceil
from typing import Unpack

from marketdata import clock
from marketdata.documents.asked_ranges import AskedRange
from marketdata.documents.batches import NewBatch, ReceivedRows
from marketdata.documents.errors import StoredError
from marketdata.documents.raw_batches import RawBatch
from marketdata.documents.runs import InputChanges, InputState, PageProgress, Run, StoredAttempts
from marketdata.errors import (
    MarketDataError,
    StateConflict,
    StoreRefused,
    TransientError,
    UpstreamMalformed,
    UpstreamRefused,
)
from marketdata.load.context import context_of
from marketdata.load.raw import raw_id
from marketdata.runs.extraction.attempts import Attempts, GivenUp, OutOfTime
from marketdata.runs.extraction.circuit import CircuitOpen
from marketdata.runs.extraction.fetching import (
    RESERVE_SECONDS,
    Page,
    PageFetcher,
    Unchanged,
    describe,
)
from marketdata.runs.extraction.outcome import Extracted, ExtractionState
from marketdata.runs.extraction.plan import Plan, PlannedRequest
from marketdata.runs.extraction.policy import RETRY_POLICY, RetryPolicy
from marketdata.runs.extraction.protocol import Extraction, Overtaken, Written
from marketdata.runs.extraction.throttling import LowPriority, RateLimited, Throttling
from marketdata.runs.heartbeat import require_running
from marketdata.settings import UpstreamSettings
from marketdata.sources import http
from marketdata.sources.history import HistorySource, Window
from marketdata.store import asked_ranges, backfills, run_inputs, runs
from marketdata.store.batches import queue
from marketdata.store.connection import Filter, Store
from marketdata.store.leases import backfill_of
from marketdata.store.raw_batches import save_raw
from marketdata.store.server_time import server_clock
from marketdata.store.sources import limiter

LOADED_TOGETHER = 20
"""Batches after which what was received is loaded before more is asked."""
MOST_CALLS = 1_200
"""Calls in one execution. Each has up to 13 events of the 25,000 that Step Functions allows."""
LONGEST_PART = timedelta(hours=20)
"""How long an execution goes on with a backfill, of the 24 hours that it may last."""
MOST_FAILURES_IN_A_ROW = 3
"""Requests in a row that failed, after which the source counts as failed."""
MOST_WARNINGS = 50
"""Warnings that a run keeps of its requests."""
_LONGEST_WAIT_SECONDS = 60
"""At a time: who cancels it, or looks how far it is, waits no longer. In `LONGEST_PART` these are
no more calls than `MOST_CALLS`."""
_REQUEST_SECONDS = 1_800.0
"""For all attempts at a request, with the waits in between: others may go first meanwhile."""
_OF_THE_ASSET = frozenset({400, 404, 410, 414, 422})
"""Statuses that say something of the asset that was asked for, and nothing of the source."""
_OF_EVERYTHING = frozenset({401, 403, 407, 451})
"""Statuses that the next request would meet as well."""
_REMEDY = "What was received is loaded; POST /backfills with `gaps` asks for what is missing."


def extract_history(
    store: Store,
    run_id: str,
    source: HistorySource,
    *,
    rows_per_batch: int,
    remaining_seconds: Callable[[], float],
    settings: UpstreamSettings | None = None,
    retry_policy: RetryPolicy = RETRY_POLICY,
) -> Extracted:
    """Make the requests of a backfill that are not done yet, as many as there is time and quota.

    Args:
        store: the database.
        run_id: the run.
        source: the source, configured.
        rows_per_batch: rows in one batch at most.
        remaining_seconds: what is left of this call's time.
        settings: how long and how often the source is tried.
        retry_policy: how much is tried for one request.

    Raises:
        StateConflict: the run has ended, or has lost its input to another one.
        TransientError: the source or the database is out of reach; the state machine retries.
    """
    input_id = backfill_of(source.name)
    require_running(store, run_id, input_id)
    run = runs.get(store, run_id)
    state = InputState.of(run["inputs"][input_id])
    if state.status.ended:
        numbers = Extraction(store, run_id, input_id).numbers(state.batches)
        return Extracted(ExtractionState(state.status), numbers)
    if not state.reclaimed_loaded:
        reclaimed = queue.reclaimed(store, run_id, input_id)
        run_inputs.set_input(store, run_id, input_id, {"unfinished_done": True})
        if reclaimed:
            return Extracted(ExtractionState.UNFINISHED, reclaimed)
    return _HistoryExtraction(
        store,
        run,
        source,
        rows_per_batch=rows_per_batch,
        remaining_seconds=remaining_seconds,
        settings=settings or UpstreamSettings(),
        retry_policy=replace(retry_policy, page_seconds=_REQUEST_SECONDS),
    ).run()


class _HistoryExtraction:
    """One call's part of the extraction of a backfill."""

    def __init__(
        self,
        store: Store,
        run: Run,
        source: HistorySource,
        *,
        rows_per_batch: int,
        remaining_seconds: Callable[[], float],
        settings: UpstreamSettings,
        retry_policy: RetryPolicy,
    ) -> None:
        self._store = store
        self._run_id: str = run["_id"]
        self._source = source
        self._input = backfill_of(source.name)
        self._rows_per_batch = rows_per_batch
        self._remaining = remaining_seconds
        self._retry_policy = retry_policy
        self._plan = Plan(run["backfill"])
        self._extraction = Extraction(store, self._run_id, self._input)
        self._read(run)
        self._throttling = Throttling.of(self._state.throttling)
        self._server = server_clock(store)
        self._reserve = source.most_requests
        self._fetcher = PageFetcher(
            store,
            self._run_id,
            source,
            server=self._server,
            throttling=self._throttling,
            remaining_seconds=remaining_seconds,
            settings=settings,
            retry_policy=retry_policy,
            low_priority=LowPriority(
                self._reserve, lambda: bool(runs.lock_holders(store, [source.name]))
            ),
        )

    def _read(self, run: Run) -> None:
        """Go by what the run knows now."""
        self._run = run
        self._state = InputState.of(run["inputs"][self._input])
        self._at = self._state.pages or PageProgress(batches=self._state.batches)
        self._warnings = self._state.warnings.copy()
        self._refused = self._state.refused_requests
        self._in_a_row = self._state.failures_in_a_row

    def run(self) -> Extracted:
        """Make requests until there are no more, or something is in the way."""
        if self._state.started_at is None:
            self._extraction.begin(self._server.now())
        rate = limiter.spare_rate(self._source.quota, self._reserve)
        backfills.count_call(self._store, self._run_id, round(rate, 3))
        cancelled = backfills.cancelled_at(self._store, self._run_id) is not None
        if self._is_at_its_end() and not cancelled:
            return Extracted(ExtractionState.HANDED_OVER, self._numbers())
        first = self._at.pages
        try:
            with http.Session() as session:
                return self._fetch(session, first)
        finally:
            self._fetcher.leave()

    def _is_at_its_end(self) -> bool:
        """Whether the execution is to end before its limits."""
        backfill = self._run["backfill"]
        since = backfill.get("part_since")
        old = since is not None and self._server.now() - since > LONGEST_PART
        return old or backfill["part_calls"] >= MOST_CALLS

    def _fetch(self, session: http.Session, first: int) -> Extracted:
        while True:
            try:
                return self._fetch_missing(session, first)
            except Overtaken:
                require_running(self._store, self._run_id, self._input)
                self._read(runs.get(self._store, self._run_id))
                if self._state.status.ended:
                    return Extracted(ExtractionState(self._state.status), self._numbers())

    def _fetch_missing(self, session: http.Session, first: int) -> Extracted:
        """Make the requests that are not done, in a call that began with `first` of them.

        Raises:
            Overtaken: another call has got further meanwhile.
        """
        while planned := self._plan.request(self._at.pages + 1):
            if (stopped := self._stop_before(first)) is not None:
                return stopped
            try:
                failed = self._request(session, planned)
            except (RateLimited, CircuitOpen, OutOfTime) as reason:
                return self._pause(reason)
            except StateConflict:
                # Whoever has the run now goes on.
                raise
            except MarketDataError as error:
                return self._fail(error)
            if failed is not None and self._in_a_row >= MOST_FAILURES_IN_A_ROW:
                return self._end(ExtractionState.FAILED, error=_with_remedy(failed))
        return self._end(ExtractionState.EXTRACTED, extracted_at=self._server.now(), error=None)

    def _stop_before(self, first: int) -> Extracted | None:
        """Whether the next request is not to be made in this call, which began with `first`."""
        if backfills.cancelled_at(self._store, self._run_id):
            reason = backfills.told_as_cancelled(self._at.pages, self._plan.requests)
            return self._end(ExtractionState.CANCELLED, reason=reason)
        if self._at.pages == first:
            return None
        if self._is_to_load():
            return self._load()
        left = self._remaining() - RESERVE_SECONDS
        if left < self._retry_policy.limits.read_seconds:
            return Extracted(ExtractionState.AGAIN, [])
        return None

    def _fail(self, error: MarketDataError) -> Extracted:
        """End the extraction for an error that every further request would meet.

        Raises:
            TransientError, StoreRefused: the error, which says nothing of the source.
        """
        if isinstance(error, TransientError | StoreRefused):
            # Kept in case that the last of the state machine's retries fails as well.
            self._extraction.note(error=describe(error), throttling=self._throttling.document())
            raise error
        return self._end(ExtractionState.FAILED, error=_with_remedy(describe(error)))

    # --- one request ----------------------------------------------------------------------

    def _request(self, session: http.Session, planned: PlannedRequest) -> StoredError | None:
        """Make a request, and store what came of it; returns why it failed for good, if it did."""
        source, interval = self._source, self._plan.interval
        now = self._server.now()
        limited = source.limited(planned.window.start, planned.window.end, interval, now=now)
        what = f"{planned.asset.id} from {clock.iso(planned.window.start)}"
        if limited.cut_off:
            self._warn(f"{what}: {limited.cut_off}")
        window = limited.window
        if window is None:
            self._skip(planned.number)
            return None

        def read(chunks: Iterable[bytes], who: str) -> Iterator[str]:
            return source.history_rows(planned.asset, window, interval, chunks, what=who)

        request = source.history_request(planned.number, planned.asset, window, interval, now=now)
        attempts = Attempts.of(self._state.attempts, planned.number, self._note_attempts)
        try:
            found = self._fetcher.page(session, request, self._rows_per_batch, attempts, read=read)
        except GivenUp as given_up:
            self._in_a_row += 1
            return self._refuse(planned.number, what, given_up.error)
        except (UpstreamRefused, UpstreamMalformed) as error:
            status = error.details.get("status")
            if status in _OF_EVERYTHING:
                raise
            self._in_a_row += status not in _OF_THE_ASSET
            return self._refuse(planned.number, what, describe(error))
        assert not isinstance(found, Unchanged)  # noqa: S101 - the request had no condition
        self._in_a_row = 0
        self._save(planned, window, found)
        return None

    def _note_attempts(self, attempts: StoredAttempts) -> None:
        """Store a failed attempt; its error is the input's, should the run die now."""
        self._extraction.note(attempts=attempts, error=attempts["error"])
        self._state = replace(self._state, attempts=attempts)

    def _refuse(self, number: int, what: str, error: StoredError) -> StoredError:
        """Tell that a request failed for good, and leave it."""
        self._refused += 1
        self._warn(f"{what} was not received: {error['code']}: {error['message']}")
        self._skip(number)
        return error

    def _skip(self, number: int) -> None:
        """Store that a request is done which brought nothing."""
        after = replace(self._at, pages=number, last_rows=0)
        self._extraction.advance(self._known_position(), self._changes(after))
        self._at = after

    def _save(self, planned: PlannedRequest, window: Window, page: Page) -> None:
        """Write a window's raw batches, then the batches that refer to them.

        Raises:
            Overtaken: another call has noted the request, or has ended the extraction.
        """
        raw, received = self._packed(planned, window, page)
        save_raw(self._store, raw)
        asked: AskedRange = {
            "start": window.start,
            "end": window.end,
            "run_id": self._run_id,
            "asked_at": page.origin["fetched_at"],
        }
        after = replace(
            self._at,
            pages=planned.number,
            last_rows=page.rows,
            rows=self._at.rows + page.rows,
        )
        noted = after

        def cut(state: InputState) -> Written:
            nonlocal noted
            first = state.batches
            numbered: list[NewBatch] = [
                {"number": number, **batch, "context": context_of(batch)}
                for number, batch in enumerate(received, first)
            ]
            noted = replace(after, batches=first + len(numbered))
            return Written(numbered, noted.batches, self._changes(noted))

        while not self._extraction.write(self._known_position(), cut):
            pass
        self._at = noted
        # After its batches: what nobody will load must never count as a hole of the source. If the
        # call dies in between, the range counts as never asked, and may be asked again.
        asked_ranges.note(
            self._store, self._source.name, planned.asset.id, self._plan.interval, asked
        )

    def _packed(
        self, planned: PlannedRequest, window: Window, page: Page
    ) -> tuple[list[RawBatch], list[ReceivedRows]]:
        name, received_at = self._source.name, page.origin["fetched_at"]
        series = f"history {self._plan.interval} {planned.asset.id} {clock.iso(window.start)}"
        raw: list[RawBatch] = []
        received: list[ReceivedRows] = []
        first_row = 0
        for part, payload in enumerate(page.payloads):
            place = f"{series} part {part}"
            id_ = raw_id(name, place, payload.digest)
            raw.append(
                {
                    "_id": id_,
                    "source": name,
                    "format": "history",
                    "origin": page.origin,
                    "first_row": first_row,
                    "rows": payload.rows,
                    "size": payload.size,
                    "digest": payload.digest,
                    "received_at": received_at,
                    "data": payload.data,
                }
            )
            received.append(
                {
                    "source": name,
                    "raw_id": id_,
                    "place": f"{name} {place}",
                    "digest": payload.digest,
                    "page": planned.number,
                    "first_row": first_row,
                    "rows": payload.rows,
                    "received_at": received_at,
                }
            )
            first_row += payload.rows
        return raw, received

    def _changes(self, after: PageProgress) -> InputChanges:
        """The progress after a request, as it is stored."""
        changes = after.document()
        changes["throttling"] = self._throttling.document()
        changes["warnings"] = self._warnings
        changes["refused_requests"] = self._refused
        changes["failures_in_a_row"] = self._in_a_row
        changes["error"] = None
        return changes

    def _warn(self, warning: str) -> None:
        if warning in self._warnings or len(self._warnings) > MOST_WARNINGS:
            return
        if len(self._warnings) == MOST_WARNINGS:
            warning = "There is more like this, which is not listed; `backfill` has the figures."
        self._warnings.append(warning)

    def _known_position(self) -> Filter:
        """What the run knows about the input as long as nobody is further than this call."""
        before_any = None if self._state.pages is None else 0
        return {"pages": self._at.pages or before_any}

    # --- ends and pauses ------------------------------------------------------------------

    def _numbers(self) -> list[int]:
        return self._extraction.numbers(self._at.batches)

    def _is_to_load(self) -> bool:
        return self._at.batches - self._loaded_below() >= LOADED_TOGETHER

    def _loaded_below(self) -> int:
        """Number below which batches were handed out for loading before."""
        return self._state.handed_out or 0

    def _load(self) -> Extracted:
        """Have the state machine load what was received, and call again."""
        below = self._loaded_below()
        numbers = [number for number in self._numbers() if number >= below]
        self._extraction.note(handed_out=self._at.batches)
        self._state = replace(self._state, handed_out=self._at.batches)
        return Extracted(ExtractionState.UNFINISHED, numbers)

    def _end(self, state: ExtractionState, **noted: Unpack[InputChanges]) -> Extracted:
        """End the extraction here.

        Raises:
            Overtaken: another call is further, or has ended it, or the run has ended.
        """
        changes: InputChanges = {
            "throttling": self._throttling.document(),
            "warnings": self._warnings,
            **noted,
        }
        changes["status"] = state
        self._extraction.end(self._known_position(), self._at.batches, changes)
        return Extracted(state, self._numbers())

    def _pause(self, limit: RateLimited | CircuitOpen | OutOfTime) -> Extracted:
        """Have the state machine wait; first it loads what was received, if that is much."""
        if isinstance(limit, OutOfTime):
            self._extraction.note(throttling=self._throttling.document())
            return Extracted(ExtractionState.AGAIN, [])
        if self._is_to_load():
            return self._load()
        if isinstance(limit, CircuitOpen):
            probe = limit.admission.next_probe_at
            now = self._server.now()
            wait = (probe - now).total_seconds() if probe else _LONGEST_WAIT_SECONDS
        else:
            wait = limit.seconds
        seconds = min(max(1, ceil(wait)), _LONGEST_WAIT_SECONDS)
        self._throttling.note_wait(seconds)
        self._extraction.note(throttling=self._throttling.document())
        runs.heartbeat(self._store, self._run_id, pause_seconds=seconds)
        return Extracted(ExtractionState.THROTTLED, [], seconds)


def _with_remedy(error: StoredError) -> StoredError:
    told = error.copy()
    told["message"] = f"{error['message']} {_REMEDY}"
    return told
