"""Extracting an API source: pages in, raw batches and pending batches out."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from marketdata import clock
from marketdata.errors import StateConflict, UpstreamMalformed
from marketdata.load.loader import load_batch
from marketdata.load.raw import unpack
from marketdata.runs import closing
from marketdata.runs.extraction import pages
from marketdata.runs.extraction.outcome import Extracted, ExtractionState
from marketdata.store import run_inputs
from marketdata.store.batches import queue
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from marketdata.store.sources import overview
from tests.support.documents import Document
from tests.support.pages import coins, note, pages_asked, raw_rows
from tests.support.pipeline import Pipeline, coin, counts, line, without_quota
from tests.support.upstream import Reply, Upstream

COINS, TICKERS = "/coins", "/tickers"


@pytest.fixture
def coingecko(store: Store, server: Upstream) -> Pipeline:
    return Pipeline(
        store,
        {"COINGECKO_API_URL": server.url + COINS, "COINGECKO_PAGES": "3"},
        ["coingecko"],
    )


@pytest.fixture
def coinpaprika(store: Store, server: Upstream) -> Pipeline:
    return Pipeline(store, {"COINPAPRIKA_API_URL": server.url + TICKERS}, ["coinpaprika"])


def tickers(number: int) -> list[dict[str, Any]]:
    """Rows as of CoinPaprika, whose ranks come in no order; every tenth has none."""
    return [
        {
            "id": f"c{n}-coin",
            "symbol": f"C{n}",
            "name": f"Coin {n}",
            "rank": 0 if n % 10 == 0 else number - n,
            "last_updated": "2025-05-09T06:00:00Z",
            "quotes": {"USD": {"price": 1 + n, "volume_24h": 0, "market_cap": n}},
        }
        for n in range(number)
    ]


# --- pages -------------------------------------------------------------------------------


def test_pages_become_raw_batches_and_pending_batches(
    server: Upstream, coingecko: Pipeline
) -> None:
    rows = coins(750)
    server.pages(COINS, rows)
    run_id = coingecko.open()["run_id"]
    assert coingecko.extract(run_id, "coingecko") == Extracted(ExtractionState.EXTRACTED, [0, 1, 2])
    assert pages_asked(server) == ["1", "2", "3"]
    assert raw_rows(coingecko.store) == rows
    found = list(coingecko.store.batches.find({}).sort("number"))
    assert [(b["page"], b["rows"], b["state"]) for b in found] == [
        (1, 250, "pending"),
        (2, 250, "pending"),
        (3, 250, "pending"),
    ]
    kept: Document = coingecko.store.raw_batches.find_one({"_id": found[0]["raw_id"]})
    assert kept is not None
    assert (kept["source"], kept["rows"], kept["format"]) == ("coingecko", 250, "json")
    assert kept["origin"]["url"] == server.url + COINS
    assert kept["origin"]["status"] == 200
    assert kept["received_at"] == kept["origin"]["fetched_at"] == found[0]["received_at"]


def test_the_rows_are_kept_as_the_very_text_that_came(
    server: Upstream, coingecko: Pipeline
) -> None:
    text = '{"id": "a",  "current_price": 1.50000000000000000001e-7, "x": "\\u00fc", "x": 1}'
    server.replies[COINS] = Reply(f"\n[ {text} ]\n".encode())
    coingecko.extract(coingecko.open()["run_id"], "coingecko")
    kept: Document = coingecko.store.raw_batches.find_one({})
    assert kept is not None
    assert unpack(kept) == b"[" + text.encode() + b"]"


def test_a_list_ends_with_a_page_without_rows(server: Upstream, coingecko: Pipeline) -> None:
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "9"}
    server.pages(COINS, coins(300))
    run = coingecko.run()
    assert pages_asked(server) == ["1", "2", "3"]
    assert (run["status"], note(coingecko, run["_id"])["warnings"]) == ("success", [])


def test_one_large_answer_becomes_several_batches(server: Upstream, coinpaprika: Pipeline) -> None:
    server.replies[TICKERS] = Reply(tickers(1050))
    coinpaprika.rows_per_batch = 400
    run = coinpaprika.run()
    result = line(run, "coinpaprika")
    assert (result["batches"], result["extracted"], result["pages"]) == (3, 1050, 1)
    assert counts(result) == {"inserted": 1050}
    found = list(coinpaprika.store.batches.find({}).sort("number"))
    assert [(b["first_row"], b["rows"]) for b in found] == [(0, 400), (400, 400), (800, 250)]
    assert server.seen[0].query == {"quotes": "USD"}
    # Each record knows its row in the answer, not in the batch.
    last = coinpaprika.store.market_data.find_one({"asset_id": "c1049-coin"})
    assert last is not None
    assert last["row"] == 1049
    assert raw_rows(coinpaprika.store) == tickers(1050)


def test_a_run_that_could_load_not_one_row_is_a_failure(
    server: Upstream, coingecko: Pipeline
) -> None:
    """As when a source renames a field that every record needs."""
    renamed = [{**coin(f"c{n}"), "price": 1.5} for n in range(3)]
    for row in renamed:
        del row["current_price"]
    server.pages(COINS, renamed)
    run = coingecko.run()
    result = line(run, "coingecko")
    assert (run["status"], result["status"]) == ("failed", "failed")
    assert result["error"]["code"] == "all_quarantined"
    assert "3 of 3" in result["error"]["message"]
    assert counts(result) == {"quarantined": 3}
    failures = overview.get(coingecko.store, "coingecko")["failures"]
    assert failures["consecutive"] == 1

    # The same again is no better.
    assert coingecko.run()["status"] == "failed"
    assert overview.get(coingecko.store, "coingecko")["failures"]["consecutive"] == 2

    server.pages(COINS, [*renamed, coin("c4")])
    run = coingecko.run()
    assert (run["status"], line(run, "coingecko")["error"]) == ("success", None)
    assert counts(line(run, "coingecko")) == {"inserted": 1, "quarantined": 3}


def test_a_limit_by_rank_asks_for_these_rows_alone(server: Upstream, coinpaprika: Pipeline) -> None:
    rows = [*tickers(100), "no object"]
    server.replies[TICKERS] = Reply(rows)
    coinpaprika.environment = {**coinpaprika.environment, "COINPAPRIKA_TOP": "30"}
    run = coinpaprika.run()
    wanted = [r for r in rows if not isinstance(r, dict) or 0 < r["rank"] <= 30]
    assert len(wanted) == 28
    result = line(run, "coinpaprika")
    assert result["extracted"] == result["rows_in"] == 28
    assert counts(result) == {"inserted": 27, "quarantined": 1}
    # Raw is what was asked for, and says how much was left out.
    assert raw_rows(coinpaprika.store) == wanted
    kept: Document = coinpaprika.store.raw_batches.find_one({})
    assert kept is not None
    assert (kept["rows"], kept["origin"]["rows"], kept["origin"]["left_out"]) == (28, 101, 73)
    assert note(coinpaprika, run["_id"])["left_out"] == 73


def test_a_limit_that_no_row_meets_is_a_format_that_changed(
    server: Upstream, coinpaprika: Pipeline
) -> None:
    rows = tickers(20)
    for row in rows:
        del row["rank"]
    server.replies[TICKERS] = Reply(rows)
    coinpaprika.environment = {**coinpaprika.environment, "COINPAPRIKA_TOP": "30"}
    result = line(coinpaprika.run(), "coinpaprika")
    assert (result["status"], result["error"]["code"]) == ("failed", "upstream_malformed")
    assert "20 rows, and by the source's settings none" in result["error"]["message"]
    assert coinpaprika.store.raw_batches.count_documents({}) == 0


def test_no_rows_with_a_limit_is_an_empty_answer(server: Upstream, coinpaprika: Pipeline) -> None:
    server.replies[TICKERS] = Reply(b"[]")
    coinpaprika.environment = {**coinpaprika.environment, "COINPAPRIKA_TOP": "30"}
    result = line(coinpaprika.run(), "coinpaprika")
    assert (result["status"], result["extracted"], result["batches"]) == ("success", 0, 1)


# --- going on after a stop ---------------------------------------------------------------


class Crash(Exception):
    """The process ends here."""


@pytest.mark.parametrize("where", ["save_raw", "put_batches", "set_input_if_unchanged"])
@pytest.mark.parametrize("page", [1, 2])
def test_a_crash_in_mid_extraction_loses_and_doubles_nothing(
    server: Upstream,
    coingecko: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    page: int,
) -> None:
    server.pages(COINS, coins(750))
    run_id = coingecko.open()["run_id"]
    module: Any = {"save_raw": pages, "put_batches": queue, "set_input_if_unchanged": run_inputs}[
        where
    ]
    real = getattr(module, where)
    calls = 0

    def crash(*args: Any) -> Any:
        nonlocal calls
        result = real(*args)
        calls += where != "set_input_if_unchanged" or "pages" in args[-1]
        if calls == page:
            raise Crash
        return result

    monkeypatch.setattr(module, where, crash)
    with pytest.raises(Crash):
        coingecko.extract(run_id, "coingecko")
    monkeypatch.undo()
    assert coingecko.extract(run_id, "coingecko") == Extracted(ExtractionState.EXTRACTED, [0, 1, 2])
    assert raw_rows(coingecko.store) == coins(750)
    # A page whose note was written is not asked for again.
    again = page if where != "set_input_if_unchanged" else page + 1
    assert pages_asked(server) == [*map(str, range(1, page + 1)), *map(str, range(again, 4))]


def test_a_page_that_is_shorter_the_second_time_leaves_no_batch_behind(
    server: Upstream, coinpaprika: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.replies[TICKERS] = [Reply(tickers(1050)), Reply(tickers(700))]
    coinpaprika.rows_per_batch = 400
    run_id = coinpaprika.open()["run_id"]
    real = queue.put_batches

    def crash(*args: Any) -> None:
        real(*args)
        raise Crash

    monkeypatch.setattr(queue, "put_batches", crash)
    with pytest.raises(Crash):
        coinpaprika.extract(run_id, "coinpaprika")
    monkeypatch.undo()
    assert coinpaprika.extract(run_id, "coinpaprika") == Extracted(
        ExtractionState.EXTRACTED, [0, 1]
    )
    assert sum(b["rows"] for b in coinpaprika.store.batches.find({})) == 700


def test_a_call_that_is_made_again_takes_no_loaded_batch_back(
    server: Upstream, coingecko: Pipeline
) -> None:
    server.pages(COINS, coins(750))
    run = coingecko.run()
    # As a call that Lambda made twice would, with the page not noted yet.
    before: list[Document] = list(coingecko.store.batches.find({}).sort("number"))
    assert [batch["state"] for batch in before] == ["loaded"] * 3
    note = {"inputs.coingecko": {"source": "coingecko", "status": "pending"}}
    running = {"status": "running", "expires_at": clock.now() + timedelta(minutes=5)}
    coingecko.store.runs.update_one(
        {"_id": run["_id"]}, {"$set": note | running, "$unset": {"closing": ""}}
    )
    coingecko.extract(run["_id"], "coingecko")
    assert list(coingecko.store.batches.find({}).sort("number")) == before
    # Nor one that has other content by now.
    other: Any = [before[0] | {"raw_id": "other", "number": 0}]
    queue.put_batches(coingecko.store, "coingecko", run["_id"], other)
    assert list(coingecko.store.batches.find({}).sort("number")) == before


def test_a_pending_batch_of_other_content_is_replaced(coingecko: Pipeline) -> None:
    about: Document = {"number": 0, "source": "coingecko", "rows": 1}
    for raw_id in ("first", "second"):
        queue.put_batches(coingecko.store, "coingecko", "run", [about | {"raw_id": raw_id}])
    (batch,) = coingecko.store.batches.find({})
    assert (batch["raw_id"], batch["state"]) == ("second", "pending")


def test_a_call_without_time_left_asks_to_be_called_again(
    server: Upstream, coingecko: Pipeline
) -> None:
    server.pages(COINS, coins(750))
    run_id = coingecko.open()["run_id"]
    coingecko.seconds = 10.2  # after the reserve, less than one answer may take
    for _ in range(2):
        assert coingecko.extract(run_id, "coingecko") == Extracted(ExtractionState.AGAIN, [])
    # It never gives up a page that it could have asked for: each call brings one more.
    assert coingecko.extract(run_id, "coingecko") == Extracted(ExtractionState.EXTRACTED, [0, 1, 2])
    assert pages_asked(server) == ["1", "2", "3"]


def test_what_is_extracted_is_not_asked_for_again(server: Upstream, coingecko: Pipeline) -> None:
    server.pages(COINS, coins(10))
    run_id = coingecko.open()["run_id"]
    first = coingecko.extract(run_id, "coingecko")
    asked = pages_asked(server)
    assert coingecko.extract(run_id, "coingecko") == first
    assert pages_asked(server) == asked == ["1", "2"]


def test_a_run_that_has_ended_extracts_nothing(server: Upstream, coingecko: Pipeline) -> None:
    run_id = coingecko.open()["run_id"]
    closing.close(coingecko.store, run_id)
    with pytest.raises(StateConflict, match=run_id):
        coingecko.extract(run_id, "coingecko")
    assert server.seen == []


def beside(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, other: Any) -> None:
    """Have another call do its work just before this one's first call of a function."""
    real = getattr(module, name)

    def late(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(module, name, real)
        other()
        return real(*args, **options)

    monkeypatch.setattr(module, name, late)


def batches_by_place(store: Store) -> list[tuple[int, str, int]]:
    """Number, place and rows of all batches."""
    found = store.batches.find({}).sort("number")
    return [(b["number"], b["place"], b["rows"]) for b in found]


@pytest.mark.parametrize(
    "where", [(pages, "save_raw"), (run_inputs, "take_numbers"), (queue, "put_batches")]
)
@pytest.mark.parametrize("late_rows", [250, 240])
def test_a_call_that_is_behind_another_takes_none_of_its_pages_back(
    server: Upstream,
    coingecko: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    where: tuple[Any, str],
    late_rows: int,
) -> None:
    """A function that Lambda gave up may go on beside the one that took its place.

    Its answer is cut into more parts, whose numbers are those of the other one's next page.
    """
    rows = coins(750)
    ahead = [rows[:250], rows[250:500], rows[500:]]
    coingecko.rows_per_batch = 100
    server.replies[COINS] = [Reply(rows[:late_rows]), *map(Reply, ahead)]
    run_id = coingecko.open()["run_id"]
    ended = []

    def other() -> None:
        coingecko.rows_per_batch = 250
        ended.append(coingecko.extract(run_id, "coingecko"))

    beside(monkeypatch, *where, other)
    late = coingecko.extract(run_id, "coingecko")
    assert ended == [Extracted(ExtractionState.EXTRACTED, [0, 1, 2])] == [late]
    assert batches_by_place(coingecko.store) == [
        (0, "coingecko page 1 part 0", 250),
        (1, "coingecko page 2 part 0", 250),
        (2, "coingecko page 3 part 0", 250),
    ]
    assert {b["raw_id"] for b in coingecko.store.batches.find({})} <= {
        kept["_id"] for kept in coingecko.store.raw_batches.find({})
    }
    assert pages_asked(server) == ["1", "1", "2", "3"]


def test_calls_at_once_leave_each_page_cut_by_one_of_them(
    server: Upstream, coingecko: Pipeline
) -> None:
    """None waits for another, and each is told the same end."""
    # Four times as many requests as one call makes.
    coingecko.environment = {**coingecko.environment, **without_quota("coingecko")}
    rows = coins(750)
    server.pages(COINS, rows)
    run_id = coingecko.open()["run_id"]
    start = threading.Barrier(4)

    def call(rows_per_batch: int) -> Extracted:
        start.wait()
        return replace(coingecko, rows_per_batch=rows_per_batch).extract(run_id, "coingecko")

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(call, (40, 70, 110, 250)))
    found = list(coingecko.store.batches.find({}).sort("number"))
    assert ends == [Extracted(ExtractionState.EXTRACTED, list(range(len(found))))] * 4
    assert [(b["page"], b["first_row"]) for b in found] == sorted(
        (b["page"], b["first_row"]) for b in found
    )
    for page, length in ((1, 250), (2, 250), (3, 250)):
        parts = [b for b in found if b["page"] == page]
        assert len({b["claim"] for b in parts}) == 1
        assert [b["first_row"] for b in parts] == [
            sum(b["rows"] for b in parts[:n]) for n in range(len(parts))
        ]
        assert sum(b["rows"] for b in parts) == length


def test_a_call_that_is_behind_goes_on_where_the_other_died(
    server: Upstream, coingecko: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = coins(750)
    # Two calls ask for each page.
    coingecko.environment = {**coingecko.environment, **without_quota("coingecko")}
    coingecko.rows_per_batch = 100
    server.replies[COINS] = [
        *(Reply(rows[n : n + 250]) for n in (0, 0, 250)),
        *(Reply(rows[n : n + 250]) for n in (250, 500)),
    ]
    run_id = coingecko.open()["run_id"]

    def other() -> None:
        """Its second page is written in one batch, and never noted."""
        coingecko.rows_per_batch = 250
        real, calls = queue.put_batches, 0

        def crash(*args: Any) -> None:
            nonlocal calls
            calls += 1
            real(*args)
            if calls == 2:
                raise Crash

        with monkeypatch.context() as patch:
            patch.setattr(queue, "put_batches", crash)
            with pytest.raises(Crash):
                coingecko.extract(run_id, "coingecko")
        coingecko.rows_per_batch = 100

    beside(monkeypatch, pages, "save_raw", other)
    assert coingecko.extract(run_id, "coingecko") == Extracted(
        ExtractionState.EXTRACTED, [0, 1, 2, 3, 4, 5, 6]
    )
    assert pages_asked(server) == ["1", "1", "2", "2", "3"]
    assert batches_by_place(coingecko.store) == [
        (0, "coingecko page 1 part 0", 250),
        (1, "coingecko page 2 part 0", 100),
        (2, "coingecko page 2 part 1", 100),
        (3, "coingecko page 2 part 2", 50),
        (4, "coingecko page 3 part 0", 100),
        (5, "coingecko page 3 part 1", 100),
        (6, "coingecko page 3 part 2", 50),
    ]


def test_a_call_that_is_behind_does_not_end_what_the_other_ended(
    server: Upstream, coingecko: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.replies[COINS] = [Reply(coins(10)), Reply(coins(10))]
    run_id = coingecko.open()["run_id"]

    def other() -> None:
        assert coingecko.extract(run_id, "coingecko").state == "extracted"
        raise UpstreamMalformed("The one that is behind can't read its answer.")

    beside(monkeypatch, pages, "save_raw", other)
    assert coingecko.extract(run_id, "coingecko") == Extracted(ExtractionState.EXTRACTED, [0])
    assert note(coingecko, run_id)["status"] == "extracted"
    assert note(coingecko, run_id).get("error") is None


@pytest.mark.parametrize("closed", [False, True], ids=["before the close", "after the close"])
def test_what_a_call_writes_after_the_end_and_leaves_is_counted_by_no_run(
    server: Upstream, coingecko: Pipeline, monkeypatch: pytest.MonkeyPatch, *, closed: bool
) -> None:
    rows = coins(750)
    server.replies[COINS] = [Reply(rows[n : n + 250]) for n in (0, 0, 250, 500)]
    store = coingecko.store
    run_id = coingecko.open()["run_id"]
    real = queue.put_batches

    def late(*args: Any) -> None:
        """The other call does all of it before this one writes its first page, and dies."""
        monkeypatch.setattr(queue, "put_batches", real)
        coingecko.rows_per_batch = 250
        for number in coingecko.extract(run_id, "coingecko").numbers:
            load_batch(store, BatchKey(run_id, "coingecko", number))
        if closed:
            closing.close(store, run_id)
        real(*args)
        raise Crash

    monkeypatch.setattr(queue, "put_batches", late)
    coingecko.rows_per_batch = 50
    with pytest.raises(Crash):
        coingecko.extract(run_id, "coingecko")
    assert store.batches.count_documents({"state": "pending"}) == 2

    result = line(dict(closing.close(store, run_id)), "coingecko")
    assert (result["status"], result["batches"], result["extracted"]) == ("success", 3, 750)
    server.pages(COINS, rows)
    result = line(coingecko.run(), "coingecko")
    assert (result["resume_from"], result["batches"], result["extracted"]) == ([], 3, 750)
    assert store.batches.count_documents({"first_run_id": run_id}) == 3


def test_pages_before_a_fault_are_loaded(server: Upstream, coingecko: Pipeline) -> None:
    server.replies[COINS] = [Reply(coins(250)), Reply({"error": "gone"}, status=410)]
    run = coingecko.run()
    result = line(run, "coingecko")
    assert (result["status"], result["inserted"]) == ("partial_success", 250)
    assert result["error"]["code"] == "upstream_refused"
    assert "gone" in result["error"]["message"]
    assert run["status"] == "partial_success"


def test_of_two_calls_that_write_the_same_numbers_at_once_the_later_token_stays(
    store: Store,
) -> None:
    """The earlier one takes back what is its own; nothing that was noted is missing then."""
    count = 400
    rows = {"source": "coingecko", "raw_id": "raw", "rows": 1, "first_row": 0}
    documents: list[Document] = [rows | {"number": number} for number in range(count)]
    for run in ("a", "b", "c"):
        start = threading.Barrier(2)

        def put(token: int, run: str = run, start: threading.Barrier = start) -> None:
            start.wait()
            for at in range(0, count, 4):
                queue.put_batches(store, "coingecko", run, documents[at : at + 4], token)

        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(put, token) for token in (1, 2)]:
                done.result()
        queue.drop_overtaken(store, "coingecko", run, 1)
        assert store.batches.count_documents({"run_id": run, "claim": 2}) == count
