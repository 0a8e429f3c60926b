"""A backfill of 50 assets for a year against the replay server, and one that is killed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from uuid import uuid4

import pytest

from local.replay.samples import coingecko_markets
from local.replay.server import ReplayServer
from marketdata.store.connection import Store, connect
from marketdata.store.migrations import migrate
from tests.bench.conftest import Report
from tests.bench.test_loading import check
from tests.support.backfills import Backfills, days_ago, know
from tests.support.chaos import assert_conserved, assert_same, assert_settled, state_of
from tests.support.dying import do_backfill, live
from tests.support.network import known_as, listen_on
from tests.support.pipeline import without_quota

ASSETS = int(os.environ.get("BENCH_BACKFILL_ASSETS", "50"))
DAYS = 365
INTERVALS = ("1d", "1h")
DEATHS = 5
DIES_BEFORE = 60
"""Of its commands to the database: each time it has made a few requests."""
START, END = days_ago(364), days_ago(7)
"""Within what the plan gives, however long it takes."""


@pytest.fixture(scope="module")
def replay() -> Iterator[ReplayServer]:
    """The replay server, without a quota."""
    server = ReplayServer((listen_on(), 0))
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def environment_of(replay: ReplayServer) -> Mapping[str, str]:
    address = f"http://{known_as()}:{replay.server_address[1]}/api/v3/coins/markets"
    return {"COINGECKO_API_URL": address, **without_quota("coingecko")}


def _new_store(uri: str) -> Store:
    opened = connect(uri, f"bench_{uuid4().hex[:8]}")
    migrate(opened)
    know(opened, *(row["id"] for row in coingecko_markets()[:ASSETS]))
    return opened


@pytest.mark.parametrize("interval", INTERVALS)
def test_backfill(mongodb_uri: str, replay: ReplayServer, report: Report, interval: str) -> None:
    environment = environment_of(replay)
    asked = {"top": ASSETS, "interval": interval, "start": START, "end": END}
    undisturbed, killed = _new_store(mongodb_uri), _new_store(mongodb_uri)
    try:
        world = Backfills(undisturbed, environment)
        begun = time.perf_counter()
        run = world.run(**asked)
        seconds = time.perf_counter() - begun
        (line,) = run["results"]
        check(run["status"] == "success")
        check(line["inserted"] == line["rows_in"] > 0)

        other = Backfills(killed, environment)
        run_id = other.request(**asked)["run_id"]
        work = partial(do_backfill, environment, run_id)
        deaths = sum(
            live(work, mongodb_uri, killed.database.name, dies_before=DIES_BEFORE) is None
            for _ in range(DEATHS)
        )
        check(deaths == DEATHS)
        check(other.go_on(run_id)["status"] == "success")
        assert_settled(killed)
        assert_conserved(killed)
        assert_same(state_of(killed), state_of(undisturbed))
    finally:
        for one in (undisturbed, killed):
            one.client.drop_database(one.database.name)
            one.client.close()
    report.add(
        f"backfill_{interval}",
        ratio=None,
        target="",
        assets=ASSETS,
        requests=run["backfill"]["requests"],
        rows=line["rows_in"],
        seconds=seconds,
        rows_per_second=line["rows_in"] / seconds,
        deaths=deaths,
        minutes_at_3_a_minute=run["backfill"]["requests"] / 3,
    )
