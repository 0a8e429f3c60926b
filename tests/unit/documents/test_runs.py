"""What a run knows about its inputs, as it is stored and read back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.documents.runs import (
    FileProgress,
    InputState,
    InputStatus,
    PageProgress,
    StoredInput,
)
from marketdata.store.run_inputs import INPUT_ENDED

NOW = datetime(2026, 11, 26, 8, tzinfo=UTC)
VERSION: Any = {
    "bucket": "uploads",
    "key": "incoming/prices.csv",
    "version_id": "v1",
    "size": 1_000,
    "etag": '"e"',
    "last_modified": NOW,
}
LAYOUT: Any = {"header": ["symbol", "price_usd"], "columns": {"symbol": 0}, "dataset": "upload"}
MAPPINGS: Any = {
    "applied_mappings": [{"from": "ticker", "to": "symbol", "confidence": 1.0}],
    "quarantined_mappings": [],
    "skipped_mappings": [
        {"from": "rank", "to": "name", "confidence": 0.2, "reason": "no field has that name"}
    ],
}
THROTTLING: Any = {"events": 2, "refusals": 1, "waited_seconds": 61.5, "since": None}
ERROR: Any = {"code": "upstream_unavailable", "type": "UpstreamUnavailable", "message": "?"}

UNTOUCHED: StoredInput = {"source": "coingecko", "status": "pending"}
LISTING: StoredInput = {"source": "csv", "status": "failed", "error": ERROR}
ACQUIRED: StoredInput = {"source": "coingecko", "status": "pending", "lease": 4, "batches": 0}
PAGED: StoredInput = {
    "source": "coingecko",
    "status": "extracted",
    "lease": 4,
    "unfinished_done": True,
    "started_at": NOW,
    "claims": 3,
    "pages": 3,
    "last_rows": 12,
    "batches": 7,
    "left_out": 1,
    "unchanged_pages": 2,
    "rows": 512,
    "short_pages": [{"page": 1, "rows": 249}],
    "extent": {"digest": "0a", "ids": ["btc"], "lowest_rank": 501, "highest_rank": 512},
    "page_digests": ["0c", "", "0a"],
    "throttling": THROTTLING,
    "extracted_at": NOW,
}
RESUMED: StoredInput = {
    "source": "coinpaprika",
    "status": "failed",
    "resumes": "r1",
    "resumed_by": "r3",
    "lease": 9,
    "resume_from": [{"run_id": "r1", "batches": 2}],
    "batches": 2,
    "error": ERROR,
}
NEW_FILE: StoredInput = {
    "source": "csv",
    "status": "pending",
    "object": VERSION,
    "resumes": "r1",
}
FILE: StoredInput = {
    "source": "csv",
    "status": "extracting",
    "object": VERSION,
    "lease": 1,
    "batches": 2,
    "claims": 1,
    "started_at": NOW,
    "layout": LAYOUT,
    "progress": {"position": 800, "batches": 5, "rows": 90, "parts": 4, "packed": True},
    "resumed_at": 300,
    "warnings": ["Column 'rank' is not used."],
    "applied_mappings": MAPPINGS["applied_mappings"],
    "quarantined_mappings": MAPPINGS["quarantined_mappings"],
    "skipped_mappings": MAPPINGS["skipped_mappings"],
}
SKIPPED: StoredInput = {"source": "coingecko", "status": "skipped", "reason": "Nothing changed."}
BACKFILL: StoredInput = {
    **PAGED,
    "status": "cancelled",
    "refused_requests": 2,
    "failures_in_a_row": 1,
    "handed_out": 5,
    "warnings": ["bitcoin was not received."],
}
STORED = (BACKFILL, UNTOUCHED, LISTING, ACQUIRED, PAGED, RESUMED, NEW_FILE, FILE, SKIPPED)


@pytest.mark.parametrize("stored", STORED)
def test_an_input_as_it_is_stored_is_read_and_stored_alike(stored: StoredInput) -> None:
    assert InputState.of(stored).document() == stored


def test_a_key_that_is_null_counts_as_not_there() -> None:
    nulls: StoredInput = {**ACQUIRED, "error": None, "throttling": None, "reason": None}

    assert InputState.of(nulls) == InputState.of(ACQUIRED)


def test_progress_of_pages_is_read_under_the_names_of_the_glossary() -> None:
    state = InputState.of(PAGED)

    assert state.pages == PageProgress(
        pages=3,
        last_rows=12,
        batches=7,
        filtered=1,
        unchanged=2,
        rows=512,
        short=({"page": 1, "rows": 249},),
        extent={"digest": "0a", "ids": ["btc"], "lowest_rank": 501, "highest_rank": 512},
        digests=("0c", "", "0a"),
    )
    assert state.status is InputStatus.EXTRACTED
    assert state.reclaimed_loaded


def test_a_source_of_before_unchanged_pages_were_counted_can_be_gone_on_with() -> None:
    stored: StoredInput = {
        "source": "coingecko",
        "status": "extracting",
        "pages": 2,
        "last_rows": 250,
        "batches": 2,
    }

    assert InputState.of(stored).pages == PageProgress(pages=2, last_rows=250, batches=2)


def test_a_file_of_before_parts_were_counted_can_be_gone_on_with() -> None:
    progress = FileProgress.of({"position": 10, "batches": 3, "rows": 9, "packed": False})

    assert progress == FileProgress(position=10, batches=3, rows=9, parts=3, packed=False)


@pytest.mark.parametrize(
    ("stored", "batches"), [(UNTOUCHED, 0), (RESUMED, 2), (PAGED, 7), (FILE, 5)]
)
def test_the_next_number_is_that_of_the_furthest_progress(
    stored: StoredInput, batches: int
) -> None:
    assert InputState.of(stored).batches == batches


def test_the_states_in_which_an_extraction_is_over_are_those_of_the_store() -> None:
    assert {status for status in InputStatus if status.ended} == set(INPUT_ENDED)


def test_a_state_that_no_version_stores_is_refused() -> None:
    with pytest.raises(ValueError, match="half_done"):
        InputState.of({"source": "coingecko", "status": "half_done"})


NUMBERS = st.integers(0, 2**40)
NAMES = st.text(min_size=1)
TIMES = st.datetimes(timezones=st.just(UTC))
PAGE_PROGRESS = st.builds(PageProgress, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
FILE_PROGRESS = st.builds(FileProgress, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans())
BEGUN = {
    "source": NAMES,
    "status": st.sampled_from(InputStatus),
    "error": st.none() | st.just(ERROR),
    "reason": st.none() | NAMES,
    "lease": st.none() | NUMBERS,
    "claims": st.none() | NUMBERS,
    "resumes": st.none() | NAMES,
    "resumed_by": st.none() | NAMES,
    "reclaimed": st.lists(st.fixed_dictionaries({"run_id": NAMES, "batches": NUMBERS})),
    "started_at": st.none() | TIMES,
    "extracted_at": st.none() | TIMES,
}
SOURCES = st.builds(
    InputState,
    **BEGUN,
    reclaimed_loaded=st.booleans(),
    pages=PAGE_PROGRESS,
    throttling=st.none() | st.just(THROTTLING),
)
FILES = st.builds(
    InputState,
    **BEGUN,
    numbered_from=st.none() | NUMBERS,
    object=st.just(VERSION),
    layout=st.none() | st.just(LAYOUT),
    file=st.none() | FILE_PROGRESS,
    resumed_at=st.none() | NUMBERS,
    warnings=st.lists(NAMES),
    mappings=st.none() | st.just(MAPPINGS),
)


@given(SOURCES | FILES)
def test_whatever_a_run_knows_about_an_input_is_stored_and_read_back(state: InputState) -> None:
    assert InputState.of(state.document()) == state


@given(FILE_PROGRESS)
def test_progress_of_a_file_is_stored_and_read_back(progress: FileProgress) -> None:
    assert FileProgress.of(progress.document()) == progress


@given(PAGE_PROGRESS)
def test_progress_of_pages_is_stored_beside_the_source(progress: PageProgress) -> None:
    stored: StoredInput = {"source": "coingecko", "status": "extracting"}
    stored.update(progress.document())

    assert PageProgress.of(stored) == progress
