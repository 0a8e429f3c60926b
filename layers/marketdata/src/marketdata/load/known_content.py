"""Strategy: known content. A batch that only says what is on record is closed without being read.

Its previous version is the last batch that was received before from the same place: the same page
of an API, or the same part of an object of the same key.

**Preconditions.**

1. No earlier attempt at the batch has announced a key range: what that attempt wrote has to be
   counted. The run was not asked to load what is known (`force`).
2. The previous version is loaded. It has the same rows with the same numbers, in the same context,
   and was received earlier. Its raw rows are still kept.
3. The previous version is conflict-free: each of its rows brought a record that was not there, or
   said what the record said, or was at fault whatever the time. So is each batch that was received
   between the two and overlaps its key range.
4. No record in that key range has been revised since the previous version was received.
5. Nobody has marked the batch stale when it is closed.

**Why they are enough.** Two conflict-free batches agree in the records that they share, whichever
was loaded first, unless what arrived late has changed a record; 4 rules that out. So each record
says what the previous version says of it, and the batch says the same: loading it would change
nothing. A, then B, then A again leaves A, whichever places they came from: B is not conflict-free.
(3 is not enough alone. A batch may have been conflict-free because it looked at a record before all
that had been said of it was merged.)

**What arrives later, or at the same time.** The batch takes the previous version's key range for
its own before 3 and 4 are looked at. So it follows the protocol of `load.late_arrivals`: whoever
loads what was received before the batch finds it, and reads its raw rows, which are those of the
previous version. Who looks for them before the batch is closed marks it stale, and by 5 it is
loaded after all. What is being loaded meanwhile has announced its key range, is not known to be
conflict-free, and keeps the batch from being skipped by 3.
"""

from __future__ import annotations

from dataclasses import replace

from marketdata.documents.batches import Batch, BatchEnding, Counts
from marketdata.load.context import context_of
from marketdata.store import market_data, quarantine, raw_batches, runs
from marketdata.store.batches import previous_version, queue
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store


def skip(store: Store, key: BatchKey, batch: Batch) -> Counts | None:
    """Close a batch as loaded without reading it, if its content is known.

    Args:
        store: the database.
        key: the batch.
        batch: its document, as it was when the attempt began.

    Returns:
        What became of its rows; None if it has to be loaded.

    Raises:
        StateConflict: the batch was taken from this attempt.
    """
    previous = find(store, batch)
    if previous is None:
        return None
    counts = _counts(batch, previous)
    if counts.quarantined:
        quarantine.put_again(store, previous["raw_id"], batch)
    closed = queue.finish_unread(store, key, batch["attempts"], counts, _ending(previous))
    return counts if closed else None


def find(store: Store, batch: Batch) -> Batch | None:
    """The previous version that makes loading a batch needless; None if it has to be loaded.

    All preconditions hold but the fifth, which closing the batch looks at.
    """
    if "place" not in batch or "covers" in batch or runs.is_forced(store, batch["run_id"]):
        return None
    previous = previous_version.find_comparable(store, batch, context_of(batch))
    if (
        previous is None
        or not _same_rows(previous, batch)
        # It is noted that they were received again, which keeps them from expiring.
        or not raw_batches.note_seen(store, previous["raw_id"])
        or (batch["attempts"] > 1 and _has_own_raw(store, previous, batch))
    ):
        return None
    previous_version.note_known_content(store, batch["_id"], previous)
    # Without a key range all rows are in quarantine, and there is no record to be changed.
    if "covers" in previous and (
        previous_version.any_conflict_between(store, previous, batch) or _revised(store, previous)
    ):
        return None
    return previous


def _same_rows(previous: Batch, batch: Batch) -> bool:
    """Whether a conflict-free batch has the same rows as another one, with the same numbers."""
    return bool(
        previous.get("plain")
        and previous.get("digest") == batch["digest"]
        and previous["rows"] == batch["rows"]
        # A row's number is part of where its record came from.
        and previous["first_row"] == batch["first_row"]
    )


def _has_own_raw(store: Store, previous: Batch, batch: Batch) -> bool:
    """Whether an attempt that died has kept raw rows for the batch, which others may have read."""
    own = batch["raw_id"]
    return previous["raw_id"] != own and raw_batches.is_kept(store, own)


def _revised(store: Store, previous: Batch) -> bool:
    """Whether a record in a batch's key range has been revised since the batch was received."""
    first, last = bytes(previous["covers"]["first"]), bytes(previous["covers"]["last"])
    received_at, raw_id = previous["received_at"], previous["raw_id"]
    return bool(market_data.revised_after(store, first, last, received_at, raw_id, most=1))


def _counts(batch: Batch, previous: Batch) -> Counts:
    """What becomes of a batch's rows: what became of them before, but that none is new."""
    then = Counts(**previous["counts"])
    return replace(
        then,
        rows_in=batch["rows"],
        inserted=0,
        updated=0,
        unchanged=then.inserted + then.updated + then.unchanged,
    )


def _ending(previous: Batch) -> BatchEnding:
    """What a batch that is skipped notes: the previous version's raw rows are its own, too."""
    ending: BatchEnding = {
        "skipped": True,
        "known_as": previous["_id"],
        "raw_id": previous["raw_id"],
        "context": previous["context"],
        "plain": True,
    }
    if "findings" in previous:
        ending["findings"] = previous["findings"]
    return ending
