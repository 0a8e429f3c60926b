"""Content that is known is skipped, and skipping it is never wrong."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

from marketdata.documents.batches import Counts
from marketdata.errors import StoreUnavailable
from marketdata.load import context
from marketdata.load.loader import load_batch
from marketdata.store.batches import queue
from marketdata.store.connection import Store
from tests.support.pipeline import coin, load_minute, put_rows

FUTURE = "2025-05-10T06:30:00.000Z"
"""More than a day after the first batch is received, and less than a day after the second."""


def price(store: Store) -> float:
    document = store.market_data.find_one({"asset_id": "bitcoin"})
    assert document is not None
    return float(document["price_usd"])


def test_the_same_content_again_is_skipped_and_counts_as_unchanged(store: Store) -> None:
    rows = [coin(), coin("ethereum"), coin("bad", current_price=0), coin()]
    first = load_minute(store, rows, 0)
    assert first["counts"] == counted(rows_in=4, inserted=2, duplicate=1, quarantined=1)
    # A batch with a row that came twice was merged; from the second time on it is conflict-free.
    load_minute(store, rows[:3], 1, page=2)
    second = load_minute(store, rows[:3], 2, page=2)
    assert second["skipped"]
    assert second["counts"] == counted(rows_in=3, unchanged=2, quarantined=1)
    aside = list(store.quarantine.find({}))
    assert {row["run_id"] for row in aside} == {"run0", "run2"}


def counted(**counts: int) -> dict[str, int]:
    return dict.fromkeys(Counts.__slots__, 0) | counts


def test_a_to_b_to_a_leaves_a(store: Store) -> None:
    a, b = [coin(current_price=1.0)], [coin(current_price=2.0)]
    batches = [load_minute(store, rows, minute) for minute, rows in enumerate([a, a, b, a, a, a])]
    assert [bool(batch.get("skipped")) for batch in batches] == [
        False, True, False, False, False, True,
    ]  # fmt: skip
    assert price(store) == 1.0


def test_another_place_may_have_changed_it_in_between(store: Store) -> None:
    a, b = [coin(current_price=1.0)], [coin(current_price=2.0)]
    load_minute(store, a, 0, page=1)
    load_minute(store, b, 1, page=2)
    again = load_minute(store, a, 2, page=1)
    assert "skipped" not in again
    assert price(store) == 1.0


def test_what_other_places_brought_without_changing_anything_does_not_matter(store: Store) -> None:
    load_minute(store, [coin()], 0, page=1)
    load_minute(store, [coin("ethereum"), coin()], 1, page=2)
    assert load_minute(store, [coin()], 2, page=1)["skipped"]


def test_what_is_being_loaded_elsewhere_keeps_it_from_being_skipped(store: Store) -> None:
    load_minute(store, [coin()], 0, page=1)
    other = put_rows(store, [coin(current_price=2.0)], run_id="run1", minute=1, page=2)
    load_batch(store, other)
    store.batches.update_one(other.filter(), {"$set": {"state": "loading"}, "$unset": {"plain": 1}})
    assert "skipped" not in load_minute(store, [coin()], 2, page=1)


def test_what_comes_late_finds_the_batch_that_was_skipped(store: Store) -> None:
    load_minute(store, [coin(current_price=1.0)], 0, page=1)
    assert load_minute(store, [coin(current_price=1.0)], 2, page=1)["skipped"]
    load_minute(store, [coin(current_price=2.0)], 1, page=2)
    (record,) = store.market_data.find({})
    line = [(s["price_usd"], s["run_id"]) for s in (*record["history"], record)]
    assert line == [(1.0, "run0"), (2.0, "run1"), (1.0, "run2")]


def test_a_row_whose_time_had_yet_to_come_is_judged_anew(store: Store) -> None:
    rows = [coin(last_updated=FUTURE)]
    assert load_minute(store, rows, 0)["counts"]["quarantined"] == 1
    assert load_minute(store, rows, 60)["counts"]["inserted"] == 1


def test_another_context_is_other_content(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    load_minute(store, [coin()], 0)
    monkeypatch.setattr(context, "NORMALISER_VERSION", context.NORMALISER_VERSION + 1)
    assert "skipped" not in load_minute(store, [coin()], 1)
    assert load_minute(store, [coin()], 2)["skipped"]


@pytest.mark.parametrize("index", ["place_received", "source_received", "revised"])
def test_an_outage_during_any_of_the_queries_may_pass(
    store: Store, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    """Each of the queries goes by an index of its own; the connection is lost during one."""
    find = Collection.find

    def lost(*args: Any, **options: Any) -> Any:
        if options.get("hint") == index:
            raise AutoReconnect("gone")
        return find(*args, **options)

    load_minute(store, [coin()], 0)
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "find", lost)
        with pytest.raises(StoreUnavailable):
            load_minute(store, [coin()], 1)


def test_a_run_may_be_told_to_load_what_is_known(store: Store) -> None:
    load_minute(store, [coin()], 0)
    store.database["runs"].insert_one(
        {"_id": "run1", "status": "running", "force": True, "inputs": {}}
    )
    forced = load_minute(store, [coin()], 1)
    assert "skipped" not in forced
    assert forced["counts"] == counted(rows_in=1, unchanged=1)


def test_what_an_attempt_had_begun_is_loaded_to_its_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its counts are those of what it wrote, even if the same content is known by then."""
    rows = [coin(), coin("ethereum")]
    late = put_rows(store, rows, run_id="run1", minute=1)
    with monkeypatch.context() as patch:
        patch.setattr(queue, "finish", _killed)
        with pytest.raises(KeyboardInterrupt):
            load_batch(store, late)
    load_minute(store, rows, 0)
    assert load_batch(store, late) == Counts(rows_in=2, inserted=2)


def _killed(*_args: object) -> None:
    raise KeyboardInterrupt


def test_records_whose_fields_have_another_order_are_known(store: Store) -> None:
    load_minute(store, [coin(), coin("ethereum")], 0)
    for document in store.market_data.find({}):
        digest = document.pop("digest")
        store.market_data.replace_one({"_id": document["_id"]}, {**document, "digest": digest})
    batch = load_minute(store, [coin(), coin("ethereum", current_price=9.0)], 1, page=2)
    assert batch["counts"] == counted(rows_in=2, unchanged=1, updated=1)
    assert load_minute(store, [coin()], 2, page=3)["plain"]
