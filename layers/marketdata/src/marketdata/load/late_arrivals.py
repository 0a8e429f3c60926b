"""Late arrivals: batches that are loaded after others that were received later.

**Invariant.** Once all batches are loaded, the records are the same in whatever order, and however
often, the batches were loaded.

A row that says what is on record leaves no trace in it. If a batch received earlier brings another
value in between, that row matters after all. So whoever changes a record asks the batches that
were received later what they say of it.

**The protocol.** The loader of a batch

1. announces the batch's key range before it looks up any record in it (`announce`);
2. keeps the raw rows before it writes, and then looks up again if it was marked stale meanwhile
   (`is_stale`);
3. after it has changed records, reads what each batch received later whose key range overlaps says
   of them, and marks stale those that are not loaded (`later_revisions`);
4. merges that, which may invalidate other look-ups, and repeats step 3 until no new overlapping
   batch appears (`writing.merge_in`).

**Why it holds.** Let E change a record of which L, received later, has a row.

- L announced its key range before E asked: E finds L. If L's raw rows are kept, E merges what they
  say. If they are not, E has marked L stale before it looked for them. L keeps its rows and then
  asks whether it is stale, so at least one of the two sees what the other did: E finds the rows, or
  L looks up again and sees E's change.
- L announced it after E asked: E had changed the record by then, and L looks it up later than that.
  L sees the change and merges.
- E dies between changing and asking: its next attempt finds its own change and asks then.

Merging a row twice changes nothing, so it is harmless that both act. The repetition ends, because
each round meets or reads a batch for the first time. A batch whose raw rows have expired can't be
asked.

`store.batches.late_arrivals` keeps the notes. docs/late-arrivals.md draws the sequence.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from marketdata.documents.batches import Batch
from marketdata.documents.market_data import Record
from marketdata.load.raw_rows import read_records
from marketdata.store.batches import late_arrivals as notes
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
        """Note the key range, before any record in it is looked up.

        Args:
            first: the lowest id.
            last: the highest one.

        Raises:
            StateConflict: a later run has reclaimed the batch.
        """
        key = BatchKey(self._batch["run_id"], self._batch["input"], self._batch["number"])
        notes.note_key_range(self._store, key, first, last)

    def is_stale(self) -> bool:
        """Whether the look-ups have to be done again; to be asked once the raw rows are kept."""
        return notes.is_stale(self._store, self._batch["_id"])

    def later_revisions(
        self, ids: AbstractSet[bytes], known: AbstractSet[str]
    ) -> dict[str, dict[bytes, list[Record]] | None]:
        """What batches that were received later, yet begun earlier, say of changed records.

        Those that are not loaded are marked stale before their rows are looked for.

        Args:
            ids: the records that were changed.
            known: what was asked already, by the keys of the answers.

        Returns:
            By batch and the time that its rows are validated at, what it says by identity; None
            for those whose rows are not to be had, or not yet.
        """
        found: dict[str, dict[bytes, list[Record]] | None] = {}
        for other in notes.received_later(self._store, self._batch, ids):
            # Judged by another time, as by a replay, a batch may say more than it did.
            raw_id: str | None = other["raw_id"]
            name = f"{other['_id']} {other.get('judged_at')}"
            if name in known:
                continue
            if other["state"] != "loaded":
                # Before its rows are read: if they are not there yet, it is to look again, and if
                # they are, they have to stay its own.
                raw_id = notes.mark_stale(self._store, other["_id"])
            raw = find_raw(self._store, raw_id) if raw_id else None
            found[name] = read_records(raw, other).documents_of(ids) if raw else None
        return found
