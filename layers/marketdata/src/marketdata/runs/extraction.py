"""Extracting an API source: pages in, raw batches and pending batches out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from marketdata import clock
from marketdata.errors import (
    TerminalError,
    Throttled,
    TransientError,
    UpstreamMalformed,
    UpstreamUnavailable,
)
from marketdata.load.raw import Payload, pack_json, raw_id
from marketdata.runs.lifecycle import require_running
from marketdata.runs.outcome import Extracted
from marketdata.sources import http
from marketdata.sources.base import ApiSource, PageRequest
from marketdata.sources.json_stream import elements, parse
from marketdata.store import batches as checkpoints
from marketdata.store import runs
from marketdata.store.connection import Document, Store
from marketdata.store.raw import save_raw

MAX_PAUSES = 10
"""Pauses that a source may ask for in one run before it ends as failed."""

_RESERVE_SECONDS = 10.0
"""Time kept back for writing what was fetched."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How much is tried for one page within one call; the state machine's retries come on top."""

    attempts: int = 3
    longest_pause_seconds: float = 5.0
    """Between two attempts; the pause is random, and shorter at first."""
    limits: http.Limits = http.LIMITS


PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class Page:
    """One page, fetched and packed."""

    payloads: list[Payload]
    origin: Document
    rows: int
    """Rows that the source answered."""
    left_out: int
    """Of these, the ones that the source's settings do not ask for."""


def extract(
    store: Store,
    run_id: str,
    source: ApiSource,
    *,
    rows_per_batch: int,
    remaining_seconds: Callable[[], float],
    patience: Patience = PATIENCE,
) -> Extracted:
    """Fetch all pages of a source that this run does not have yet.

    A page's batches are written before the run's note says that the page is there, so that a
    call that died in between fetches the page again and replaces them.

    Args:
        store: the database.
        run_id: the run.
        source: the source, configured.
        rows_per_batch: rows in one batch at most.
        remaining_seconds: what is left of this call's time.
        patience: how much is tried for one page.

    Raises:
        StateConflict: the run has ended.
        TransientError: the source or the database is out of reach; the state machine retries.
    """
    name = source.name
    require_running(store, run_id)
    note = runs.get(store, run_id)["inputs"][name]
    if note["status"] == "extracted":
        return Extracted("extracted", checkpoints.numbers(store, run_id, name))
    if "started_at" not in note:
        runs.set_input(store, run_id, name, {"status": "extracting", "started_at": clock.now()})
    page, rows, number = note.get("pages", 0), note.get("last_rows", 0), note.get("batches", 0)
    left_out = note.get("left_out", 0)
    with http.Session() as session:
        while request := source.page_after(page, rows):
            left = remaining_seconds() - _RESERVE_SECONDS
            if page > note.get("pages", 0) and left < patience.limits.read_seconds:
                return Extracted("again", [])
            try:
                fetched = fetch(session, request, source, rows_per_batch, left, patience)
            except Throttled as error:
                return _pause(store, run_id, name, note, error)
            except TerminalError as error:
                runs.set_input(
                    store,
                    run_id,
                    name,
                    {"status": "failed", "error": checkpoints.describe(error)},
                )
                return Extracted("failed", checkpoints.numbers(store, run_id, name))
            except TransientError as error:
                # Kept in case that the last of the state machine's retries fails as well.
                runs.set_input(store, run_id, name, {"error": checkpoints.describe(error)})
                raise
            _save(store, run_id, name, request, fetched, number)
            page, rows, number = request.page, fetched.rows, number + len(fetched.payloads)
            left_out += fetched.left_out
            runs.set_input(
                store,
                run_id,
                name,
                {
                    "pages": page,
                    "last_rows": rows,
                    "batches": number,
                    "left_out": left_out,
                    "error": None,
                },
            )
    runs.set_input(store, run_id, name, {"status": "extracted", "extracted_at": clock.now()})
    return Extracted("extracted", checkpoints.numbers(store, run_id, name))


def fetch(
    session: http.Session,
    request: PageRequest,
    source: ApiSource,
    rows_per_batch: int,
    seconds: float,
    patience: Patience = PATIENCE,
) -> Page:
    """One page, tried several times within `seconds`, read as a stream, packed into batches."""
    retrying = Retrying(
        retry=retry_if_exception_type(UpstreamUnavailable),
        wait=wait_random_exponential(multiplier=0.5, max=patience.longest_pause_seconds),
        stop=stop_after_attempt(patience.attempts),
        reraise=True,
    )
    limits = patience.limits.within(seconds / patience.attempts)
    return retrying(_fetch_once, session, request, source, rows_per_batch, limits)


def _fetch_once(
    session: http.Session,
    request: PageRequest,
    source: ApiSource,
    rows_per_batch: int,
    limits: http.Limits,
) -> Page:
    with http.get(session, request, limits=limits) as answer:
        what = f"{source.name} ({answer.url}, page {request.page})"
        selection = _Selection(source.row_filter())
        texts = selection.of(elements(answer.chunks, what=what))
        payloads = list(pack_json(texts, rows_per_batch=rows_per_batch))
        if selection.rows and selection.rows == selection.left_out:
            raise UpstreamMalformed(
                f"{what} answered {selection.rows} rows, and by the source's settings none of "
                "them was asked for. Either a field that they go by has changed, or they ask "
                "for nothing."
            )
        origin = {
            "url": answer.url,
            "page": request.page,
            "status": answer.status,
            "etag": answer.etag,
            "content_type": answer.content_type,
            "fetched_at": answer.received_at,
            "rows": selection.rows,
            "left_out": selection.left_out,
        }
    return Page(payloads, origin, selection.rows, selection.left_out)


class _Selection:
    """The rows of a page that were asked for, and the count of the others."""

    def __init__(self, keep: Callable[[Any], bool] | None) -> None:
        self._keep = keep
        self.rows = 0
        self.left_out = 0

    def of(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            self.rows += 1
            if self._keep is None or self._keep(parse(text)):
                yield text
            else:
                self.left_out += 1


def _save(
    store: Store, run_id: str, name: str, request: PageRequest, page: Page, first_number: int
) -> None:
    """Write a page's raw batches, then the batches that refer to them."""
    raw, batches = [], []
    received_at = page.origin["fetched_at"]
    first_row = 0
    for part, payload in enumerate(page.payloads):
        id_ = raw_id(name, f"page {request.page} part {part}", payload.digest)
        raw.append(
            {
                "_id": id_,
                "source": name,
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
                "number": first_number + part,
                "source": name,
                "raw_id": id_,
                "page": request.page,
                "first_row": first_row,
                "rows": payload.rows,
                "received_at": received_at,
            }
        )
        first_row += payload.rows
    save_raw(store, raw)
    checkpoints.put_batches(store, name, run_id, batches)
    checkpoints.drop_pending_from(store, name, run_id, first_number + len(batches))


def _pause(store: Store, run_id: str, name: str, note: Document, error: Throttled) -> Extracted:
    pauses = note.get("throttled", 0) + 1
    seconds = ceil(error.retry_after_seconds)
    fields: Document = {"throttled": pauses}
    if pauses > MAX_PAUSES or seconds > runs.LEASE.total_seconds():
        fields |= {"status": "failed", "error": checkpoints.describe(error)}
        runs.set_input(store, run_id, name, fields)
        return Extracted("failed", checkpoints.numbers(store, run_id, name))
    runs.set_input(store, run_id, name, fields)
    runs.renew(store, run_id, pause_seconds=seconds)
    return Extracted("throttled", [], seconds)
