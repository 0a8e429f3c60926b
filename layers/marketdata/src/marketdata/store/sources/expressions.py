"""Parts of updates that more than one subject of a source needs."""

from __future__ import annotations

from typing import Any

type Expression = Any


def after(seconds: Expression) -> Expression:
    """The server's time so many seconds from now."""
    return {"$add": ["$$NOW", {"$multiply": [seconds, 1000]}]}
