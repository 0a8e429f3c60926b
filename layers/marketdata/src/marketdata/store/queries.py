"""What the API reads, each with the index that answers it.

The rule: a list is read in the order of an index, with filters applied on the way, or the set
that it selects is bounded (counted through an index) and sorted in memory. What is neither is
refused, with the way out. No read here ever scans a collection or waits longer than
`MAX_TIME_MS`, and every value that comes from a client is bound to a field by this module:
none can become an operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pymongo
from bson import Binary
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import ExecutionTimeout

from marketdata.errors import InvalidInput, NotFound, QueryTimeout
from marketdata.schema.identity import first_id, last_id
from marketdata.store import quarantine
from marketdata.store.batches import COUNTS
from marketdata.store.connection import Document, Store, store_errors
from marketdata.store.quarantine import Selection
from marketdata.store.raw import raw_row_count

MAX_TIME_MS = 10_000
"""Time that MongoDB may spend on one read."""

MAX_SORTED = 100_000
"""Records that are sorted in memory at most; only the page's own are kept while doing so."""

FEW = 20_000
"""Up to so many selected records are sorted in memory though an index has the order, if they
are rare: walking that index would pass by all the others."""

FEW_OF_SYMBOLS = 100_000
"""The same for records of given symbols. An asset's prices lie close together, so that all
others may come before the first of them; and sorting these takes a third of a second at most."""

_RARE = 100
"""One record in so many is rare."""


@contextmanager
def _reading(what: str) -> Iterator[None]:
    with store_errors(f"reading {what}"):
        try:
            yield
        except ExecutionTimeout as error:
            raise QueryTimeout(f"Reading {what} did not end within {MAX_TIME_MS} ms.") from error


# --- records ------------------------------------------------------------------------------

INDEX_OF_ORDER = {
    "timestamp": "_id_",
    "symbol": "symbol_time",
    "source": "source_time",
    "price_usd": "price",
    "market_cap": "market_cap",
}
"""Orders that an index of `market_data` has."""

SORTABLE = (*INDEX_OF_ORDER, "volume_24h", "percent_change_24h", "name", "asset_id")
"""Fields by which records can be sorted."""


@dataclass(frozen=True, slots=True)
class Position:
    """The last record of a page: what the next page comes after."""

    value: float | str | None
    """Of the sort field; None also for an order by time, which is the id's."""
    id: bytes


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """Which records, in which order."""

    symbols: tuple[str, ...] = ()
    source: str | None = None
    start: datetime | None = None
    """First time that belongs to it."""
    end: datetime | None = None
    """Last time that belongs to it."""
    sort: str = "timestamp"
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """How a query of records is carried out."""

    filter: Document
    order: list[tuple[str, int]]
    hint: str
    in_memory: bool
    """Whether MongoDB has to sort what the index gives."""


def find_records(
    store: Store,
    query: RecordQuery,
    *,
    limit: int,
    after: Position | None = None,
    skip: int = 0,
) -> list[Document]:
    """One page of records, without their history.

    Args:
        store: the database.
        query: which records, in which order.
        limit: how many at most.
        after: go on after this record of an earlier page.
        skip: leave out so many first; they are passed by one after the other.

    Raises:
        InvalidInput: the order needs a scan; the message names the way out.
        QueryTimeout: it took longer than `MAX_TIME_MS`.
    """
    plan = plan_records(store, query, after)
    with _reading("records"):
        return list(
            store.market_data.find(plan.filter, {"history": 0})
            .sort(plan.order)
            .hint(plan.hint)
            .skip(skip)
            .limit(limit)
            .batch_size(limit)
            .max_time_ms(MAX_TIME_MS)
        )


def plan_records(store: Store, query: RecordQuery, after: Position | None = None) -> Plan:
    """Choose the index for a query of records.

    Raises:
        InvalidInput: there is none, and too much to sort in memory.
    """
    selected, narrow = _selection(query)
    direction = DESCENDING if query.descending else ASCENDING
    by_time = [("_id", direction)]
    if query.sort == "timestamp" or _has_one_value(query):
        if after is not None:
            selected = {"$and": [selected, _past(query, after)]}
        return Plan(selected, by_time, narrow, in_memory=False)

    order = [(query.sort, direction), *by_time]
    filter_ = selected
    if after is not None:
        # The position takes the place of the symbols, so that it bounds the index scan.
        rest = _selection(replace(query, symbols=()))[0] if query.sort == "symbol" else selected
        filter_ = {"$and": [rest, _after(query, after)]}
    ordered = INDEX_OF_ORDER.get(query.sort)
    if ordered and (ordered == narrow or not selected):
        return Plan(filter_, order, ordered, in_memory=False)
    if _at_most(store, selected, narrow, _worth_sorting(store, query) if ordered else MAX_SORTED):
        return Plan(filter_, order, narrow, in_memory=True)
    if ordered:
        return Plan(filter_, order, ordered, in_memory=False)
    raise InvalidInput(
        f"More than {MAX_SORTED} records would have to be sorted by {query.sort}, which no index "
        "has. Add symbol, or start and end, to select fewer; or sort by "
        f"{', '.join(INDEX_OF_ORDER)}.",
        sort=query.sort,
        indexed=list(INDEX_OF_ORDER),
    )


def _worth_sorting(store: Store, query: RecordQuery) -> int:
    """How many records are rather sorted in memory than met along an index of the order."""
    if query.symbols:
        return FEW_OF_SYMBOLS
    with _reading("how many records there are"):
        records = store.market_data.estimated_document_count()
    return min(FEW, records // _RARE)


def _selection(query: RecordQuery) -> tuple[Document, str]:
    """The filter without the position, and the index that selects by it best."""
    filter_: Document = {}
    narrow = "_id_"
    if query.source is not None:
        filter_["source"] = {"$eq": query.source}
        narrow = "source_time"
    if query.symbols:
        filter_["symbol"] = {"$in": list(query.symbols)}
        narrow = "symbol_time"
    times: Document = {}
    if query.start is not None:
        times["$gte"] = Binary(first_id(query.start))
    if query.end is not None:
        times["$lte"] = Binary(last_id(query.end))
    if times:
        filter_["_id"] = times
    return filter_, narrow


def _has_one_value(query: RecordQuery) -> bool:
    """Whether all that a query selects agrees in the sort field, so that time decides alone."""
    if query.sort == "symbol":
        return len(query.symbols) == 1
    return query.sort == "source" and query.source is not None


def _past(query: RecordQuery, after: Position) -> Document:
    return {"_id": {"$lt" if query.descending else "$gt": Binary(after.id)}}


def _after(query: RecordQuery, after: Position) -> Document:
    """What comes after a record in the order of a query; null is below every other value."""
    field, value = query.sort, after.value
    tie = {field: {"$eq": value}, **_past(query, after)}
    if field == "symbol" and query.symbols and isinstance(value, str):
        later = [s for s in query.symbols if (s < value if query.descending else s > value)]
        return {"$or": [{field: {"$in": later}}, tie]}
    if query.descending:
        # A comparison with a number finds numbers only, so nulls are named by themselves.
        beyond = [] if value is None else [{field: {"$lt": value}}, {field: {"$eq": None}}]
    else:
        beyond = [{field: {"$ne": None}} if value is None else {field: {"$gt": value}}]
    return {"$or": [*beyond, tie]}


def _at_most(store: Store, filter_: Document, hint: str, limit: int) -> bool:
    """Whether a filter selects at most so many records; looks at no more than those."""
    with _reading("how many records there are"):
        if not filter_:
            return store.market_data.estimated_document_count() <= limit
        found = store.market_data.count_documents(
            filter_, hint=hint, limit=limit + 1, maxTimeMS=MAX_TIME_MS
        )
        return found <= limit


def find_record(store: Store, id_: bytes) -> Document:
    """One record with its history, by its id.

    Raises:
        NotFound: there is none.
    """
    with _reading(f"record {id_.hex()}"):
        document = store.market_data.find_one({"_id": Binary(id_)})
    if document is None:
        raise NotFound(f"There is no record {id_.hex()}.", id=id_.hex())
    return document


# --- counts -------------------------------------------------------------------------------


def row_counts(store: Store) -> dict[str, int]:
    """What is kept at the moment: rows in all raw batches, and records.

    Records are counted by the collection's own number, which MongoDB keeps with every write
    and gives at once. It is exact, but for two cases of its documentation: for a while after a
    crash of mongod, and on a sharded cluster while chunks move.
    """
    with _reading("counts"):
        records = store.market_data.estimated_document_count()
    return {"raw": raw_row_count(store), "normalized": records}


def quarantined_count(store: Store) -> int:
    """Rows that are set aside at the moment; counted as records are."""
    with _reading("counts"):
        return store.quarantine.estimated_document_count()


def total_counts(store: Store) -> dict[str, int]:
    """What became of the rows of all closed batches; read from an index alone."""
    names = ("rows_in", *COUNTS)
    with _reading("totals"):
        groups = store.batches.aggregate(
            [
                {"$match": {"state": "loaded"}},
                {"$group": {"_id": None, **{n: {"$sum": f"$counts.{n}"} for n in names}}},
            ],
            hint="state_counts",
            maxTimeMS=MAX_TIME_MS,
        )
        found = next(iter(groups), {})
    return {name: int(found.get(name, 0)) for name in names}


# --- runs ---------------------------------------------------------------------------------

_STATES = ("pending", "loading", "loaded", "failed")


def batch_states(store: Store, run_id: str) -> dict[str, int]:
    """How many batches of a run are in each state, and how many there are."""
    with _reading(f"the batches of run {run_id}"):
        groups = store.batches.aggregate(
            [
                {"$match": {"run_id": {"$eq": run_id}}},
                {"$group": {"_id": "$state", "batches": {"$sum": 1}}},
            ],
            hint="run_input_number",
            maxTimeMS=MAX_TIME_MS,
        )
        found = {group["_id"]: group["batches"] for group in groups}
    return {"total": sum(found.values()), **{state: found.get(state, 0) for state in _STATES}}


def batches_not_loaded(
    store: Store, run_id: str, *, unfinished: bool, limit: int
) -> list[Document]:
    """Failed batches of a run, by input and number; with `unfinished` also those left undone."""
    states = [s for s in _STATES if s != "loaded"] if unfinished else ["failed"]
    with _reading(f"the failed batches of run {run_id}"):
        return list(
            store.batches.find({"run_id": {"$eq": run_id}, "state": {"$in": states}})
            .sort([("input", ASCENDING), ("number", ASCENDING)])
            .hint("run_input_number")
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )


def last_closed_run_id(store: Store) -> str | None:
    """The run that started last among those that ended."""
    with _reading("the last run"):
        run = store.runs.find_one(
            {"status": {"$ne": "running"}},
            {"_id": 1},
            sort=[("started_at", DESCENDING), ("_id", DESCENDING)],
            hint="started",
            max_time_ms=MAX_TIME_MS,
        )
    return None if run is None else run["_id"]


def last_run(
    store: Store, *, status: str | None = None, trigger: str | None = None
) -> Document | None:
    """The run that started last, of any status and trigger or of those given."""
    filter_: Document = {}
    if status is not None:
        filter_["status"] = {"$eq": status}
    if trigger is not None:
        filter_["trigger"] = {"$eq": trigger}
    with _reading("the last run"):
        return store.runs.find_one(
            filter_,
            sort=[("started_at", DESCENDING), ("_id", DESCENDING)],
            hint=_run_hint(status, trigger),
            max_time_ms=MAX_TIME_MS,
        )


def last_whole_success(store: Store) -> Document | None:
    """The run that started last among those of all sources that were a success."""
    with _reading("the last success"):
        return store.runs.find_one(
            {
                "status": {"$eq": "success"},
                "trigger": {"$ne": "upload"},
                "asked.sources": {"$eq": None},
                "asked.resume": {"$eq": None},
                # One that left sources to other runs says nothing of these.
                "under_way": {"$in": [None, {}]},
            },
            {"started_at": 1, "event_time": 1, "trigger": 1},
            sort=[("started_at", DESCENDING), ("_id", DESCENDING)],
            hint="status_started",
            max_time_ms=MAX_TIME_MS,
        )


def first_run(store: Store) -> Document | None:
    """The run that started first of all."""
    with _reading("the first run"):
        return store.runs.find_one(
            {},
            {"started_at": 1, "event_time": 1, "trigger": 1},
            sort=[("started_at", ASCENDING), ("_id", ASCENDING)],
            hint="started",
            max_time_ms=MAX_TIME_MS,
        )


def _run_hint(status: str | None, trigger: str | None) -> str:
    if status is not None:
        return "status_started"
    return "started" if trigger is None else "trigger_started"


def run_under_way(
    store: Store, *, begin: datetime, end: datetime, longest: timedelta
) -> Document | None:
    """A run of the sources that was under way at some time between two; None if there was none.

    Args:
        store: the database.
        begin: the first time.
        end: the last time.
        longest: runs that began longer than this before `begin` are not looked at.
    """
    with _reading("which runs were under way"):
        return store.runs.find_one(
            {
                "started_at": {"$gte": begin - longest, "$lte": end},
                "trigger": {"$ne": "upload"},
                "$or": [{"ended_at": {"$eq": None}}, {"ended_at": {"$gte": begin}}],
            },
            sort=[("started_at", DESCENDING), ("_id", DESCENDING)],
            hint="started",
            max_time_ms=MAX_TIME_MS,
        )


def ended_runs(store: Store, *, limit: int) -> list[Document]:
    """Of the runs that ended, those that started last: status, start and end."""
    with _reading("runs"):
        return list(
            store.runs.find(
                {"status": {"$ne": "running"}}, {"status": 1, "started_at": 1, "ended_at": 1}
            )
            .sort([("started_at", DESCENDING), ("_id", DESCENDING)])
            .hint("started")
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )


@dataclass(frozen=True, slots=True)
class RunPosition:
    """The last run of a page."""

    started_at: datetime
    id: str


def find_runs(
    store: Store,
    *,
    limit: int,
    status: str | None = None,
    trigger: str | None = None,
    source: str | None = None,
    after: RunPosition | None = None,
) -> list[Document]:
    """Runs, the newest first, of a status, a trigger, and with an input of a source."""
    parts: list[Document] = []
    if status is not None:
        parts.append({"status": {"$eq": status}})
    if trigger is not None:
        parts.append({"trigger": {"$eq": trigger}})
    if source is not None:
        # The inputs are an object by name; a CSV's name is its object's, so compare values.
        sources = {"$map": {"input": {"$objectToArray": "$inputs"}, "in": "$$this.v.source"}}
        parts.append({"$expr": {"$in": [{"$literal": source}, sources]}})
    if after is not None:
        earlier = {"started_at": {"$lt": after.started_at}}
        tie = {"started_at": {"$eq": after.started_at}, "_id": {"$lt": after.id}}
        # The first part bounds the index scan, the second is the exact place.
        parts += [{"started_at": {"$lte": after.started_at}}, {"$or": [earlier, tie]}]
    with _reading("runs"):
        return list(
            store.runs.find({"$and": parts} if parts else {})
            .sort([("started_at", DESCENDING), ("_id", DESCENDING)])
            .hint(_run_hint(status, trigger))
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )


# --- what there is now --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LatestPosition:
    """The last entry of a page of latest prices."""

    symbol: str
    id: bytes


def find_latest(
    store: Store,
    *,
    limit: int,
    symbols: Sequence[str] = (),
    source: str | None = None,
    after: LatestPosition | None = None,
) -> list[Document]:
    """The newest record of each source's asset, by symbol."""
    parts: list[Document] = []
    if symbols:
        parts.append({"symbol": {"$in": list(symbols)}})
    if source is not None:
        parts.append({"source": {"$eq": source}})
    if after is not None:
        tie = {"symbol": {"$eq": after.symbol}, "_id": {"$gt": Binary(after.id)}}
        parts += [
            {"symbol": {"$gte": after.symbol}},
            {"$or": [{"symbol": {"$gt": after.symbol}}, tie]},
        ]
    with _reading("latest prices"):
        return list(
            store.latest_prices.find({"$and": parts} if parts else {})
            .sort([("symbol", ASCENDING), ("_id", ASCENDING)])
            .hint("symbol_id")
            .limit(limit)
            .max_time_ms(MAX_TIME_MS)
        )


def find_symbols(
    store: Store, *, limit: int, source: str | None = None, after: str | None = None
) -> list[tuple[str, list[Document]]]:
    """Tickers with the assets that bear them, by ticker; reads on only as far as it needs."""
    parts: list[Document] = []
    if source is not None:
        parts.append({"source": {"$eq": source}})
    if after is not None:
        parts.append({"symbol": {"$gt": after}})
    found: list[tuple[str, list[Document]]] = []
    with (
        _reading("symbols"),
        store.latest_prices.find({"$and": parts} if parts else {}, _ASSET)
        .sort([("symbol", ASCENDING), ("_id", ASCENDING)])
        .hint("symbol_id")
        .batch_size(max(100, 2 * limit))
        .max_time_ms(MAX_TIME_MS) as cursor,
    ):
        for document in cursor:
            if not found or found[-1][0] != document["symbol"]:
                if len(found) == limit:
                    break
                found.append((document["symbol"], []))
            found[-1][1].append(document)
    return found


_ASSET = {"symbol": 1, "name": 1, "asset_id": 1, "source": 1, "dataset": 1, "timestamp": 1}


# --- quarantine ---------------------------------------------------------------------------


def find_quarantined(
    store: Store,
    *,
    limit: int,
    run_id: str | None = None,
    source: str | None = None,
    reason: str | None = None,
    after: str | None = None,
) -> list[Document]:
    """Rows that were set aside, by raw batch and row."""
    selection = Selection(source, reason, run_id)
    with _reading("quarantined rows"):
        return quarantine.find(store, selection, after=after, limit=limit, max_time_ms=MAX_TIME_MS)


# --- health -------------------------------------------------------------------------------


def ping(store: Store, *, seconds: float) -> None:
    """Ask the primary for a sign of life.

    Raises:
        StoreUnavailable: there was none within that time.
    """
    with pymongo.timeout(seconds), store_errors("being asked for a sign of life"):
        store.database.command("ping")
