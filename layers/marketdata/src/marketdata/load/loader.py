"""Loading one batch: raw rows in, records or quarantine out, every row accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from itertools import batched
from math import inf

from marketdata.documents.batches import Batch, BatchEnding, Counts, LoadProgress
from marketdata.documents.market_data import Record
from marketdata.documents.raw_batches import RawBatch
from marketdata.errors import ConservationBroken, StateConflict
from marketdata.load import known_content, previous_version, writing
from marketdata.load.context import NORMALISER_VERSION, context_of
from marketdata.load.incoming import CHUNK_ROWS, Records, incoming
from marketdata.load.late_arrivals import LateArrivals
from marketdata.load.lookups import Lookups
from marketdata.load.quarantining import quarantine_id, quarantined_rows
from marketdata.load.raw import unpack
from marketdata.load.raw_rows import origin_of, raw_rows, validation_time
from marketdata.load.resolving import ReplayRows
from marketdata.load.upserts import RewriteLog, StoredRewriteLog
from marketdata.objects import ObjectReader
from marketdata.store import latest_prices, quarantine
from marketdata.store.batches import queue
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from marketdata.store.raw_batches import get_raw

_RESERVE_SECONDS = 30.0
"""Time kept back for a part of a batch; the slowest one, all of it to be merged, takes less."""

_SET_ASIDE_TOGETHER = 1_000

_DEPENDS_ON_TIME = "timestamp_in_future"
"""The fault that a row may have today and not tomorrow."""


@dataclass(frozen=True, slots=True)
class Loading:
    """What became of one call."""

    counts: Counts
    """Of the whole batch, when it is done; so far, when it is not."""
    again: bool
    """The time was up: the batch is to be loaded further by another call."""


def load_batch(store: Store, key: BatchKey, objects: ObjectReader | None = None) -> Counts:
    """Load one batch, however long that takes; see `load_within`."""
    return load_within(store, key, objects).counts


def load_within(
    store: Store,
    key: BatchKey,
    objects: ObjectReader | None = None,
    *,
    remaining_seconds: Callable[[], float] = lambda: inf,
) -> Loading:
    """Load one batch, whatever an earlier attempt at it had done, or as much as there is time for.

    Every write is idempotent: records have deterministic ids, quarantined rows are known by
    their place, and the batch is closed last, by whoever began it last.

    Args:
        store: the database.
        key: the batch.
        objects: reads the ranges of uploaded files; only batches that are one need it.
        remaining_seconds: what is left of this call's time. At least one part of the batch
            is loaded.

    Returns:
        What became of the rows: the stored counts, if the batch was loaded already.

    Raises:
        TransientError: MongoDB is out of reach; the batch may be tried again.
        TerminalError: the batch can't be loaded; it is marked as failed with the reason.
    """
    batch = queue.begin(store, key)
    if batch is None:
        return Loading(queue.counts_of(store, key), again=False)
    attempt = batch["attempts"]
    try:
        if "resolves" in batch:
            return Loading(_load_replay(store, key, batch), again=False)
        if (skipped := known_content.skip(store, key, batch)) is not None:
            return Loading(skipped, again=False)
        return _Load(store, key, batch).run(objects, remaining_seconds)
    except StateConflict:
        # A later attempt closes the batch; what this one has written it finds and counts.
        return Loading(queue.counts_of(store, key), again=False)
    except Exception as error:
        queue.fail(store, key, attempt, error)
        raise


def _load_replay(store: Store, key: BatchKey, batch: Batch) -> Counts:
    """One attempt at loading a replay batch: rows that another batch counts as quarantined.

    Its records say that they come from that batch, whose raw rows these are.
    """
    rows = ReplayRows.of(store, get_raw(store, batch["raw_id"]), batch)
    counts = Counts()
    if ids := rows.ids:
        # Before the first is looked up: from then on, whoever changes one of them asks this batch.
        LateArrivals(store, batch).announce(min(ids), max(ids))
    if rows.alone:
        write_records(store, batch, rows.alone, counts, remember=True)
    if rows.among:
        # Rows of identities that the other batch counts count as duplicates.
        write_records(store, batch, rows.among, Counts())
    counts.rows_in, counts.quarantined = batch["rows"], len(rows.faults)
    counts.duplicate = rows.records - len(rows.alone)
    ending: BatchEnding = {"unresolved": sorted(rows.faults)}
    if rows.findings:
        ending["findings"] = rows.findings
    queue.finish(store, key, batch["attempts"], counts, ending)
    return counts


class _Load:
    """One attempt at loading a batch."""

    def __init__(self, store: Store, key: BatchKey, batch: Batch) -> None:
        self._store = store
        self._key = key
        self._batch = batch
        self._late_arrivals = LateArrivals(store, batch)

    def run(self, objects: ObjectReader | None, remaining_seconds: Callable[[], float]) -> Loading:
        store, batch = self._store, self._batch
        log = StoredRewriteLog(store, batch)
        with (
            raw_rows(store, batch, objects) as (raw, payload, kept),
            Lookups(
                store,
                batch["received_at"],
                written_before=log.may_have_written if batch["attempts"] > 1 else None,
                announce=self._late_arrivals.announce,
            ) as lookups,
        ):
            read = partial(self._read, raw, payload, lookups)
            found = previous_version.read_changed(store, batch, payload, self._late_arrivals, read)
            if found is None:
                found = read()
            if kept():
                found = self._late_arrivals.recheck(found, lookups, read_all=read)
            if found.rows != batch["rows"]:
                raise ConservationBroken(
                    f"Batch {self._key.id} was cut with {batch['rows']} rows, and {found.rows} "
                    "were read. This is a defect of cutting or reading; nothing of it is loaded."
                )
            progress = self._progress()
            counts, done, plain = progress.counts, progress.chunks, progress.conflict_free
            newest: dict[bytes, Record] = {}
            for part in writing.parts(found, lookups.known, done):
                if part.first > done and remaining_seconds() < _RESERVE_SECONDS:
                    latest_prices.raise_latest(store, list(newest.values()))
                    return self._pause(LoadProgress(_cut(found), part.first, plain, counts))
                written = writing.write(
                    store, part, counts, late_arrivals=self._late_arrivals, log=log
                )
                latest_prices.newest_of(written.current, newest)
                plain &= written.conflict_free
        latest_prices.raise_latest(store, list(newest.values()))
        counts.rows_in, counts.quarantined = found.rows, len(found.faults)
        counts.duplicate = len(found) - found.identities
        counts.unchanged += found.passed_over
        # In parts, as each brings its row as a text.
        rejected = zip(found.faults, found.texts, strict=True)
        for some in batched(rejected, _SET_ASIDE_TOGETHER, strict=False):
            quarantine.put_quarantine(store, quarantined_rows(some, raw, batch))
        if batch["attempts"] > 1:
            kept_aside = [quarantine_id(fault, raw, batch) for fault in found.faults]
            quarantine.release(store, batch["_id"], raw["_id"], kept_aside)
        plain &= all(fault.code != _DEPENDS_ON_TIME for fault in found.faults)
        ending: BatchEnding = {"context": context_of(batch), "plain": plain}
        if found.passed_over:
            ending["passed_over"] = found.passed_over
        if found.findings:
            ending["findings"] = found.findings
        queue.finish(store, self._key, batch["attempts"], counts, ending)
        return Loading(counts, again=False)

    def _read(
        self,
        raw: RawBatch,
        payload: bytes,
        lookups: Lookups,
        known: AbstractSet[str] = frozenset(),
    ) -> Records:
        return incoming(
            raw,
            payload,
            origin=origin_of(raw, self._batch),
            first_row=self._batch["first_row"],
            validated_at=validation_time(self._batch),
            seen=lookups.begin,
            known=known,
        )

    def _progress(self) -> LoadProgress:
        """How far an earlier call has got."""
        progress = self._batch.get("progress")
        # If rows are cut otherwise by now, all of them are gone through again: what is written
        # already is found, and counted as what it was.
        if progress is None or progress["cut"] != _CUT:
            return LoadProgress(_CUT, 0, conflict_free=True)
        return LoadProgress.of(progress)

    def _pause(self, progress: LoadProgress) -> Loading:
        name, attempt = self._batch["_id"], self._batch["attempts"]
        queue.note_progress(self._store, name, attempt, progress)
        queue.pause(self._store, name, attempt)
        return Loading(progress.counts, again=True)


_CUT = f"{CHUNK_ROWS} {NORMALISER_VERSION}"
"""What decides how all rows of a batch are cut into chunks."""


def _cut(found: Records) -> str:
    """How a batch was cut; the next attempt reads all rows, and begins anew if this one did not."""
    return "others" if found.passed_over else _CUT


def write_records(
    store: Store,
    batch: Batch,
    groups: Mapping[bytes, Sequence[Record]],
    counts: Counts,
    *,
    remember: bool = False,
) -> None:
    """Bring some records of a batch in, as loading it does; see `load_within`.

    Args:
        store: the database.
        batch: the batch that they are of.
        groups: its documents by identity, in the order of rows.
        counts: inserted, updated and unchanged are added to.
        remember: note with the batch what is about to be rewritten, so that after a crash it
            is counted alike.
    """
    log = StoredRewriteLog(store, batch) if remember else RewriteLog()
    current = LateArrivals(store, batch).merge(groups, counts, log)
    latest_prices.raise_latest(store, current)


def rewrite(store: Store, raw: RawBatch, batch: Batch) -> Counts:
    """Load a batch's records without touching its checkpoint, as a rebuild does.

    Returns:
        What became of the records this time.
    """
    counts = Counts()
    newest: dict[bytes, Record] = {}
    late_arrivals = LateArrivals(store, batch)
    with Lookups(store, batch["received_at"]) as lookups:
        found = incoming(
            raw,
            unpack(raw),
            origin=origin_of(raw, batch),
            first_row=batch["first_row"],
            validated_at=validation_time(batch),
            seen=lookups.begin,
        )
        for part in writing.parts(found, lookups.known):
            written = writing.write(
                store, part, counts, late_arrivals=late_arrivals, log=RewriteLog()
            )
            latest_prices.newest_of(written.current, newest)
    latest_prices.raise_latest(store, list(newest.values()))
    counts.rows_in, counts.quarantined = found.rows, len(found.faults)
    counts.duplicate = len(found) - found.identities
    return counts
