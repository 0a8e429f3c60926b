"""The API's reads of records: what they give, and how MongoDB carries them out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata import clock
from marketdata.errors import InvalidInput, NotFound
from marketdata.store import record_queries
from marketdata.store.connection import Store
from marketdata.store.record_queries import INDEX_OF_ORDER, SORTABLE, Position, RecordQuery
from tests.support.documents import Document
from tests.support.profiling import profiled
from tests.support.records import (
    NOW,
    make_record,
    put_records,
    some_records,
)

SELECTIONS: dict[str, dict[str, Any]] = {
    "all": {},
    "a symbol": {"symbols": ("S1",)},
    "symbols": {"symbols": ("S1", "S2", "S3")},
    "a source": {"source": "coingecko"},
    "both": {"symbols": ("S1", "S2"), "source": "coingecko"},
    "times": {"start": NOW + timedelta(minutes=3), "end": NOW + timedelta(minutes=9)},
    "symbol and times": {"symbols": ("S2",), "start": NOW + timedelta(minutes=3)},
}


def prefer(monkeypatch: pytest.MonkeyPatch, *, in_memory: bool) -> None:
    """Sort what is selected in memory, or not where an index has the order."""
    few = 10_000 if in_memory else 0
    monkeypatch.setattr(record_queries, "_worth_sorting", lambda _store, _query: few)


def walk(store: Store, query: RecordQuery, limit: int) -> Iterator[list[Document]]:
    """All pages of a query, by position."""
    after = None
    while page := record_queries.find_records(store, query, limit=limit, after=after):
        yield page
        after = position(query, page[-1])


def position(query: RecordQuery, last: Document) -> Position:
    value = None if query.sort == "timestamp" else last[query.sort]
    return Position(value, bytes(last["_id"]))


def expected(records: list[Document], query: RecordQuery) -> list[bytes]:
    """What a query selects, in its order, by plain Python."""

    def selected(record: Document) -> bool:
        return (
            (not query.symbols or record["symbol"] in query.symbols)
            and query.source in (None, record["source"])
            and (query.start is None or record["timestamp"] >= query.start)
            and (query.end is None or record["timestamp"] <= query.end)
        )

    def key(record: Document) -> tuple[Any, ...]:
        value = record[query.sort]
        value = value.encode() if isinstance(value, str) else value
        return (False, record["_id"]) if value is None else (True, value, record["_id"])

    return [
        bytes(record["_id"])
        for record in sorted(filter(selected, records), key=key, reverse=query.descending)
    ]


@pytest.mark.parametrize("in_memory", [False, True], ids=["by index", "in memory"])
@pytest.mark.parametrize("descending", [False, True], ids=["asc", "desc"])
@pytest.mark.parametrize("sort", SORTABLE)
def test_a_walk_gives_every_record_once_and_in_order(
    store: Store, sort: str, descending: bool, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, in_memory=in_memory)
    records = some_records(150)
    put_records(store, *records)
    for selection in SELECTIONS.values():
        query = RecordQuery(sort=sort, descending=descending, **selection)
        found = [bytes(r["_id"]) for page in walk(store, query, 11) for r in page]
        assert found == expected(records, query)


_VALUE = st.sampled_from([None, 1.0, 2.0])


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    first=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), _VALUE), max_size=25),
    inserts=st.lists(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), _VALUE), max_size=4), max_size=8
    ),
    sort=st.sampled_from(["timestamp", "market_cap", "volume_24h", "symbol"]),
    descending=st.booleans(),
    limit=st.integers(1, 5),
)
def test_a_walk_with_inserts_going_on_gives_what_was_there_once(
    store: Store,
    first: list[tuple[int, int, float | None]],
    inserts: list[list[tuple[int, int, float | None]]],
    sort: str,
    descending: bool,
    limit: int,
) -> None:
    store.market_data.delete_many({})
    numbers = itertools.count()

    def put(rows: list[tuple[int, int, float | None]]) -> set[bytes]:
        made = [
            make_record(
                f"coin{next(numbers)}",
                symbol=f"S{symbol}",
                minutes=minutes,
                market_cap=value,
                volume_24h=value,
            )
            for minutes, symbol, value in rows
        ]
        if made:
            store.market_data.insert_many(made)
        return {bytes(record["_id"]) for record in made}

    there = put(first)
    query = RecordQuery(sort=sort, descending=descending)
    found: list[bytes] = []
    later = set()
    for page, more in itertools.zip_longest(walk(store, query, limit), inserts):
        found += [bytes(record["_id"]) for record in page or ()]
        if page is None:
            break
        later |= put(more or [])
    assert len(found) == len(set(found))
    assert there <= set(found)
    assert set(found) <= there | later


def test_what_skips_pages_gives_the_same_order(store: Store) -> None:
    records = some_records(60)
    put_records(store, *records)
    query = RecordQuery(sort="price_usd")
    pages = [
        record_queries.find_records(store, query, limit=7, skip=skip) for skip in range(0, 70, 7)
    ]
    assert [bytes(r["_id"]) for page in pages for r in page] == expected(records, query)


def index_used(store: Store, query: RecordQuery, after: Position | None) -> tuple[set[str], bool]:
    """The names of the indexes in the winning plan, and whether it sorts."""
    plan = record_queries.plan_records(store, query, after)
    cursor = (
        store.database["market_data"].find(plan.filter).sort(plan.order).hint(plan.hint).limit(10)
    )
    explained = cursor.explain()["queryPlanner"]["winningPlan"]
    stages: list[Document] = []

    def descend(stage: Document) -> None:
        stages.append(stage)
        for inner in (stage.get("inputStage"), *stage.get("inputStages", ())):
            if inner:
                descend(inner)

    descend(explained.get("queryPlan", explained))
    kinds = {stage["stage"] for stage in stages}
    assert "COLLSCAN" not in kinds
    assert ("SORT" in kinds) == plan.in_memory
    return {stage["indexName"] for stage in stages if "indexName" in stage}, plan.in_memory


@pytest.mark.parametrize("paged", [False, True], ids=["first page", "later page"])
@pytest.mark.parametrize("selection", SELECTIONS, ids=list(SELECTIONS))
@pytest.mark.parametrize("sort", SORTABLE)
def test_every_order_uses_the_intended_index(
    filled: Store, sort: str, selection: str, paged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = SELECTIONS[selection]
    narrow = (
        "symbol_time" if "symbols" in chosen else "source_time" if "source" in chosen else "_id_"
    )
    for descending, preferred in itertools.product((False, True), repeat=2):
        prefer(monkeypatch, in_memory=preferred)
        query = RecordQuery(sort=sort, descending=descending, **chosen)
        after = None
        if paged:
            after = position(query, record_queries.find_records(filled, query, limit=5)[-1])
        used, in_memory = index_used(filled, query, after)
        pinned = (sort == "symbol" and len(query.symbols) == 1) or (
            sort == "source" and query.source is not None
        )
        ordered = INDEX_OF_ORDER.get(sort)
        if sort == "timestamp" or pinned:
            assert (used, in_memory) == ({narrow}, False)
        elif ordered and (not chosen or ordered == narrow or not preferred):
            assert (used, in_memory) == ({ordered}, False)
        else:
            assert (used, in_memory) == ({narrow}, True)


def test_a_page_by_an_index_looks_at_little_more_than_it_gives(filled: Store) -> None:
    for sort in INDEX_OF_ORDER:
        query = RecordQuery(sort=sort)
        fifth = next(itertools.islice(walk(filled, query, 20), 5, None))
        read = partial(
            record_queries.find_records, filled, query, limit=20, after=position(query, fifth[-1])
        )
        (entry,) = profiled(filled, read)
        assert entry["keysExamined"] <= 25
        assert entry["docsExamined"] <= 45


# --- refusals -----------------------------------------------------------------------------


def test_an_order_that_needs_a_scan_is_refused_with_the_way_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_records(store, *some_records(60))
    for query, limit in (
        (RecordQuery(sort="volume_24h"), 50),
        (RecordQuery(sort="name", source="coingecko", start=NOW - timedelta(days=1)), 10),
    ):
        monkeypatch.setattr(record_queries, "MAX_SORTED", limit)
        with pytest.raises(InvalidInput, match="Add symbol, or start and end") as caught:
            record_queries.find_records(store, query, limit=5)
        assert caught.value.details["indexed"] == list(INDEX_OF_ORDER)
    few = RecordQuery(sort="volume_24h", symbols=("S1",))
    assert record_queries.find_records(store, few, limit=5)


def test_what_is_rare_is_sorted_and_what_is_not_is_met_along_the_index(store: Store) -> None:
    put_records(store, *[make_record(f"coin{n}", source="a") for n in range(300)])
    put_records(store, *[make_record(f"coin{n}", source="b", symbol="B") for n in range(3)])
    rare = record_queries.plan_records(store, RecordQuery(sort="price_usd", source="b"))
    assert (rare.hint, rare.in_memory) == ("source_time", True)
    common = record_queries.plan_records(store, RecordQuery(sort="price_usd", source="a"))
    assert (common.hint, common.in_memory) == ("price", False)
    symbol = record_queries.plan_records(store, RecordQuery(sort="price_usd", symbols=("BTC",)))
    assert (symbol.hint, symbol.in_memory) == ("symbol_time", True)


def test_a_record_by_its_id(store: Store) -> None:
    record = make_record()
    put_records(store, record)
    assert record_queries.find_record(store, bytes(record["_id"]))["symbol"] == "BTC"
    with pytest.raises(NotFound, match="There is no record 00"):
        record_queries.find_record(store, bytes(20))


def test_times_belong_at_both_ends(store: Store) -> None:
    put_records(store, *[make_record(minutes=m) for m in range(5)])
    query = RecordQuery(start=NOW + timedelta(minutes=1), end=NOW + timedelta(minutes=3))
    found = record_queries.find_records(store, query, limit=10)
    assert [clock.iso(r["timestamp"])[14:16] for r in found] == ["18", "17", "16"]
