"""No call to MongoDB lasts longer than the function that makes it may."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from marketdata.errors import TransientError
from marketdata.handlers.tasks import task
from marketdata.store.connection import Store, store_errors
from marketdata.store.deadline import Threads


def short_of_time() -> Any:
    """A context with a few seconds left."""
    return SimpleNamespace(aws_request_id="request", get_remaining_time_in_millis=lambda: 3_500)


def test_a_function_tells_in_time_that_the_database_did_not_answer(store: Store) -> None:
    store.database["runs"].insert_one({"_id": "run"})

    @task("slow")
    def handler(_event: dict[str, Any], _context: Any) -> None:
        with store_errors("looking at run X"):
            store.runs.find_one({"$where": "sleep(20000) || true"})

    began = time.monotonic()
    with pytest.raises(TransientError, match=r"store_unavailable: MongoDB .* looking at run X"):
        handler({"run_id": "X"}, short_of_time())
    assert time.monotonic() - began < 3.5


def test_so_does_what_it_has_given_to_threads(store: Store) -> None:
    store.database["runs"].insert_one({"_id": "run"})

    def ask() -> None:
        with store_errors("looking at run X"):
            store.runs.find_one({"$where": "sleep(20000) || true"})

    @task("slow")
    def handler(_event: dict[str, Any], _context: Any) -> None:
        with Threads(2) as pool:
            pool.submit(ask)
            list(pool.map(lambda _: ask(), range(2)))

    began = time.monotonic()
    with pytest.raises(TransientError, match=r"store_unavailable: MongoDB .* looking at run X"):
        handler({"run_id": "X"}, short_of_time())
    assert time.monotonic() - began < 3.5
