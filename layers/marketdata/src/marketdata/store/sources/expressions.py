"""Parts of updates that more than one subject of a source needs."""

from __future__ import annotations

from marketdata.store.connection import Expression


def after(seconds: Expression) -> Expression:
    """The server's time so many seconds from now."""
    return {"$add": ["$$NOW", {"$multiply": [seconds, 1000]}]}
