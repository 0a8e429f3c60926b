"""Looking up which records of a batch are on record, by threads, while the batch is still read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from datetime import datetime
from threading import Lock
from types import TracebackType
from typing import Self

from marketdata.load.incoming import Chunk
from marketdata.store import market_data
from marketdata.store.connection import Store
from marketdata.store.deadline import Threads
from marketdata.store.market_data import Known

_THREADS = 2


class Lookups:
    """Looks up which records of a batch are known while the batch is still being read.

    What it finds may be out of date when it is used. A record that was inserted since then is met
    as a duplicate key. One that was changed since then is the business of `load.late_arrivals`: the
    batch's key range is announced before a record in it is looked up.
    """

    def __init__(
        self,
        store: Store,
        received_at: datetime,
        *,
        written_before: Callable[[Sequence[bytes]], AbstractSet[bytes]] | None = None,
        announce: Callable[[bytes, bytes], None] = lambda _first, _last: None,
    ) -> None:
        """Prepare looking up.

        Args:
            store: the database.
            received_at: when the batch was received.
            written_before: which of some records an earlier attempt at the batch may have written.
                They are merged, whatever they say, as that tells how they count.
            announce: is told the lowest and the highest id of records before they are looked up.
        """
        self._store = store
        self._received_at = received_at
        self._written_before = written_before
        self._announce = announce
        self._pool = Threads(_THREADS)
        self._found: dict[Chunk, Future[Known]] = {}
        self._lock = Lock()
        self._begun: list[bytes] = []
        self._announced: list[bytes] = []

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
        self._begun = _key_range([*self._begun, *chunk.ids])
        self._found[chunk] = self._pool.submit(self._look_up, chunk)

    def repeat(self) -> None:
        """Look up all chunks again."""
        for chunk in self._found:
            self._found[chunk] = self._pool.submit(self._look_up, chunk)

    def known(self, chunk: Chunk) -> Known:
        """Which records of a chunk are known."""
        return self._found[chunk].result()

    def _announce_first(self, needed: list[bytes]) -> None:
        """Announce what is about to be looked up, with all chunks that were begun by now."""
        with self._lock:
            if self._announced != _key_range([*self._announced, *needed]):
                begun = self._begun
                self._announce(begun[0], begun[-1])
                self._announced = begun

    def _look_up(self, chunk: Chunk) -> Known:
        ids = chunk.ids
        self._announce_first(_key_range(ids))
        known = market_data.known(self._store, ids, chunk.digests, self._received_at)
        if self._written_before is None:
            return known
        written = self._written_before(ids)
        return Known(known.same - written, known.other | written)


def _key_range(ids: Sequence[bytes]) -> list[bytes]:
    """The lowest and the highest of some ids."""
    return [min(ids), max(ids)]
