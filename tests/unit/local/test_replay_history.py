"""The past that the replay server tells: what the sources ask, and what they make of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.replay.quota import Quota
from local.replay.samples import TAKEN_AT, coingecko_markets, coinpaprika_tickers
from local.replay.server import BadQueryError, RefusedError, answer, too_many
from marketdata import clock, sources
from marketdata.sources.history import Asset, HistorySource, Interval

NOW = datetime(2026, 2, 3, 10, 25, 30, tzinfo=UTC)
RANGE = "/api/v3/coins/bitcoin/market_chart/range"
TICKS = "/v1/tickers/btc-bitcoin/historical"
DAY = timedelta(days=1)
IDS = {"coingecko": "bitcoin", "coinpaprika": "btc-bitcoin"}
ANY_PLAN = {"COINPAPRIKA_HISTORY_HOURLY_DAYS": "1", "COINGECKO_PAGES": "1"}


def get(path: str, query: Mapping[str, str], now: datetime = NOW) -> Any:
    found = answer(path, dict(query), now)
    assert found is not None
    return json.loads(found.body)


def chart(start: datetime, end: datetime, now: datetime = NOW, coin: str = "bitcoin") -> Any:
    query = {"from": f"{start.timestamp():.0f}", "to": f"{end.timestamp():.0f}"}
    path = RANGE.replace("bitcoin", coin)
    return get(path, {"vs_currency": "usd", **query}, now)


def source(name: str) -> HistorySource:
    return sources.load_with_history(name).from_environment(ANY_PLAN, {})


def rows(name: str, start: datetime, end: datetime, interval: Interval) -> list[dict[str, Any]]:
    """What the source makes of the replay server's answers, window by window."""
    asked, asset = source(name), Asset(IDS[name], "BTC", "Bitcoin")
    window = asked.limited(start, end, interval, now=NOW).window
    assert window is not None
    found = []
    for page, part in enumerate(asked.windows(window.start, window.end, interval), 1):
        request = asked.history_request(page, asset, part, interval, now=NOW)
        answered = answer(urlsplit(request.url).path, dict(request.params), NOW)
        assert answered is not None
        texts = asked.history_rows(asset, part, interval, [answered.body], what=name)
        found += [json.loads(text) for text in texts]
    return [asked.map_history_row(row) for row in found]


@pytest.mark.parametrize(
    ("name", "interval", "days", "points"),
    [
        ("coingecko", Interval.FIVE_MINUTES, 1, 288),
        ("coingecko", Interval.HOUR, 1, 24),
        ("coingecko", Interval.HOUR, 365, 365 * 24),
        ("coingecko", Interval.DAY, 5, 5),
        ("coingecko", Interval.DAY, 365, 365),
        ("coinpaprika", Interval.HOUR, 1, 24),
        ("coinpaprika", Interval.DAY, 365, 365),
    ],
)
def test_a_source_gets_its_series(name: str, interval: Interval, days: int, points: int) -> None:
    found = rows(name, NOW - days * DAY, NOW, interval)
    # The source has holes of its own, and the interval under way is no part yet.
    assert points * 0.98 - 4 <= len(found) <= points
    slots = [interval.floor(_time(row["timestamp"])) for row in found]
    assert slots == sorted(set(slots))
    assert all(slot + interval.step <= NOW for slot in slots)
    assert {row["interval"] for row in found} == {interval}
    assert all(row["price_usd"] > 0 for row in found)


def _time(sent: Any) -> datetime:
    return clock.from_ms(sent) if isinstance(sent, int) else datetime.fromisoformat(sent)


def test_lists_differ_in_length_and_points_are_missing() -> None:
    found = chart(NOW - 80 * DAY, NOW - DAY)
    lengths = [len(found[name]) for name in ("prices", "market_caps", "total_volumes")]
    assert len(set(lengths)) == 3
    assert max(lengths) == lengths[0] < 79 * 24


@settings(max_examples=20)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_point_is_the_same_whatever_range_is_asked(a: int, m: int, b: int, n: int) -> None:
    points: dict[str, dict[int, float]] = {}
    for days, length in ((a, m + 2), (b, n + 2)):
        start = NOW - 364 * DAY + days * DAY
        for name, found in chart(start, min(start + length * DAY, NOW - DAY)).items():
            known = points.setdefault(name, {})
            for time, value in found:
                assert known.setdefault(time, value) == value


def test_a_range_that_reaches_the_present_ends_with_it() -> None:
    for days in (1, 30, 300):
        found = chart(NOW - days * DAY, NOW + DAY if days > 1 else NOW)
        assert {found[name][-1][0] for name in found} == {clock.to_ms(NOW)}
    assert chart(NOW - 30 * DAY, NOW - DAY)["prices"][-1][0] < clock.to_ms(NOW - DAY)


@pytest.mark.parametrize(
    ("length", "before", "minutes"),
    [
        (DAY, timedelta(0), 5),
        (DAY, DAY, 60),
        (2 * DAY, timedelta(0), 60),
        (90 * DAY, timedelta(0), 60),
        (90 * DAY + timedelta(minutes=1), timedelta(0), 24 * 60),
    ],
)
def test_how_far_apart_points_are_follows_from_the_range(
    length: timedelta, before: timedelta, minutes: int
) -> None:
    end = NOW - before
    times = [time for time, _ in chart(end - length, end)["prices"]]
    apart = sorted(b - a for a, b in pairwise(times))
    assert abs(apart[len(apart) // 2] - minutes * 60_000) < 2 * 60_000


def test_the_walk_passes_through_the_present_prices() -> None:
    for row in coingecko_markets()[:30]:
        now = TAKEN_AT + timedelta(seconds=1)
        last = chart(TAKEN_AT - DAY, TAKEN_AT, TAKEN_AT, row["id"])
        assert last["prices"][-1] == [clock.to_ms(TAKEN_AT), pytest.approx(row["current_price"])]
        assert last["market_caps"][-1][1] == pytest.approx(row["market_cap"])
        assert chart(TAKEN_AT - DAY, TAKEN_AT, now, row["id"])["prices"]


def test_a_price_is_plausible() -> None:
    prices = [price for _, price in chart(NOW - 364 * DAY, NOW)["prices"]]
    changes = [b / a - 1 for a, b in pairwise(prices)]
    assert 0.005 < sum(map(abs, changes)) / len(changes) < 0.08
    dollar = [price for _, price in chart(NOW - 364 * DAY, NOW, coin="tether")["prices"]]
    assert all(0.97 < price < 1.03 for price in dollar)


def test_both_sources_tell_nearly_the_same() -> None:
    start = NOW.replace(hour=0, minute=0, second=0) - 99 * DAY
    ours = {_time(time): price for time, price in chart(start, NOW)["prices"]}
    query = {"start": start.isoformat(), "interval": "1d"}
    for tick in get(TICKS, query):
        time = _time(tick["timestamp"])
        assert tick["price"] == pytest.approx(ours.get(time, tick["price"]), rel=0.01)


def test_ticks_have_a_limit_and_whole_numbers_as_the_real_ones() -> None:
    query = {"start": (NOW - DAY).isoformat(), "interval": "1h", "limit": "5"}
    found = get(TICKS, query)
    assert len(found) == 5
    assert found[0].keys() == {"timestamp", "price", "volume_24h", "market_cap"}
    assert type(found[0]["volume_24h"]) is type(found[0]["market_cap"]) is int
    assert len(get(TICKS, {**query, "end": (NOW - DAY / 2).isoformat(), "limit": "9"})) <= 12


def test_every_coin_has_a_past() -> None:
    start, end = NOW - 30 * DAY, NOW - 29 * DAY
    for row in coingecko_markets():
        assert chart(start, end, coin=row["id"])["prices"]
    for ticker in coinpaprika_tickers():
        path = TICKS.replace("btc-bitcoin", ticker["id"])
        assert get(path, {"start": (NOW - 5 * DAY).isoformat(), "interval": "1d"})


@pytest.mark.parametrize(
    ("path", "query", "status", "said"),
    [
        (RANGE, {"from": "1700000000", "to": "1700009999"}, 401, "10012"),
        (RANGE.replace("bitcoin", "no-coin"), {}, 404, "coin not found"),
        (TICKS, {"start": "2025-01-01", "interval": "1d"}, 402, "not allowed in this plan"),
        (TICKS, {"start": "2026-02-01", "interval": "1h"}, 402, "not allowed in this plan"),
        (TICKS, {"start": "2026-02-03T10:00:00Z", "interval": "5m"}, 402, "not allowed"),
        (TICKS.replace("btc", "no"), {"start": "2026-02-01", "interval": "1d"}, 404, "not found"),
    ],
)
def test_what_the_free_plan_refuses(
    path: str, query: dict[str, str], status: int, said: str
) -> None:
    recent = {"from": f"{(NOW - DAY).timestamp():.0f}", "to": f"{NOW.timestamp():.0f}"}
    with pytest.raises(RefusedError) as caught:
        answer(path, {"vs_currency": "usd", **recent, **query}, NOW)
    assert caught.value.status == status
    assert said in json.dumps(caught.value.body)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (RANGE, {}),
        (RANGE, {"vs_currency": "eur", "from": "1769990000", "to": "1769990001"}),
        (RANGE, {"vs_currency": "usd", "from": "1769990000"}),
        (RANGE, {"vs_currency": "usd", "from": "soon", "to": "1769990001"}),
        (RANGE, {"vs_currency": "usd", "from": "9" * 30, "to": "1769990001"}),
        (TICKS, {}),
        (TICKS, {"start": "2026-02-01", "interval": "1 day"}),
        (TICKS, {"start": "2026-02-01", "interval": "1d", "quote": "btc"}),
        (TICKS, {"start": "2026-02-01", "interval": "1d", "limit": "0"}),
    ],
)
def test_queries_that_the_api_does_not_understand(path: str, query: dict[str, str]) -> None:
    with pytest.raises(BadQueryError):
        answer(path, query, NOW)


def test_so_many_requests_in_any_minute() -> None:
    quota = Quota(3)
    assert [quota.take(now) for now in (0, 10, 20)] == [0, 0, 0]
    assert quota.take(30) == 30
    assert quota.take(59.5) == 0.5
    assert quota.take(60) == 0
    assert quota.take(61) == 9
    assert quota.take(200) == 0


def test_each_api_refuses_in_its_own_words() -> None:
    assert too_many(RANGE, 7)["status"]["error_code"] == 429
    assert "7 s" in too_many(TICKS, 7)["error"]
