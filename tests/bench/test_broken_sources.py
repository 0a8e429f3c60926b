"""How long a run takes with a source that is broken for good, under the quotas that users have.

The whole local stack runs, with an upstream of its own. Nothing here is a ratio: the figures tell
how long a user waits, which the budget of a page bounds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.bench.conftest import Report
from tests.bench.test_loading import check
from tests.support.pipeline import coin
from tests.support.stack import StackUnderTest, running_stack
from tests.support.upstream import Reply, Upstream, upstream

COINGECKO, COINPAPRIKA = "/coins", "/tickers"
ROWS = [coin(f"c{n}") for n in range(250)]
TICKER: dict[str, Any] = {
    "id": "btc-bitcoin",
    "name": "Bitcoin",
    "symbol": "BTC",
    "rank": 1,
    "last_updated": "2025-05-09T06:00:00Z",
    "quotes": {"USD": {"price": 1.0, "volume_24h": 1.0, "market_cap": 1.0}},
}
BROKEN: dict[str, Reply | list[Reply]] = {
    "500": Reply(b"Oops", status=500),
    "503_in_10_s": Reply(status=503, headers={"Retry-After": "10"}),
    "429_without_a_pause": Reply(status=429),
    "429_in_10_s": [*[Reply(status=429, headers={"Retry-After": "10"})] * 2, Reply(ROWS)],
    "silence": Reply(hang=True),
    "reset": Reply(ROWS, declared_length=10_000_000),
    "html": Reply(b"<html>Oops</html>", content_type="text/html"),
    "truncated_json": Reply(json.dumps(ROWS).encode()[:-30]),
    "error_with_status_200": Reply({"error": "id not found"}),
    "no_rows": Reply([]),
    "capped_page": [Reply(ROWS[:50]), Reply(ROWS[50:100])],
}

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def sources() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


@pytest.fixture(scope="module")
def stack(sources: Upstream) -> Iterator[StackUnderTest]:
    """What `make run` brings up, with the usual quotas."""
    sources.replies = {COINGECKO: Reply(ROWS), COINPAPRIKA: Reply([TICKER])}
    with running_stack(
        COINGECKO_API_URL=sources.url + COINGECKO,
        COINPAPRIKA_API_URL=sources.url + COINPAPRIKA,
        # Each kind is met with a circuit that is closed.
        CIRCUIT_BREAKER_FAILURES="1000",
    ) as running:
        check(running.refresh()["status"] == "success")
        yield running


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_source(stack: StackUnderTest, sources: Upstream, report: Report, kind: str) -> None:
    reply = BROKEN[kind]
    sources.replies[COINGECKO] = list(reply) if isinstance(reply, list) else reply
    sources.seen.clear()
    begun = time.perf_counter()
    run = stack.refresh()
    seconds = time.perf_counter() - begun
    found = {line["source"]: line for line in run["sources"]}
    check(found["coinpaprika"]["status"] in {"success", "skipped"})
    report.add(
        f"broken_{kind}",
        ratio=None,
        target="",
        seconds=seconds,
        requests=sum(seen.path == COINGECKO for seen in sources.seen),
        run=run["status"],
        source=found["coingecko"]["status"],
        code=(found["coingecko"]["error"] or {}).get("code", ""),
    )
