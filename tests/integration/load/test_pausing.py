"""A batch that takes longer than a call has is gone on with by the next."""

from __future__ import annotations

import pytest

from marketdata.documents.batches import Counts
from marketdata.load import loader
from marketdata.load.loader import load_batch, load_within
from marketdata.store.batches import queue
from marketdata.store.connection import Store
from tests.support.pipeline import batch_of, coin, load_minute, put_rows


def _killed(*_args: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("small_chunks")
def test_a_batch_that_runs_out_of_time_is_gone_on_with(store: Store) -> None:
    rows = [coin(f"coin {number}") for number in range(7)] + [coin("coin 0", current_price=9.0)]
    key = put_rows(store, rows)
    states = []
    while (loading := load_within(store, key, remaining_seconds=lambda: 1.0)).again:
        batch = batch_of(store, key)
        states.append((batch["state"], batch["progress"]["pieces"], loading.counts.inserted))
    # Each call writes a chunk, and the identity that came twice is a chunk of its own.
    assert states == [("pending", 1, 1), ("pending", 2, 3), ("pending", 3, 5), ("pending", 4, 6)]
    assert loading.counts == Counts(rows_in=8, inserted=7, duplicate=1)
    batch = batch_of(store, key)
    assert (batch["state"], batch["attempts"]) == ("loaded", 5)
    assert "progress" not in batch
    assert store.market_data.count_documents({}) == 7


@pytest.mark.usefixtures("small_chunks")
def test_a_crash_between_two_calls_changes_no_count(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put_rows(store, [coin(f"coin {number}") for number in range(6)])
    assert load_within(store, key, remaining_seconds=lambda: 1.0).again
    with monkeypatch.context() as patch:
        patch.setattr(queue, "note_progress", _killed)
        with pytest.raises(KeyboardInterrupt):
            load_within(store, key, remaining_seconds=lambda: 1.0)
    assert load_batch(store, key) == Counts(rows_in=6, inserted=6)


@pytest.mark.usefixtures("small_chunks")
def test_rows_that_are_cut_otherwise_by_now_are_gone_through_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put_rows(store, [coin(f"coin {number}") for number in range(6)])
    assert load_within(store, key, remaining_seconds=lambda: 1.0).again
    monkeypatch.setattr(loader, "_CUT", "another version")
    assert load_batch(store, key) == Counts(rows_in=6, inserted=6)


@pytest.mark.usefixtures("small_chunks")
def test_pieces_of_which_little_is_to_be_written_are_written_together(store: Store) -> None:
    coins = [f"coin {number}" for number in range(10)]
    load_minute(store, [coin(name) for name in coins], 0)
    changed = {"coin 1", "coin 8", "coin 9"}
    rows = [coin(name, current_price=2.0 if name in changed else 1.5) for name in coins]
    key = put_rows(store, rows, run_id="run1", minute=1)
    assert load_within(store, key, remaining_seconds=lambda: 1.0).again
    # The last chunk alone would have made it three.
    assert batch_of(store, key)["progress"]["pieces"] == 4
    # Cut at the same places whatever has been written by then.
    assert load_within(store, key, remaining_seconds=lambda: 1.0).counts == Counts(
        rows_in=10, updated=3, unchanged=7
    )
