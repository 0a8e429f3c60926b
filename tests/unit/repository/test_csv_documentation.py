"""What docs/csv.md says of CSV files, against the code."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from marketdata.csv_files import profiles
from marketdata.csv_files.answers import _METADATA
from marketdata.csv_files.columns import DEFAULT_DATASET
from marketdata.csv_files.cutting import MAX_RECORD_BYTES
from marketdata.csv_files.understanding import MAX_COLUMNS
from marketdata.objects import is_upload
from marketdata.runs.previewing import preview
from marketdata.schema.mapping import APPLIED_FROM, QUARANTINED_FROM
from marketdata.settings import CsvSettings

NOW = datetime(2025, 5, 9, tzinfo=UTC)
HEADER = "symbol,name,price_usd,volume_24h,low,high,currency,timestamp\n"
GOOD = ["A", "a", "1", "1", "1", "1", "USD", "2025-05-09"]
DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / "csv.md").read_text("utf-8")


def cells(page: str, header: str) -> list[list[str]]:
    """The rows of the table whose header begins so."""
    _, _, rest = page.partition(f"| {header} |")
    table = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_bands_and_limits_are_those_of_the_code(page: str) -> None:
    bands = [row[0] for row in cells(page, "confidence")]
    assert bands == [f"from {APPLIED_FROM}", f"from {QUARANTINED_FROM}", "below"]
    assert f"up to {MAX_COLUMNS} columns" in page
    assert f"{MAX_RECORD_BYTES // 2**20} MiB in a row" in page
    assert f"else `{DEFAULT_DATASET}`" in page
    assert f"({CsvSettings().csv_gzip_max_bytes / 2**30:.0f} GiB)" in (DOCS / "api.md").read_text()
    for ending in re.findall(r"`(\.[a-z]{3})`", page.partition("**Files.**")[2].partition(",")[0]):
        assert is_upload(f"incoming/x{ending}")
        assert is_upload(f"incoming/x{ending}.gz")


def test_publishers_that_are_said_to_be_known_are(page: str) -> None:
    section = page.partition("**Publishers**")[2].partition("**Columns**")[0]
    known = {profile.name for profile in profiles.PROFILES} | {
        unnamed.profile.name for some in profiles.UNNAMED.values() for unnamed in some
    }
    for name in known:
        assert " ".join(name.split()) in " ".join(section.split())


def test_metadata_that_is_said_to_be_read_is(page: str) -> None:
    for name in _METADATA:
        assert f"x-amz-meta-{name}`" in page or f"`-{name}`" in page


def reasons(*rows: str) -> list[str]:
    text = HEADER + "".join(row + "\n" for row in rows)
    found = preview(text.encode(), key="incoming/x.csv", answers={}, received_at=NOW)
    assert found is not None
    assert not found.questions
    return list(found.reasons)


def test_each_reason_is_given_for_what_is_said_of_it(page: str) -> None:
    changed = {
        "missing_value": {0: ""},
        "timestamp_not_understood": {7: "9 Smarch 2025"},
        "timestamp_unknown": {7: "0"},
        "timestamp_in_future": {7: "2025-05-11"},
        "timestamp_too_early": {7: "1969-12-31"},
        "float_parsing": {2: "much"},
        "greater_than": {2: "0"},
        "finite_number": {2: "1e999"},
        "low_above_high": {4: "2"},
        "quote_not_usd": {6: "EUR"},
        "string_too_long": {0: "A" * 65},
    }
    given = {
        reason: ",".join(cell.get(place, value) for place, value in enumerate(GOOD))
        for reason, cell in changed.items()
    }
    good = ",".join(GOOD)
    given |= {"ragged_row": ",".join(GOOD[:-1]), "malformed_row": 'B,"b,1'}
    documented = {name for row in cells(page, "reason") for name in re.findall(r"`(\w+)`", row[0])}
    assert documented == set(given)
    assert reasons(good) == []
    for reason, row in given.items():
        assert reasons(*[good] * 9, row) == [reason]
