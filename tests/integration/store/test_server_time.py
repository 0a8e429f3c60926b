"""The server's clock, which decides what every function takes for now."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta

import pytest

from marketdata import clock
from marketdata.store.connection import Store
from marketdata.store.server_time import ServerClock, server_clock
from tests.support.documents import Document
from tests.support.pipeline import Pipeline, coin
from tests.support.upstream import Reply
from tests.support.upstream import Upstream as Server

COINS = "/coins"


@pytest.fixture
def coingecko(store: Store, server: Server) -> Pipeline:
    environment = {"COINGECKO_API_URL": server.url + COINS, "COINGECKO_PAGES": "20"}
    return Pipeline(store, environment, ["coingecko"])


def test_the_server_s_time_does_not_depend_on_this_machine_s(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = clock.now()
    monkeypatch.setattr(clock, "now", lambda: true + timedelta(minutes=5))
    found = server_clock(store)
    assert abs(found.now() - true) < timedelta(seconds=2)
    later = replace(found, at=found.at - 90)
    assert timedelta(seconds=89) < later.now() - true < timedelta(seconds=92)
    assert ServerClock(true, time.monotonic()).now().microsecond % 1000 == 0


def test_receipt_is_told_by_the_server_s_clock(
    server: Server, coingecko: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.replies[COINS] = Reply([coin("a")])
    run_id = coingecko.open()["run_id"]
    true = clock.now()
    for module in ("marketdata.clock", "marketdata.sources.http.clock"):
        monkeypatch.setattr(f"{module}.now", lambda: true - timedelta(minutes=5))
    coingecko.extract(run_id, "coingecko")
    batch = coingecko.store.batches.find_one({})
    raw: Document = coingecko.store.raw_batches.find_one({})
    assert batch is not None
    assert raw is not None
    for received in (batch["received_at"], raw["received_at"], raw["origin"]["fetched_at"]):
        assert true - timedelta(seconds=2) < received < true + timedelta(seconds=20)
