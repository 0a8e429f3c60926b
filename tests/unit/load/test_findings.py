"""Findings: cells of optional fields that records do without."""

from __future__ import annotations

from typing import Any, cast

from marketdata.documents.questions import KINDS
from marketdata.documents.raw_batches import RawBatch
from marketdata.load.findings import Findings
from marketdata.schema.record import BadCell

API = cast("RawBatch", {})
FILE: Any = {"header": ["Date", "Vol."], "layout": {"columns": {"timestamp": 0, "volume_24h": 1}}}


def cell(value: str, *, field: str = "volume_24h", code: str = "float_parsing") -> BadCell:
    return BadCell(0, field, code, value)


def test_cells_are_counted_by_field_and_reason() -> None:
    found = Findings(API)
    found.add([cell("much"), cell("-1", code="greater_than_equal"), cell("more")])
    found.add([cell("much"), cell("x", field="market_cap")])
    assert [(f["field"], f["code"], f["count"], f["examples"]) for f in found.documents()] == [
        ("volume_24h", "float_parsing", 3, ["much", "more"]),
        ("volume_24h", "greater_than_equal", 1, ["-1"]),
        ("market_cap", "float_parsing", 1, ["x"]),
    ]


def test_a_file_calls_the_column_as_its_header_does() -> None:
    found = Findings(FILE)
    found.add([cell("much"), cell("x", field="market_cap")])
    assert [f["column"] for f in found.documents()] == ["Vol.", "market_cap"]


def test_the_first_three_are_shown() -> None:
    found = Findings(API)
    found.add(cell(str(n)) for n in range(10))
    (finding,) = found.documents()
    assert (finding["count"], finding["examples"]) == (10, ["0", "1", "2"])


def test_there_are_only_so_many() -> None:
    found = Findings(API)
    found.add(cell("x", code=f"code {n % 30}") for n in range(60))
    assert [f["count"] for f in found.documents()] == [2] * KINDS


def test_nothing_is_found() -> None:
    assert Findings(API).documents() == []
