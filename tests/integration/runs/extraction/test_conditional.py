"""Pages that have not changed, and what earlier runs have left: neither is asked for again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from marketdata.load import context
from marketdata.runs import closing
from marketdata.runs.extraction.outcome import Extracted, ExtractionState
from marketdata.sources import coingecko as coingecko_module
from marketdata.store import runs
from marketdata.store.connection import Store
from marketdata.store.sources import overview
from tests.support.documents import Document
from tests.support.pipeline import Pipeline, coin, counts, let_pass, line
from tests.support.upstream import Reply, Seen, Upstream, upstream

COINS = "/coins"
HOUR = 3600  # seconds from one run to the next


class Pages:
    """A source that knows when a page is as it was, by its ETag."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.answers: list[tuple[str, int]] = []

    def __call__(self, seen: Seen) -> Reply:
        page = int(seen.query["page"])
        rows = self.rows[(page - 1) * 250 : page * 250]
        etag = f'"{hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]}"'
        status = 304 if seen.headers.get("If-None-Match") == etag else 200
        self.answers.append((seen.query["page"], status))
        return Reply(b"" if status == 304 else rows, status=status, headers={"ETag": etag})

    def told(self) -> list[tuple[str, int]]:
        """Pages and statuses since this was asked for last."""
        answers, self.answers = self.answers, []
        return answers


@pytest.fixture
def server() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


@pytest.fixture
def pages(server: Upstream) -> Pages:
    found = Pages([coin(f"c{n}") for n in range(750)])
    server.replies[COINS] = found
    return found


@pytest.fixture
def coingecko(store: Store, server: Upstream) -> Pipeline:
    environment = {"COINGECKO_API_URL": server.url + COINS, "COINGECKO_PAGES": "3"}
    return Pipeline(store, environment, ["coingecko"])


def note(pipeline: Pipeline, run: Document) -> Document:
    found: Document = runs.get(pipeline.store, run["_id"])["inputs"]["coingecko"]
    return found


ALL = [("1", 200), ("2", 200), ("3", 200)]
NONE = [("1", 304), ("2", 304), ("3", 304)]


def test_a_run_over_unchanged_pages_inserts_nothing_and_says_why(
    pages: Pages, coingecko: Pipeline
) -> None:
    assert counts(line(coingecko.run(), "coingecko")) == {"inserted": 750}
    assert pages.told() == ALL
    for _ in range(2):
        run = coingecko.run()
        assert pages.told() == NONE
        found = note(coingecko, run)
        assert (found["status"], found["unchanged_pages"], found["error"]) == ("skipped", 3, None)
        assert "All 3 pages are as when last loaded" in found["reason"]
        # They are counted as what they are, though no row was sent or parsed.
        assert counts(line(run, "coingecko")) == {"unchanged": 750}
    batches = list(coingecko.store.batches.find({}).sort("received_at"))
    assert [batch.get("skipped", False) for batch in batches] == [False] * 3 + [True] * 6
    assert coingecko.store.raw_batches.count_documents({}) == 3


def test_rows_that_could_not_be_loaded_are_no_better_unchanged(
    pages: Pages, coingecko: Pipeline
) -> None:
    pages.rows = [coin(f"c{n}", current_price=-1) for n in range(5)]
    for status in (200, 304):
        run = coingecko.run()
        assert pages.told() == [("1", status), ("2", status)]
        result = line(run, "coingecko")
        assert (result["status"], result["error"]["code"]) == ("failed", "all_quarantined")
        assert counts(result) == {"quarantined": 5}
    assert overview.get(coingecko.store, "coingecko")["failures"]["consecutive"] == 2


def test_one_page_that_changed_is_fetched_and_the_rest_is_not(
    pages: Pages, coingecko: Pipeline
) -> None:
    coingecko.run()
    pages.told()
    pages.rows[300] = coin("c300", current_price=7.5)
    run = coingecko.run()
    assert pages.told() == [("1", 304), ("2", 200), ("3", 304)]
    assert counts(line(run, "coingecko")) == {"updated": 1, "unchanged": 749}
    assert (note(coingecko, run)["status"], note(coingecko, run)["unchanged_pages"]) == (
        "extracted",
        2,
    )


def test_what_another_page_said_in_between_is_not_lost(pages: Pages, coingecko: Pipeline) -> None:
    # The same record on two pages: the page that was received last has the last word.
    pages.rows[0] = coin("c300", current_price=1.25)
    coingecko.run()
    pages.told()
    pages.rows[0] = coin("c300", current_price=1.75)
    coingecko.run()
    assert pages.told() == [("1", 200), ("2", 304), ("3", 304)]
    record = coingecko.store.market_data.find_one({"asset_id": "c300"})
    assert record is not None
    assert record["price_usd"] == 1.5


def test_a_page_that_was_not_loaded_is_fetched_whole(pages: Pages, coingecko: Pipeline) -> None:
    coingecko.run()
    pages.told()
    coingecko.store.batches.update_one({"page": 2}, {"$set": {"state": "failed"}})
    coingecko.store.batches.update_one({"page": 3}, {"$set": {"depends_on_time": True}})
    let_pass(coingecko.store, "coingecko", HOUR)
    run_id = coingecko.open()["run_id"]
    # What was left of page 2 comes first.
    assert coingecko.extract(run_id, "coingecko") == Extracted(ExtractionState.UNFINISHED, [0])
    coingecko.extract(run_id, "coingecko")
    assert pages.told() == [("1", 304), ("2", 200), ("3", 200)]


def test_without_its_raw_rows_a_page_is_fetched_whole(pages: Pages, coingecko: Pipeline) -> None:
    coingecko.run()
    pages.told()
    coingecko.store.raw_batches.delete_many({})
    coingecko.run()
    assert pages.told() == ALL


def test_force_asks_without_a_condition(pages: Pages, coingecko: Pipeline) -> None:
    coingecko.run()
    pages.told()
    let_pass(coingecko.store, "coingecko", HOUR)
    run_id = coingecko.open()["run_id"]
    coingecko.store.runs.update_one({"_id": run_id}, {"$set": {"force": True}})
    coingecko.extract(run_id, "coingecko")
    assert pages.told() == ALL


def test_another_request_or_normaliser_asks_without_a_condition(
    pages: Pages, coingecko: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    coingecko.run()
    pages.told()
    monkeypatch.setattr(context, "NORMALISER_VERSION", context.NORMALISER_VERSION + 1)
    coingecko.run()
    assert pages.told() == ALL
    coingecko.run()
    assert pages.told() == NONE
    url = coingecko.environment["COINGECKO_API_URL"]
    coingecko.environment = {**coingecko.environment, "COINGECKO_API_URL": f"{url}?x=1"}
    coingecko.run()
    assert pages.told() == ALL


def test_a_source_that_does_not_declare_it_is_asked_plainly(
    pages: Pages, coingecko: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coingecko_module.CoinGecko, "conditional", False)
    coingecko.run()
    coingecko.run()
    assert pages.told() == ALL + ALL
    assert "pages" not in overview.get(coingecko.store, "coingecko")


def test_a_to_b_to_a_leaves_a(pages: Pages, coingecko: Pipeline) -> None:
    first = list(pages.rows)
    coingecko.run()
    pages.rows[0] = coin("c0", current_price=9.5)
    coingecko.run()
    pages.rows = first
    pages.told()
    coingecko.run()
    assert pages.told() == [("1", 200), ("2", 304), ("3", 304)]
    record = coingecko.store.market_data.find_one({"asset_id": "c0"})
    assert record is not None
    assert record["price_usd"] == 1.5


class Crash(Exception):
    """The process ends here."""


def test_a_validator_never_outlives_the_content_that_it_stands_for(
    pages: Pages, coingecko: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(pages.rows)
    coingecko.run()
    pages.rows[0] = coin("c0", current_price=9.5)

    def crash(*_: object) -> None:
        raise Crash

    # The run dies when B was received and nothing of it written; then the source is back at A.
    with monkeypatch.context() as patch:
        patch.setattr("marketdata.store.batches.queue.put_batches", crash)
        run_id = coingecko.open()["run_id"]
        with pytest.raises(Crash):
            coingecko.extract(run_id, "coingecko")
    closing.close(coingecko.store, run_id)
    pages.rows = first
    pages.told()
    coingecko.run()
    assert pages.told()[0] == ("1", 200)


# --- what earlier runs have left ----------------------------------------------------------


def test_what_was_left_is_loaded_before_the_source_is_asked(
    server: Upstream, pages: Pages, coingecko: Pipeline
) -> None:
    dead = coingecko.open()["run_id"]
    coingecko.extract(dead, "coingecko")
    closing.close(coingecko.store, dead)
    server.seen.clear()
    let_pass(coingecko.store, "coingecko", HOUR)
    run_id = coingecko.open()["run_id"]
    assert coingecko.extract(run_id, "coingecko") == Extracted(
        ExtractionState.UNFINISHED, [0, 1, 2]
    )
    assert server.seen == []
    # New batches come after those that were taken over, loaded or not.
    assert coingecko.extract(run_id, "coingecko") == Extracted(
        ExtractionState.EXTRACTED, [0, 1, 2, 3, 4, 5]
    )
    assert [seen.query["page"] for seen in server.seen] == ["1", "2", "3"]


def test_batches_know_their_place_and_content(pages: Pages, coingecko: Pipeline) -> None:
    coingecko.rows_per_batch = 200
    coingecko.run()
    found = list(coingecko.store.batches.find({}).sort("number"))
    assert [batch["place"] for batch in found] == [
        "coingecko page 1 part 0",
        "coingecko page 1 part 1",
        "coingecko page 2 part 0",
        "coingecko page 2 part 1",
        "coingecko page 3 part 0",
        "coingecko page 3 part 1",
    ]
    for batch in found:
        raw = coingecko.store.raw_batches.find_one({"_id": batch["raw_id"]})
        assert raw is not None
        assert (batch["digest"], batch["context"]) == (raw["digest"], context.context_of(batch))
