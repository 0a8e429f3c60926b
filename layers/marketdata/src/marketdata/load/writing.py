"""Writing the records of a batch: new ones in bulk, changed ones one by one, known ones not at all.

Most batches are either new or known as a whole, and both are settled in bulk: one look-up of what
the database has (`load.lookups`), one unordered insert of the rest, a chunk at a time. Two threads
insert, so that MongoDB works on one slice while another is prepared; the driver lets go of the
interpreter while it waits. Whatever is not simply new or simply known - other values, a row that
came twice, another loader that was faster - is merged afterwards (`load.upserts`), as the protocol
of late arrivals wants it (`load.late_arrivals`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched

from marketdata.documents.batches import Counts
from marketdata.documents.market_data import Record
from marketdata.load import merge
from marketdata.load.incoming import Chunk, Records
from marketdata.load.late_arrivals import LateArrivals
from marketdata.load.upserts import RewriteLog
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


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a part."""

    current: list[Record]
    """The records as they are now, but for those that were known and stay as they were."""
    conflict_free: bool
    """Nothing was merged: every record was new, or known as it is."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a batch's records, to be written together."""

    first: int
    """The number of its first chunk in the batch."""
    inserting: Sequence[tuple[Chunk, Sequence[int]]] = ()
    """Those that were not on record when they were looked up."""
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


def parts(incoming: Records, known: Callable[[Chunk], Known], first: int = 0) -> Iterator[Part]:
    """The records of a batch in parts of whole chunks, in their order.

    First those whose identity the batch has once, then the others, as if they were one chunk
    more. Chunks of which little is to be written share a part, as each costs several trips.

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
        # A record that says the same and was received earlier stays as it is: neighbouring
        # revisions that say the same are one, the first of them.
        count - len(inserting) - len(others),
    )


def write(
    store: Store, part: Part, counts: Counts, *, late_arrivals: LateArrivals, log: RewriteLog
) -> Written:
    """Bring records in, counting each identity once.

    Args:
        store: the database.
        part: the records.
        counts: inserted, updated and unchanged are added to.
        late_arrivals: the protocol, as the batch follows it.
        log: what earlier attempts at the batch have rewritten.
    """
    counts.unchanged += part.unchanged
    current: list[Record] = []
    merging = dict(part.merging)
    for inserted, taken in _insert(store, part):
        counts.inserted += len(inserted)
        current += inserted
        merging.update(taken)
    for ids in batched(merging, MERGED_TOGETHER, strict=False):
        current += late_arrivals.merge(_documents({i: merging[i] for i in ids}), counts, log)
    return Written(current, conflict_free=not merging)


def _insert(store: Store, part: Part) -> Iterator[tuple[list[Record], Places]]:
    """Insert what is not known.

    Yields:
        Of each slice the records that were inserted, and the places of those that somebody else
        had inserted by then.
    """

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
    by_chunk: dict[Chunk, list[int]] = {}
    for found in places.values():
        for chunk, index in found:
            by_chunk.setdefault(chunk, []).append(index)
    documents: dict[bytes, list[Record]] = {}
    for chunk, indexes in by_chunk.items():
        for document in chunk.documents(indexes):
            documents.setdefault(document["_id"], []).append(document)
    return {id_: sorted(group, key=merge.precedence) for id_, group in documents.items()}
