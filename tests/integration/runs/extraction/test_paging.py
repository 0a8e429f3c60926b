"""What came is compared with what was asked for, page by page, under the quotas that users have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from marketdata.store.connection import Store
from marketdata.store.sources import overview
from tests.support.documents import Document
from tests.support.pages import note, pages_asked, raw_rows
from tests.support.pipeline import Pipeline, coin, counts, let_pass, line
from tests.support.upstream import Reply, Seen, Upstream

COINS, TICKERS = "/coins", "/tickers"
HOUR = 3600

type Row = dict[str, Any]


def ranked(*ranks: int) -> list[Row]:
    """Coins that are named after a rank, and have it."""
    return [coin(f"c{rank}", market_cap_rank=rank) for rank in ranks]


def pipeline_of(store: Store, server: Upstream, pages: int) -> Pipeline:
    environment = {"COINGECKO_API_URL": server.url + COINS, "COINGECKO_PAGES": str(pages)}
    return Pipeline(store, environment, ["coingecko"])


@pytest.fixture
def coingecko(store: Store, server: Upstream) -> Pipeline:
    return pipeline_of(store, server, 3)


def serve(server: Upstream, *answers: list[Row] | Reply) -> None:
    """Answer pages by number; those beyond have no rows. More than one for a page: in turn."""

    def answer(seen: Seen) -> Reply:
        page = int(seen.query["page"])
        found = answers[page - 1] if page <= len(answers) else []
        return found if isinstance(found, Reply) else Reply(found)

    server.replies[COINS] = answer


def told(pipeline: Pipeline, run: Document) -> list[str]:
    """The warnings of a run that is no plain success, and says so."""
    result = line(run, "coingecko")
    assert (run["status"], result["status"]) == ("partial_success", "partial_success")
    warnings: list[str] = note(pipeline, run["_id"])["warnings"]
    assert result["error"] == {"code": "incomplete", "message": " ".join(warnings)}
    return warnings


# --- pages that are short -----------------------------------------------------------------


def test_a_short_page_in_the_middle_is_told_and_ends_nothing(
    server: Upstream, coingecko: Pipeline
) -> None:
    serve(server, ranked(*range(1, 251)), ranked(*range(251, 500)), ranked(*range(501, 751)))
    run = coingecko.run()
    # Rank 500 is missing, too, and might have slipped through.
    short, shift = sorted(told(coingecko, run))
    assert "1 of 3 pages had fewer than the 250 rows" in short
    assert "page 2 249" in short
    assert "749 rows came, of 750" in short
    assert "rank 500 is missing" in shift
    assert counts(line(run, "coingecko")) == {"inserted": 749}
    assert overview.get(coingecko.store, "coingecko")["failures"]["consecutive"] == 1


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_a_source_that_caps_its_pages_is_told(store: Store, server: Upstream, pages: int) -> None:
    rows = ranked(*range(1, 151))

    def capped(seen: Seen) -> Reply:
        page = int(seen.query["page"])
        return Reply(rows[(page - 1) * 50 : page * 50])

    server.replies[COINS] = capped
    pipeline = pipeline_of(store, server, pages)
    run = pipeline.run()
    if pages == 3:
        # All of it came: the page beyond has no rows, so the last page is the list's end.
        (warning,) = told(pipeline, run)
        assert "2 of 3 pages had fewer than the 250 rows" in warning
    else:
        (warning,) = told(pipeline, run)
        assert f"{pages} of {pages} pages had fewer than the 250 rows" in warning
        assert "gives 50 rows a page" in warning or "give 50 rows a page at most" in warning
        assert f"{50 * pages} rows came, of {250 * pages}" in warning
    assert counts(line(run, "coingecko")) == {"inserted": 50 * pages}
    # Once more, when nothing has changed: it is still told.
    let_pass(store, "coingecko", HOUR)
    assert told(pipeline, pipeline.run()) == [warning]


@pytest.mark.parametrize(("pages", "rows"), [(1, 249), (2, 300), (3, 300), (3, 500), (1, 250)])
def test_a_list_that_ends_early_is_no_fault(
    store: Store, server: Upstream, pages: int, rows: int
) -> None:
    server.pages(COINS, ranked(*range(1, rows + 1)))
    pipeline = pipeline_of(store, server, pages)
    run = pipeline.run()
    assert (run["status"], note(pipeline, run["_id"])["warnings"]) == ("success", [])
    assert counts(line(run, "coingecko")) == {"inserted": rows}


@pytest.mark.parametrize("pages", [1, 2, 3])
@pytest.mark.parametrize("etag", [{}, {"ETag": '"same"'}], ids=["whole", "conditional"])
def test_a_source_that_caps_its_rows_and_ignores_pages_is_told(
    store: Store, server: Upstream, pages: int, etag: dict[str, str]
) -> None:
    """Its list may have 100 rows, or it gives no more whatever it is asked: nobody can tell."""

    def answer(seen: Seen) -> Reply:
        known = "If-None-Match" in seen.headers
        return Reply(status=304) if known else Reply(ranked(*range(1, 101)), headers=etag)

    server.replies[COINS] = answer
    pipeline = pipeline_of(store, server, pages)
    run = pipeline.run()
    assert pages_asked(server) == ["1", "2"]
    (warning,) = told(pipeline, run)
    assert "Page 2 is the same as page 1, which had 100 of 250 rows" in warning
    assert f"100 rows came, of {250 * pages}" in warning
    result = line(run, "coingecko")
    assert (result["pages"], counts(result)) == (1, {"inserted": 100})
    # Once more, when nothing has changed: it is still told.
    let_pass(store, "coingecko", HOUR)
    assert told(pipeline, pipeline.run()) == [warning]


def test_a_page_that_repeats_an_earlier_one_is_told_and_its_neighbours_are_not(
    server: Upstream, coingecko: Pipeline
) -> None:
    """Page 3 of four is page 1 once more, as a cache may answer."""
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "4"}
    first, second = ranked(*range(1, 251)), ranked(*range(251, 501))
    serve(server, first, second, first, ranked(*range(751, 1001)))
    run = coingecko.run()
    (warning,) = told(coingecko, run)
    assert warning.startswith("Page 3 is the same as page 1. The source repeats pages:")
    assert pages_asked(server) == ["1", "2", "3", "4"]
    assert counts(line(run, "coingecko")) == {"inserted": 750, "unchanged": 250}


def test_pages_that_go_round_are_told(server: Upstream, coingecko: Pipeline) -> None:
    """A short list is repeated from its beginning, and page 3 shows that page 2 was its end."""
    pages = [ranked(*range(1, 251)), ranked(*range(251, 300))]

    def answer(seen: Seen) -> Reply:
        return Reply(pages[(int(seen.query["page"]) - 1) % 2])

    server.replies[COINS] = answer
    coingecko.environment = {**coingecko.environment, "COINGECKO_PAGES": "4"}
    run = coingecko.run()
    fifth, others = told(coingecko, run)
    assert "Page 3 is the same as page 1, page 4 is the same as page 2." in others
    # As page 4 is not full, page 5 was asked for.
    assert "Page 5 is the same as page 3." in fifth
    assert counts(line(run, "coingecko")) == {"inserted": 299, "unchanged": 299}


def test_a_page_beyond_the_last_that_repeats_an_earlier_one_is_told(
    server: Upstream, coingecko: Pipeline
) -> None:
    first = ranked(*range(1, 251))
    serve(server, first, ranked(*range(251, 501)), ranked(*range(501, 510)), first)
    run = coingecko.run()
    (warning,) = told(coingecko, run)
    assert "Page 4 is the same as page 1" in warning
    assert counts(line(run, "coingecko")) == {"inserted": 509}


def test_a_page_is_compared_with_those_of_earlier_calls(
    server: Upstream, coingecko: Pipeline
) -> None:
    """Each call fetches one page, and finds in the run what the pages before had."""
    coingecko.seconds = 10.2
    first = ranked(*range(1, 251))
    serve(server, first, ranked(*range(251, 501)), first)
    (warning,) = told(coingecko, coingecko.run())
    assert "Page 3 is the same as page 1" in warning


def test_a_source_that_answers_each_page_alike_is_told(
    server: Upstream, coingecko: Pipeline
) -> None:
    server.replies[COINS] = Reply(ranked(*range(1, 251)))
    run = coingecko.run()
    (warning,) = told(coingecko, run)
    assert "Page 2 is the same as page 1" in warning
    assert "250 rows came, of 750" in warning
    assert counts(line(run, "coingecko")) == {"inserted": 250}


@pytest.mark.parametrize(
    "beyond", [Reply(status=500), Reply(status=401), Reply(b"<html>", content_type="text/html")]
)
def test_a_page_beyond_the_last_that_can_not_be_seen_is_told_and_costs_nothing(
    store: Store, server: Upstream, beyond: Reply
) -> None:
    pipeline = pipeline_of(store, server, 1)
    serve(server, ranked(*range(1, 101)), beyond)
    run = pipeline.run()
    (warning,) = told(pipeline, run)
    assert "Page 1 had 100 of 250 rows, and whether more follow is not known" in warning
    assert counts(line(run, "coingecko")) == {"inserted": 100}


# --- an order that moves ------------------------------------------------------------------


def moving(server: Upstream, first: list[list[Row]], then: list[list[Row]]) -> None:
    """Answer page 1 from `first`; once page 2 was asked for, everything is from `then`."""
    moved = False

    def answer(seen: Seen) -> Reply:
        nonlocal moved
        page = int(seen.query["page"])
        moved = moved or page > 1
        pages = then if moved else first
        return Reply(pages[page - 1] if page <= len(pages) else [])

    server.replies[COINS] = answer


def test_a_coin_that_slipped_through_is_found_on_the_page_before(
    store: Store, server: Upstream
) -> None:
    """The coin of rank 251 rose to 250 after page 1 was fetched, and 250 fell to page 2."""
    pipeline = pipeline_of(store, server, 2)
    before, risen, fallen = ranked(*range(1, 250)), *ranked(251, 250)
    rest = ranked(*range(252, 501))
    moving(server, [[*before, fallen], [risen, *rest]], [[*before, risen], [fallen, *rest]])
    run = pipeline.run()
    (warning,) = told(pipeline, run)
    assert "1 row is on both page 1 and page 2" in warning
    assert "It had 1 more row, which is loaded" in warning
    assert pages_asked(server) == ["1", "2", "1"]
    assert pipeline.pauses == []
    # The coin that is on both pages counts as one record.
    assert counts(line(run, "coingecko")) == {"inserted": 500, "unchanged": 1}
    assert store.market_data.count_documents({}) == 500
    # Only what was missing is kept of the page that was fetched once more.
    assert len(raw_rows(store)) == 501
    again: Document | None = store.raw_batches.find_one({"rows": 1})
    assert again is not None
    assert (again["origin"]["page"], again["origin"]["left_out"]) == (1, 249)


def test_ranks_that_jump_are_told_and_the_page_before_is_asked_once_more(
    server: Upstream, coingecko: Pipeline
) -> None:
    lost = ranked(251, 252)
    second, third = ranked(*range(253, 503)), ranked(*range(503, 753))
    moving(
        server,
        [ranked(*range(1, 251)), second, third],
        [[*ranked(*range(1, 249)), *lost], second, third],
    )
    run = coingecko.run()
    (warning,) = told(coingecko, run)
    assert "Between page 1 and page 2 ranks 251 to 252 are missing" in warning
    assert "It had 2 more rows, which are loaded" in warning
    assert pages_asked(server) == ["1", "2", "1", "3"]
    assert counts(line(run, "coingecko")) == {"inserted": 752}


def test_ranks_that_stay_away_are_told(server: Upstream, coingecko: Pipeline) -> None:
    serve(server, ranked(*range(1, 251)), ranked(*range(260, 300)))
    (warning,) = told(coingecko, coingecko.run())
    assert "ranks 251 to 259 are missing" in warning
    assert "Page 1 was fetched once more, and had no further row" in warning


def test_without_a_permit_the_page_before_is_not_asked_again(
    server: Upstream, coingecko: Pipeline
) -> None:
    coingecko.environment = {**coingecko.environment, "COINGECKO_BURST": "2"}
    serve(server, ranked(*range(1, 251)), ranked(*range(260, 510)), ranked(*range(510, 760)))
    run = coingecko.run()
    (warning,) = told(coingecko, run)
    assert "Page 1 was not fetched once more: the quota has no permit" in warning
    assert pages_asked(server) == ["1", "2", "3"]
    assert counts(line(run, "coingecko")) == {"inserted": 750}


@pytest.mark.parametrize("fault", [Reply(status=500), Reply(status=429), Reply(status=403)])
def test_a_page_that_fails_when_asked_again_costs_nothing(
    server: Upstream, coingecko: Pipeline, fault: Reply
) -> None:
    answers: list[list[Row] | Reply] = [ranked(*range(1, 251)), ranked(*range(260, 510))]

    def answer(seen: Seen) -> Reply:
        page = int(seen.query["page"])
        if page == 1 and len(server.seen) > 1:
            return fault
        found = answers[page - 1] if page <= len(answers) else []
        return found if isinstance(found, Reply) else Reply(found)

    server.replies[COINS] = answer
    run = coingecko.run()
    (warning,) = told(coingecko, run)
    assert f"Page 1 was not fetched once more: {server.url}{COINS}" in warning
    assert str(fault.status) in warning
    assert counts(line(run, "coingecko")) == {"inserted": 500}


def test_ranks_that_cross_within_and_between_pages_are_no_fault(
    server: Upstream, coingecko: Pipeline
) -> None:
    """As recorded: a coin is ranked, and sorted, by figures of different ages."""
    first = ranked(*range(1, 248), 249, 248, 251)
    second = ranked(250, *range(252, 501))
    serve(server, first, second)
    run = coingecko.run()
    assert (run["status"], note(coingecko, run["_id"])["warnings"]) == ("success", [])


def test_rows_without_rank_or_id_are_no_fault(server: Upstream, coingecko: Pipeline) -> None:
    first = [*ranked(*range(1, 250)), coin("x", market_cap_rank=None)]
    second: list[Any] = [{"id": None}, "text", *ranked(*range(250, 490))]
    serve(server, first, second)
    run = coingecko.run()
    assert note(coingecko, run["_id"])["warnings"] == []
    assert counts(line(run, "coingecko")) == {"inserted": 490, "quarantined": 2}


@pytest.mark.parametrize("rank", ["1e400", "true", '"5"', "-3", "0", "4.5", "9" * 30, "9" * 5000])
def test_what_is_no_rank_is_ignored(server: Upstream, coingecko: Pipeline, rank: str) -> None:
    """As it is sent: Python would not write all of these as JSON."""
    odd = json.dumps([*ranked(*range(1, 250)), coin("odd", market_cap_rank="RANK")])
    first = Reply(odd.replace('"RANK"', rank).encode())
    serve(server, first, ranked(*range(250, 260)))
    run = coingecko.run()
    assert (run["status"], note(coingecko, run["_id"])["warnings"]) == ("success", [])
    assert counts(line(run, "coingecko")) == {"inserted": 260}


def test_an_id_that_can_not_be_stored_costs_its_row_alone(
    server: Upstream, coingecko: Pipeline
) -> None:
    """A lone surrogate is no character, though JSON can write it."""
    first = [*ranked(*range(1, 250)), coin("\ud800", market_cap_rank=250)]
    second = [coin("\ud800", market_cap_rank=251), *ranked(*range(252, 260))]
    serve(server, first, second)
    assert b"\\ud800" in Reply(first).content()
    run = coingecko.run()
    # The row is on both pages, which is seen by its id; the page before has nothing further.
    assert pages_asked(server) == ["1", "2", "1", "3"]
    assert (run["status"], note(coingecko, run["_id"])["warnings"]) == ("success", [])
    assert counts(line(run, "coingecko")) == {"inserted": 257, "quarantined": 2}
    aside: list[Document] = list(coingecko.store.quarantine.find({}))
    assert [json.loads(row["row"])["id"] for row in aside] == ["\ud800"] * 2


# --- no rows at all -----------------------------------------------------------------------


def test_a_first_page_without_rows_fails_where_there_were_rows_before(
    server: Upstream, coingecko: Pipeline
) -> None:
    serve(server, ranked(*range(1, 11)))
    assert coingecko.run()["status"] == "success"
    server.replies[COINS] = Reply([])
    for failures in (1, 2):
        let_pass(coingecko.store, "coingecko", HOUR)
        run = coingecko.run()
        result = line(run, "coingecko")
        assert (run["status"], result["status"]) == ("failed", "failed")
        assert result["error"]["code"] == "upstream_empty"
        assert "had rows before" in result["error"]["message"]
        found = overview.get(coingecko.store, "coingecko")["failures"]
        assert (found["consecutive"], found["last_error"]["code"]) == (failures, "upstream_empty")
    serve(server, ranked(*range(1, 11)))
    let_pass(coingecko.store, "coingecko", HOUR)
    assert coingecko.run()["status"] == "success"


def test_a_first_page_without_rows_may_be_an_accident(
    server: Upstream, coingecko: Pipeline
) -> None:
    serve(server, ranked(*range(1, 251)))
    coingecko.run()
    let_pass(coingecko.store, "coingecko", HOUR)
    rows = [Reply([]), Reply(ranked(*range(1, 251))), Reply([])]
    server.replies[COINS] = rows
    assert coingecko.run()["status"] == "success"


def test_a_single_answer_without_rows_fails_as_well(store: Store, server: Upstream) -> None:
    pipeline = Pipeline(store, {"COINPAPRIKA_API_URL": server.url + TICKERS}, ["coinpaprika"])
    server.replies[TICKERS] = Reply([])
    # It may have none yet.
    assert pipeline.run()["status"] == "success"
    ticker = {
        "id": "btc-bitcoin",
        "name": "Bitcoin",
        "symbol": "BTC",
        "rank": 1,
        "last_updated": "2025-05-09T06:00:00Z",
        "quotes": {"USD": {"price": 1.0, "volume_24h": 1.0, "market_cap": 1.0}},
    }
    server.replies[TICKERS] = Reply([ticker])
    let_pass(store, "coinpaprika", HOUR)
    assert pipeline.run()["status"] == "success"
    server.replies[TICKERS] = Reply([])
    let_pass(store, "coinpaprika", HOUR)
    run = pipeline.run()
    assert (run["status"], line(run, "coinpaprika")["error"]["code"]) == (
        "failed",
        "upstream_empty",
    )
