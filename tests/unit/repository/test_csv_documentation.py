"""What docs/api.md says of CSV files, against the code."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from marketdata.csv_files.columns import DEFAULT_DATASET, table
from marketdata.csv_files.cutting import MAX_RECORD_BYTES
from marketdata.csv_files.parsing import regular, transposed
from marketdata.runs.extraction.files import _TOLD_COLUMNS, MAX_COLUMNS
from marketdata.schema.mapping import (
    APPLIED_FROM,
    FIELDS,
    QUARANTINED_FROM,
    REQUIRED,
    map_columns,
)
from marketdata.schema.record import validate
from marketdata.settings import CsvSettings

NOW = datetime(2025, 5, 9, tzinfo=UTC)
HEADER = ["symbol", "name", "price_usd", "volume_24h", "timestamp"]
GOOD = ["A", "a", "1", "1", "2025-05-09"]


@pytest.fixture(scope="module")
def section() -> str:
    text = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text("utf-8")
    _, _, rest = text.partition("\n## CSV files\n")
    return rest.partition("\n## ")[0]


def cells(section: str, header: str) -> list[list[str]]:
    """The rows of the table whose header begins so."""
    _, _, rest = section.partition(f"| {header} |")
    table = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_table_of_columns_is_that_of_the_code(section: str) -> None:
    found = {}
    for field, names, words in cells(section, "field"):
        name = re.findall(r"`(\w+)`", field)[0]
        assert ("(required)" in field) == (name in REQUIRED)
        found[name] = (tuple(re.findall(r"`(\w+)`", names)), words)
    assert list(found) == list(FIELDS)
    for name, spec in FIELDS.items():
        words = ", ".join(sorted(spec.harmless))
        assert found[name] == (spec.names, words if spec.fuzzy else "only under exactly this name")


def test_bands_and_limits_are_those_of_the_code(section: str) -> None:
    bands = [row[0] for row in cells(section, "confidence")]
    assert bands == [f"from {APPLIED_FROM}", f"from {QUARANTINED_FROM}", "below"]
    assert f"more than {MAX_COLUMNS} columns" in section
    assert f"a line of more than {MAX_RECORD_BYTES // 2**20} MiB" in section
    assert f"({CsvSettings().csv_gzip_max_bytes / 2**30:.0f} GiB)" in section
    assert f"up to {_TOLD_COLUMNS} of them" in section
    assert f"and else `{DEFAULT_DATASET}`" in section


def reasons(record: list[str] | str) -> list[str]:
    rows, _, faults = regular([record], len(HEADER))
    cut = transposed(rows, len(HEADER))
    _, more = validate(table(cut, len(rows), map_columns(HEADER).columns, "x"), now=NOW)
    return [fault.code for fault in (*faults, *more)]


def test_each_reason_is_given_for_what_is_said_of_it(section: str) -> None:
    changed = {
        "missing_value": {0: ""},
        "timestamp_not_understood": {4: "9 May 2025"},
        "timestamp_in_future": {4: "2025-05-11"},
        "timestamp_too_early": {4: "1969-12-31"},
        "float_parsing": {2: "1,000"},
        "greater_than": {2: "0"},
        "greater_than_equal": {3: "-1"},
        "finite_number": {2: "inf"},
        "string_too_long": {0: "A" * 65},
    }
    given: dict[str, list[str] | str] = {
        reason: [cell.get(place, value) for place, value in enumerate(GOOD)]
        for reason, cell in changed.items()
    }
    given |= {"ragged_row": GOOD[:-1], "malformed_row": '"A'}
    documented = {
        name for row in cells(section, "reason") for name in re.findall(r"`(\w+)`", row[0])
    }
    assert documented == set(given)
    assert reasons(GOOD) == []
    for reason, record in given.items():
        assert reasons(record) == [reason]


@pytest.mark.parametrize("number", ["97000.5", "9.7e4"])
@pytest.mark.parametrize("nothing", ["", "null", "none", "nan", "n/a", "na", "-", "--"])
def test_values_that_are_said_to_be_read_are(section: str, number: str, nothing: str) -> None:
    assert f"`{number}`" in section
    assert not nothing or f"`{nothing}`" in section
    assert reasons(["NA", "", number, nothing, "2025-05-09T06:00:00 UTC"]) == []
