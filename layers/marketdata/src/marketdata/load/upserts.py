"""Rows that meet records: what is new is inserted, what is there is merged, and both are counted.

A record is replaced only if it still is what was read. So whatever another loader does at the same
time is seen, either as a record that exists or as an update that is lost, and the merge starts
again from what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache

from marketdata.documents.batches import Batch, Counts
from marketdata.documents.market_data import Record
from marketdata.load import merge
from marketdata.store import market_data
from marketdata.store.batches import rewrites
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store

type Groups = Mapping[bytes, Sequence[Record]]
"""What the rows of a batch say, as records by identity, in the order of rows."""


class RewriteLog:
    """The log of what a batch rewrites; this one is empty and stays so, see `StoredRewriteLog`.

    For merges whose counts nobody keeps.
    """

    backdated: frozenset[bytes] = frozenset()
    """Records that earlier attempts have backdated, or were about to."""
    updated: frozenset[bytes] = frozenset()
    """The other records that they have rewritten, or were about to."""

    def note(self, backdated: Sequence[bytes], updated: Sequence[bytes]) -> None:
        """Note records, before they are rewritten."""

    def noted_backdated(self) -> AbstractSet[bytes]:
        """What is noted as backdated by now: another attempt may be at work as well."""
        return frozenset()


class StoredRewriteLog(RewriteLog):
    """The log as it is stored with the batch, so that its counts survive a crash.

    A row that brings a known value of an earlier time counts as unchanged, but its record is
    backdated: rewritten to tell since when the value is known. After a crash it could not be told
    from a row that brought the value; and one that had brought it may have left no trace by then,
    if an earlier revision came in between. So ids are noted before their records are rewritten.
    """

    def __init__(self, store: Store, batch: Batch) -> None:
        """Read the log of a batch's earlier attempts.

        Args:
            store: the database.
            batch: the batch, as it was when the attempt began.
        """
        self._store = store
        self._key = BatchKey(batch["run_id"], batch["input"], batch["number"])
        self._batch_id = batch["_id"]
        self.backdated = frozenset(map(bytes, batch.get("moved", ())))
        self.updated = frozenset(map(bytes, batch.get("updated", ())))

    def note(self, backdated: Sequence[bytes], updated: Sequence[bytes]) -> None:
        """Note records, before they are rewritten.

        Raises:
            StateConflict: a later run has reclaimed the batch.
        """
        rewrites.note_rewrites(self._store, self._key, backdated, updated)

    def noted_backdated(self) -> AbstractSet[bytes]:
        """What is noted as backdated by now: another attempt may be at work as well."""
        return rewrites.noted_backdated(self._store, self._batch_id)

    def may_have_written(self, ids: Sequence[bytes]) -> set[bytes]:
        """Which of some records earlier attempts at the batch may have written."""
        inserted = market_data.inserted_by(self._store, ids, self._batch_id)
        return inserted.union((self.backdated | self.updated).intersection(ids))


@dataclass(frozen=True, slots=True)
class Upserted:
    """What became of some rows."""

    current: list[Record]
    """The records as they are now."""
    changed: set[bytes]
    """The records that existed and were changed, now or by an attempt that died."""


def upsert(store: Store, groups: Groups, counts: Counts, log: RewriteLog) -> Upserted:
    """Bring rows in whose records may exist.

    Args:
        store: the database.
        groups: the rows; of several batches only if nobody needs the counts.
        counts: inserted, updated and unchanged are added to.
        log: what earlier attempts at the batch have rewritten.

    Raises:
        StateConflict: a later run has reclaimed the batch.
    """
    noted = log.backdated | log.updated
    current: list[Record] = []
    changed: set[bytes] = set()
    open_ids = list(groups)
    while open_ids:
        existing = market_data.find_existing(store, open_ids)
        new = [_first(groups[id_]) for id_ in open_ids if id_ not in existing]
        taken = market_data.insert_new(store, new)
        inserted = [document for document in new if document["_id"] not in taken]
        counts.inserted += len(inserted)
        current += inserted

        replacements = []
        # Read after the records: whatever another attempt has written, it had noted before.
        noted_backdated = cache(log.noted_backdated)
        for id_, old in existing.items():
            merged = merge.merge([old, *groups[id_]])
            # Who inserted it stays: the order of revisions need not be that of loading.
            merged["inserted_by"] = old["inserted_by"]
            if _same_revisions(old, merged):
                _count_unwritten(counts, old, groups[id_][0], log, noted_backdated)
                current.append(old)
                if id_ in noted or _has_revision_of(old, groups[id_]):
                    # Whoever rewrote it may have died before it read what later batches say.
                    changed.add(id_)
            else:
                replacements.append((old, merged))
        backdated = {bytes(o["_id"]) for o, m in replacements if merge.same_history(o, m)}
        if replacements:
            updated = {bytes(o["_id"]) for o, _ in replacements} - backdated
            log.note(sorted(backdated - log.backdated), sorted(updated - log.updated))
        lost = set(market_data.replace_if_unchanged(store, replacements))
        for old, merged in replacements:
            id_ = bytes(old["_id"])
            # One that counts as lost may have been written, and replaced by somebody else since.
            changed.add(id_)
            if id_ in lost:
                continue
            if id_ in backdated:
                counts.unchanged += 1
            else:
                counts.updated += 1
            current.append(merged)
        open_ids = [*taken, *lost]
    return Upserted(current, changed)


def _first(rows: Sequence[Record]) -> Record:
    """The record of an identity that is new."""
    if len(rows) == 1:
        return rows[0]
    return merge.merge(rows) | {"inserted_by": rows[0]["inserted_by"]}


def _has_revision_of(record: Record, rows: Sequence[Record]) -> bool:
    """Whether one of these rows is a revision of a record that has several."""
    return "history" in record and any(
        merge.same_row(revision, row) for revision in merge.revisions(record) for row in rows
    )


def _same_revisions(a: Record, b: Record) -> bool:
    """Whether two states of a record have the same revisions, of the same rows."""
    return merge.same_history(a, b) and all(
        map(merge.same_row, merge.revisions(a), merge.revisions(b))
    )


def _count_unwritten(
    counts: Counts,
    record: Record,
    row: Record,
    log: RewriteLog,
    noted_backdated: Callable[[], AbstractSet[bytes]],
) -> None:
    """Count an identity whose record needs no change.

    If this very batch had written it before a crash, or another attempt at it has by now, it
    counts as what it was then.
    """
    if row["_id"] in log.backdated:
        counts.unchanged += 1
    elif record["inserted_by"] == row["inserted_by"]:
        counts.inserted += 1
    elif row["_id"] in log.updated:
        counts.updated += 1
    elif any(
        revision["raw_id"] == row["raw_id"] and revision["run_id"] == row["run_id"]
        for revision in merge.revisions(record)
    ):
        if row["_id"] in noted_backdated():
            counts.unchanged += 1
        else:
            counts.updated += 1
    else:
        counts.unchanged += 1
