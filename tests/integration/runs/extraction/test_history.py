"""Backfills from the request to the records, over a real MongoDB and an upstream of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.replay.samples import coinpaprika_tickers
from local.replay.server import answer as replay_answer
from marketdata.load.loader import load_batch
from marketdata.runs import closing, going_on, opening
from marketdata.runs.extraction import history
from marketdata.store import asked_ranges, backfills, runs
from marketdata.store.connection import Store
from marketdata.store.sources import overview
from tests.support.backfills import (
    COINS,
    END,
    FIRST_DAY,
    MARKETS,
    POINTS,
    START,
    TODAY,
    Backfills,
    chart,
    days_ago,
    know,
    path_of,
    records_of_past,
    serve_charts,
)
from tests.support.documents import Document
from tests.support.events import hourly_event
from tests.support.gateway import ok
from tests.support.pipeline import Pipeline, coin, counts, let_pass, line, put_rows
from tests.support.upstream import Reply, Seen, Upstream


@pytest.fixture
def world(store: Store, server: Upstream) -> Backfills:
    """With the quota that users have."""
    serve_charts(server)
    know(store, *COINS)
    return Backfills(store, {"COINGECKO_API_URL": server.url + MARKETS})


def source_of(store: Store) -> Document:
    """What all functions know of the source."""
    found: Any = overview.get(store, "coingecko")
    return dict(found)


def of_run(run: Document) -> Document:
    (result,) = run["results"]
    found: Document = result
    return found


def test_the_past_is_fetched_and_loaded(world: Backfills, server: Upstream) -> None:
    answer = world.request(assets=["bitcoin", "ETH"])
    assert (answer["assets"], answer["requests"], answer["interval"]) == (2, 2, "1h")
    assert (answer["start"], answer["end"]) == (
        f"{START}T00:00:00.000Z",
        f"{days_ago(FIRST_DAY - 20)}T00:00:00.000Z",
    )
    run = world.execute(answer["run_id"])
    assert run["status"] == "success"
    result = of_run(run)
    assert (result["source"], result["input"]) == ("coingecko", "backfill:coingecko")
    assert counts(result) == {"inserted": result["rows_in"]}
    found = records_of_past(world.store)
    assert len(found) == result["rows_in"]
    # The upstream has a hole now and then, as the real ones do.
    assert 2 * POINTS - 20 < len(found) < 2 * POINTS
    assert {(one["asset_id"], one["interval"]) for one in found} == {
        ("bitcoin", "1h"),
        ("ethereum", "1h"),
    }
    assert [seen.path for seen in server.seen] == [path_of("bitcoin"), path_of("ethereum")]
    told = world.told(run["_id"])
    assert (told["trigger"], told["status"]) == ("backfill", "success")
    assert told["backfill"] == {
        "source": "coingecko",
        "interval": "1h",
        "start": f"{START}T00:00:00.000Z",
        "end": f"{days_ago(FIRST_DAY - 20)}T00:00:00.000Z",
        "gaps": False,
        "assets": 2,
        "assets_done": 2,
        "requests": 2,
        "requests_done": 2,
        "requests_refused": 0,
        "rows": len(found),
        "percent": 100.0,
        "estimated_end": None,
        "cancelled_at": None,
    }


def test_coinpaprika_has_a_past_as_well(store: Store, server: Upstream) -> None:
    coin_id = "btc-bitcoin"

    def historical(seen: Seen) -> Reply:
        found = replay_answer(seen.path, seen.query)
        assert found is not None
        return Reply(found.body)

    server.replies[f"/v1/tickers/{coin_id}/historical"] = historical
    row = next(row for row in coinpaprika_tickers() if row["id"] == coin_id)
    now = {"last_updated": "2025-05-09T06:00:00Z"}
    load_batch(store, put_rows(store, [{**row, **now}], source="coinpaprika"))
    world = Backfills(
        store, {"COINPAPRIKA_API_URL": f"{server.url}/v1/tickers"}, name="coinpaprika"
    )
    run = world.run(assets=["BTC"])
    assert run["status"] == "success"
    found = records_of_past(store)
    assert {(one["source"], one["asset_id"], one["interval"]) for one in found} == {
        ("coinpaprika", coin_id, "1d")
    }
    assert 18 <= len(found) <= 20


def test_the_same_range_twice_inserts_nothing(world: Backfills) -> None:
    world.run(assets=["bitcoin"])
    before = records_of_past(world.store)
    again = of_run(world.run(assets=["bitcoin"]))
    assert again["inserted"] == again["updated"] == 0
    assert again["unchanged"] == again["rows_in"] == len(before)
    assert records_of_past(world.store) == before


def test_the_largest_ones_are_taken_by_market_cap(world: Backfills, server: Upstream) -> None:
    run = world.run(top=2)
    assert run["status"] == "success"
    assert [seen.path for seen in server.seen] == [path_of(name) for name in COINS[:2]]


def test_only_holes_are_asked_for_and_those_of_the_source_once(
    world: Backfills, server: Upstream
) -> None:
    world.run(assets=["bitcoin"], end=days_ago(FIRST_DAY - 9))
    server.seen.clear()
    answer = world.request(assets=["bitcoin", "ethereum"], gaps=True)
    run = world.execute(answer["run_id"])
    assert run["status"] == "success"
    # Of bitcoin only what lies behind the first range, as what is missing within it was asked for.
    first, second = server.seen
    assert first.path == path_of("bitcoin")
    behind = TODAY - timedelta(days=FIRST_DAY - 10)
    assert int(first.query["from"]) == int(behind.timestamp())
    assert second.path == path_of("ethereum")
    query = {"source": "coingecko", "asset": "bitcoin", "interval": "1h", "start": START}
    gaps = ok(world.gateway.get("/gaps", **query, end=END))
    assert gaps["totals"]["missing"] == gaps["totals"]["missing_at_source"] > 0
    refused = world.gateway.post(
        "/backfills",
        {
            "source": "coingecko",
            "assets": ["bitcoin", "ethereum"],
            "start": START,
            "end": END,
            "interval": "1h",
            "gaps": True,
        },
    )
    assert refused.status == 400
    assert "nothing to do" in refused.json()["error"]["message"]


def test_the_present_is_as_it_was(world: Backfills) -> None:
    store = world.store
    latest = list(store.latest_prices.find())
    world.run(assets=["bitcoin"])
    assert list(store.latest_prices.find()) == latest
    assert not {"watermarks", "failures", "lease"} & source_of(store).keys()
    health = world.gateway.get("/health").json()
    assert health["last_run"] is None
    stats = ok(world.gateway.get("/stats"))
    assert "backfill:coingecko" not in str(stats)


# --- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"source": "nowhere"},
            "There is no source 'nowhere'. Sources are: coingecko, coinpaprika.",
        ),
        ({"assets": None}, "Give either `assets` or `top`."),
        ({"top": 3}, "Give either `assets` or `top`."),
        ({"assets": ["bitcoin", "dogecoin"]}, "has no asset 'dogecoin' that this database knows"),
        ({"start": days_ago(FIRST_DAY - 30)}, "is not before the end"),
        ({"start": "yesterday"}, "is no time"),
        ({"start": "2020-01-01", "end": "2020-02-01"}, "COINGECKO_HISTORY_DAYS=365"),
        ({"interval": "5m", "source": "coinpaprika"}, "COINPAPRIKA_HISTORY_FIVE_MINUTE_DAYS"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(
    world: Backfills, asked: dict[str, Any], words: str
) -> None:
    body = {"source": "coingecko", "assets": ["bitcoin"], "start": START, "end": END, **asked}
    answer = world.gateway.post(
        "/backfills", {name: value for name, value in body.items() if value is not None}
    )
    assert answer.status == 400, answer.text
    assert words in answer.json()["error"]["message"]
    assert not list(world.store.runs.find())
    assert world.gateway.post("/backfills", body, token="").status == 401


def test_a_ticker_of_several_assets_is_refused_with_their_ids(world: Backfills) -> None:
    know(world.store, "bitcoin", "bittorrent")
    body = {"source": "coingecko", "assets": ["BIT"], "start": START, "end": END}
    answer = world.gateway.post("/backfills", body)
    assert answer.status == 400
    assert "'bitcoin', 'bittorrent'" in answer.json()["error"]["message"]


def test_one_backfill_of_a_source_at_a_time(world: Backfills) -> None:
    first = world.request(assets=["bitcoin"])
    body = {"source": "coingecko", "top": 1, "start": START, "end": END}
    answer = world.gateway.post("/backfills", body)
    assert answer.status == 409
    assert answer.json()["error"]["details"]["run_id"] == first["run_id"]
    assert len(world.engine.started) == 1


def test_what_the_plan_does_not_give_is_told(world: Backfills) -> None:
    answer = world.request(assets=["bitcoin"], start="2025-01-01")
    (warning,) = answer["warnings"]
    assert "COINGECKO_HISTORY_DAYS=365" in warning
    run = world.execute(answer["run_id"])
    (told,) = world.told(run["_id"])["sources"]
    assert told["warnings"] == [warning]
    assert run["status"] == "partial_success"


def test_the_past_year_up_to_today_is_all_that_is_asked_for(world: Backfills) -> None:
    """The day in which the plan's reach ends, and the rest of today, are nobody's loss."""
    answer = world.request(assets=["bitcoin"], start=days_ago(365), end=days_ago(0))
    assert answer["warnings"] == []
    assert answer["interval"] == "1d"
    run = world.execute(answer["run_id"])
    assert run["status"] == "success"
    assert of_run(run)["error"] is None
    assert world.told(run["_id"])["sources"][0]["warnings"] == []


def test_what_lies_ahead_is_told_with_figures(world: Backfills) -> None:
    answer = world.request(assets=["bitcoin"], start=days_ago(20), end=days_ago(-2), interval="1d")
    (warning,) = answer["warnings"]
    assert "has not happened yet" in warning
    assert "(3 points) can't be asked for" in warning


# --- requests that fail -------------------------------------------------------------------


def test_a_coin_that_the_source_does_not_know_ends_no_other(
    world: Backfills, server: Upstream
) -> None:
    del server.replies[path_of("bitcoin")]
    run = world.run(assets=["bitcoin", "ethereum"])
    assert run["status"] == "partial_success"
    (told,) = world.told(run["_id"])["sources"]
    (warning,) = told["warnings"]
    assert warning.startswith(f"bitcoin from {START}T00:00:00.000Z was not received: ")
    assert "404" in warning
    assert {one["asset_id"] for one in records_of_past(world.store)} == {"ethereum"}
    assert world.told(run["_id"])["backfill"]["requests_refused"] == 1
    # What nobody answered was not asked for: the next backfill of holes tries it again.
    assert asked_ranges.of(world.store, "coingecko", "bitcoin", "1h") == []
    assert not source_of(world.store).get("breaker")


def test_a_source_that_fails_ends_it_with_what_had_come(world: Backfills, server: Upstream) -> None:
    for name in COINS[1:]:
        server.replies[path_of(name)] = Reply(b"oops", status=500)
    run = world.run(assets=list(COINS))
    assert run["status"] == "partial_success"
    result = of_run(run)
    assert "POST /backfills with `gaps`" in result["error"]["message"]
    assert {one["asset_id"] for one in records_of_past(world.store)} == {"bitcoin"}
    # Its failing says nothing of the hourly runs.
    assert "failures" not in source_of(world.store)
    serve_charts(server)
    world.store.sources.update_one({"_id": "coingecko"}, {"$unset": {"breaker": ""}})
    after = world.run(assets=list(COINS), gaps=True)
    assert after["status"] == "success"
    assert {one["asset_id"] for one in records_of_past(world.store)} == set(COINS)


def test_an_attempt_that_fails_is_made_again(world: Backfills, server: Upstream) -> None:
    served = server.replies[path_of("bitcoin")]
    answers: list[Any] = [Reply(b"", status=503), served]

    def in_turn(seen: Seen) -> Reply:
        answer = answers.pop(0)
        found: Reply = answer(seen) if callable(answer) else answer
        return found

    server.replies[path_of("bitcoin")] = in_turn
    assert world.run(assets=["bitcoin"])["status"] == "success"


def test_a_key_that_is_refused_ends_it(world: Backfills, server: Upstream) -> None:
    server.replies[path_of("bitcoin")] = Reply(b"{}", status=401)
    run = world.run(assets=list(COINS))
    assert run["status"] == "failed"
    assert len(server.seen) == 1


# --- the quota ----------------------------------------------------------------------------


def hourly(world: Backfills, server: Upstream, pages: int) -> Pipeline:
    server.pages(MARKETS, [coin(f"coin{n}") for n in range(250 * pages)])
    environment = {**world.environment, "COINGECKO_PAGES": str(pages)}
    return Pipeline(world.store, environment, ["coingecko"])


def requests_done(world: Backfills, run_id: str) -> int:
    return int(runs.get(world.store, run_id)["inputs"][world.input].get("pages", 0))


def test_hourly_runs_wait_no_longer_beside_a_backfill(world: Backfills, server: Upstream) -> None:
    """By the real limiter, at the quota that users have: 3 a minute, 5 at once."""
    pipeline = hourly(world, server, 2)
    assert pipeline.run()["status"] == "success"
    run_id = world.request(top=4, interval="1h", start=days_ago(330))["run_id"]
    assert world.open(run_id)["proceed"]
    received = 0
    for _ in range(3):
        # After what the run has taken, the backfill waits until the bucket is full again.
        waited = 0
        while (pages := requests_done(world, run_id)) == received:
            waits = world.extract(run_id)
            assert waits.state == "throttled"
            if requests_done(world, run_id) == received:
                let_pass(world.store, "coingecko", waits.wait_seconds)
                waited += waits.wait_seconds
        assert 30 < waited < 180
        received = pages
        # It has taken what it may. A run of two pages that begins right now waits for nothing.
        assert pipeline.run()["status"] == "success"
        assert pipeline.pauses == []


@pytest.mark.parametrize("last", ["none", "one that got a page", "one of fewer pages"])
def test_a_run_finds_the_permits_that_its_settings_need(
    world: Backfills, server: Upstream, last: str
) -> None:
    """Two pages, and one request more as the second is not full: whatever the last run had."""
    pipeline = hourly(world, server, 1)
    if last != "none":
        pipeline.run()
        let_pass(world.store, "coingecko", 3600)
    if last == "one that got a page":
        pipeline.environment = {**pipeline.environment, "COINGECKO_PAGES": "2"}
        pages: Any = server.replies[MARKETS]
        server.replies[MARKETS] = lambda seen: (
            pages(seen) if seen.query["page"] == "1" else Reply(status=401)
        )
        assert pipeline.run()["status"] == "partial_success"
        let_pass(world.store, "coingecko", 3600)
    server.pages(MARKETS, [coin(f"coin{n}") for n in range(300)])
    two = {"COINGECKO_PAGES": "2"}
    world.environment = {**world.environment, **two}
    pipeline.environment = {**pipeline.environment, **two}
    run_id = world.request(top=4, interval="1h", start="2026-01-01")["run_id"]
    assert world.open(run_id)["proceed"]
    assert world.extract(run_id).state == "throttled"
    assert runs.get(world.store, run_id)["inputs"][world.input]["pages"] > 0
    server.seen.clear()
    assert pipeline.run()["status"] == "success"
    assert [seen.query["page"] for seen in server.seen] == ["1", "2", "3"]
    assert pipeline.pauses == []


def test_a_backfill_steps_aside_while_a_run_is_under_way(
    world: Backfills, server: Upstream
) -> None:
    pipeline = hourly(world, server, 1)
    opened = pipeline.open()
    run_id = world.request(assets=["bitcoin"])["run_id"]
    world.open(run_id)
    extracted = world.extract(run_id)
    assert (extracted.state, extracted.wait_seconds) == ("throttled", 30)
    assert server.seen == []
    pipeline.extract(opened["run_id"], "coingecko")
    closing.close(world.store, opened["run_id"])
    assert world.extract(run_id).state == "extracted"


def test_no_wait_is_too_long(world: Backfills) -> None:
    """MAX_WAIT_MINUTES is for the hourly runs."""
    world.environment = {**world.environment, "MAX_WAIT_MINUTES": "1"}
    run = world.run(top=4, interval="1h", start=days_ago(330), end=days_ago(118))
    assert run["status"] == "success"
    assert sum(world.pauses) > 60
    assert of_run(run)["pages"] == 4 * 3


def test_a_source_that_refuses_is_waited_for_as_long_as_it_takes(
    world: Backfills, server: Upstream
) -> None:
    """A scheduled run would leave it after two minutes."""
    answers = [Reply(status=429)] * 4

    def in_turn(seen: Seen) -> Reply:
        return answers.pop() if answers else chart(seen)

    server.replies[path_of("bitcoin")] = in_turn
    assert world.run(assets=["bitcoin"])["status"] == "success"
    # After each cooldown the bucket fills up again.


@pytest.mark.parametrize("status", [429, 503])
def test_it_never_waits_for_more_than_a_minute_at_a_time(
    world: Backfills, server: Upstream, status: int
) -> None:
    """However long the source asks it to, so that it is cancelled promptly."""
    server.replies[path_of("bitcoin")] = Reply(status=status, headers={"Retry-After": "900"})
    run_id = world.request(assets=["bitcoin"])["run_id"]
    world.open(run_id)
    for _ in range(3):
        waits = world.extract(run_id)
        assert (waits.state, waits.wait_seconds) == ("throttled", 60)
    # It is asked for nothing before its pause is over.
    assert len(server.seen) == 1
    assert world.gateway.post(f"/runs/{run_id}/cancel").status == 202
    assert world.extract(run_id).state == "cancelled"


def test_the_end_is_estimated_by_the_quota(world: Backfills) -> None:
    run_id = world.request(top=4, interval="1h", start=days_ago(330), end=days_ago(118))["run_id"]
    assert world.told(run_id)["backfill"]["estimated_end"] is None
    world.open(run_id)
    assert world.extract(run_id).state == "throttled"
    told = world.told(run_id)["backfill"]
    done = told["requests_done"]
    assert 1 <= done < 12
    assert told["percent"] == round(100 * done / 12, 1)
    # Twelve less these at just under three a minute.
    seconds = backfills_seconds(told)
    assert (12 - done) * 20 - 5 < seconds < (12 - done) * 22 + 5


def backfills_seconds(told: Document) -> float:
    end = datetime.fromisoformat(told["estimated_end"])
    return (end - datetime.now(UTC)).total_seconds()


# --- being loaded in between, handed over, cancelled --------------------------------------


def test_what_was_received_is_loaded_before_the_end(
    world: Backfills, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LOADED_TOGETHER", 2)
    run_id = world.request(top=4)["run_id"]
    world.open(run_id)
    extracted = world.extract(run_id)
    assert (extracted.state, extracted.numbers) == ("unfinished", [0, 1])
    world.load(run_id, extracted.numbers)
    assert len(records_of_past(world.store)) > POINTS
    assert world.told(run_id)["totals"]["inserted"] > POINTS
    assert world.execute(run_id)["status"] == "success"
    assert {one["asset_id"] for one in records_of_past(world.store)} == set(COINS)


def test_another_execution_goes_on_where_one_has_reached_its_limits(
    world: Backfills, monkeypatch: pytest.MonkeyPatch, server: Upstream
) -> None:
    monkeypatch.setattr(history, "MOST_CALLS", 1)
    world.environment = {**world.environment, "COINGECKO_BURST": "1"}
    run_id = world.request(assets=["bitcoin", "ethereum"])["run_id"]
    run = world.execute(run_id)
    assert (run["status"], run["execution"]) == ("running", None)
    assert len(server.seen) == 1
    # No heartbeat can come, and it is no orphan for that.
    world.store.runs.update_one(
        {"_id": run_id}, [{"$set": {"expires_at": {"$subtract": ["$$NOW", 1]}}}]
    )
    opening.open_run(
        world.store, hourly_event(), "arn:hourly", ["coinpaprika"], starter=world.engine
    )
    assert world.engine.started[1:] == [(f"{run_id}-2", {"run_id": run_id})]
    monkeypatch.setattr(history, "MOST_CALLS", 100)
    assert world.execute(run_id)["status"] == "success"
    assert len(server.seen) == 2
    going_on.start_waiting(world.store, world.engine)
    assert len(world.engine.started) == 2


def test_a_backfill_that_died_goes_on_and_one_that_gets_nowhere_ends(
    world: Backfills, server: Upstream
) -> None:
    run_id = world.request(top=2)["run_id"]
    error: Any = {"code": "execution_timed_out", "message": "It took too long."}
    for part in (1, 2):
        opened = world.open(run_id)
        assert opened["proceed"]
        name = backfills.execution_name(runs.get(world.store, run_id))
        closing.close_execution(world.store, f"arn:of:execution:{name}", {"run_id": run_id}, error)
        run = runs.get(world.store, run_id)
        assert (run["status"], run["backfill"]["part"]) == ("running", part + 1)
    world.open(run_id)
    closing.close_dead(world.store, run_id, error)
    run = runs.get(world.store, run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "execution_timed_out")
    assert server.seen == []


def test_a_cancelled_one_loads_what_was_received(world: Backfills, server: Upstream) -> None:
    world.environment = {**world.environment, "COINGECKO_BURST": "1"}
    run_id = world.request(top=4)["run_id"]
    world.open(run_id)
    assert world.extract(run_id).state == "throttled"
    assert len(server.seen) == 1
    answer = ok(world.gateway.post(f"/runs/{run_id}/cancel"), 202)
    assert answer["status"] == "running"
    run = world.execute(run_id)
    assert run["status"] == "cancelled"
    assert len(server.seen) == 1
    assert {one["asset_id"] for one in records_of_past(world.store)} == {"bitcoin"}
    told = world.told(run_id)
    (result,) = told["sources"]
    assert (told["status"], result["status"]) == ("cancelled", "cancelled")
    assert result["error"]["code"] == "cancelled"
    assert "cancelled after 1 of 4 requests" in result["reason"]
    assert told["backfill"]["cancelled_at"] is not None
    assert ok(world.gateway.post(f"/runs/{run_id}/cancel"), 202)["status"] == "cancelled"
    assert [r["run_id"] for r in ok(world.gateway.get("/runs", status="cancelled"))["data"]] == [
        run_id
    ]


def test_one_that_waits_for_its_execution_is_cancelled_at_once(
    world: Backfills, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_CALLS", 0)
    run_id = world.request(top=4)["run_id"]
    assert world.execute(run_id)["status"] == "running"
    assert ok(world.gateway.post(f"/runs/{run_id}/cancel"), 202)["status"] == "cancelled"
    assert not world.open(run_id)["proceed"]
    assert world.request(top=1)["status"] == "running"


def test_only_a_backfill_that_is_under_way_can_be_cancelled(
    world: Backfills, server: Upstream
) -> None:
    ended = world.run(assets=["bitcoin"])["_id"]
    refused = world.gateway.post(f"/runs/{ended}/cancel")
    assert refused.status == 409
    assert "has ended already, as success" in refused.json()["error"]["message"]
    other = hourly(world, server, 1).run()["_id"]
    refused = world.gateway.post(f"/runs/{other}/cancel")
    assert "is no backfill" in refused.json()["error"]["message"]
    assert world.gateway.post("/runs/nowhere/cancel").status == 404
    assert world.gateway.post(f"/runs/{ended}/cancel", token="").status == 401
    assert world.gateway.post("/refresh", {"resume": ended}).status == 409


def test_hourly_runs_and_backfills_never_block_each_other(
    world: Backfills, server: Upstream
) -> None:
    run_id = world.request(assets=["bitcoin"])["run_id"]
    world.open(run_id)
    run = hourly(world, server, 1).run()
    assert (run["status"], run["under_way"]) == ("success", {})
    assert line(run, "coingecko")["inserted"] == 250
    assert world.execute(run_id)["status"] == "success"
