"""`python -m marketdata.load.rebuild`: `market_data` and `latest_prices` anew from the raw batches.

Collections are built beside the live ones, by the loader itself, while the pipeline goes on; then
they take the live ones' place, each in one step, and what was under way at that moment is loaded
once more. Loading is idempotent and does not depend on the order, so that all this ends in what
loading everything at once would have given.

Nothing is lost: what the live records have from raw batches that can't be read any more (expired,
or of batches that never came to their end) is copied from them.

A rebuild that is killed leaves the live collections as they are, or, if it dies after the
exchange, a note by which the next one first brings it to its end.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import batched
from typing import Any

from marketdata.documents.batches import Batch, Counts
from marketdata.documents.market_data import LatestPrice, Record, Revision
from marketdata.documents.raw_batches import RawBatch
from marketdata.documents.rebuilds import Rebuild, RebuildChanges, RebuildPhase
from marketdata.errors import MarketDataError, StateConflict, TerminalError
from marketdata.load import loader, merge
from marketdata.load.raw_rows import read_records
from marketdata.load.resolving import ReplayRows
from marketdata.schema.record import VALUE_FIELDS
from marketdata.store import latest_prices, market_data, quarantine, rebuilds
from marketdata.store.batches import replays
from marketdata.store.command_line import read_place
from marketdata.store.connection import Store
from marketdata.store.deadline import Threads
from marketdata.store.raw_batches import find_raw
from marketdata.store.rebuilds import Signature
from marketdata.store.server_time import server_clock

LEASE_SECONDS = 20.0
"""Time after which a rebuild without a heartbeat is taken for dead."""
LOADER_SECONDS = 960.0
"""Nobody has been at a batch for longer than this: the longest that a function lives."""

_ORIGINS = ("raw_id", "run_id", "row")
_NOTHING: AbstractSet[int] = frozenset()
_TOGETHER = 1_000
_SKEW = timedelta(minutes=20)
"""Longer than a function lives, and than its clock is off."""


@dataclass(slots=True)
class Report:
    """What a rebuild did."""

    batches: int = 0
    rows: int = 0
    records: int = 0
    """In the collection after it."""
    unavailable: int = 0
    """Batches whose raw batch has expired, or can't be read."""
    kept: int = 0
    """Records of which something was copied from the live ones."""
    again: int = 0
    """Batches that were loaded once more, as they were closed or replayed meanwhile."""
    seconds: float = 0.0
    finished_another: bool = False
    """An earlier rebuild that had been killed after the exchange was brought to its end."""

    def lines(self) -> Iterator[str]:
        """The report in words."""
        if self.finished_another:
            yield "brought to its end what an earlier rebuild had begun, which was killed"
        else:
            pace = self.rows / self.seconds if self.seconds else 0
            yield (
                f"{self.batches} batches, {self.rows} rows, {self.records} records in "
                f"{self.seconds:.1f} s: {pace:.0f} rows/s"
            )
            yield (
                f"{self.unavailable} batches could not be used as their raw batches have expired "
                f"or can't be read; {self.kept} records were copied, or parts of them"
            )
        yield f"{self.again} batches were loaded once more, as they came or changed meanwhile"


type Say = Callable[[str], None]


def rebuild(
    store: Store,
    say: Say = lambda _line: None,
    *,
    lease_seconds: float = LEASE_SECONDS,
    loader_seconds: float = LOADER_SECONDS,
) -> Report:
    """Rebuild the records and the latest prices.

    Args:
        store: the database.
        say: is told of each step.
        lease_seconds: how long another rebuild without a heartbeat is waited for.
        loader_seconds: how long a batch that is being loaded at the exchange is waited for.

    Raises:
        StateConflict: another rebuild is under way.
        TransientError: MongoDB is out of reach; a rebuild may be started again.
    """
    with _Ownership.taken(store, lease_seconds, say) as ownership:
        return _Rebuild(store, ownership, say, loader_seconds).run()


# --- one at a time ------------------------------------------------------------------------


@dataclass(slots=True)
class _Ownership:
    """That this rebuild is the one under way, kept by a heartbeat on the server's clock."""

    store: Store
    owner: str
    before: Rebuild
    """What the rebuild before this one had noted."""
    lost: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextmanager
    def taken(cls, store: Store, seconds: float, say: Say) -> Iterator[_Ownership]:
        """Be the owner for a block; an owner that has died is waited out.

        Raises:
            StateConflict: another owner lives.
        """
        owner = uuid.uuid4().hex[:12]
        deadline = time.monotonic() + seconds + 1
        seen: datetime | None = None
        while (before := rebuilds.begin(store, owner, seconds)) is None:
            expires_at = rebuilds.expires_at(store)
            if seen is None:
                seen = expires_at
                say("another rebuild has begun and not ended; waiting for its heartbeat")
            elif expires_at != seen or time.monotonic() > deadline:
                raise StateConflict("Another rebuild is under way. Wait for its end.")
            time.sleep(min(0.5, seconds / 10))
        ownership = cls(store, owner, before)
        ended = threading.Event()
        thread = threading.Thread(target=ownership._live, args=(seconds, ended), daemon=True)
        thread.start()
        try:
            yield ownership
        finally:
            ended.set()
            thread.join()
            rebuilds.let_go(store, owner)

    def _live(self, seconds: float, ended: threading.Event) -> None:
        alive = time.monotonic()
        while not ended.wait(seconds / 5):
            try:
                mine = rebuilds.heartbeat(self.store, self.owner, seconds)
            except MarketDataError:
                if time.monotonic() - alive > seconds:
                    self.lost.set()
                continue
            alive = time.monotonic()
            if not mine:
                self.lost.set()

    def require(self) -> None:
        """Go no further once another rebuild is the owner.

        Raises:
            StateConflict: it is.
        """
        if self.lost.is_set():
            raise StateConflict(
                "Another rebuild has begun, as this one had no heartbeat for too long. Nothing is "
                "lost; the other one goes on."
            )

    def note(self, changes: RebuildChanges) -> None:
        """Store how far the rebuild is.

        Raises:
            StateConflict: another rebuild is the owner by now.
        """
        if not rebuilds.note(self.store, self.owner, changes):
            self.lost.set()
        self.require()


# --- the rebuild --------------------------------------------------------------------------


class _Rebuild:
    def __init__(
        self, store: Store, ownership: _Ownership, say: Say, loader_seconds: float
    ) -> None:
        self._store = store
        self._ownership = ownership
        self._say = say
        self._loader_seconds = loader_seconds
        self._beside = rebuilds.beside(store, ownership.owner)
        self._loaded: dict[str, Signature] = {}
        """How each batch was when it was loaded."""
        self._covered: dict[tuple[str, str], AbstractSet[int]] = {}
        """The raw batches, each with its run, that were loaded; and the rows that were not."""
        self._replayed: dict[tuple[str, str], set[int]] = {}
        """Of these, the rows that replay batches have loaded."""
        self._unfinished: dict[str, Signature] = {}
        """The batches that were not loaded at the beginning, as they were then."""
        self._report = Report()

    def run(self) -> Report:
        began = time.monotonic()
        before = self._ownership.before
        if before["phase"] == RebuildPhase.EXCHANGING and rebuilds.is_exchanged(
            self._store, before["beside"]
        ):
            self._report.finished_another = True
            rebuilds.exchange(self._store, before["beside"])
            self._catch_up(before["since"])
        else:
            self._build()
        rebuilds.remove_leftovers(self._store)
        self._ownership.note({"phase": RebuildPhase.DONE})
        self._report.records = rebuilds.count_records(self._store)
        self._report.seconds = time.monotonic() - began
        return self._report

    def _build(self) -> None:
        """Build the records beside the live ones, put them in their place, catch up."""
        store, built = self._store, self._beside
        since = server_clock(store).now() - _SKEW
        self._ownership.note({"phase": RebuildPhase.BUILDING})
        rebuilds.remove_leftovers(store)
        self._unfinished = rebuilds.unfinished_signatures(store)
        rebuilds.make_collections(store, built)
        self._load_all()
        self._keep_what_only_live_records_know()
        self._say("making the indexes")
        rebuilds.copy_indexes(store, built, "market_data")
        rebuilds.drop_expired(store, built)
        self._catch_up_beside()
        for name in rebuilds.EXCHANGED:
            # A migration may have made others by now.
            rebuilds.copy_indexes(store, built, name)
        collections = rebuilds.names(built)
        self._ownership.note(
            {"phase": RebuildPhase.EXCHANGING, "beside": collections, "since": since}
        )
        self._say("exchanging the collections")
        rebuilds.exchange(store, collections)
        self._catch_up(since)

    # --- loading ----------------------------------------------------------------------------

    def _load_all(self) -> None:
        """Load every batch that is loaded, in the order of receipt.

        In that order nothing that was loaded before ever has to be asked again.
        """
        ids = rebuilds.loaded_in_order(self._store)
        self._say(f"loading {len(ids)} batches")
        began, told = time.monotonic(), time.monotonic()
        for batch, raw in self._with_raw(ids):
            self._load(self._beside, batch, raw)
            if time.monotonic() - told > 5:  # noqa: PLR2004 - seconds between two lines
                told = time.monotonic()
                pace = self._report.rows / (told - began)
                self._say(f"{len(self._loaded)} of {len(ids)} batches, {pace:.0f} rows/s")

    def _with_raw(self, ids: Iterable[str]) -> Iterator[tuple[Batch, RawBatch | None]]:
        """Batches with their raw batches; the next one is fetched while one is loaded."""

        def fetch(id_: str) -> tuple[Batch, RawBatch | None] | None:
            batch = rebuilds.find_batch(self._store, id_, state="loaded")
            return None if batch is None else (batch, find_raw(self._store, batch["raw_id"]))

        with Threads(1) as pool:
            coming = None
            for id_ in ids:
                ahead = pool.submit(fetch, id_)
                if coming is not None and (found := coming.result()) is not None:
                    yield found
                coming = ahead
            if coming is not None and (found := coming.result()) is not None:
                yield found

    def _load(self, target: Store, batch: Batch, raw: RawBatch | None) -> None:
        """Load one batch, as far as its rows were loaded: what is in quarantine stays there."""
        self._ownership.require()
        self._loaded[batch["_id"]] = rebuilds.signature(batch)
        if target is self._beside:
            rebuilds.copy_batch(target, batch)
        if raw is None:
            self._report.unavailable += 1
            return
        try:
            left_out = self._rewrite(target, raw, batch)
        except TerminalError as error:
            self._report.unavailable += 1
            self._say(f"batch {batch['_id']} can't be read: {error}")
            return
        run_id: str = batch.get("first_run_id") or batch["run_id"]
        if "resolves" in batch:
            rows = set(batch["resolves"]["rows"]).difference(left_out)
            self._replayed.setdefault((batch["raw_id"], run_id), set()).update(rows)
        else:
            self._covered[batch["raw_id"], run_id] = left_out
        self._report.batches += 1
        self._report.rows += batch["rows"]

    def _rewrite(self, target: Store, raw: RawBatch, batch: Batch) -> AbstractSet[int]:
        """Load a batch's rows; returns the numbers of those that were not."""
        if "resolves" in batch:
            return self._rewrite_replay(target, raw, batch)
        aside: set[int] = set()
        if batch["counts"]["quarantined"]:
            aside = self._set_aside(batch)
        elif not loader.rewrite(target, raw, batch).quarantined:
            return _NOTHING
        found = read_records(raw, batch)
        faults = {batch["first_row"] + fault.row for fault in found.faults}
        if aside <= faults:
            loader.rewrite(target, raw, batch)
            return faults
        # Today's code understands rows that are still in quarantine: replaying is what loads them.
        groups = {
            id_: kept
            for id_, documents in found.groups.items()
            if (kept := [document for document in documents if document["row"] not in aside])
        }
        if groups:
            loader.write_records(target, batch, groups, Counts())
        return faults | aside

    def _rewrite_replay(self, target: Store, raw: RawBatch, batch: Batch) -> AbstractSet[int]:
        """Load a replay batch's rows; returns the numbers of those that were not."""
        # The live batches, of which not all are beside yet, tell which rows stay in quarantine.
        rows = ReplayRows.of(self._store, raw, batch)
        if groups := {**rows.alone, **rows.among}:
            loader.write_records(target, batch, groups, Counts())
        return rows.faults.keys() | batch.get("unresolved", ())

    def _set_aside(self, batch: Batch) -> set[int]:
        """The numbers of a batch's rows that are in quarantine, and not resolved."""
        # One that was skipped counts the rows of the one whose content it had.
        counting = batch["_id"] if not batch.get("skipped") else None
        rows = quarantine.of_raw(self._store, batch["raw_id"], counting)
        resolved = replays.resolved_rows(replays.of_batch(self._store, batch))
        return {row["row_number"] for row in rows} - resolved

    # --- what only the live records know ------------------------------------------------------

    def _keep_what_only_live_records_know(self) -> None:
        """Compare the live records with the new ones, and keep what only the live ones have.

        Both are walked along side by side. Who inserted a record is kept for all: of loaders that
        worked at the same time, no order of batches tells it.
        """
        self._say("comparing with the live records")
        origins = [*_ORIGINS, *(f"history.{name}" for name in _ORIGINS), "inserted_by"]
        live = rebuilds.records_in_order(self._store, origins)
        new = rebuilds.records_in_order(self._beside, ["inserted_by"])
        for some in batched(self._differences(live, new), _TOGETHER, strict=False):
            self._ownership.require()
            self._keep([id_ for id_, inserted_by in some if inserted_by is None])
            rebuilds.set_inserted_by(self._beside, {id_: by for id_, by in some if by is not None})
        self._follow_with_latest()

    def _differences(
        self, live: Iterator[Record], new: Iterator[Record]
    ) -> Iterator[tuple[bytes, str | None]]:
        """Ids of records to be kept (None), or to be given another `inserted_by`."""
        beside: Record | None = next(new, None)
        for record in live:
            while beside is not None and beside["_id"] < record["_id"]:
                beside = next(new, None)
            same = beside is not None and beside["_id"] == record["_id"]
            if any(not self._covers(s) for s in (*record.get("history", ()), record)):
                yield record["_id"], None
            elif same and beside is not None and beside["inserted_by"] != record["inserted_by"]:
                yield record["_id"], record["inserted_by"]

    def _covers(self, revision: Revision) -> bool:
        place, row = (revision["raw_id"], revision["run_id"]), revision["row"]
        left_out = self._covered.get(place)
        if left_out is not None and row not in left_out:
            return True
        return row in self._replayed.get(place, _NOTHING)

    def _keep(self, ids: Sequence[bytes]) -> None:
        """Bring into the new records what the live ones have from elsewhere."""
        if not ids:
            return
        live = market_data.find_existing(self._store, ids)
        new = market_data.find_existing(self._beside, ids)
        kept = [self._merged(document, new.get(id_)) for id_, document in live.items()]
        rebuilds.replace_records(self._beside, kept)
        latest_prices.raise_latest(self._beside, kept)
        self._report.kept += len(kept)

    def _merged(self, live: Record, new: Record | None) -> Record:
        changing = {*VALUE_FIELDS, *merge.ORIGIN_FIELDS, "history"}
        identity: Any = {name: value for name, value in live.items() if name not in changing}
        line = merge.revisions(new) if new else []
        parts: list[Record] = []
        for revision in merge.revisions(live):
            if not self._covers(revision):
                told: Any = {**identity, **revision}
                parts.append(told)
            elif values := _repeated(line, revision):
                told = {**identity, **values, **_origin(revision)}
                parts.append(told)
        merged = merge.merge([*parts, *([new] if new else [])])
        if merge.revisions(merged) == merge.revisions(live):
            return live
        return {**merged, "inserted_by": live["inserted_by"]}

    def _follow_with_latest(self) -> None:
        """Make the latest prices those of the records, and keep those that have none any more."""
        for some in rebuilds.latest_in_parts(self._store):
            there = rebuilds.find_latest(self._beside, [price["_id"] for price in some])
            kept = [
                price
                for price in some
                if not self._covers(price)
                and (
                    price["_id"] not in there
                    or there[price["_id"]]["record_id"] < price["record_id"]
                )
            ]
            rebuilds.replace_latest(self._beside, kept)
        for some in rebuilds.latest_in_parts(self._beside):
            ids = [price["record_id"] for price in some]
            found = market_data.find_existing(self._beside, ids)
            made = [
                made
                for price in some
                if (record := found.get(bytes(price["record_id"]))) is not None
                and (made := _as_latest(price["_id"], record)) != price
            ]
            rebuilds.replace_latest(self._beside, made)

    # --- what happened meanwhile --------------------------------------------------------------

    def _catch_up_beside(self) -> None:
        """Load what was closed or replayed meanwhile, so that little is left to be done after."""
        for _ in range(10):
            found = self._changed()
            if not found:
                return
            self._say(f"loading {len(found)} batches that came or changed meanwhile")
            for batch, raw in self._with_raw(found):
                self._load(self._beside, batch, raw)
                self._report.again += 1

    def _catch_up(self, since: datetime) -> None:
        """Load into the new collections whatever may have gone into the old ones at their end.

        A loader that was at work during the exchange has written a part of its batch into
        each. So has an attempt that failed; its batch is written whole, as by another attempt.
        """
        # From the exchange on loaders write into the new collections: this set only shrinks.
        unfinished = rebuilds.unfinished_signatures(self._store, since)
        under_way = [
            id_
            for id_, signature in unfinished.items()
            if signature != self._unfinished.get(id_) or signature[0] == "loading"
        ]
        for batch, raw in self._with_raw(self._changed(since)):
            self._load(self._store, batch, raw)
            self._report.again += 1
        if under_way:
            self._say(f"waiting for {len(under_way)} batches that were under way")
        for id_ in under_way:
            waited_for = self._wait_for(id_)
            kept = waited_for and find_raw(self._store, waited_for["raw_id"])
            # Without a raw batch nothing of it was written.
            if waited_for and kept:
                if "resolves" in waited_for:
                    self._rewrite_replay(self._store, kept, waited_for)
                else:
                    loader.rewrite(self._store, kept, waited_for)
                self._report.again += 1

    def _changed(self, since: datetime | None = None) -> list[str]:
        """The loaded batches that are not as they were when they were loaded here."""
        found = rebuilds.loaded_signatures(self._store, since)
        return [id_ for id_, signature in found.items() if self._loaded.get(id_) != signature]

    def _wait_for(self, batch_id: str) -> Batch | None:
        """A batch once nobody is loading it any more."""
        while True:
            self._ownership.require()
            batch = rebuilds.find_batch(self._store, batch_id)
            if batch is None or batch["state"] != "loading":
                return batch
            passed = server_clock(self._store).now() - batch["loading_since"]
            if passed.total_seconds() > self._loader_seconds:
                return batch
            time.sleep(0.2)


def _origin(revision: Revision) -> Any:
    return {name: value for name, value in revision.items() if name in merge.ORIGIN_FIELDS}


def _repeated(line: Sequence[Revision], revision: Revision) -> Any | None:
    """What a revision says that is missing in a line; None if the line has it.

    It is missing since it repeats the one before it. That matters once another value, which only
    the live record has, comes in between.
    """
    if any(merge.same_row(revision, other) for other in line):
        return None
    before = [s for s in line if merge.precedence(s) < merge.precedence(revision)]
    return {n: v for n, v in before[-1].items() if n in VALUE_FIELDS} if before else None


def _as_latest(id_: bytes, record: Record) -> LatestPrice:
    """A record as the latest price of its asset."""
    left_out = ("_id", "history", "digest")
    values = {name: value for name, value in record.items() if name not in left_out}
    price: Any = {"_id": id_, "record_id": record["_id"], **values}
    latest: LatestPrice = price
    return latest


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when all is rebuilt, 1 with one line on what is wrong."""
    place = read_place("marketdata.load.rebuild", __doc__, arguments)

    def say(line: str) -> None:
        print(f"rebuild: {line}", flush=True)  # noqa: T201 - a command's output

    try:
        with place.opened() as store:
            report = rebuild(store, say)
    except MarketDataError as error:
        print(f"rebuild: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for line in report.lines():
        say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
