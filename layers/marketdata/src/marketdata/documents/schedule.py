"""Documents of the collection `schedule`: since when a deployment's rule is as it is."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict


class KnownRule(TypedDict):
    """The rule that starts runs, as every look at it has found it since a time."""

    _id: str
    """The deployment: the id of its stack."""
    enabled: bool
    """Whether the rule is enabled."""
    expression: str
    """Its schedule, such as `rate(1 hour)`."""
    since: datetime
    """Since when each look has found the same."""
    seen_at: datetime
    """The last look."""
