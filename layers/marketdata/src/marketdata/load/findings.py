"""Cells of optional fields that records do without, counted by field and reason."""

from __future__ import annotations

from collections.abc import Iterable

from marketdata.documents.questions import EXAMPLES, KINDS, Finding
from marketdata.documents.raw_batches import RawBatch
from marketdata.schema.record import BadCell


class Findings:
    """What is found in the rows of a raw batch."""

    def __init__(self, raw: RawBatch) -> None:
        self._header = raw.get("header", [])
        layout = raw.get("layout")
        self._columns = layout["columns"] if layout else {}
        self._found: dict[tuple[str, str], Finding] = {}

    def add(self, cells: Iterable[BadCell]) -> None:
        """Count cells, and keep the first few of each kind."""
        found = self._found
        for cell in cells:
            key = cell.field, cell.code
            if key not in found:
                if len(found) == KINDS:
                    continue
                found[key] = {
                    "field": cell.field,
                    "column": self._column(cell.field),
                    "code": cell.code,
                    "count": 0,
                    "examples": [],
                }
            finding = found[key]
            finding["count"] += 1
            examples = finding["examples"]
            if len(examples) < EXAMPLES and cell.value not in examples:
                examples.append(cell.value)

    def documents(self) -> list[Finding]:
        """As a batch has them."""
        return list(self._found.values())

    def _column(self, field: str) -> str:
        """How the file calls the column of a field; the field's own name where there is no file."""
        index = self._columns.get(field)
        return field if index is None else self._header[index]
