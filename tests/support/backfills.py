"""Backfills in this process: requested through the API, carried out as executions would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

from local.replay.history import market_chart
from marketdata import sources
from marketdata.documents.errors import FailedInput
from marketdata.errors import MarketDataError
from marketdata.load.loader import load_batch
from marketdata.runs import closing, failures, opening
from marketdata.runs.extraction.history import extract_history
from marketdata.runs.extraction.outcome import Extracted
from marketdata.runs.extraction.policy import RetryPolicy
from marketdata.runs.opening import OpenedRun
from marketdata.settings import UpstreamSettings, read_settings
from marketdata.sources.history import HistorySource
from marketdata.sources.http import LIMITS
from marketdata.store import backfills, runs
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from marketdata.store.leases import backfill_of
from tests.support.documents import Document, assert_declared
from tests.support.gateway import Gateway, WorkflowStarter, make_gateway, ok
from tests.support.pipeline import QUICK, coin, let_pass, put_rows
from tests.support.upstream import Reply, Seen, Upstream

MARKETS = "/coins/markets"
COINS = ("bitcoin", "ethereum", "tether", "solana")
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def days_ago(days: int) -> str:
    """A date that lies so far back: plans of sources reach back from now."""
    return f"{TODAY - timedelta(days=days):%Y-%m-%d}"


def _first_day() -> int:
    """So many days ago a range begins in whose first ten days the first coin lacks a point."""
    days = 60
    while True:
        start = TODAY - timedelta(days=days)
        found = market_chart(COINS[0], start, start + timedelta(days=10, seconds=-1), TODAY)
        assert found is not None
        if len(found["prices"]) < 240:
            return days
        days += 1


FIRST_DAY = _first_day()
START, END = days_ago(FIRST_DAY), days_ago(FIRST_DAY - 19)
"""A range within the past year, of less than 90 days: 20 days by the hour are 480 points."""
POINTS = 480


def chart(seen: Seen) -> Reply:
    """What CoinGecko would answer for a coin's past, with holes of its own."""
    coin_id = unquote(seen.path.split("/")[-3])
    start, end = (datetime.fromtimestamp(int(seen.query[name]), UTC) for name in ("from", "to"))
    found = market_chart(coin_id, start, end, datetime.now(UTC))
    if found is None:
        return Reply({"error": "coin not found"}, status=404)
    return Reply(found)


def serve_charts(server: Upstream, *coins: str) -> None:
    """Serve the past of coins."""
    for name in coins or COINS:
        server.replies[path_of(name)] = chart


def path_of(name: str) -> str:
    """Where the past of a coin is."""
    return f"/coins/{name}/market_chart/range"


def know(store: Store, *coins: str, source: str = "coingecko") -> None:
    """Have a run of the hourly rule told of coins; the first has the highest market cap."""
    rows = [
        coin(name, symbol=name[:3], market_cap=1_000 - number) for number, name in enumerate(coins)
    ]
    load_batch(store, put_rows(store, rows, run_id=f"run that told of {coins[-1]}", source=source))


PROMPT = replace(QUICK, limits=LIMITS)
"""Does not rest between two attempts; whoever makes up the past of a coin may take its time."""


@dataclass
class Backfills:
    """Requests backfills of a database, and carries them out as executions would."""

    store: Store
    environment: Mapping[str, str]
    name: str = "coingecko"
    rows_per_batch: int = 5_000
    retry_policy: RetryPolicy = PROMPT
    seconds: float = 60
    engine: WorkflowStarter = field(default_factory=WorkflowStarter)
    pauses: list[int] = field(default_factory=list)
    """Seconds that the state machine was told to wait, and did not: for the source they passed."""
    before_call: Callable[[], object] = lambda: None
    """What happens before each call that extracts."""

    @property
    def gateway(self) -> Gateway:
        return make_gateway(
            lambda: self.store,
            engine=self.engine,
            sources=("coingecko", "coinpaprika"),
            environment=lambda: self.environment,
        )

    @property
    def input(self) -> str:
        return backfill_of(self.name)

    def request(self, **asked: Any) -> Document:
        """Request a backfill through the API; what it answers."""
        body = {"source": self.name, "start": START, "end": END, **asked}
        return ok(self.gateway.post("/backfills", body), 202)

    def open(self, run_id: str) -> OpenedRun:
        """Open the run in the execution that is its turn."""
        name = backfills.execution_name(runs.get(self.store, run_id))
        return opening.open_run(
            self.store, {"run_id": run_id}, f"arn:of:execution:{name}", [self.name]
        )

    def source(self) -> HistorySource:
        return sources.load_with_history(self.name).from_environment(self.environment, {})

    def extract(self, run_id: str) -> Extracted:
        """One call that extracts."""
        self.before_call()
        return extract_history(
            self.store,
            run_id,
            self.source(),
            rows_per_batch=self.rows_per_batch,
            remaining_seconds=lambda: self.seconds,
            settings=read_settings(UpstreamSettings, self.environment),
            retry_policy=self.retry_policy,
        )

    def load(self, run_id: str, numbers: list[int]) -> None:
        for number in numbers:
            load_batch(self.store, BatchKey(run_id, self.input, number))

    def execute(self, run_id: str) -> Document:
        """One execution, from its opening to its end; the run as it is then."""
        opened = self.open(run_id)
        assert opened["proceed"], opened
        errors: list[FailedInput] = []
        try:
            numbers = self._extracted(run_id).numbers
        except MarketDataError as error:
            told: FailedInput = {"code": error.code, "message": str(error)}
            errors.append({"input": self.input, **told})
            numbers = failures.note_failure(self.store, run_id, self.input, told)
        self.load(run_id, numbers)
        closed: Any = closing.close(self.store, run_id, errors)
        assert_declared(self.store)
        return closed

    def go_on(self, run_id: str) -> Document:
        """What the state machine does after a death: it makes the call again that died."""
        run: Any = runs.get(self.store, run_id)
        if run["status"] == "running":
            return closing.close(self.store, run_id) if "closing" in run else self.execute(run_id)
        return run

    def run(self, **asked: Any) -> Document:
        """Request a backfill, and carry it out in one execution."""
        return self.execute(self.request(**asked)["run_id"])

    def _extracted(self, run_id: str) -> Extracted:
        while True:
            extracted = self.extract(run_id)
            if extracted.state == "throttled":
                assert extracted.wait_seconds
                self.pauses.append(extracted.wait_seconds)
                let_pass(self.store, self.name, extracted.wait_seconds)
            elif extracted.state == "unfinished":
                self.load(run_id, extracted.numbers)
            elif extracted.state != "again":
                return extracted

    def told(self, run_id: str) -> Document:
        """The run as the API tells it."""
        return ok(self.gateway.get(f"/runs/{run_id}"))


def records_of_past(store: Store) -> list[Document]:
    """All points of series, without what differs from one load to the next."""
    found = store.database["market_data"].find({"interval": {"$exists": True}}).sort("_id")
    left_out = ("run_id", "received_at", "inserted_by", "raw_id", "history", "revision")
    return [{k: v for k, v in one.items() if k not in left_out} for one in found]
