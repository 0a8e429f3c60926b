"""Validated columns as records."""

from __future__ import annotations

from typing import Any

from marketdata.schema.record import OPTIONAL, Observations


def records_of(observations: Observations) -> list[Any]:
    """Each record as a dict, without the optional fields that it does not have."""
    columns = observations.columns
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [{k: v for k, v in row.items() if v is not None or k not in OPTIONAL} for row in rows]
