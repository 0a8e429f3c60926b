"""The replay server as a process: what the sources read when the public APIs cannot be reached."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from local.errors import PortTakenError
from local.processes import free_port
from local.replay.service import Replay

MARKETS = "/api/v3/coins/markets"


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    replay = Replay(tmp_path_factory.mktemp("replay"), free_port())
    assert replay.start() is True
    replay.wait_until_ready()
    yield replay
    replay.stop()


def get(
    replay: Replay, path: str, query: str = "", headers: dict[str, str] | None = None
) -> requests.Response:
    url = f"http://127.0.0.1:{replay.port}{path}{query}"
    return requests.get(url, headers=headers, timeout=10)


def test_a_full_page_of_markets(replay: Replay) -> None:
    answer = get(replay, MARKETS, "?vs_currency=usd&order=market_cap_desc&per_page=250&page=1")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    rows = answer.json()
    assert len(rows) == 250
    assert rows[0]["symbol"] == "btc"
    assert len(get(replay, MARKETS, "?vs_currency=usd&per_page=250&page=2").json()) == 50


def test_tickers(replay: Replay) -> None:
    rows = get(replay, "/v1/tickers", "?quotes=USD").json()
    assert len(rows) > 500
    assert rows[0]["quotes"]["USD"]["price"] > 0


def test_nothing_changes_and_a_conditional_request_says_so(replay: Replay) -> None:
    first = get(replay, MARKETS, "?vs_currency=usd")
    again = get(replay, MARKETS, "?vs_currency=usd")
    assert again.content == first.content
    known = {"If-None-Match": first.headers["ETag"]}
    unchanged = get(replay, MARKETS, "?vs_currency=usd", known)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert get(replay, MARKETS, "?vs_currency=usd&page=2", known).status_code == 200


def test_the_past_of_a_coin(replay: Replay) -> None:
    end = int(time.time())
    query = f"?vs_currency=usd&from={end - 30 * 86_400}&to={end}"
    chart = get(replay, "/api/v3/coins/bitcoin/market_chart/range", query).json()
    assert len(chart["prices"]) > 700
    again = get(replay, "/api/v3/coins/bitcoin/market_chart/range", query).json()
    # All but the last point, which is the present.
    assert again["prices"][:-1] == chart["prices"][:-1]
    ticks = "/v1/tickers/btc-bitcoin/historical"
    assert get(replay, ticks, f"?start={end - 9 * 86_400}&interval=1d").json()
    assert get(replay, ticks, "?start=2020-01-01&interval=1d").status_code == 402
    assert get(replay, "/api/v3/coins/no/market_chart/range", query).status_code == 404


def test_a_quota_is_enforced_when_asked_to(tmp_path: Path) -> None:
    limited = Replay(tmp_path, free_port(), requests_per_minute=2)
    assert limited.start() is True
    try:
        limited.wait_until_ready()
        statuses = [get(limited, MARKETS, "?vs_currency=usd").status_code for _ in range(2)]
        assert statuses == [200, 200]
        refused = get(limited, MARKETS, "?vs_currency=usd")
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.json()["status"]["error_code"] == 429
        # Each API has its own, and a health check takes none.
        assert get(limited, "/v1/tickers").status_code == 200
        assert limited.healthy()
        # With another quota it is another server.
        limited.requests_per_minute = 0
        assert limited.start() is True
        limited.wait_until_ready()
        assert get(limited, MARKETS, "?vs_currency=usd").status_code == 200
    finally:
        limited.stop()


def test_one_connection_serves_many_requests(replay: Replay) -> None:
    with requests.Session() as session:
        url = f"http://127.0.0.1:{replay.port}"
        for path in (f"{MARKETS}?vs_currency=usd", "/health", f"{MARKETS}?vs_currency=usd"):
            assert session.get(url + path, timeout=10).status_code == 200


def test_mistakes_are_answered_in_json(replay: Replay) -> None:
    assert get(replay, MARKETS).status_code == 422
    assert get(replay, MARKETS).json() == {"error": "Missing parameter vs_currency"}
    assert get(replay, "/nothing").status_code == 404


def test_it_is_started_once(replay: Replay) -> None:
    other = Replay(replay.state, replay.port)
    assert other.start() is False
    assert other.healthy()
    record = json.loads(replay.part.pidfile.read_text())
    assert record["pid"] == (other.part.process() or pytest.fail("not running")).pid


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(PortTakenError, match="REPLAY_PORT="),
    ):
        Replay(tmp_path, server.getsockname()[1]).start()
