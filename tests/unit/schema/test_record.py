"""The canonical record's validation, in bulk."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.schema.record import MAX_AHEAD, BadCell, Fault, Record, table_of
from marketdata.schema.record import validate as validate_table
from tests.support.tables import records_of

NOW = datetime(2025, 5, 9, 6, 5, tzinfo=UTC)


def validate(
    candidates: list[dict[str, Any]], *, now: datetime
) -> tuple[list[tuple[int, Record]], list[Fault]]:
    """What becomes of rows: records with their row's index, and faults."""
    observations, faults = validate_table(table_of(candidates), now=now)
    return list(zip(observations.places, records_of(observations), strict=True)), faults


def candidate(**fields: Any) -> dict[str, Any]:
    return {
        "symbol": "btc",
        "name": "Bitcoin",
        "asset_id": "bitcoin",
        "price_usd": 103_000.5,
        "volume_24h": 1.0,
        "market_cap": 2.0,
        "percent_change_24h": -0.5,
        "timestamp": "2025-05-09T06:00:07.123Z",
        "source": "coingecko",
        "dataset": "",
    } | fields


def record(**fields: Any) -> Record:
    good, faults = validate([candidate(**fields)], now=NOW)
    assert faults == []
    return good[0][1]


def fault(**fields: Any) -> tuple[str, str]:
    good, faults = validate([candidate(**fields)], now=NOW)
    assert good == []
    assert [f.row for f in faults] == [0]
    return faults[0].field, faults[0].code


def test_a_good_candidate_is_a_record() -> None:
    assert record() == candidate(
        symbol="BTC", timestamp=datetime(2025, 5, 9, 6, 0, 7, 123_000, tzinfo=UTC)
    )


@pytest.mark.parametrize("field", ["volume_24h", "market_cap", "percent_change_24h", "name"])
def test_what_the_source_does_not_say_is_null(field: str) -> None:
    assert record(**{field: None})[field] is None  # type: ignore[literal-required]


@pytest.mark.parametrize("field", ["symbol", "asset_id", "price_usd", "timestamp"])
def test_what_a_record_needs_is_missed(field: str) -> None:
    assert fault(**{field: None})[0] == field
    incomplete = candidate()
    del incomplete[field]
    _, faults = validate([incomplete], now=NOW)
    assert [(f.field, f.code) for f in faults] == [(field, "missing")]


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("price_usd", 0, "greater_than"),
        ("price_usd", -0.0, "greater_than"),
        ("price_usd", -5e-324, "greater_than"),
        ("price_usd", math.nan, "finite_number"),
        ("price_usd", math.inf, "finite_number"),
        ("price_usd", "nan", "finite_number"),
        ("price_usd", "1e400", "finite_number"),
        ("price_usd", "9" * 5000, "finite_number"),
        ("price_usd", 10**400, "float_type"),
        ("price_usd", "True", "float_parsing"),
        ("price_usd", "1,5", "float_parsing"),
        ("price_usd", "", "float_parsing"),
        ("price_usd", {"usd": 1}, "float_type"),
        ("price_usd", [1], "float_type"),
        ("symbol", "", "string_too_short"),
        ("symbol", " \t", "string_too_short"),
        ("symbol", "x" * 65, "string_too_long"),
        ("symbol", 1, "string_type"),
        ("symbol", "\ud800", "string_unicode"),
        ("symbol", "B\x07TC", "control_character"),
        ("symbol", "\u200b\u2060", "string_too_short"),
        ("asset_id", "", "string_too_short"),
        ("asset_id", "\udfff", "string_unicode"),
        ("timestamp", "yesterday", "datetime_from_date_parsing"),
        ("timestamp", "2025-02-30T00:00:00Z", "datetime_from_date_parsing"),
        ("timestamp", "", "datetime_from_date_parsing"),
        ("timestamp", True, "datetime_type"),
        ("timestamp", math.nan, "datetime_parsing"),
        ("timestamp", math.inf, "datetime_parsing"),
        ("timestamp", 10**400, "datetime_type"),
        ("timestamp", 0, "timestamp_unknown"),
        ("timestamp", "0", "timestamp_unknown"),
        ("timestamp", "1970-01-01T00:00:00Z", "timestamp_unknown"),
        ("timestamp", "1970-01-01T01:00:00+01:00", "timestamp_unknown"),
        ("timestamp", -1, "timestamp_too_early"),
        ("timestamp", "1969-12-31T23:59:59.999Z", "timestamp_too_early"),
        ("timestamp", "0001-01-01T00:00:00+01:00", "timestamp_too_early"),
        ("timestamp", "9999-12-31T23:59:59-01:00", "timestamp_in_future"),
        ("timestamp", NOW + MAX_AHEAD + timedelta(milliseconds=1), "timestamp_in_future"),
    ],
)
def test_what_is_no_record_says_which_field_and_why(field: str, value: Any, code: str) -> None:
    assert fault(**{field: value}) == (field, code)


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("price_usd", 5e-324, 5e-324),
        ("price_usd", 1.7976931348623157e308, 1.7976931348623157e308),
        ("price_usd", 7, 7.0),
        ("price_usd", "7.60358e-07", 7.60358e-07),
        ("volume_24h", 0, 0.0),
        ("volume", 0, 0.0),
        ("base_volume", "12.5", 12.5),
        ("quote", " USDT", "USDT"),
        ("quote", "US\u200bDT", "USDT"),
        ("percent_change_24h", -100, -100.0),
        ("symbol", " usdc.e ", "USDC.E"),
        ("symbol", "x" * 64, "X" * 64),
        ("symbol", "Ð", "Ð"),
        ("name", "$money.com", "$money.com"),
        ("name", "NBSP\u00a0stays", "NBSP\u00a0stays"),
        ("name", "狗狗币 🐕", "狗狗币 🐕"),
    ],
)
def test_what_is_kept_is_kept_as_it_came(field: str, value: Any, kept: Any) -> None:
    value = record(**{field: value})[field]  # type: ignore[literal-required]
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(
    ("came", "kept"),
    [
        ("2025-05-09T06:00:07Z", datetime(2025, 5, 9, 6, 0, 7, tzinfo=UTC)),
        ("2025-05-09T06:00:07.123999Z", datetime(2025, 5, 9, 6, 0, 7, 123_000, tzinfo=UTC)),
        ("2025-05-09T11:30:00+05:30", datetime(2025, 5, 9, 6, tzinfo=UTC)),
        ("2025-05-09 06:00", datetime(2025, 5, 9, 6, tzinfo=UTC)),
        ("2025-05-09", datetime(2025, 5, 9, tzinfo=UTC)),
        (date(2025, 5, 9), datetime(2025, 5, 9, tzinfo=UTC)),
        (1_746_770_400, datetime(2025, 5, 9, 6, tzinfo=UTC)),
        (1_746_770_400_123, datetime(2025, 5, 9, 6, 0, 0, 123_000, tzinfo=UTC)),
        ("1746770400", datetime(2025, 5, 9, 6, tzinfo=UTC)),
        ("1970-01-01T00:00:00.001Z", datetime(1970, 1, 1, 0, 0, 0, 1_000, tzinfo=UTC)),
        (datetime(2025, 5, 9, 6), datetime(2025, 5, 9, 6, tzinfo=UTC)),  # noqa: DTZ001
        (
            datetime(2025, 5, 9, 1, tzinfo=timezone(timedelta(hours=-5))),
            datetime(2025, 5, 9, 6, tzinfo=UTC),
        ),
        (NOW + MAX_AHEAD, NOW + MAX_AHEAD),
    ],
)
def test_times_are_utc_in_whole_milliseconds(came: Any, kept: datetime) -> None:
    time = record(timestamp=came)["timestamp"]
    assert time == kept
    assert time.tzinfo is UTC


@pytest.mark.parametrize("field", ["volume_24h", "market_cap", "percent_change_24h"])
@pytest.mark.parametrize("value", [math.nan, "", " ", "NaN", " null", "N/A", "-", "None"])
def test_what_stands_for_nothing_is_null_in_a_number(field: str, value: Any) -> None:
    assert record(**{field: value})[field] is None  # type: ignore[literal-required]


@pytest.mark.parametrize(
    "value", ["", " ", "\t", "\u200b", "\u00a0", "\ufeff ", "null", "\x00\x00"]
)
def test_a_blank_name_does_not_cost_a_price(value: str) -> None:
    assert record(name=value)["name"] is None


@pytest.mark.parametrize("name", ["NA", "na"])
def test_a_word_for_nothing_may_be_a_name(name: str) -> None:
    assert record(name=name)["name"] == name


@pytest.mark.parametrize("field", ["symbol", "asset_id", "name"])
@pytest.mark.parametrize(
    "came",
    [
        "\ufeffTEXT",
        "TE\u200bXT",
        "\u202eTEXT\u202c",
        "TE\u00adXT",
        "TEXT\x00\x00\x00",
        "\x00 TEXT \x00",
        "\u2066TE\u200dXT\u2069 ",
    ],
)
def test_what_nobody_sees_is_no_part_of_a_text(field: str, came: str) -> None:
    assert record(**{field: came})[field] == "TEXT"  # type: ignore[literal-required]


def test_a_line_break_within_a_name_is_a_space() -> None:
    assert record(name="Two\r\n lines\tand more")["name"] == "Two  lines and more"


def test_a_batch_is_split_and_nobody_is_lost() -> None:
    batch = [candidate(asset_id=f"coin {n}") for n in range(10)]
    batch[2]["price_usd"] = 0
    batch[5]["timestamp"] = NOW + timedelta(days=2)
    batch[7] |= {"price_usd": None, "volume_24h": -1}
    good, faults = validate(batch, now=NOW)
    assert [index for index, _ in good] == [0, 1, 3, 4, 6, 8, 9]
    assert [record["asset_id"] for _, record in good] == [
        f"coin {n}" for n in (0, 1, 3, 4, 6, 8, 9)
    ]
    assert [(f.row, f.field) for f in faults] == [
        (2, "price_usd"),
        (5, "timestamp"),
        (7, "price_usd"),
    ]


def test_all_bad_and_none_at_all() -> None:
    assert validate([], now=NOW) == ([], [])
    good, faults = validate([candidate(price_usd=0)] * 3, now=NOW)
    assert good == []
    assert [f.row for f in faults] == [0, 1, 2]


def test_a_field_that_no_record_has_is_a_defect_of_the_mapping() -> None:
    assert fault(price_eur=1.0) == ("price_eur", "extra_forbidden")


def test_a_long_value_is_shown_by_its_beginning() -> None:
    _, faults = validate([candidate(symbol="x" * 10_000)], now=NOW)
    assert "xxx..." in faults[0].message
    assert len(faults[0].message) < 200


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=300),
    st.text(alphabet="0123456789-:TZ+. ", max_size=30),
    st.datetimes(),
    st.datetimes(timezones=st.timezones()),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
FIELDS = st.sampled_from(
    [
        "symbol",
        "name",
        "price_usd",
        "volume_24h",
        "market_cap",
        "timestamp",
        "low",
        "high",
        "volume",
        "quote",
    ]
)


def bad_cells(*rows: dict[str, Any]) -> list[tuple[int, str, str, str]]:
    observations, faults = validate_table(table_of([candidate(**row) for row in rows]), now=NOW)
    assert faults == []
    return [(c.row, c.field, c.code, c.value) for c in observations.bad_cells]


@pytest.mark.parametrize(
    ("field", "value", "code", "shown"),
    [
        ("volume_24h", -1, "greater_than_equal", "-1"),
        ("volume_24h", math.inf, "finite_number", "inf"),
        ("market_cap", -0.01, "greater_than_equal", "-0.01"),
        ("market_cap", "unknown", "float_parsing", "unknown"),
        ("percent_change_24h", -math.inf, "finite_number", "-inf"),
        ("volume", -5, "greater_than_equal", "-5"),
        ("base_volume", [1], "float_type", "[1]"),
        ("open", 0, "greater_than", "0"),
        ("high", "1.2.3", "float_parsing", "1.2.3"),
        ("low", -2.5, "greater_than", "-2.5"),
        ("name", "a\x00b", "control_character", "a\x00b"),
        ("name", "x" * 257, "string_too_long", "x" * 80),
        ("name", ["Bitcoin"], "string_type", "['Bitcoin']"),
        ("name", "\ud800", "string_unicode", "\\ud800"),
    ],
)
def test_a_bad_optional_cell_does_not_cost_the_price(
    field: str, value: Any, code: str, shown: str
) -> None:
    good = {"price_usd": 2.0, "open": 2.0, "high": 2.0, "low": 2.0}
    assert bad_cells(good | {field: value}) == [(0, field, code, shown)]
    found = record(**(good | {field: value}))
    assert found.get(field) is None
    assert (field in found) == (field in candidate())
    assert found["price_usd"] == 2.0


def test_a_bad_cell_is_told_by_its_row_whatever_else_is_wrong() -> None:
    batch = [candidate(asset_id=f"coin {n}") for n in range(6)]
    batch[0]["price_usd"] = -1
    batch[1] |= {"timestamp": NOW + timedelta(days=2), "volume_24h": "lost with its row"}
    batch[3]["volume_24h"] = "much"
    batch[5] |= {"volume_24h": -1, "name": "a\x07b"}
    observations, faults = validate_table(table_of(batch), now=NOW)
    assert [f.row for f in faults] == [0, 1]
    assert list(observations.places) == [2, 3, 4, 5]
    assert observations.columns["volume_24h"] == [1.0, None, 1.0, None]
    assert sorted((c.row, c.field, c.code) for c in observations.bad_cells) == [
        (3, "volume_24h", "float_parsing"),
        (5, "name", "control_character"),
        (5, "volume_24h", "greater_than_equal"),
    ]


def test_what_is_known_of_cells_is_told_for_rows_that_are_records() -> None:
    table = table_of([candidate(), candidate(price_usd=0)])
    cells = [BadCell(row, "volume_24h", "float_parsing", "1,2,3") for row in (0, 1)]
    observations, _ = validate_table(replace(table, bad_cells=cells), now=NOW)
    assert observations.bad_cells == cells[:1]


def test_a_bad_interval_sets_the_row_aside() -> None:
    assert fault(interval=1) == ("interval", "string_type")


@pytest.mark.parametrize(
    ("candle", "expected"),
    [
        ({"low": 2.0, "high": 1.9, "price_usd": 2.0}, ("low", "low_above_high")),
    ],
)
def test_a_candle_that_contradicts_itself_is_none(
    candle: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert fault(**candle) == expected


@pytest.mark.parametrize(
    "candle",
    [
        {"low": 2.0, "high": 2.0, "price_usd": 2.0, "open": 2.0},
        {"low": 2.0, "high": 3.0, "price_usd": 1.5, "open": 3.5},
        {"low": None, "high": 3.0, "price_usd": 1.0, "open": None},
        {"low": 5e-324, "high": 1.7976931348623157e308, "price_usd": 1.0, "open": 1e308},
        {"open": 9.0, "price_usd": 1.0},
    ],
)
def test_a_candle_may_be_rounded_or_incomplete(candle: dict[str, Any]) -> None:
    assert record(**candle)["price_usd"] == candle["price_usd"]


def test_only_the_candles_that_contradict_themselves_are_set_aside() -> None:
    rows = [candidate(), candidate(low=2.0, high=1.0), candidate(low=1.0, high=2e6, open=3.0)]
    good, faults = validate(rows, now=NOW)
    assert [index for index, _ in good] == [0, 2]
    assert [(f.row, f.code) for f in faults] == [(1, "low_above_high")]


def test_a_market_cap_of_nothing_is_unknown_and_a_volume_of_nothing_is_not() -> None:
    found = record(market_cap=0.0, volume_24h=0, volume=0)
    assert (found["market_cap"], found["volume_24h"], found["volume"]) == (None, 0.0, 0.0)
    assert bad_cells({"market_cap": 0}) == []


def test_what_a_candle_does_not_say_it_does_not_have() -> None:
    assert not {"volume", "base_volume", "quote"} & record(volume=None, quote="").keys()


@given(st.lists(st.dictionaries(FIELDS, ANYTHING, max_size=3), max_size=8))
def test_every_candidate_ends_in_exactly_one_place(changes: list[dict[str, Any]]) -> None:
    good, faults = validate([candidate(**change) for change in changes], now=NOW)
    assert sorted([i for i, _ in good] + [f.row for f in faults]) == list(range(len(changes)))
    for _, found in good:
        assert found["symbol"]
        for text in (found["symbol"], found["asset_id"], found["name"] or ""):
            assert not {unicodedata.category(c) for c in text} & {"Cc", "Cf"}
        assert 0 < found["price_usd"] < math.inf
        assert found["volume_24h"] is None or 0 <= found["volume_24h"] < math.inf
        assert 0 < found.get("low", 5e-324) <= found.get("high", math.inf)
        assert found["timestamp"].microsecond % 1000 == 0
        assert datetime(1970, 1, 1, tzinfo=UTC) < found["timestamp"] <= NOW + MAX_AHEAD
    for found_fault in faults:
        assert found_fault.code
        assert found_fault.field in {*candidate(), "low"}
        found_fault.message.encode("utf-8", "backslashreplace")
