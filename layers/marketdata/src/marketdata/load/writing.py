"""Writing the records of a batch: new ones in bulk, changed ones one by one, known ones not at all.

Most batches are either new or known as a whole, and both are settled in bulk: one look-up of
what the database has, one unordered insert of the rest, a chunk at a time. Pieces are looked up
by threads of their own while the next ones are validated, and written by two, so that MongoDB
works on one while another is prepared; the driver lets go of the interpreter while it waits.
Whatever is not simply new or simply known - other values, a row that came twice, another loader
that was faster - is settled afterwards by merging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import batched
from threading import Lock
from types import TracebackType
from typing import Self

from marketdata.documents.batches import Counts
from marketdata.documents.market_data import Record
from marketdata.load import merge
from marketdata.load.incoming import Chunk, Records
from marketdata.store import market_data
from marketdata.store.connection import Store
from marketdata.store.deadline import Threads
from marketdata.store.market_data import Known

INSERTED_TOGETHER = 2_500
"""Records inserted together: large enough to hide the round trip, small enough to overlap."""

WRITTEN_TOGETHER = 5_000
"""Records of a part, so that two slices are under way at once."""

MERGED_TOGETHER = 5_000
"""Records merged together; each is in memory twice."""

_THREADS = 2

type Places = Mapping[bytes, Sequence[tuple[Chunk, int]]]
"""Where the records of some identities are: in which chunk, at which index."""
type Groups = Mapping[bytes, Sequence[Record]]
type Later = Callable[[AbstractSet[bytes], AbstractSet[str]], Mapping[str, Groups | None]]
"""Tells what batches that were received later say of some records, but for those named.

By batch; None for one whose rows are not to be had, or not yet.
"""


@dataclass(frozen=True, slots=True)
class Memory:
    """What an earlier attempt at this batch has noted, and where to note more.

    A row that is an earlier sighting of a known value counts as unchanged, but the record is
    rewritten to tell where the value was first seen. After a crash it could not be told from a
    row that brought the value; and one that had brought it may have left no trace by then, if
    an earlier sighting came in between. So ids are noted before their records are rewritten.
    """

    moved: AbstractSet[bytes] = frozenset()
    updated: AbstractSet[bytes] = frozenset()
    note: Callable[[Sequence[bytes], Sequence[bytes]], None] = lambda _moved, _updated: None
    noted_backdated: Callable[[], AbstractSet[bytes]] = frozenset
    """What is noted as moved by now: another attempt at the batch may be at work as well."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a part."""

    current: list[Record]
    """The records as they are now, but for those that were known and stay as they were."""
    plain: bool
    """Nothing was merged: every record was new, or known as it is."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a batch's records, to be written together."""

    first: int
    """The number of its first chunk in the batch."""
    inserting: Sequence[tuple[Chunk, Sequence[int]]] = ()
    """Those that are not known, as far as one can tell."""
    merging: Places = field(default_factory=dict)
    """Those that need merging."""
    unchanged: int = 0
    """The number of those that are known as they are."""

    @property
    def size(self) -> int:
        """The number of records to be written."""
        return len(self.merging) + sum(len(indexes) for _, indexes in self.inserting)

    def __add__(self, other: Part) -> Part:
        """This part and the one after it."""
        return Part(
            self.first,
            [*self.inserting, *other.inserting],
            {**self.merging, **other.merging},
            self.unchanged + other.unchanged,
        )


class Lookups:
    """Looks up which records of a batch are known while the batch is still being read.

    What it finds may be out of date when it is used. A record that was inserted since then is
    met as a duplicate key. One that was changed since then was changed by a batch that asks
    which others cover its records, and finds this one: the batch's cover is noted first.
    """

    def __init__(
        self,
        store: Store,
        received_at: datetime,
        *,
        mine: Callable[[Sequence[bytes]], AbstractSet[bytes]] | None = None,
        covering: Callable[[bytes, bytes], None] = lambda _first, _last: None,
    ) -> None:
        """Prepare looking up.

        Args:
            store: the database.
            received_at: when the batch was received.
            mine: which records an earlier attempt at the batch may have written; they are
                merged, whatever they say, as that tells how they count.
            covering: is told the lowest and the highest id of records before they are looked up.
        """
        self._store = store
        self._received_at = received_at
        self._mine = mine
        self._covering = covering
        self._pool = Threads(_THREADS)
        self._found: dict[Chunk, Future[Known]] = {}
        self._lock = Lock()
        self._span: list[bytes] = []
        self._covered: list[bytes] = []

    def __enter__(self) -> Self:
        """Nothing happens before the first chunk."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Wait for what is under way."""
        self._pool.shutdown(cancel_futures=True)

    def begin(self, chunk: Chunk) -> None:
        """Start looking up a chunk."""
        self._span = _span([*self._span, *chunk.ids])
        self._found[chunk] = self._pool.submit(self._look_up, chunk)

    def repeat(self) -> None:
        """Look up all chunks again."""
        for chunk in self._found:
            self._found[chunk] = self._pool.submit(self._look_up, chunk)

    def known(self, chunk: Chunk) -> Known:
        """Which records of a chunk are known."""
        return self._found[chunk].result()

    def _cover(self, needed: list[bytes]) -> None:
        """Note what is looked up, with all that is about to be."""
        with self._lock:
            if self._covered != _span([*self._covered, *needed]):
                span = self._span
                self._covering(span[0], span[-1])
                self._covered = span

    def _look_up(self, chunk: Chunk) -> Known:
        ids = chunk.ids
        self._cover(_span(ids))
        known = market_data.known(self._store, ids, chunk.digests, self._received_at)
        if self._mine is None:
            return known
        mine = self._mine(ids)
        return Known(known.same - mine, known.other | mine)


def _span(ids: Sequence[bytes]) -> list[bytes]:
    """The lowest and the highest of some ids."""
    return [min(ids), max(ids)]


def parts(incoming: Records, known: Callable[[Chunk], Known], first: int = 0) -> Iterator[Part]:
    """The records of a batch in parts of whole chunks, in their order.

    First those whose identity the batch has once, then the others, as if they were one chunk
    more. Pieces of which little is to be written share a part, as each costs several trips.

    Args:
        incoming: the records.
        known: which of a chunk are known.
        first: the number of the chunk to begin with.
    """
    multiple = incoming.multiple
    count = len(incoming.chunks)
    whole: Part | None = None
    for number in range(first, count):
        chunk = incoming.chunks[number]
        part = _part(number, chunk, known(chunk), multiple)
        if whole is not None and whole.size and whole.size + part.size > WRITTEN_TOGETHER:
            yield whole
            whole = None
        whole = part if whole is None else whole + part
    if whole is not None:
        yield whole
    if multiple and first <= count:
        yield Part(count, merging=multiple)


def _part(number: int, chunk: Chunk, known: Known, multiple: Places) -> Part:
    count = len(chunk)
    if not (known.same or known.other or multiple):
        return Part(number, [(chunk, range(count))])
    if len(known.same) + len(known.other) == count and not multiple:
        inserting = []
        others = [i for i, id_ in enumerate(chunk.ids) if id_ in known.other] if known.other else []
    else:
        once = [i for i, id_ in enumerate(chunk.ids) if id_ not in multiple]
        count = len(once)
        others = [i for i in once if chunk.ids[i] in known.other]
        inserting = [
            i for i in once if chunk.ids[i] not in known.same and chunk.ids[i] not in known.other
        ]
    return Part(
        number,
        [(chunk, inserting)] if inserting else [],
        {chunk.ids[i]: [(chunk, i)] for i in others},
        # An earlier sighting of the same values stays as it is: the neighbours in its line say
        # the same.
        count - len(inserting) - len(others),
    )


def write(store: Store, part: Part, counts: Counts, *, memory: Memory, later: Later) -> Written:
    """Bring records in, counting each identity once.

    Args:
        store: the database.
        part: the records.
        counts: inserted, updated and unchanged are added to.
        memory: of earlier attempts at the batch.
        later: what is known of records from batches that were received later; asked after
            records were changed, so that whoever looked at them before has been seen.
    """
    counts.unchanged += part.unchanged
    current: list[Record] = []
    merging = dict(part.merging)
    for inserted, taken in _insert(store, part):
        counts.inserted += len(inserted)
        current += inserted
        merging.update(taken)
    for ids in batched(merging, MERGED_TOGETHER, strict=False):
        current += merge_in(
            store, _documents({i: merging[i] for i in ids}), counts, memory=memory, later=later
        )
    return Written(current, plain=not merging)


def merge_in(
    store: Store, groups: Groups, counts: Counts, *, memory: Memory, later: Later
) -> list[Record]:
    """Bring records in by merging; see `write`.

    What later batches say is a change like any other, whoever writes it first: who looked at a
    record before that has to be asked as well. So they are asked until nobody is new among them.
    Whoever comes after that sees the record as it is.
    """
    settled, changed = _settle(store, groups, counts, memory)
    said: dict[str, Groups] = {}
    met: set[str] = set()
    while changed:
        found = later(changed, said.keys())
        read = {name: groups for name, groups in found.items() if groups is not None}
        if not read and found.keys() <= met:
            break
        said |= read
        met |= found.keys()
        settled += _settle(store, _together(said.values()), Counts(), Memory())[0]
    return settled


def _together(many: Iterable[Groups]) -> Groups:
    """The documents of several batches by identity."""
    documents: dict[bytes, list[Record]] = {}
    for groups in many:
        for id_, group in groups.items():
            documents.setdefault(id_, []).extend(group)
    return documents


def _insert(store: Store, part: Part) -> Iterator[tuple[list[Record], Places]]:
    """Insert what is not known; of each some what was inserted, and where the rest is."""

    def insert(chunk: Chunk, indexes: Sequence[int]) -> tuple[list[Record], Places]:
        documents = chunk.documents(indexes)
        taken = market_data.insert_new(store, documents)
        if not taken:
            return documents, {}
        places = {chunk.ids[i]: [(chunk, i)] for i in indexes if chunk.ids[i] in taken}
        return [d for d in documents if d["_id"] not in taken], places

    slices = [
        (chunk, some)
        for chunk, indexes in part.inserting
        for some in batched(indexes, INSERTED_TOGETHER, strict=False)
    ]
    if len(slices) <= 1:
        yield from (insert(*some) for some in slices)
        return
    with Threads(_THREADS) as pool:
        yield from pool.map(lambda some: insert(*some), slices)


def _documents(places: Places) -> dict[bytes, list[Record]]:
    """The documents at these places by identity, in the order of rows."""
    by_piece: dict[Chunk, list[int]] = {}
    for found in places.values():
        for chunk, index in found:
            by_piece.setdefault(chunk, []).append(index)
    documents: dict[bytes, list[Record]] = {}
    for chunk, indexes in by_piece.items():
        for document in chunk.documents(indexes):
            documents.setdefault(document["_id"], []).append(document)
    return {id_: sorted(group, key=merge.precedence) for id_, group in documents.items()}


def _settle(
    store: Store, groups: Groups, counts: Counts, memory: Memory
) -> tuple[list[Record], set[bytes]]:
    """Bring in what needs merging.

    Whatever another loader does at the same time is seen as either an existing record or a
    lost update, and the merge starts again from what is there.

    Returns:
        The records as they are now, and the ids of those that existed and were changed, now or
        before a crash.
    """
    noted = memory.moved | memory.updated
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
        noted_backdated = cache(memory.noted_backdated)
        for id_, old in existing.items():
            merged = merge.merge([old, *groups[id_]])
            # Who inserted it stays: the order of revisions need not be that of loading.
            merged["inserted_by"] = old["inserted_by"]
            if _same_line(old, merged):
                _count_known(counts, old, groups[id_][0], memory, noted_backdated)
                current.append(old)
                if id_ in noted or _is_in_between(old, groups[id_]):
                    # Whoever wrote it, an attempt that died for one, may not have got to ask.
                    changed.add(id_)
            else:
                replacements.append((old, merged))
        moved = {bytes(o["_id"]) for o, m in replacements if merge.same_story(o, m)}
        if replacements:
            updated = {bytes(o["_id"]) for o, _ in replacements} - moved
            memory.note(sorted(moved - memory.moved), sorted(updated - memory.updated))
        lost = set(market_data.replace_if_unchanged(store, replacements))
        for old, merged in replacements:
            id_ = bytes(old["_id"])
            # One that counts as lost may have been written, and replaced by somebody else since.
            changed.add(id_)
            if id_ in lost:
                continue
            if id_ in moved:
                counts.unchanged += 1
            else:
                counts.updated += 1
            current.append(merged)
        open_ids = [*taken, *lost]
    return current, changed


def _first(documents: Sequence[Record]) -> Record:
    """The record of an identity that is new."""
    if len(documents) == 1:
        return documents[0]
    return merge.merge(documents) | {"inserted_by": documents[0]["inserted_by"]}


def _is_in_between(document: Record, mine: Sequence[Record]) -> bool:
    """Whether one of these rows is a sighting of a record that has several."""
    return "history" in document and any(
        merge.same_row(sighting, row) for sighting in merge.revisions(document) for row in mine
    )


def _same_line(a: Record, b: Record) -> bool:
    """Whether two states of a record have the same revisions."""
    mine, other = merge.revisions(a), merge.revisions(b)
    return merge.same_story(a, b) and all(map(merge.same_row, mine, other))


def _count_known(
    counts: Counts,
    existing: Record,
    mine: Record,
    memory: Memory,
    noted_backdated: Callable[[], AbstractSet[bytes]],
) -> None:
    """Count an identity whose record needs no change.

    If this very batch had written it before a crash, or another attempt at it has by now, it is
    what it was then.
    """
    if mine["_id"] in memory.moved:
        counts.unchanged += 1
    elif existing["inserted_by"] == mine["inserted_by"]:
        counts.inserted += 1
    elif mine["_id"] in memory.updated:
        counts.updated += 1
    elif any(
        sighting["raw_id"] == mine["raw_id"] and sighting["run_id"] == mine["run_id"]
        for sighting in merge.revisions(existing)
    ):
        if mine["_id"] in noted_backdated():
            counts.unchanged += 1
        else:
            counts.updated += 1
    else:
        counts.unchanged += 1
