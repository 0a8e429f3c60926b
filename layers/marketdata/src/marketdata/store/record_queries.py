"""Records as the API reads them, each list with the index that answers it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from bson import Binary
from pymongo import ASCENDING, DESCENDING

from marketdata.documents.market_data import Record
from marketdata.errors import InvalidInput, NotFound
from marketdata.schema.identity import first_id, last_id
from marketdata.store.connection import Filter, Store
from marketdata.store.reading import MAX_TIME_MS, reading

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

    filter: Filter
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
) -> list[Record]:
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
    with reading("records"):
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
    with reading("how many records there are"):
        records = store.market_data.estimated_document_count()
    return min(FEW, records // _RARE)


def _selection(query: RecordQuery) -> tuple[Filter, str]:
    """The filter without the position, and the index that selects by it best."""
    filter_: Filter = {}
    narrow = "_id_"
    if query.source is not None:
        filter_["source"] = {"$eq": query.source}
        narrow = "source_time"
    if query.symbols:
        filter_["symbol"] = {"$in": list(query.symbols)}
        narrow = "symbol_time"
    times: Filter = {}
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


def _past(query: RecordQuery, after: Position) -> Filter:
    return {"_id": {"$lt" if query.descending else "$gt": Binary(after.id)}}


def _after(query: RecordQuery, after: Position) -> Filter:
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


def _at_most(store: Store, filter_: Filter, hint: str, limit: int) -> bool:
    """Whether a filter selects at most so many records; looks at no more than those."""
    with reading("how many records there are"):
        if not filter_:
            return store.market_data.estimated_document_count() <= limit
        found = store.market_data.count_documents(
            filter_, hint=hint, limit=limit + 1, maxTimeMS=MAX_TIME_MS
        )
        return found <= limit


def find_record(store: Store, id_: bytes) -> Record:
    """One record with its history, by its id.

    Raises:
        NotFound: there is none.
    """
    with reading(f"record {id_.hex()}"):
        document = store.market_data.find_one({"_id": Binary(id_)})
    if document is None:
        raise NotFound(f"There is no record {id_.hex()}.", id=id_.hex())
    return document
