"""A key within a source's address is sent to the source, and shown and kept nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from pymongo.database import Database

from tests.e2e.conftest import COINGECKO, COINPAPRIKA, KEY
from tests.support.recorded import recorded_bytes
from tests.support.stack import StackUnderTest
from tests.support.upstream import Reply, Upstream

KEPT_FOR_FUNCTIONS = {"env.json"}
"""Files that only their owner can read, which hand functions their environment."""


@pytest.mark.timeout(300)
def test_no_run_error_log_or_file_shows_the_key(
    stack: StackUnderTest, sources: Upstream, database: Database[Any]
) -> None:
    sources.replies[COINPAPRIKA] = Reply(
        recorded_bytes("coinpaprika_tickers_2021-10-22_top15.json")
    )
    # A broken server repeats what it was asked.
    oops = f"Oops: GET {COINGECKO}?x_cg_demo_api_key={KEY}".encode()
    told = []
    for reply in (
        Reply(recorded_bytes("coingecko_markets_2025-05-09.json")),
        Reply(oops, status=403),
        Reply(json.dumps({"error": f"bad key {KEY}"}).encode()),
        Reply(oops, content_type="text/html"),
        Reply(status=302, headers={"Location": f"{sources.url}/?key={KEY}"}),
    ):
        sources.replies[COINGECKO] = reply
        told.append(stack.refresh())
    asked = [seen for seen in sources.seen if seen.path == COINGECKO]
    assert asked[0].query["x_cg_demo_api_key"] == KEY
    assert KEY not in json.dumps(told)
    for path in ("/stats", "/runs", "/health"):
        assert KEY not in json.dumps(stack.get(path))
    for name in database.list_collection_names():
        for document in database[name].find({}):
            assert KEY not in json_util.dumps(document), name
    kept = [path for path in stack.state.rglob("*") if path.is_file()]
    assert any(path.name == "stack.json" for path in kept)
    if Path(str(stack.description["logs"])).is_dir():
        # In containers, Docker keeps the logs.
        assert any(path.suffix == ".log" for path in kept)
    showing = [
        path
        for path in kept
        if "mongodb" not in path.relative_to(stack.state).parts
        and path.name not in KEPT_FOR_FUNCTIONS
        and KEY.encode() in path.read_bytes()
    ]
    assert showing == []
