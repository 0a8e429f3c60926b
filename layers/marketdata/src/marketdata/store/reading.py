"""What the API reads, each with the index that answers it.

The rule: a list is read in the order of an index, with filters applied on the way, or the set
that it selects is bounded (counted through an index) and sorted in memory. What is neither is
refused, with the way out. No read here ever scans a collection or waits longer than
`MAX_TIME_MS`, and every value that comes from a client is bound to a field by this module:
none can become an operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pymongo
from pymongo.errors import ExecutionTimeout

from marketdata.errors import QueryTimeout
from marketdata.store.connection import Store, store_errors

MAX_TIME_MS = 10_000
"""Time that MongoDB may spend on one read."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn the driver's errors of a bounded read into those of this library.

    Raises:
        QueryTimeout: it did not end within `MAX_TIME_MS`.
        StoreUnavailable: MongoDB is out of reach.
    """
    with store_errors(f"reading {what}"):
        try:
            yield
        except ExecutionTimeout as error:
            raise QueryTimeout(f"Reading {what} did not end within {MAX_TIME_MS} ms.") from error


def ping(store: Store, *, seconds: float) -> None:
    """Ask the primary whether it answers.

    Raises:
        StoreUnavailable: it did not answer within that time.
    """
    with pymongo.timeout(seconds), store_errors("being asked whether it answers"):
        store.database.command("ping")
