"""A large CSV through the whole local stack: from the put into the bucket to the closed run."""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from pymongo import MongoClient

from tests.bench.conftest import Report
from tests.bench.files import market_csv
from tests.bench.test_loading import check
from tests.support.documents import Document
from tests.support.stack import StackUnderTest, running_stack
from tests.support.waiting import wait_for

ROWS = int(os.environ.get("BENCH_END_TO_END_ROWS", "1000000"))
_KEY = "incoming/large.csv"
_REPORT = re.compile(
    r"^\[(?P<function>\S+) [^]]*\] REPORT .*Max Memory Used: (?P<memory>\d+) MB", re.MULTILINE
)
"""The line that ends each call in the functions' log."""

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def stack() -> Iterator[StackUnderTest]:
    """What `make run` brings up, with a state of its own."""
    with running_stack(MONGODB_CACHE_GB="1") as running:
        yield running


def test_end_to_end(stack: StackUnderTest, tmp_path: Path, report: Report) -> None:
    file = tmp_path / "large.csv"
    file.write_bytes(market_csv(ROWS))
    s3 = boto3.client("s3", **stack.boto3_options())  # type: ignore[call-overload]
    begun = time.time()
    s3.upload_file(str(file), stack.description["bucket"], _KEY)
    put = time.time()

    client: MongoClient[Document] = MongoClient(stack.mongodb_uri, tz_aware=True)
    with client:
        database = client[stack.database]
        ended = {"trigger": "upload", "ended_at": {"$ne": None}}
        run = wait_for(
            lambda: database["runs"].find_one(ended), what="the run has ended", seconds=1800
        )
        batches = list(database["batches"].find({"run_id": run["_id"]}))
        check(database["market_data"].estimated_document_count() == ROWS)
    (line,) = run["results"]
    check((run["status"], line["inserted"]) == ("success", ROWS))

    (note,) = run["inputs"].values()
    started, cut = note["started_at"].timestamp(), note["extracted_at"].timestamp()
    loaded = max(batch["loaded_at"] for batch in batches).timestamp()
    closed = run["ended_at"].timestamp()
    memory = peak_memory(stack)
    report.add(
        "end_to_end",
        ratio=None,
        target="",
        rows=ROWS,
        mib=file.stat().st_size / 2**20,
        rows_per_second=ROWS / (closed - begun),
        seconds=closed - begun,
        seconds_put=put - begun,
        seconds_until_extraction=started - put,
        seconds_extraction=cut - started,
        seconds_loading=loaded - cut,
        seconds_closing=closed - loaded,
        rows_per_second_loading=ROWS / (loaded - cut),
        batches=len(batches),
        **{f"peak_mb_{function}": megabytes for function, megabytes in sorted(memory.items())},
    )


def peak_memory(stack: StackUnderTest) -> dict[str, Any]:
    """The most memory that a process of each function has had, in MB, by the function."""
    log = (stack.state / "logs" / "lambda.log").read_text("utf-8", errors="replace")
    peaks: dict[str, int] = defaultdict(int)
    for found in _REPORT.finditer(log):
        name = found["function"].removeprefix(stack.settings["STACK_NAME"] + "-")
        peaks[name] = max(peaks[name], int(found["memory"]))
    return peaks
