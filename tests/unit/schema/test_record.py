"""The canonical record's validation, in bulk."""

from __future__ import annotations

import math
import unicodedata
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.schema.record import MAX_AHEAD, Fault, Record, table_of
from marketdata.schema.record import validate as validate_table
from marketdata.schema.texts import all_visible
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
        ("volume_24h", -1, "greater_than_equal"),
        ("volume_24h", math.inf, "finite_number"),
        ("market_cap", -0.01, "greater_than_equal"),
        ("market_cap", "unknown", "float_parsing"),
        ("percent_change_24h", -math.inf, "finite_number"),
        ("symbol", "", "string_too_short"),
        ("symbol", " \t", "string_too_short"),
        ("symbol", "x" * 65, "string_too_long"),
        ("symbol", 1, "string_type"),
        ("symbol", "\ud800", "string_unicode"),
        ("name", "a\x00b", "control_character"),
        ("symbol", "B\x07TC", "control_character"),
        ("symbol", "\u200b\u2060", "string_too_short"),
        ("name", "x" * 257, "string_too_long"),
        ("name", ["Bitcoin"], "string_type"),
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
        ("market_cap", 0.0, 0.0),
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


IGNORABLE = (
    *(0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0),
    *range(0x180B, 0x1810),
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),
    *range(0xFFF0, 0xFFF9),
    *range(0x1BCA0, 0x1BCA4),
    *range(0x1D173, 0x1D17B),
    *range(0xE0000, 0xE1000),
)
"""Default_Ignorable_Code_Point of Unicode, as DerivedCoreProperties.txt lists it."""


def test_no_code_point_that_leaves_no_trace_is_a_part_of_a_text() -> None:
    assert len(IGNORABLE) == 4174
    blanks = [chr(code) for code in (*IGNORABLE, 0x2800)]
    came = [candidate(asset_id=f"a{c}b", symbol=f"{c}T{c}X", name=c) for c in blanks]
    good, faults = validate(came, now=NOW)
    assert faults == []
    assert len(good) == len(blanks)
    for _, found in good:
        assert (found["asset_id"], found["symbol"], found["name"]) == ("ab", "TX", None)
    # Alone they are no text, and one row is enough for them to be seen.
    for c in blanks:
        assert not all_visible(["TEXT", c])
        _, (found_fault,) = validate([candidate(symbol=c)], now=NOW)
        assert (found_fault.field, found_fault.code) == ("symbol", "string_too_short")


@pytest.mark.parametrize("name", ["\u20bf", "\u30d3\u30c3\u30c8", "\uac00", "\u2801", "e\u0301"])
def test_what_is_seen_stays(name: str) -> None:
    assert record(name=name)["name"] == name


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
    _, faults = validate([candidate(name="x" * 10_000)], now=NOW)
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
FIELDS = st.sampled_from(["symbol", "name", "price_usd", "volume_24h", "market_cap", "timestamp"])


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
        assert found["timestamp"].microsecond % 1000 == 0
        assert datetime(1970, 1, 1, tzinfo=UTC) < found["timestamp"] <= NOW + MAX_AHEAD
    for found_fault in faults:
        assert found_fault.code
        assert found_fault.field in candidate()
        found_fault.message.encode("utf-8", "backslashreplace")
