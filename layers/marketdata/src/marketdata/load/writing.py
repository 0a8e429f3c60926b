"""Writing the records of a batch: new ones in bulk, changed ones one by one, known ones not at all.

Most batches are either new or known as a whole, and both are settled in bulk, a chunk at a time:
one look-up of what the database has, one unordered insert of the rest. Chunks are written by
two threads, so that MongoDB works on one while the next is prepared; the driver lets go of the
interpreter while it waits. Whatever is not simply new or simply known - other values, a row
that came twice, another loader that was faster - is settled afterwards by merging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import batched

from marketdata.load import merge
from marketdata.schema.record import VALUE_FIELDS
from marketdata.store import records
from marketdata.store.batches import Counts
from marketdata.store.connection import Document, Store

CHUNK = 2_500
"""Records written together: large enough to hide the round trip, small enough to overlap."""

_WRITERS = 2
_PROBE = 16
"""Ids by which a chunk is taken for new; a wrong guess costs time and nothing else."""

type Groups = Mapping[bytes, Sequence[Document]]
type Later = Callable[[AbstractSet[bytes]], Groups]


@dataclass(frozen=True, slots=True)
class Memory:
    """What an earlier attempt at this batch has noted, and where to note more.

    A row that is an earlier sighting of a known value counts as unchanged, but the record is
    rewritten to tell where the value was first seen. After a crash it could not be told from a
    row that brought the value, so such ids are noted before they are written.
    """

    moved: AbstractSet[bytes]
    note_moved: Callable[[Sequence[bytes]], None]


@dataclass(frozen=True, slots=True)
class _Written:
    """What became of a chunk."""

    inserted: list[Document]
    unchanged: int
    open: list[bytes]
    """Ids that need merging."""


def write(
    store: Store,
    groups: Groups,
    received_at: datetime,
    counts: Counts,
    *,
    memory: Memory,
    later: Later,
) -> list[Document]:
    """Bring records in, counting each identity once.

    Args:
        store: the database.
        groups: the documents of each identity, in the order of their rows; nearly always one.
        received_at: when the batch was received; part of every document's precedence.
        counts: inserted, updated and unchanged are added to.
        memory: of earlier attempts at the batch.
        later: what is known of records from batches that were received later; asked after
            records were changed, so that whoever looked at them before has been seen.

    Returns:
        The records as they are now, but for those that were known and stay as they were.
    """
    current: list[Document] = []
    merging = [id_ for id_, documents in groups.items() if len(documents) > 1]
    single = (documents[0] for documents in groups.values() if len(documents) == 1)
    chunks = (list(chunk) for chunk in batched(single, CHUNK, strict=False))
    for written in _in_parallel(store, chunks, received_at):
        counts.inserted += len(written.inserted)
        counts.unchanged += written.unchanged
        current += written.inserted
        merging += written.open
    settled, changed = _settle(store, {id_: groups[id_] for id_ in merging}, counts, memory)
    if changed and (sightings := later(changed)):
        again, _ = _settle(store, sightings, Counts(), memory)
        settled += again
    return current + settled


def _in_parallel(
    store: Store, chunks: Iterable[list[Document]], received_at: datetime
) -> list[_Written]:
    with ThreadPoolExecutor(_WRITERS) as pool:
        return list(pool.map(lambda chunk: _write_chunk(store, chunk, received_at), chunks))


def _write_chunk(store: Store, chunk: list[Document], received_at: datetime) -> _Written:
    """Insert what is new and pass over what is known, where that is plain to see.

    A record with the same values and an earlier sighting stays as it is: the neighbours in its
    line say the same.
    """
    ids = [document["_id"] for document in chunk]
    known: dict[bytes, Document] = {}
    if len(ids) <= _PROBE or records.any_exists(store, ids[:: len(ids) // _PROBE]):
        known = records.earlier_values(store, ids, received_at)
    new, changed, unchanged = [], [], 0
    for document in chunk:
        values = known.get(document["_id"])
        if values is None:
            new.append(document)
        elif values == {f: document[f] for f in VALUE_FIELDS if f in document}:
            unchanged += 1
        else:
            changed.append(document["_id"])
    taken = records.insert_new(store, new)
    inserted = [d for d in new if d["_id"] not in taken] if taken else new
    return _Written(inserted, unchanged, [*changed, *taken])


def _settle(
    store: Store, groups: Groups, counts: Counts, memory: Memory
) -> tuple[list[Document], set[bytes]]:
    """Bring in what needs merging.

    Whatever another loader does at the same time is seen as either an existing record or a
    lost update, and the merge starts again from what is there.

    Returns:
        The records as they are now, and the ids of those that existed and were changed.
    """
    current: list[Document] = []
    changed: set[bytes] = set()
    open_ids = list(groups)
    while open_ids:
        existing = records.find_existing(store, open_ids)
        new = [_first(groups[id_]) for id_ in open_ids if id_ not in existing]
        taken = records.insert_new(store, new)
        inserted = [document for document in new if document["_id"] not in taken]
        counts.inserted += len(inserted)
        current += inserted

        replacements = []
        for id_, old in existing.items():
            merged = merge.merge([old, *groups[id_]])
            # Who inserted it stays: the order of sightings need not be that of loading.
            merged["inserted_by"] = old["inserted_by"]
            if _same_line(old, merged):
                _count_known(counts, old, groups[id_][0], memory)
                current.append(old)
            else:
                replacements.append((old, merged))
        moved = {bytes(o["_id"]) for o, m in replacements if merge.same_story(o, m)}
        if moved:
            memory.note_moved(sorted(moved))
        lost = set(records.replace_if_unchanged(store, replacements))
        for old, merged in replacements:
            id_ = bytes(old["_id"])
            if id_ in lost:
                continue
            if id_ in moved:
                counts.unchanged += 1
            else:
                counts.updated += 1
            current.append(merged)
            changed.add(id_)
        open_ids = [*taken, *lost]
    return current, changed


def _first(documents: Sequence[Document]) -> Document:
    """The record of an identity that is new."""
    if len(documents) == 1:
        return documents[0]
    return merge.merge(documents) | {"inserted_by": documents[0]["inserted_by"]}


def _same_line(a: Document, b: Document) -> bool:
    """Whether two states of a record have the same sightings."""
    mine, other = merge.sightings(a), merge.sightings(b)
    return merge.same_story(a, b) and all(map(merge.same_row, mine, other))


def _count_known(counts: Counts, existing: Document, mine: Document, memory: Memory) -> None:
    """Count an identity whose record needs no change.

    If this very batch had written it before a crash, it is what it was then.
    """
    if mine["_id"] in memory.moved:
        counts.unchanged += 1
    elif existing["inserted_by"] == mine["inserted_by"]:
        counts.inserted += 1
    elif any(
        sighting["raw_id"] == mine["raw_id"] and sighting["run_id"] == mine["run_id"]
        for sighting in merge.sightings(existing)
    ):
        counts.updated += 1
    else:
        counts.unchanged += 1
