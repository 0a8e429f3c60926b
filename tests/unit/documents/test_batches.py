"""Batches as they are stored, and the objects made of their parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.documents.batches import (
    BatchState,
    Counts,
    LoadProgress,
    StoredCounts,
    StoredLoadProgress,
)
from marketdata.errors import ConservationBroken
from marketdata.store.batches import batch

NUMBERS = st.integers(0, 2**40)
COUNTS = st.builds(Counts, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)


@given(COUNTS)
def test_counts_are_stored_and_read_back(counts: Counts) -> None:
    assert Counts.of(counts.document()) == counts


@given(st.builds(LoadProgress, st.text(), NUMBERS, st.booleans(), COUNTS))
def test_progress_is_stored_and_read_back(progress: LoadProgress) -> None:
    assert LoadProgress.of(progress.document()) == progress


def test_the_progress_of_a_paused_batch_is_stored_under_the_names_of_before() -> None:
    counts: StoredCounts = {
        "rows_in": 0,
        "inserted": 2_400,
        "updated": 1,
        "unchanged": 99,
        "duplicate": 0,
        "quarantined": 0,
    }
    stored: StoredLoadProgress = {"cut": "2500 1", "pieces": 1, "plain": False, "counts": counts}

    progress = LoadProgress.of(stored)

    assert progress == LoadProgress("2500 1", 1, False, Counts(0, 2_400, 1, 99, 0, 0))
    assert progress.document() == stored


def test_counts_that_add_up_pass() -> None:
    Counts(15, 1, 2, 3, 4, 5).check("Batch 1")


def test_counts_that_lose_a_row_are_refused_with_all_numbers() -> None:
    with pytest.raises(ConservationBroken, match=r"Batch 1: 16 rows came in, .* = 15") as caught:
        Counts(16, 1, 2, 3, 4, 5).check("Batch 1")

    assert caught.value.details == Counts(16, 1, 2, 3, 4, 5).document()


def test_the_states_are_those_that_are_stored() -> None:
    assert {str(state) for state in BatchState} == {*batch.UNFINISHED, "loaded"}
