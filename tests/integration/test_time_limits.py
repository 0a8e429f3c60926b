"""No call to MongoDB lasts longer than the function that makes it may."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from marketdata.aws.tasks import task
from marketdata.errors import TransientError
from marketdata.store.connection import Store, store_errors


def test_a_function_tells_in_time_that_the_database_did_not_answer(store: Store) -> None:
    store.runs.insert_one({"_id": "run"})

    @task("slow")
    def handler(_event: dict[str, Any], _context: Any) -> None:
        with store_errors("looking at run X"):
            store.runs.find_one({"$where": "sleep(20000) || true"})

    context: Any = SimpleNamespace(
        aws_request_id="request", get_remaining_time_in_millis=lambda: 3_500
    )
    began = time.monotonic()
    with pytest.raises(TransientError, match=r"store_unavailable: MongoDB .* looking at run X"):
        handler({"run_id": "X"}, context)
    assert time.monotonic() - began < 3.5
