"""`python -m marketdata.load.rebuild`: `market_data` and `latest_prices` anew from the raw batches.

Collections are built beside the live ones, by the loader itself, while the pipeline goes on; then
they take the live ones' place, each in one step, and what was under way at that moment is loaded
once more. Loading is idempotent and does not depend on the order, so that all this ends in what
loading everything at once would have given.

Nothing is lost: what the live records have from raw batches that can't be read any more (expired,
or of batches that never came to their end) is taken over from them.

A rebuild that is killed leaves the live collections as they are, or, if it dies after the
exchange, a note by which the next one first brings it to its end.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import batched
from typing import Any

from pymongo import IndexModel, ReplaceOne, ReturnDocument, UpdateOne
from pymongo.collection import Collection

from marketdata.errors import MarketDataError, StateConflict, TerminalError
from marketdata.load import loader, merge
from marketdata.schema.record import VALUE_FIELDS
from marketdata.store import latest_prices, market_data, quarantine, retention
from marketdata.store.batches.batch import UNFINISHED, Counts
from marketdata.store.command_line import read_place
from marketdata.store.connection import Document, Store, store_errors
from marketdata.store.deadline import Threads
from marketdata.store.raw_batches import find_raw
from marketdata.store.server_time import server_clock

MARK = "rebuild"
"""What the names of collections end with, before a random part, that a rebuild works in."""
LEASE_SECONDS = 20.0
"""Time after which a rebuild without a sign of life is taken for dead."""
LOADER_SECONDS = 960.0
"""Nobody has been at a batch for longer than this: the longest that a function lives."""

_EXCHANGED = ("market_data", "latest_prices")
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
    """Records of which something was taken over from the live ones."""
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
                f"or can't be read; {self.kept} records were taken over, or parts of them"
            )
        yield f"{self.again} batches were loaded once more, as they came or changed meanwhile"


type Say = Callable[[str], None]
type _Signature = tuple[Any, ...]


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
        lease_seconds: how long another rebuild is waited for that gives no sign of life.
        loader_seconds: how long a batch that is being loaded at the exchange is waited for.

    Raises:
        StateConflict: another rebuild is under way.
        TransientError: MongoDB is out of reach; a rebuild may be started again.
    """
    with _Lease.held(store, lease_seconds, say) as lease:
        return _Rebuild(store, lease, say, loader_seconds).run()


# --- one at a time ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Lease:
    """The note that a rebuild is under way, with its signs of life on the server's clock."""

    store: Store
    owner: str
    note: Document
    """As the rebuild before had left it."""
    lost: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextmanager
    def held(cls, store: Store, seconds: float, say: Say) -> Iterator[_Lease]:
        """Hold the lease for a block; an owner that has died is waited out.

        Raises:
            StateConflict: its owner lives.
        """
        owner = uuid.uuid4().hex[:12]
        deadline = time.monotonic() + seconds + 1
        seen: datetime | None = None
        while (note := cls._take(store, owner, seconds)) is None:
            other = _notes(store).find_one({"_id": "rebuild"}) or {}
            if seen is None:
                seen = other.get("expires_at")
                say("another rebuild was begun and has not ended; waiting for a sign of life")
            elif other.get("expires_at") != seen or time.monotonic() > deadline:
                raise StateConflict("Another rebuild is under way. Wait for its end.")
            time.sleep(min(0.5, seconds / 10))
        lease = cls(store, owner, note)
        ended = threading.Event()
        thread = threading.Thread(target=lease._live, args=(seconds, ended), daemon=True)
        thread.start()
        try:
            yield lease
        finally:
            ended.set()
            thread.join()
            with store_errors("letting go of the rebuild"):
                _notes(store).update_one(
                    {"_id": "rebuild", "owner": owner}, [{"$set": {"expires_at": "$$NOW"}}]
                )

    @staticmethod
    def _take(store: Store, owner: str, seconds: float) -> Document | None:
        """Become the owner, if nobody is; the note from before."""
        with store_errors("beginning a rebuild"):
            _notes(store).update_one(
                {"_id": "rebuild"}, {"$setOnInsert": {"phase": "none"}}, upsert=True
            )
            return _notes(store).find_one_and_update(
                {"_id": "rebuild", "$expr": {"$lte": ["$expires_at", "$$NOW"]}},
                [{"$set": {"owner": owner, "expires_at": _ahead(seconds)}}],
                return_document=ReturnDocument.BEFORE,
            )

    def _live(self, seconds: float, ended: threading.Event) -> None:
        alive = time.monotonic()
        while not ended.wait(seconds / 5):
            try:
                with store_errors("giving a sign of life"):
                    renewed = _notes(self.store).update_one(
                        {"_id": "rebuild", "owner": self.owner},
                        [{"$set": {"expires_at": _ahead(seconds)}}],
                    )
            except MarketDataError:
                if time.monotonic() - alive > seconds:
                    self.lost.set()
                continue
            alive = time.monotonic()
            if renewed.matched_count == 0:
                self.lost.set()

    def require(self) -> None:
        """Go no further without the lease.

        Raises:
            StateConflict: it was lost.
        """
        if self.lost.is_set():
            raise StateConflict("Another rebuild has taken over from this one, which was too slow.")

    def set(self, fields: Mapping[str, Any]) -> None:
        """Note how far the rebuild is."""
        with store_errors("noting how far the rebuild is"):
            done = _notes(self.store).update_one(
                {"_id": "rebuild", "owner": self.owner}, {"$set": fields}
            )
        if done.matched_count == 0:
            self.lost.set()
        self.require()


def _notes(store: Store) -> Collection[Document]:
    return store.database["rebuilds"]


def _ahead(seconds: float) -> Document:
    return {"$add": ["$$NOW", round(seconds * 1000)]}


# --- the rebuild --------------------------------------------------------------------------------


class _Rebuild:
    def __init__(self, store: Store, lease: _Lease, say: Say, loader_seconds: float) -> None:
        self._store = store
        self._lease = lease
        self._say = say
        self._loader_seconds = loader_seconds
        fresh: Any = {
            name: store.database[f"{name}_{MARK}_{lease.owner}"]
            for name in (*_EXCHANGED, "batches")
        }
        self._beside = replace(store, **fresh)
        """The same database with fresh collections in place of the live ones."""
        self._loaded: dict[str, _Signature] = {}
        """How each batch was when it was loaded."""
        self._covered: dict[tuple[str, str], AbstractSet[int]] = {}
        """The raw batches, each with its run, that were loaded; and the rows that were not."""
        self._unfinished: dict[str, _Signature] = {}
        """The batches that were not loaded at the beginning, as they were then."""
        self._report = Report()

    def run(self) -> Report:
        began = time.monotonic()
        note = self._lease.note
        if note.get("phase") == "exchanging" and self._is_exchanged(note):
            self._report.finished_another = True
            self._exchange(note["beside"])
            self._catch_up(note["since"])
        else:
            since = server_clock(self._store).now() - _SKEW
            self._lease.set({"phase": "building"})
            self._clear()
            self._unfinished = self._find_unfinished({})
            self._make_collections()
            self._load_all()
            self._take_over()
            self._make_indexes()
            self._drop_expired()
            self._catch_up_beside()
            for name in _EXCHANGED:
                # A migration may have made others by now.
                self._copy_indexes(name)
            beside = {name: getattr(self._beside, name).name for name in _EXCHANGED}
            self._lease.set({"phase": "exchanging", "beside": beside, "since": since})
            self._say("exchanging the collections")
            self._exchange(beside)
            self._catch_up(since)
        self._clear()
        self._lease.set({"phase": "done"})
        with store_errors("counting records"):
            self._report.records = self._store.market_data.estimated_document_count()
        self._report.seconds = time.monotonic() - began
        return self._report

    # --- collections ------------------------------------------------------------------------

    def _clear(self) -> None:
        """Remove what this rebuild, or one that was killed, has left."""
        database = self._store.database
        with store_errors("removing what rebuilds have left"):
            left = {"name": {"$regex": f"_{MARK}_[0-9a-f]{{12}}$"}}
            for name in database.list_collection_names(filter=left):
                database.drop_collection(name)

    def _make_collections(self) -> None:
        """Fresh collections with the options of the live ones, and the indexes that loading uses.

        Those of the records come when they are there: that is faster, and nobody reads before.
        """
        database = self._store.database
        with store_errors("making collections beside the live ones"):
            for name in _EXCHANGED:
                live = next(database.list_collections(filter={"name": name}), None)
                if live is None:
                    raise StateConflict(
                        f"There is no collection {name}: run the migrations (make migrate) first."
                    )
                database.create_collection(getattr(self._beside, name).name, **live["options"])
        for name in ("latest_prices", "batches"):
            self._copy_indexes(name)

    def _copy_indexes(self, name: str) -> None:
        left_out = ("v", "ns", "key", "name")
        with store_errors(f"making the indexes of {name}"):
            made = [
                IndexModel(
                    list(index["key"].items()),
                    name=index["name"],
                    **{k: v for k, v in index.items() if k not in left_out},
                )
                for index in getattr(self._store, name).list_indexes()
                if index["name"] != "_id_"
            ]
            if made:
                getattr(self._beside, name).create_indexes(made)

    def _make_indexes(self) -> None:
        self._say("making the indexes")
        self._copy_indexes("market_data")

    def _drop_expired(self) -> None:
        """Leave out what has expired from the live records and is still in raw batches."""
        days = retention.in_force(self._store)["snapshot_retention_days"]
        if days is None:
            return
        with store_errors("leaving out expired records"):
            before = server_clock(self._store).now() - timedelta(days=days)
            expiry = next(e for e in retention.EXPIRIES if e.collection == "market_data")
            expired = {**expiry.only, expiry.field: {"$lt": before}}
            self._beside.market_data.delete_many(expired, hint=expiry.index)

    # --- loading ----------------------------------------------------------------------------

    def _load_all(self) -> None:
        """Load every batch that is loaded, in the order of receipt.

        In that order nothing that was loaded before ever has to be asked again.
        """
        with store_errors("listing the batches"):
            needed = ("received_at", "first_row", "object.version_id", "raw_id")
            found = self._store.batches.find({"state": "loaded"}, dict.fromkeys(needed, 1))
            places = sorted(found, key=_place)
        self._say(f"loading {len(places)} batches")
        began, told = time.monotonic(), time.monotonic()
        for batch, raw in self._with_raw(place["_id"] for place in places):
            self._load(self._beside, batch, raw)
            if time.monotonic() - told > 5:  # noqa: PLR2004 - seconds between two lines
                told = time.monotonic()
                pace = self._report.rows / (told - began)
                self._say(f"{len(self._loaded)} of {len(places)} batches, {pace:.0f} rows/s")

    def _with_raw(self, ids: Iterable[str]) -> Iterator[tuple[Document, Document | None]]:
        """Batches with their raw batches; the next one is fetched while one is loaded."""

        def fetch(id_: str) -> tuple[Document, Document | None] | None:
            with store_errors(f"reading batch {id_}"):
                batch = self._store.batches.find_one({"_id": id_, "state": "loaded"})
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

    def _load(self, target: Store, batch: Document, raw: Document | None) -> None:
        """Load one batch, as far as its rows were loaded: what is set aside stays there."""
        self._lease.require()
        self._loaded[batch["_id"]] = _signature(batch)
        if target is self._beside:
            with store_errors(f"noting batch {batch['_id']}"):
                target.batches.replace_one({"_id": batch["_id"]}, batch, upsert=True)
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
        self._covered[batch["raw_id"], run_id] = left_out
        self._report.batches += 1
        self._report.rows += batch["rows"]

    def _rewrite(self, target: Store, raw: Document, batch: Document) -> AbstractSet[int]:
        """Load a batch's rows; returns the numbers of those that were not."""
        aside: set[int] = set()
        if batch["counts"]["quarantined"]:
            aside = self._set_aside(batch)
        elif not loader.rewrite(target, raw, batch).quarantined:
            return _NOTHING
        found = loader.read_records(raw, batch)
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

    def _set_aside(self, batch: Document) -> set[int]:
        """The numbers of a batch's rows that are in quarantine."""
        # One that was skipped counts the rows of the one whose content it had.
        counting = batch["_id"] if not batch.get("skipped") else None
        return {
            row["row_number"] for row in quarantine.of_raw(self._store, batch["raw_id"], counting)
        }

    # --- what only the live records know ------------------------------------------------------

    def _take_over(self) -> None:
        """Compare the live records with the new ones, and take over what only they have.

        Both are walked along side by side. Who inserted a record is taken over for all: of
        loaders that worked at the same time, no order of batches tells it.
        """
        self._say("comparing with the live records")
        origins = [*_ORIGINS, *(f"history.{name}" for name in _ORIGINS), "inserted_by"]
        with store_errors("comparing the records"):
            live = _in_order(self._store.market_data, origins)
            new = _in_order(self._beside.market_data, ["inserted_by"])
            for some in batched(self._differences(live, new), _TOGETHER, strict=False):
                self._lease.require()
                self._keep([id_ for id_, inserted_by in some if inserted_by is None])
                changes = [
                    UpdateOne({"_id": id_}, {"$set": {"inserted_by": inserted_by}})
                    for id_, inserted_by in some
                    if inserted_by is not None
                ]
                if changes:
                    self._beside.market_data.bulk_write(changes, ordered=False)
        self._follow_with_latest()

    def _differences(
        self, live: Iterator[Document], new: Iterator[Document]
    ) -> Iterator[tuple[bytes, str | None]]:
        """Ids of records to be taken over (None), or to be given another `inserted_by`."""
        beside: Document | None = next(new, None)
        for record in live:
            while beside is not None and beside["_id"] < record["_id"]:
                beside = next(new, None)
            same = beside is not None and beside["_id"] == record["_id"]
            if any(not self._covers(s) for s in (*record.get("history", ()), record)):
                yield record["_id"], None
            elif same and beside is not None and beside["inserted_by"] != record["inserted_by"]:
                yield record["_id"], record["inserted_by"]

    def _covers(self, sighting: Document) -> bool:
        left_out = self._covered.get((sighting["raw_id"], sighting["run_id"]))
        return left_out is not None and sighting["row"] not in left_out

    def _keep(self, ids: Sequence[bytes]) -> None:
        """Bring into the new records what the live ones have from elsewhere."""
        if not ids:
            return
        live = market_data.find_existing(self._store, ids)
        new = market_data.find_existing(self._beside, ids)
        kept = [self._merged(document, new.get(id_)) for id_, document in live.items()]
        self._beside.market_data.bulk_write(
            [ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in kept],
            ordered=False,
        )
        latest_prices.raise_latest(self._beside, kept)
        self._report.kept += len(kept)

    def _merged(self, live: Document, new: Document | None) -> Document:
        changing = {*VALUE_FIELDS, *merge.ORIGIN_FIELDS, "history"}
        identity = {name: value for name, value in live.items() if name not in changing}
        line = merge.revisions(new) if new else []
        parts = []
        for sighting in merge.revisions(live):
            if not self._covers(sighting):
                parts.append({**identity, **sighting})
            elif values := _repeated(line, sighting):
                parts.append({**identity, **values, **_origin(sighting)})
        merged = merge.merge([*parts, *([new] if new else [])])
        if merge.revisions(merged) == merge.revisions(live):
            return live
        return {**merged, "inserted_by": live["inserted_by"]}

    def _follow_with_latest(self) -> None:
        """Make the latest prices those of the records, and keep those that have none any more."""
        live, new = self._store.latest_prices, self._beside.latest_prices
        with store_errors("comparing the latest prices"):
            for some in batched(live.find({}), _TOGETHER, strict=False):
                ids = [document["_id"] for document in some]
                there = {d["_id"]: d for d in new.find({"_id": {"$in": ids}})}
                kept = [
                    document
                    for document in some
                    if not self._covers(document)
                    and (
                        document["_id"] not in there
                        or there[document["_id"]]["record_id"] < document["record_id"]
                    )
                ]
                self._replace_latest(kept)
            for some in batched(new.find({}), _TOGETHER, strict=False):
                ids = [document["record_id"] for document in some]
                found = market_data.find_existing(self._beside, ids)
                self._replace_latest(
                    [
                        made
                        for document in some
                        if (record := found.get(bytes(document["record_id"]))) is not None
                        and (made := _as_latest(document["_id"], record)) != document
                    ]
                )

    def _replace_latest(self, documents: Sequence[Document]) -> None:
        if documents:
            self._beside.latest_prices.bulk_write(
                [ReplaceOne({"_id": d["_id"]}, d, upsert=True) for d in documents], ordered=False
            )

    # --- what happened meanwhile --------------------------------------------------------------

    def _catch_up_beside(self) -> None:
        """Load what was closed or replayed meanwhile, so that little is left to be done after."""
        for _ in range(10):
            found = self._changed({})
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
        recent = {"$or": [{"loaded_at": {"$gte": since}}, {"replayed_at": {"$gte": since}}]}
        # From the exchange on loaders write into the new collections: this set only shrinks.
        unfinished = self._find_unfinished({"loading_since": {"$gte": since}})
        under_way = [
            id_
            for id_, signature in unfinished.items()
            if signature != self._unfinished.get(id_) or signature[0] == "loading"
        ]
        for batch, raw in self._with_raw(self._changed(recent)):
            self._load(self._store, batch, raw)
            self._report.again += 1
        if under_way:
            self._say(f"waiting for {len(under_way)} batches that were under way")
        for id_ in under_way:
            waited_for = self._wait_for(id_)
            kept = waited_for and find_raw(self._store, waited_for["raw_id"])
            # Without a raw batch nothing of it was written.
            if waited_for and kept:
                loader.rewrite(self._store, kept, waited_for)
                self._report.again += 1

    def _changed(self, query: Document) -> list[str]:
        """The loaded batches that are not as they were when they were loaded here."""
        found = self._signatures({**query, "state": "loaded"})
        return [id_ for id_, signature in found.items() if self._loaded.get(id_) != signature]

    def _find_unfinished(self, query: Document) -> dict[str, _Signature]:
        """The batches whose loading was begun and did not come to its end."""
        begun = {"state": {"$in": list(UNFINISHED)}, "loading_since": {"$exists": True}}
        return self._signatures({**begun, **query})

    def _signatures(self, query: Document) -> dict[str, _Signature]:
        with store_errors("looking for batches that changed"):
            found = self._store.batches.find(query, dict.fromkeys(_SIGNATURE, 1))
            return {batch["_id"]: _signature(batch) for batch in found}

    def _wait_for(self, batch_id: str) -> Document | None:
        """A batch once nobody is loading it any more."""
        while True:
            self._lease.require()
            with store_errors(f"reading batch {batch_id}"):
                batch = self._store.batches.find_one({"_id": batch_id})
            if batch is None or batch["state"] != "loading":
                return batch
            passed = server_clock(self._store).now() - batch["loading_since"]
            if passed.total_seconds() > self._loader_seconds:
                return batch
            time.sleep(0.2)

    # --- the exchange -------------------------------------------------------------------------

    def _is_exchanged(self, note: Document) -> bool:
        """Whether the rebuild of a note died after it had exchanged the records."""
        with store_errors("looking for what rebuilds have left"):
            names = self._store.database.list_collection_names()
        return note["beside"]["market_data"] not in names

    def _exchange(self, beside: Mapping[str, str]) -> None:
        """Put the new collections in the place of the live ones; those done already are left."""
        database = self._store.database
        with store_errors("exchanging the collections"):
            names = database.list_collection_names()
            for name in _EXCHANGED:
                if beside[name] in names:
                    database[beside[name]].rename(name, dropTarget=True)


_SIGNATURE = ("state", "attempts", "loaded_at", "replayed_at")


def _signature(batch: Document) -> _Signature:
    return tuple(batch.get(name) for name in _SIGNATURE)


def _place(batch: Document) -> tuple[datetime, str, int, str]:
    """The order of receipt, as revisions have it."""
    version = (batch.get("object") or {}).get("version_id", "")
    return batch["received_at"], version, batch["first_row"], batch["raw_id"]


def _origin(sighting: Document) -> Document:
    return {name: sighting[name] for name in merge.ORIGIN_FIELDS if name in sighting}


def _repeated(line: Sequence[Document], sighting: Document) -> Document | None:
    """What a sighting says that is missing in a line; None if the line has it.

    It is missing since it repeats the one before it. That matters once another value, which only
    the live record has, comes in between.
    """
    if any(merge.same_row(sighting, other) for other in line):
        return None
    before = [s for s in line if merge.precedence(s) < merge.precedence(sighting)]
    return {n: v for n, v in before[-1].items() if n in VALUE_FIELDS} if before else None


def _in_order(collection: Collection[Document], fields: Iterable[str]) -> Iterator[Document]:
    found = collection.find({}, dict.fromkeys(fields, 1)).sort([("_id", 1)]).hint("_id_")
    return iter(found.batch_size(5_000))


def _as_latest(id_: bytes, record: Document) -> Document:
    """A record as the latest price of its asset."""
    left_out = ("_id", "history", "digest")
    values = {name: value for name, value in record.items() if name not in left_out}
    return {"_id": id_, "record_id": record["_id"], **values}


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
