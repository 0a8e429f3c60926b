"""What sources are asked of the past, and what their answers say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata import clock, sources
from marketdata.errors import SettingsError, UpstreamMalformed, UpstreamUnavailable
from marketdata.sources.base import PageRequest
from marketdata.sources.coingecko import CoinGecko
from marketdata.sources.coinpaprika import CoinPaprika
from marketdata.sources.history import MARGIN, Asset, HistorySource, Interval, Window

BITCOIN = Asset("bitcoin", "btc", "Bitcoin")
NOW = datetime(2025, 6, 2, 9, 7, 30, tzinfo=UTC)
BEGIN = datetime(2025, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)

NAMES = st.sampled_from(sources.with_history())
INTERVALS = st.sampled_from(list(Interval))
TIMES = st.integers(0, 79_000_000).map(
    lambda seconds: datetime(2023, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
ANY_PLAN = {
    "COINPAPRIKA_HISTORY_HOURLY_DAYS": "365",
    "COINPAPRIKA_HISTORY_FIVE_MINUTE_DAYS": "30",
}


def source(name: str = "coingecko", **environment: str) -> HistorySource:
    return sources.load_with_history(name).from_environment(environment, {})


def ms(time: datetime) -> int:
    return clock.to_ms(time)


def grid(window: Window, interval: Interval) -> list[datetime]:
    first = interval.ceil(window.start)
    return [first + n * interval.step for n in range(window.points(interval))]


# --- which ranges ---------------------------------------------------------------------------


@given(NAMES, INTERVALS, TIMES, st.integers(1, 400_000))
def test_windows_cover_a_range_exactly(
    name: str, interval: Interval, start: datetime, minutes: int
) -> None:
    end = start + timedelta(minutes=minutes)
    windows = source(name).windows(start, end, interval)
    assert (windows[0].start, windows[-1].end) == (start, end)
    assert all(before.end == after.start for before, after in pairwise(windows))
    assert all(window.start < window.end for window in windows)
    longest = source(name).longest_window[interval]
    assert all(window.end - window.start <= longest for window in windows)


def test_an_empty_range_has_no_windows() -> None:
    assert source().windows(NOW, NOW, Interval.HOUR) == []


@given(NAMES, INTERVALS, TIMES, st.integers(0, 400_000))
def test_what_can_be_asked_are_the_points_of_the_range_that_the_plan_gives(
    name: str, interval: Interval, start: datetime, minutes: int
) -> None:
    asked = source(name)
    end = start + timedelta(minutes=minutes)
    limited = asked.limited(start, end, interval, now=NOW)
    reach = NOW - timedelta(days=asked.history_days()[interval]) + MARGIN
    over = [t for t in grid(Window(start, end), interval) if t + interval.step <= NOW]
    given_by_plan = [t for t in over if t >= reach] if asked.history_days()[interval] else []
    assert (grid(limited.window, interval) if limited.window else []) == given_by_plan
    lost = [t for t in over if t not in given_by_plan]
    # The interval in which the plan's reach ends is left without a word, if others can be asked.
    border = bool(lost and given_by_plan) and lost[0] + interval.step > reach - MARGIN
    assert (bool(lost) and not border) == (asked.name in limited.cut_off)
    if lost and not border:
        assert f"({len(lost)} point" in limited.cut_off


def test_what_a_plan_cuts_off_is_told_with_its_setting() -> None:
    limited = source().limited(NOW - 400 * DAY, NOW, Interval.DAY, now=NOW)
    assert limited.window == Window(
        datetime(2024, 6, 3, tzinfo=UTC), datetime(2025, 6, 2, tzinfo=UTC)
    )
    assert limited.cut_off == (
        "coingecko gives the interval 1d for the past 365 days only (COINGECKO_HISTORY_DAYS=365): "
        "2024-04-29T00:00:00.000Z to 2024-06-03T00:00:00.000Z (35 points) can't be asked for."
    )
    paid = source(COINGECKO_HISTORY_DAYS="3650")
    assert paid.limited(NOW - 400 * DAY, NOW, Interval.DAY, now=NOW).cut_off == ""


def test_an_interval_that_the_plan_lacks_is_told() -> None:
    limited = source("coinpaprika").limited(NOW - DAY, NOW, Interval.FIVE_MINUTES, now=NOW)
    assert limited.window is None
    assert "no values of the interval 5m (COINPAPRIKA_HISTORY_FIVE_MINUTE_DAYS=0)" in (
        limited.cut_off
    )


@pytest.mark.parametrize("interval", Interval)
def test_all_of_the_plan_up_to_today_is_asked_for_without_a_word(interval: Interval) -> None:
    asked = source("coinpaprika", COINPAPRIKA_HISTORY_FIVE_MINUTE_DAYS="30")
    days = asked.history_days()[interval]
    today = Interval.DAY.floor(NOW)
    # As somebody gives it who counts days: from the one in which the reach ends to today.
    border = interval.floor(NOW - days * DAY)
    limited = asked.limited(border, today + DAY, interval, now=NOW)
    assert limited.window is not None
    assert limited.window.end == interval.floor(NOW)
    assert limited.window.start == asked.earliest(interval, NOW)
    assert limited.cut_off == ""
    # With one interval more, all that can't be asked for is told.
    points = Window(border - interval.step, limited.window.start).points(interval)
    limited = asked.limited(border - interval.step, today + DAY, interval, now=NOW)
    assert f"({points} points) can't be asked for" in limited.cut_off


def test_a_range_that_is_the_border_alone_is_told() -> None:
    start = Interval.DAY.floor(NOW - 365 * DAY)
    limited = source().limited(start, start + DAY, Interval.DAY, now=NOW)
    assert limited.window is None
    assert "(1 point) can't be asked for" in limited.cut_off


def test_the_future_is_cut_off() -> None:
    limited = source().limited(NOW - DAY, NOW + DAY, Interval.HOUR, now=NOW)
    assert limited.window is not None
    assert limited.window.end == datetime(2025, 6, 2, 9, tzinfo=UTC)
    end = Interval.HOUR.ceil(NOW + DAY)
    assert limited.cut_off == (
        f"What is after {clock.iso(NOW)} has not happened yet: 2025-06-02T09:00:00.000Z to "
        f"{clock.iso(end)} ({(end - limited.window.end) // timedelta(hours=1)} points) can't be "
        "asked for."
    )


@pytest.mark.parametrize(
    ("name", "days", "interval"),
    [
        ("coingecko", 1, "5m"),
        ("coingecko", 2, "1h"),
        ("coingecko", 90, "1h"),
        ("coingecko", 91, "1d"),
        ("coingecko", 400, "1d"),
        ("coinpaprika", 1, "1h"),
        ("coinpaprika", 2, "1d"),
        ("coinpaprika", 400, "1d"),
    ],
)
def test_the_interval_of_a_range_if_nobody_names_one(name: str, days: int, interval: str) -> None:
    assert source(name).default_interval(NOW - days * DAY, NOW, now=NOW) == interval


def test_a_range_that_is_short_and_old_is_not_asked_by_the_minute() -> None:
    start = NOW - 30 * DAY
    assert source().default_interval(start, start + DAY, now=NOW) == Interval.HOUR


# --- CoinGecko's requests -------------------------------------------------------------------


def coingecko_interval(request: PageRequest, now: datetime) -> Interval:
    """How far apart the points of the answer are, by the API's documentation."""
    begin, end = (clock.from_ms(int(request.params[name]) * 1000) for name in ("from", "to"))
    if end - begin <= DAY:
        return Interval.FIVE_MINUTES if now - end < timedelta(minutes=5) else Interval.HOUR
    return Interval.HOUR if end - begin <= 90 * DAY else Interval.DAY


@given(INTERVALS, TIMES, st.integers(1, 900_000), st.sampled_from(["2", "90", "365", "3650"]))
def test_every_window_is_asked_in_a_range_that_has_its_interval(
    interval: Interval, start: datetime, minutes: int, days: str
) -> None:
    asked = source(COINGECKO_HISTORY_DAYS=days)
    window = asked.limited(start, start + timedelta(minutes=minutes), interval, now=NOW).window
    if window is None:
        return
    for number, part in enumerate(asked.windows(window.start, window.end, interval), 1):
        request = asked.history_request(number, BITCOIN, part, interval, now=NOW)
        assert request.page == number
        assert coingecko_interval(request, NOW) == interval
        begin, end = int(request.params["from"]) * 1000, int(request.params["to"]) * 1000
        assert begin <= ms(part.start) <= ms(part.end - interval.step) <= end
        if interval.step < DAY or days != "2":
            assert begin >= ms(NOW - timedelta(days=asked.history_days()[interval]))


def test_a_request_of_coingecko() -> None:
    window = Window(BEGIN, BEGIN + 30 * DAY)
    request = source().history_request(3, Asset("a/b c", "x", None), window, Interval.HOUR, now=NOW)
    assert request.url == "https://api.coingecko.com/api/v3/coins/a%2Fb%20c/market_chart/range"
    assert request.params == {"vs_currency": "usd", "from": "1746057600", "to": "1748649599"}


def test_the_key_goes_where_it_goes_for_the_present() -> None:
    window = Window(BEGIN, BEGIN + DAY)
    url = "https://pro-api.coingecko.com/api/v3/coins/markets?x=1"
    coins = CoinGecko.from_environment({"COINGECKO_API_URL": url}, {"coingecko_api_key": "KEY"})
    request = coins.history_request(1, BITCOIN, window, Interval.HOUR, now=NOW)
    assert request.headers == {"x-cg-pro-api-key": "KEY"}
    assert request.url.endswith("/api/v3/coins/bitcoin/market_chart/range?x=1")
    paid = {"COINPAPRIKA_API_URL": "https://api-pro.coinpaprika.com/v1/tickers"}
    tickers = CoinPaprika.from_environment(paid, {"coinpaprika_api_key": "KEY"})
    request = tickers.history_request(1, BITCOIN, window, Interval.HOUR, now=NOW)
    assert request.headers == {"Authorization": "KEY"}


# --- CoinGecko's answers --------------------------------------------------------------------


def lists(
    prices: Sequence[Any], caps: Sequence[Any] = (), volumes: Sequence[Any] = ()
) -> list[bytes]:
    answer = {"prices": prices, "market_caps": caps, "total_volumes": volumes}
    return [json.dumps(answer).encode()]


def rows(window: Window, interval: Interval, body: list[bytes]) -> list[dict[str, Any]]:
    texts = source().history_rows(BITCOIN, window, interval, body, what="coingecko (page 1)")
    return [json.loads(text) for text in texts]


@st.composite
def series(draw: st.DrawFn) -> tuple[Interval, Window, list[int], list[list[tuple[int, int]]]]:
    """An interval, a window, the times of an answer, and of each list which points it has."""
    interval = draw(INTERVALS)
    first = interval.ceil(BEGIN) + draw(st.integers(0, 50)) * interval.step
    # Points of a day are at midnight; others come somewhat later than the full one.
    late = 0 if interval is Interval.DAY else 120_000
    times = [
        ms(first + n * interval.step) + draw(st.integers(0, late))
        for n in range(draw(st.integers(3, 40)))
    ]
    start = first + draw(st.integers(-3, 20)) * interval.step
    window = Window(start, start + draw(st.integers(1, 30)) * interval.step)
    has = [[(t, n) for n, t in enumerate(times) if draw(st.integers(0, 9))] for _ in range(3)]
    has[0] = [(t, n) for n, t in enumerate(times)]
    return interval, window, times, has


@given(series(), st.sampled_from(["with the present price", "without"]))
def test_rows_are_the_points_of_the_window(
    made: tuple[Interval, Window, list[int], list[list[tuple[int, int]]]], end: str
) -> None:
    interval, window, times, (prices, caps, volumes) = made
    body_prices = list(prices)
    if end == "with the present price":
        body_prices.append((times[-1] + int(interval.step.total_seconds() * 400), 1_000))
    found = rows(window, interval, lists(body_prices, caps, volumes))
    wanted = [t for t in times if ms(window.start) <= t < ms(window.end)]
    assert [row["timestamp"] for row in found] == wanted
    for row in found:
        number = times.index(row["timestamp"])
        assert row["price"] == number
        assert row["market_cap"] == (number if (row["timestamp"], number) in caps else None)
        assert row["total_volume"] == (number if (row["timestamp"], number) in volumes else None)
        assert (row["id"], row["symbol"], row["name"]) == ("bitcoin", "btc", "Bitcoin")
        assert row["interval"] == interval


def test_values_are_kept_as_they_were_sent() -> None:
    t = ms(BEGIN)
    body = (
        f'{{"prices": [[{t}, 1.234567890123456789012]], "market_caps": [[{t}, 1E+3]], '
        f'"total_volumes": [[{t}, {"9" * 5000}]]}}'
    )
    window = Window(BEGIN, BEGIN + DAY)
    (text,) = source().history_rows(BITCOIN, window, Interval.DAY, [body.encode()], what="x")
    assert f'"timestamp": {t}, "price": 1.234567890123456789012, "market_cap": 1E+3' in text
    assert f'"total_volume": {"9" * 5000}}}' in text


def test_a_time_without_a_price_is_a_row() -> None:
    t = ms(BEGIN)
    window = Window(BEGIN, BEGIN + 3 * DAY)
    body = lists([[t, 1]], [[t, 5], [t + 86_400_000, 6]])
    assert [row["price"] for row in rows(window, Interval.DAY, body)] == [1, None]


def test_a_list_that_says_two_things_of_a_time_has_two_rows() -> None:
    t = ms(BEGIN)
    window = Window(BEGIN, BEGIN + DAY)
    found = rows(window, Interval.DAY, lists([[t, 1], [t, 2]], [[t, 5]]))
    assert [(row["price"], row["market_cap"]) for row in found] == [(1, 5), (2, None)]


@pytest.mark.parametrize(
    "point", [None, 7, [], [1], ["2025-05-01", 1], [1.5, 1], [-1, 1], [1, 2, 3], {"t": 1}]
)
def test_what_is_no_point_is_a_row_for_validation(point: Any) -> None:
    window = Window(BEGIN, BEGIN + DAY)
    body = [json.dumps({"prices": [point], "market_caps": [], "total_volumes": []}).encode()]
    (row,) = rows(window, Interval.DAY, body)
    assert (row["list"], row["point"], row["id"]) == ("prices", point, "bitcoin")
    assert CoinGecko.map_history_row(row)["timestamp"] is None


def test_what_is_nested_without_end_does_not_cost_the_other_rows() -> None:
    t = ms(BEGIN)
    window = Window(BEGIN, BEGIN + DAY)
    deep = "[" * 2_000 + "]" * 2_000
    body = f'{{"prices": [[{t}, 1], {deep}], "market_caps": [[{t}, {deep}]], "total_volumes": []}}'
    good, bad = rows(window, Interval.DAY, [body.encode()])
    assert good["price"] == 1
    assert good["market_cap"] == bad["point"] == "nested too deeply to be kept"


@pytest.mark.parametrize("interval", list(Interval))
@pytest.mark.parametrize("share", [0.05, 0.3, 0.49])
def test_the_present_price_is_no_part_of_a_series(interval: Interval, share: float) -> None:
    times = [BEGIN + n * interval.step for n in range(5)]
    present = times[-1] + share * interval.step
    window = Window(BEGIN, BEGIN + 9 * interval.step)
    found = rows(window, interval, lists([[ms(t), 1] for t in [*times, present]]))
    assert [row["timestamp"] for row in found] == [ms(t) for t in times]


def test_the_present_price_in_place_of_a_point_that_is_missing() -> None:
    times = [BEGIN, BEGIN + timedelta(hours=1), BEGIN + timedelta(hours=2, minutes=40)]
    window = Window(BEGIN, BEGIN + DAY)
    found = rows(window, Interval.HOUR, lists([[ms(t), 1] for t in times]))
    assert [row["timestamp"] for row in found] == [ms(t) for t in times[:2]]


@pytest.mark.parametrize("asked", list(Interval))
@pytest.mark.parametrize("answered", list(Interval))
def test_points_of_another_interval_are_refused(asked: Interval, answered: Interval) -> None:
    times = [BEGIN + n * answered.step for n in range(30)]
    window = Window(BEGIN, BEGIN + 60 * DAY)
    body = lists([[ms(t), 1] for t in times])
    if asked == answered:
        assert len(rows(window, asked, body)) == 30
        return
    with pytest.raises(UpstreamMalformed, match=f"the interval {asked} were asked for"):
        rows(window, asked, body)


def test_a_series_with_holes_is_no_other_interval() -> None:
    times = [BEGIN + n * timedelta(hours=1) for n in (0, 4, 5, 9, 14, 18)]
    assert len(rows(Window(BEGIN, BEGIN + DAY), Interval.HOUR, lists([[ms(t), 1] for t in times])))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "is no JSON object"),
        (b'"text"', "is no JSON object"),
        (b"{}", "has no list 'prices'"),
        (b'{"prices": []}', "has no list 'market_caps'"),
        (b'{"prices": 5, "market_caps": [], "total_volumes": []}', "has no list 'prices'"),
        (b'{"prices": x}', "broken JSON"),
        (b"<html>", "broken JSON"),
        (b"\xff\xfe{", "not UTF-8"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
    ],
)
def test_another_form_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(UpstreamMalformed, match=message) as caught:
        rows(Window(BEGIN, BEGIN + DAY), Interval.DAY, [body])
    assert "coingecko (page 1)" in str(caught.value)


@given(st.integers(0, 400))
def test_an_answer_that_ends_too_early_may_be_whole_later(end: int) -> None:
    (body,) = lists([[ms(BEGIN), 1.5], [ms(BEGIN + DAY), -2e-7]], [[ms(BEGIN), None]])
    if end >= len(body):
        return
    with pytest.raises(UpstreamUnavailable):
        rows(Window(BEGIN, BEGIN + DAY), Interval.DAY, [body[:end]])


def test_an_empty_history_has_no_rows() -> None:
    assert rows(Window(BEGIN, BEGIN + DAY), Interval.DAY, lists([])) == []


# --- CoinPaprika ----------------------------------------------------------------------------


def points(window: Window, body: bytes) -> list[str]:
    asked = source("coinpaprika")
    return list(asked.history_rows(BITCOIN, window, Interval.HOUR, [body], what="coinpaprika"))


def test_a_request_of_coinpaprika() -> None:
    asked = source("coinpaprika", **ANY_PLAN)
    (window,) = asked.windows(BEGIN, BEGIN + 30 * DAY, Interval.HOUR)
    request = asked.history_request(
        2, Asset("btc-bitcoin", "BTC", "Bitcoin"), window, Interval.HOUR, now=NOW
    )
    assert request.page == 2
    assert request.url == "https://api.coinpaprika.com/v1/tickers/btc-bitcoin/historical"
    assert request.params == {
        "start": "2025-05-01T00:00:00Z",
        "end": "2025-05-30T23:59:59Z",
        "interval": "1h",
        "limit": "5000",
        "quote": "usd",
    }


def test_a_window_of_coinpaprika_is_what_one_answer_holds() -> None:
    asked = source("coinpaprika", **ANY_PLAN)
    windows = asked.windows(BEGIN, BEGIN + 30 * DAY, Interval.FIVE_MINUTES)
    assert [window.points(Interval.FIVE_MINUTES) for window in windows] == [5_000, 3_640]


def test_a_point_of_coinpaprika_is_kept_as_it_was_sent() -> None:
    sent = '{"timestamp":"2025-05-01T01:00:00Z",  "price":1.10000000000000000001}'
    (text,) = points(Window(BEGIN, BEGIN + DAY), f"[{sent}]".encode())
    assert text.endswith(f'"interval": "1h", "point": {sent}}}')
    assert json.loads(text)["id"] == "bitcoin"


def test_points_outside_the_window_belong_to_another() -> None:
    times = ["2025-04-30T23:59:59.999Z", "2025-05-01T00:00:00Z", "2025-05-01T23:59:59"]
    times += ["2025-05-02T00:00:00Z", "2025-05-02T01:00:00+02:00"]
    body = json.dumps([{"timestamp": time, "price": 1} for time in times]).encode()
    found = [
        json.loads(text)["point"]["timestamp"] for text in points(Window(BEGIN, BEGIN + DAY), body)
    ]
    assert found == [times[1], times[2], times[4]]


@pytest.mark.parametrize("point", ["7", "null", "{}", '{"timestamp": 5}', '{"timestamp": "soon"}'])
def test_a_point_whose_time_can_t_be_read_is_a_row_for_validation(point: str) -> None:
    (text,) = points(Window(BEGIN, BEGIN + DAY), f"[{point}]".encode())
    assert text.endswith(f'"point": {point}}}')


def test_no_list_is_refused() -> None:
    with pytest.raises(UpstreamMalformed, match="a JSON object where a JSON list"):
        points(Window(BEGIN, BEGIN + DAY), b"{}")


# --- rows under canonical names -------------------------------------------------------------


def test_a_row_of_coingecko_under_canonical_names() -> None:
    (row,) = rows(
        Window(BEGIN, BEGIN + DAY), Interval.DAY, lists([[ms(BEGIN), 5]], [[ms(BEGIN), 0]])
    )
    assert CoinGecko.map_history_row(row) == {
        "symbol": "btc",
        "name": "Bitcoin",
        "asset_id": "bitcoin",
        "price_usd": 5,
        "volume_24h": None,
        "market_cap": 0,
        "percent_change_24h": None,
        "timestamp": ms(BEGIN),
        "interval": "1d",
    }


def test_a_row_of_coinpaprika_under_canonical_names() -> None:
    sent = {"timestamp": "2025-05-01T01:00:00Z", "price": 5, "volume_24h": 0, "market_cap": 0}
    (text,) = points(Window(BEGIN, BEGIN + DAY), json.dumps([sent]).encode())
    assert CoinPaprika.map_history_row(json.loads(text)) == {
        "symbol": "btc",
        "name": "Bitcoin",
        "asset_id": "bitcoin",
        "price_usd": 5,
        "volume_24h": 0,
        "market_cap": None,
        "percent_change_24h": None,
        "timestamp": "2025-05-01T01:00:00Z",
        "interval": "1h",
    }


def test_true_is_no_number() -> None:
    assert CoinGecko.map_history_row({"price": True})["price_usd"] == "True"
    assert CoinPaprika.map_history_row({"point": {"price": True}})["price_usd"] == "True"


def test_a_source_without_a_history_is_told() -> None:
    with pytest.raises(SettingsError, match="There is no source 'coinbingo'"):
        sources.load_with_history("coinbingo")
    assert sources.with_history() == ["coingecko", "coinpaprika"]
