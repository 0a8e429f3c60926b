"""Late arrivals: batches that are loaded after others that were received later.

**Invariant.** Once all batches are loaded, the records are the same in whatever order, and however
often, the batches were loaded.

A row that says what is on record leaves no trace in it. If a batch received earlier brings another
value in between, that row matters after all. So whoever changes a record reads again what the
batches that were received later say of it.

**The protocol.** The loader of a batch

1. announces the batch's key range before it looks up any record in it (`announce`);
2. keeps the raw rows before it writes, and then looks up again if the batch was marked stale
   meanwhile (`recheck`);
3. after it has changed records, reads what each batch received later whose key range overlaps says
   of them, and marks stale those that are not loaded (`later_revisions`);
4. merges that, which may invalidate other look-ups, and repeats step 3 until no new overlapping
   batch appears (`merge`).

**Why it holds.** Let E change a record of which L, received later, has a row.

- L announced its key range before step 3 of E: E finds L. If L's raw rows are kept, E merges what
  they say. If they are not, E has marked L stale before it looked for them. L keeps its rows before
  it looks whether it is stale, so at least one of the two sees what the other did: E finds the
  rows, or L looks up again and sees E's change.
- L announced it after step 3 of E: E had changed the record by then, and L looks it up later than
  that. L sees the change and merges.
- E dies between changing a record and step 3: its next attempt finds that the record has a revision
  of E, or is in E's log of rewrites, and takes it for changed (`load.upserts`).
- L sees E's change while a later revision of the record is still to be merged, and takes its own
  row for known: that merge is a change as well. So E repeats step 3, and finds L.

Merging a row twice changes nothing, so it is harmless that both act. The repetition ends, because
each round meets or reads a batch for the first time. A batch whose raw rows have expired can't be
read again.

`store.batches.late_arrivals` keeps the notes. docs/late-arrivals.md draws the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from marketdata.documents.batches import Batch, Counts
from marketdata.documents.market_data import Record
from marketdata.load.incoming import Records
from marketdata.load.lookups import Lookups
from marketdata.load.raw_rows import records_of
from marketdata.load.upserts import Groups, RewriteLog, upsert
from marketdata.store.batches import late_arrivals as notes
from marketdata.store.batches import queue
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from marketdata.store.raw_batches import find_raw


class LateArrivals:
    """The protocol as the loader of one batch follows it, one method a step."""

    def __init__(self, store: Store, batch: Batch) -> None:
        """Prepare the protocol for a batch.

        Args:
            store: the database.
            batch: the batch that is loaded.
        """
        self._store = store
        self._batch = batch

    def announce(self, first: bytes, last: bytes) -> None:
        """Step 1: note the key range, before any record in it is looked up.

        Args:
            first: the lowest id.
            last: the highest one.

        Raises:
            StateConflict: a later run has reclaimed the batch.
        """
        key = BatchKey(self._batch["run_id"], self._batch["input"], self._batch["number"])
        notes.note_key_range(self._store, key, first, last)

    def recheck(self, found: Records, lookups: Lookups, read_all: Callable[[], Records]) -> Records:
        """Step 2: once the raw rows are kept for the first time, look up again if need be.

        Args:
            found: the batch's records, as they were read before the raw rows were kept.
            lookups: what is looked up of them.
            read_all: reads all rows and looks up their records, skipping none.

        Returns:
            The records to be written.

        Raises:
            StateConflict: the batch was taken from this attempt.
        """
        if notes.is_stale(self._store, self._batch["_id"]):
            if found.passed_over:
                found = read_all()
            else:
                lookups.repeat()
        # A first look-up has announced a key range, so whoever begins the batch from now on loads
        # it. Whoever began it before may have skipped it as known content; then these raw rows
        # are not the batch's, and nothing of them may be written.
        for chunk in found.chunks[:1]:
            lookups.known(chunk)
        queue.require_attempt(self._store, self._batch["_id"], self._batch["attempts"])
        return found

    def later_revisions(
        self, ids: AbstractSet[bytes], known: AbstractSet[str]
    ) -> dict[str, Groups | None]:
        """Step 3: what batches received later, yet begun earlier, say of changed records.

        Those that are not loaded are marked stale before their raw rows are looked for.

        Args:
            ids: the records that were changed.
            known: the batches that were read already, as they are named in earlier results.

        Returns:
            By a name for the batch and the time that its rows are validated at: what it says by
            identity, or None if its raw rows have expired or are not kept yet.
        """
        found: dict[str, Groups | None] = {}
        for later in notes.received_later(self._store, self._batch, ids):
            # Validated at another time, as by a replay, its rows may say more than they did.
            name = f"{later['_id']} {later.get('judged_at')}"
            if name in known:
                continue
            raw_id: str | None = later["raw_id"]
            if later["state"] != "loaded":
                # First of all: if its raw rows are not kept yet, it looks up again. Once they
                # are, it is not skipped any more, so they stay its own.
                raw_id = notes.mark_stale(self._store, later["_id"])
            raw = find_raw(self._store, raw_id) if raw_id else None
            found[name] = records_of(raw, later, ids) if raw else None
        return found

    def merge(self, groups: Groups, counts: Counts, log: RewriteLog) -> list[Record]:
        """Step 4: merge rows of the batch, then what later batches say of the changed records.

        Args:
            groups: rows of the batch whose records may exist.
            counts: inserted, updated and unchanged are added to.
            log: what earlier attempts at the batch have rewritten.

        Returns:
            The records as they are now; one that later batches changed is there again, after its
            earlier state.

        Raises:
            StateConflict: a later run has reclaimed the batch.
        """
        own = upsert(self._store, groups, counts, log)
        current = own.current
        read: dict[str, Groups] = {}
        met: set[str] = set()
        while own.changed:
            found = self.later_revisions(own.changed, read.keys())
            new = {name: rows for name, rows in found.items() if rows is not None}
            if not new and found.keys() <= met:
                break
            read |= new
            met |= found.keys()
            # How these rows count, their own batches tell.
            later = upsert(self._store, _together(read.values()), Counts(), RewriteLog())
            current += later.current
        return current


def _together(batches: Iterable[Groups]) -> Groups:
    """The rows of several batches by identity."""
    found: dict[bytes, list[Record]] = {}
    for groups in batches:
        for id_, rows in groups.items():
            found.setdefault(id_, []).extend(rows)
    return found
