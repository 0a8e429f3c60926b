"""The same stack as for the end-to-end tests."""

from __future__ import annotations

from tests.e2e.conftest import database, sources, stack

__all__ = ["database", "sources", "stack"]
