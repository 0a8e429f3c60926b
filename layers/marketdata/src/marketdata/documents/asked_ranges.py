"""Documents of the collection `asked_ranges`: what sources were asked of the past."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict


class AskedRange(TypedDict):
    """A range of a series for which its source has answered: what it lacks, the source lacks."""

    start: datetime
    """The first time that belongs to it."""
    end: datetime
    """The first time that does not."""
    run_id: str
    """The run that asked for it."""
    asked_at: datetime
    """When the source answered, or the first of its answers that make up the range."""


class AskedRanges(TypedDict):
    """The ranges of one series: of one source, one asset, one interval."""

    _id: str
    """`source/interval/asset_id`."""
    source: str
    """The source."""
    asset_id: str
    """The source's own id of the asset."""
    interval: str
    """How far apart the points are, such as `1h`."""
    ranges: list[AskedRange]
    """In the order of time, without overlap."""
