"""One winner, whatever the order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from marketdata.load.merge import merge, precedence, revisions, same_values
from marketdata.schema.identity import digest
from tests.support.documents import Document

NOON = datetime(2025, 5, 9, 12, tzinfo=UTC)
IDENTITY = {
    "_id": b"id",
    "asset_id": "bitcoin",
    "timestamp": NOON,
    "source": "coingecko",
    "dataset": "",
}


def sighting(
    price: float, minute: int, *, row: int = 0, raw: str = "", version: str | None = None
) -> Document:
    """A record of one sighting, as the loader makes it of one row."""
    document = IDENTITY | {
        "symbol": "BTC",
        "name": None,
        "price_usd": price,
        "volume_24h": None,
        "market_cap": None,
        "percent_change_24h": None,
        "run_id": f"run {minute}",
        "raw_id": raw or f"raw {minute}",
        "row": row,
        "received_at": NOON + timedelta(minutes=minute),
        "revision": 1,
    }
    document["digest"] = digest(document)
    return document if version is None else document | {"version": version}


# Few values and few places, so that they meet: one row says one thing.
SIGHTING = st.builds(
    lambda minute, row, raw: sighting(
        float(hash((minute, row, raw)) % 3 + 1), minute, row=row, raw=raw
    ),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from(["page 1", "page 2"]),
)
SIGHTINGS = st.lists(SIGHTING, min_size=1, max_size=7)


def prices(document: Document) -> list[float]:
    return [s["price_usd"] for s in revisions(document)]


@given(SIGHTINGS, st.data())
def test_the_order_of_the_inputs_does_not_matter(
    found: list[Document], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(found))
    assert merge(shuffled) == merge(found)


@given(SIGHTINGS, st.data())
def test_merging_again_what_is_in_it_changes_nothing(
    found: list[Document], data: st.DataObject
) -> None:
    merged = merge(found)
    again = data.draw(st.lists(st.sampled_from([merged, *found]), max_size=4))
    assert merge([merged, *again]) == merged


@given(SIGHTINGS)
def test_as_they_arrive_or_all_at_once(found: list[Document]) -> None:
    found.sort(key=precedence)
    one_by_one = reduce(lambda line, new: merge([line, new]), found[1:], merge(found[:1]))
    assert one_by_one == merge(found)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=7), st.data())
def test_in_any_groups_where_no_value_comes_back(
    places: list[tuple[int, int]], data: st.DataObject
) -> None:
    found = [
        sighting(1 + minute * 10 + row, minute, row=row) for minute, row in dict.fromkeys(places)
    ]
    left = data.draw(st.permutations(found))
    cut = data.draw(st.integers(0, len(left)))
    groups = [merge(group) for group in (left[:cut], left[cut:]) if group]
    assert merge(groups) == merge(found)


@given(SIGHTINGS)
def test_the_line_is_ordered_and_neighbours_differ(found: list[Document]) -> None:
    merged: Document = merge(found)
    line = revisions(merged)
    assert [precedence(s) for s in line] == sorted(precedence(s) for s in line)
    assert not any(same_values(a, b) for a, b in pairwise(line))
    assert merged["revision"] == len(line)
    assert merged["price_usd"] == max(found, key=precedence)["price_usd"]
    assert {f: merged[f] for f in IDENTITY} == IDENTITY


def test_one_alone_stays_as_it_is() -> None:
    assert merge([sighting(1, 0)]) == sighting(1, 0)


def test_later_wins_then_version_then_row() -> None:
    assert prices(merge([sighting(2, 1), sighting(1, 0, row=9, version="z")])) == [1, 2]
    same_time = [sighting(1, 0, version="b"), sighting(2, 0, row=9, version="a")]
    assert prices(merge(same_time)) == [2, 1]
    assert prices(merge([sighting(1, 0, row=2), sighting(2, 0, row=10)])) == [1, 2]


def test_two_pages_in_one_millisecond_have_one_winner() -> None:
    a, b = sighting(1, 0, raw="a"), sighting(2, 0, raw="b")
    assert merge([a, b]) == merge([b, a])


def test_saying_the_same_again_is_no_revision() -> None:
    merged = merge([sighting(1, 0), sighting(1, 1)])
    assert merged == sighting(1, 0)


def test_going_back_to_an_earlier_value_is_one() -> None:
    merged = merge([sighting(1, 0), sighting(2, 1), sighting(1, 2)])
    assert prices(merged) == [1, 2, 1]
    assert merged["received_at"] == NOON + timedelta(minutes=2)
    assert "_id" not in merged["history"][0]


def test_optional_fields_belong_to_their_sighting() -> None:
    candle = sighting(1, 0) | {"open": 1.0, "high": 2.0, "low": 0.5}
    merged = merge([candle, sighting(2, 1)])
    assert "open" not in merged
    assert merged["history"][0]["open"] == 1.0
