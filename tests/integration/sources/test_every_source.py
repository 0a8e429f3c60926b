"""What every source must do, by being registered. See tests/support/source_cases.py."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from marketdata import sources
from marketdata.store.connection import Store
from tests.support.pipeline import Pipeline, counts, line
from tests.support.recorded import recorded
from tests.support.source_cases import CASES, OPTIONAL, REQUIRED, Bench, Recorded, case_of
from tests.support.upstream import Reply, Seen, Upstream, upstream


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


@pytest.fixture(params=sources.names())
def bench(request: pytest.FixtureRequest, store: Store, server: Upstream) -> Bench:
    case_of(request.param)
    return Bench(store, server, request.param)


def test_every_source_has_a_case_and_every_case_a_source() -> None:
    for name in sources.names():
        case = case_of(name)
        assert sources.load(name).name == name
        assert set(case.fields) == {*REQUIRED, *OPTIONAL}
    assert sorted(CASES) == sources.names(), "a case is of a source that there is no more"


def _recorded() -> list[object]:
    return [
        pytest.param(name, told, id=told.files[0])
        for name, case in CASES.items()
        for told in case.recorded
    ]


@pytest.mark.parametrize(("name", "told"), _recorded())
def test_recorded_answers_are_counted_exactly(
    store: Store, server: Upstream, name: str, told: Recorded
) -> None:
    bench = Bench(store, server, name)
    total = 0
    for number, (file, inserted) in enumerate(zip(told.files, told.inserted, strict=True)):
        rows = recorded(file)
        first = line(bench.run(rows), name)
        total += inserted
        assert first["status"] == "success"
        assert first["extracted"] == len(rows)
        unchanged = {"unchanged": len(rows) - inserted} if inserted < len(rows) else {}
        assert counts(first) == {"inserted": inserted} | unchanged
        if number == 0:
            for field, nulls in told.nulls.items():
                assert sum(record[field] is None for record in bench.records()) == nulls
        second = line(bench.run(rows), name)
        assert counts(second) == {"unchanged": len(rows)}
    assert len(bench.records()) == total
    # Whatever the source does not give is null, and what it gives is as it came.
    originals = {_at(row, bench, "asset_id"): row for row in rows}
    for record in bench.records():
        row = originals[record["asset_id"]]
        if _at(row, bench, "timestamp")[:19] == record["timestamp"].isoformat()[:19]:
            assert record["price_usd"] == float(_at(row, bench, "price_usd"))
            assert record["symbol"] == _at(row, bench, "symbol").upper()


def _at(row: dict[str, object], bench: Bench, field: str) -> str:
    found: object = row
    for name in bench.case.fields[field]:
        assert isinstance(found, dict)
        found = found[name]
    return found  # type: ignore[return-value]


# --- the core: what a run makes of good, odd and no rows ----------------------------------


def test_rows_are_records_and_a_second_run_inserts_none(bench: Bench) -> None:
    rows = bench.rows(20)
    first = bench.run(rows)
    assert first["status"] == "success"
    assert counts(line(first, bench.name)) == {"inserted": 20}
    for row, record in zip(rows, sorted(bench.records(), key=lambda r: r["row"]), strict=True):
        assert record["asset_id"] == _at(row, bench, "asset_id")
        assert record["name"] == _at(row, bench, "name")
        assert record["symbol"] == _at(row, bench, "symbol").upper()
        for field in ("price_usd", "volume_24h", "market_cap", "percent_change_24h"):
            assert record[field] == _at(row, bench, field), field
            assert isinstance(record[field], float), field
        assert (record["source"], record["dataset"]) == (bench.name, "")
    second = bench.run(rows)
    result = line(second, bench.name)
    assert counts(result) == {"unchanged": 20}
    assert (second["status"], result["status"], result["error"]) == ("success", "skipped", None)
    assert result["reason"]
    assert len(bench.records()) == 20


def test_one_changed_value_updates_one_record(bench: Bench) -> None:
    rows = bench.rows()
    bench.run(rows)
    bench.put(rows[2], "price_usd", 123.5)
    assert counts(line(bench.run(rows), bench.name)) == {"updated": 1, "unchanged": 4}
    changed = [r for r in bench.records() if r["revision"] == 2]
    assert [(r["price_usd"], r["asset_id"]) for r in changed] == [
        (123.5, _at(rows[2], bench, "asset_id"))
    ]
    assert len(bench.records()) == 5


def test_what_is_not_known_is_null(bench: Bench) -> None:
    rows: list[dict[str, object]] = []
    expected = {}
    for field in OPTIONAL:
        for value in bench.case.unknown.get(field, [None]):
            row = bench.case.row(len(rows))
            bench.put(row, field, value)
            rows.append(row)
            expected[_at(row, bench, "asset_id")] = field
    assert counts(line(bench.run(rows), bench.name)) == {"inserted": len(rows)}
    for record in bench.records():
        assert [f for f in OPTIONAL if record[f] is None] == [expected[record["asset_id"]]]


def test_an_optional_field_may_be_missing(bench: Bench) -> None:
    rows = bench.rows(len(OPTIONAL))
    for row, field in zip(rows, OPTIONAL, strict=True):
        bench.drop(row, field)
    assert counts(line(bench.run(rows), bench.name)) == {"inserted": len(rows)}
    by_row = sorted(bench.records(), key=lambda r: r["row"])
    for record, field in zip(by_row, OPTIONAL, strict=True):
        assert [f for f in OPTIONAL if record[f] is None] == [field]


def test_an_extra_field_changes_nothing(bench: Bench) -> None:
    rows = bench.rows()
    bench.run(rows)
    before = bench.records()
    for row in rows:
        row |= {"new_field": {"deeply": ["nested", 1]}, "$where": "1", "": None}
    assert counts(line(bench.run(rows), bench.name)) == {"unchanged": 5}
    assert bench.records() == before


def test_a_row_without_what_a_record_needs_is_set_aside_whole(bench: Bench) -> None:
    rows = bench.rows(len(REQUIRED) + 2)
    for row, field in zip(rows, REQUIRED, strict=False):
        bench.drop(row, field)
    bench.put(rows[len(REQUIRED)], "price_usd", 0)
    run = bench.run(rows)
    assert run["status"] == "success"
    assert counts(line(run, bench.name)) == {"inserted": 1, "quarantined": len(REQUIRED) + 1}
    aside = list(bench.store.quarantine.find({}).sort("row_number"))
    assert [json.loads(document["row"]) for document in aside] == rows[:-1]
    assert [document["field"] for document in aside] == [*REQUIRED, "price_usd"]


def test_a_row_that_is_nested_too_deeply_is_set_aside_alone(bench: Bench) -> None:
    rows = bench.rows(3)
    depth = 9_995
    deep = '{"a":' * depth + "1" + "}" * depth
    body = json.dumps([*rows, "DEEP", *bench.rows(5)[3:]]).replace('"DEEP"', deep)
    run = bench.run(Reply(body.encode()))
    assert run["status"] == "success"
    assert counts(line(run, bench.name)) == {"inserted": 5, "quarantined": 1}
    (aside,) = bench.store.quarantine.find({})
    assert (aside["row_number"], aside["reason"], aside["row"]) == (3, "malformed_row", deep)


ODD_BUT_GOOD: list[tuple[str, object, object]] = [
    ("symbol", "b\u200bt\ufeffc", "BTC"),
    ("symbol", "\0\0eth\0", "ETH"),
    ("name", "\u202eBit\u00adcoin\u2069", "Bitcoin"),
    ("name", "Bit\ncoin", "Bit coin"),
    ("name", "\u200b", None),
    ("asset_id", "odd\u2060-id", "odd-id"),
    ("volume_24h", float("nan"), None),
    ("percent_change_24h", float("nan"), None),
    ("market_cap", "", None),
    ("name", "half \udfff of a pair", None),
    ("volume_24h", float("-inf"), None),
    ("volume_24h", -5, None),
]
"""What is sent of a field, and what is loaded of it."""
ODD: list[tuple[str, object, str]] = [
    ("symbol", "b\u0007tc", "control_character"),
    ("asset_id", "a\u0000b", "control_character"),
    ("asset_id", "\ud800", "string_unicode"),
    ("symbol", "\ud83d", "string_unicode"),
    ("symbol", "\u200b\ufeff", "string_too_short"),
    ("price_usd", float("nan"), "finite_number"),
    ("price_usd", float("inf"), "finite_number"),
    ("timestamp", "1970-01-01T00:00:00Z", "timestamp_unknown"),
    ("timestamp", "1970-01-01T01:00:00+01:00", "timestamp_unknown"),
    ("timestamp", 0, "timestamp_unknown"),
]
"""What is sent of a field, and why its row is set aside."""


def test_odd_values_are_read_or_cost_their_row_alone(bench: Bench) -> None:
    """As they come over HTTP: escapes, `NaN` and `Infinity` are in the bytes of the answer."""
    rows = bench.rows(len(ODD_BUT_GOOD) + len(ODD) + 1)
    for row, (field, sent, _) in zip(rows, [*ODD_BUT_GOOD, *ODD], strict=False):
        bench.put(row, field, sent)
    run = bench.run(Reply(json.dumps(rows).encode()))
    assert run["status"] == "success"
    assert counts(line(run, bench.name)) == {
        "inserted": len(ODD_BUT_GOOD) + 1,
        "quarantined": len(ODD),
    }
    loaded = {record["row"]: record for record in bench.records()}
    for number, (field, _, expected) in enumerate(ODD_BUT_GOOD):
        assert loaded[number][field] == expected, (number, field)
        assert loaded[number]["price_usd"] == _at(rows[number], bench, "price_usd")
    aside = list(bench.store.quarantine.find({}).sort("row_number"))
    assert [(one["field"], one["reason"]) for one in aside] == [(f, why) for f, _, why in ODD]
    # Each as it was sent.
    sent = rows[len(ODD_BUT_GOOD) : -1]
    assert [json.dumps(json.loads(one["row"])) for one in aside] == [json.dumps(r) for r in sent]


def test_an_empty_answer_is_a_run_without_rows(bench: Bench) -> None:
    run = bench.run([])
    result = line(run, bench.name)
    assert (run["status"], result["status"]) == ("success", "success")
    assert (result["extracted"], result["batches"], counts(result)) == (0, 1, {})


def test_a_row_that_is_repeated_is_a_duplicate(bench: Bench) -> None:
    rows = bench.rows()
    rows.insert(3, rows[1])
    assert counts(line(bench.run(rows), bench.name)) == {"inserted": 5, "duplicate": 1}
    assert len(bench.records()) == 5


def test_a_page_that_repeats_a_row_brings_no_second_record(bench: Bench) -> None:
    if bench.case.page_rows is None:
        rows = bench.rows(300)
        result = line(bench.run([*rows, rows[0]]), bench.name)
        assert (result["pages"], counts(result)) == (1, {"inserted": 300, "duplicate": 1})
        return
    rows = bench.rows(bench.case.page_rows)
    result = line(bench.run([*rows, rows[0]]), bench.name)
    # A third page, if the settings ask for one, has no rows: the list has ended.
    assert result["pages"] == result["batches"] in (2, 3)
    assert counts(result) == {"inserted": len(rows), "unchanged": 1}
    assert len(bench.records()) == len(rows)


def test_coins_that_share_ticker_and_second_all_survive(bench: Bench) -> None:
    rows = bench.rows(30)
    for row in rows:
        bench.put(row, "symbol", "same")
    assert counts(line(bench.run(rows), bench.name)) == {"inserted": 30}
    assert bench.store.market_data.count_documents({"symbol": "SAME"}) == 30


# --- the core: an upstream that fails ------------------------------------------------------

FAILURES: dict[str, tuple[Callable[[Bench], Reply], str, str]] = {
    "server error": (
        lambda _: Reply(b"Oops: 17", status=500),
        "upstream_unavailable",
        "answered 500. An error within the source. It said: 'Oops: 17'",
    ),
    "HTML with status 200": (
        lambda _: Reply(b"<!DOCTYPE html><h1>Just a moment</h1>", content_type="text/html"),
        "upstream_malformed",
        "answered markup (text/html) where JSON belongs. It said: '<!DOCTYPE html>",
    ),
    "an object": (
        lambda _: Reply({"data": []}),
        "upstream_malformed",
        """a JSON object where a JSON list of rows belongs. It begins: '{"data": """,
    ),
    "an error with status 200": (
        lambda _: Reply({"error": "id not found"}),
        "upstream_refused",
        'a JSON object with status 200, which tells of an error. It said: \'{"error":',
    ),
    "a server error with status 200": (
        lambda _: Reply({"status": {"error_code": 500, "error_message": "Oops"}}),
        "upstream_unavailable",
        "which tells of an error 500. An error within the source.",
    ),
    "truncated JSON": (
        lambda bench: Reply(json.dumps(bench.rows()).encode()[:-30]),
        "upstream_unavailable",
        "JSON that ends within row 5: the transfer was cut off",
    ),
    "a cut transfer": (
        lambda bench: Reply(json.dumps(bench.rows()).encode()[:-30], declared_length=10_000),
        "upstream_unavailable",
        "broke off its answer after",
    ),
    "a connection that hangs": (
        lambda _: Reply(hang=True),
        "upstream_unavailable",
        "did not answer within 0.3 s",
    ),
    "a body that hangs": (
        lambda bench: Reply(
            json.dumps(bench.rows()).encode()[:-30], declared_length=10_000, stall=True
        ),
        "upstream_unavailable",
        "broke off its answer after",
    ),
    "a refusal": (
        lambda _: Reply({"error": "no such plan"}, status=403),
        "upstream_refused",
        """check the source's URL and key. It said: '{"error":""",
    ),
    "a list of something else": (
        lambda _: Reply([["bitcoin", 1.5], ["ethereum", 2]]),
        "upstream_malformed",
        "a list of 2 values of which none is an object",
    ),
    "other words": (
        lambda _: Reply(b"[{'id': 1}]"),
        "upstream_malformed",
        "broken JSON after row 0",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_source_that_fails_says_what_came_and_stops_no_other(bench: Bench, failure: str) -> None:
    make, code, says = FAILURES[failure]
    began = time.monotonic()
    run = bench.run(make(bench), others=True)
    assert time.monotonic() - began < 15
    failed = line(run, bench.name)
    assert (failed["status"], failed["error"]["code"]) == ("failed", code)
    assert says in failed["error"]["message"]
    assert f"/{bench.name}" in failed["error"]["message"]
    assert counts(failed) == {}
    assert bench.records() == []
    others = [name for name in bench.names if name != bench.name]
    for name in others:
        result = line(run, name)
        assert (result["status"], counts(result)) == ("success", {"inserted": 3})
    assert run["status"] == ("partial_success" if others else "failed")
    # It can be asked again by the next run, which is not in its way.
    assert counts(line(bench.run(bench.rows()), bench.name)) == {"inserted": 5}


CORE = [
    test_rows_are_records_and_a_second_run_inserts_none,
    test_one_changed_value_updates_one_record,
    test_what_is_not_known_is_null,
    test_an_optional_field_may_be_missing,
    test_an_extra_field_changes_nothing,
    test_a_row_without_what_a_record_needs_is_set_aside_whole,
    test_an_empty_answer_is_a_run_without_rows,
    test_a_row_that_is_repeated_is_a_duplicate,
    test_a_page_that_repeats_a_row_brings_no_second_record,
    test_coins_that_share_ticker_and_second_all_survive,
]
"""What the worked example in docs/adding-a-source.md is put through, too."""


# --- recorded answers with a form of their own ---------------------------------------------


def test_the_same_record_on_two_recorded_pages_is_one(store: Store, server: Upstream) -> None:
    first = recorded("coingecko_markets_2022-02-23T113146Z.json")
    second = recorded("coingecko_markets_2022-02-23T113146Z_page2.json")

    def page(seen: Seen) -> Reply:
        return Reply(first if seen.query["page"] == "1" else second)

    server.replies["/coingecko"] = page
    url = f"{server.url}/coingecko"
    pipeline = Pipeline(store, {"COINGECKO_API_URL": url, "COINGECKO_PAGES": "2"}, ["coingecko"])
    assert counts(line(pipeline.run(), "coingecko")) == {"inserted": 250, "unchanged": 1}
    assert store.market_data.count_documents({}) == 250


def test_the_recorded_tickers_up_to_a_rank(store: Store, server: Upstream) -> None:
    rows = recorded("coinpaprika_tickers_2021-08-12_part1.json")
    server.replies["/coinpaprika"] = Reply(rows)
    url = f"{server.url}/coinpaprika"
    pipeline = Pipeline(
        store, {"COINPAPRIKA_API_URL": url, "COINPAPRIKA_TOP": "100"}, ["coinpaprika"]
    )
    wanted = {row["id"] for row in rows if 1 <= row["rank"] <= 100}
    assert counts(line(pipeline.run(), "coinpaprika")) == {"inserted": len(wanted)}
    assert {record["asset_id"] for record in store.market_data.find({})} == wanted
