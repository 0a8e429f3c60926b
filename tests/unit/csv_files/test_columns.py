"""Columns of text as candidates, and what validation makes of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.csv_files import parsing
from marketdata.csv_files.columns import table
from marketdata.schema.record import Fault, Record, validate
from tests.support.tables import records_of

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HEADER = ["symbol", "price_usd", "timestamp"]


def load(
    header: list[str], *rows: list[str], dataset: str = "csv", **how: Any
) -> tuple[list[Record], list[Fault]]:
    cut = parsing.transposed(rows, len(header))
    known = {"id": "asset_id", "source": "dataset"}
    columns = {known.get(name, name): index for index, name in enumerate(header)}
    layout: Any = {"columns": columns, "dataset": dataset, **how}
    made = table(cut, len(rows), layout)
    observations, faults = validate(made, now=NOW)
    assert len(observations) + len(faults) == len(rows)
    return records_of(observations), faults


def test_a_row_becomes_a_record_with_what_it_says_and_no_more() -> None:
    records, faults = load(HEADER, [" btc ", "97000.5", "2025-05-09T06:00:00Z"])

    assert not faults
    assert records == [
        {
            "symbol": "BTC",
            "name": None,
            "asset_id": "BTC",
            "price_usd": 97000.5,
            "volume_24h": None,
            "market_cap": None,
            "percent_change_24h": None,
            "timestamp": datetime(2025, 5, 9, 6, tzinfo=UTC),
            "source": "csv",
            "dataset": "csv",
        }
    ]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2025-05-09T06:00:00Z", "2025-05-09T06:00:00+00:00"),
        ("2025-05-09 06:00:00", "2025-05-09T06:00:00+00:00"),
        ("2025-05-09 06:00:00 UTC", "2025-05-09T06:00:00+00:00"),
        ("2025-05-09T06:00", "2025-05-09T06:00:00+00:00"),
        ("2025-05-09", "2025-05-09T00:00:00+00:00"),
        ("2025-05-09T06:00:00.1239+05:30", "2025-05-09T00:30:00.123+00:00"),
        ("1502928000", "2017-08-17T00:00:00+00:00"),
        ("1502928000.0", "2017-08-17T00:00:00+00:00"),
        ("1502928000.25", "2017-08-17T00:00:00.250+00:00"),
        ("1502928000123", "2017-08-17T00:00:00.123+00:00"),
        (" 1502928000000.0 ", "2017-08-17T00:00:00+00:00"),
        ("1502928000000000", "2017-08-17T00:00:00+00:00"),
        ("20240101", "2024-01-01T00:00:00+00:00"),
        ("2024-1-1", "2024-01-01T00:00:00+00:00"),
        ("29/04/2013 23:59", "2013-04-29T23:59:00+00:00"),
        ("Aug 17, 2023", "2023-08-17T00:00:00+00:00"),
    ],
)
@pytest.mark.parametrize("beside", [[], [["ETH", "1", "1600000000"]], [["ETH", "1", "2020-01-01"]]])
def test_times(text: str, time: str, beside: list[list[str]]) -> None:
    records, faults = load(HEADER, ["BTC", "1", text], *beside)

    assert not faults
    assert records[0]["timestamp"] == datetime.fromisoformat(time)


@pytest.mark.parametrize(
    "text",
    [
        "2024", "2024-01", "01/02/2024", "1.50E+9", "-1502928000", "+1502928000", "15029280001",
        "0502928000", "0000001234567", "1_502_928_000", "\u0661502928000",
        "2024-13-01", "2024-02-30",
        "2024-01-01T25:00:00", "2024-01-01x10:00:00", "now", "2024-01-01T10:00:00 EST",
    ],
)  # fmt: skip
def test_what_is_no_time_for_certain_is_not_guessed(text: str) -> None:
    records, (fault,) = load(HEADER, ["BTC", "1", text])

    assert not records
    assert fault.field == "timestamp"
    assert text in fault.message or fault.code != "timestamp_not_understood"


def test_seconds_and_milliseconds_may_be_mixed() -> None:
    records, _ = load(HEADER, ["A", "1", "1502928000"], ["A", "1", "1502928000000"])

    assert records[0]["timestamp"] == records[1]["timestamp"]


@given(
    st.datetimes(min_value=datetime(2001, 9, 10), max_value=datetime(2026, 11, 22)),  # noqa: DTZ001
    st.timezones(),
)
def test_a_time_is_the_same_in_every_form(moment: datetime, zone: Any) -> None:
    moment = moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 1000 * 1000)
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    local = moment.astimezone(zone)
    texts = [
        moment.isoformat(),
        moment.isoformat(sep=" ").removesuffix("+00:00"),
        str(milliseconds),
        f"{milliseconds // 1000}.{milliseconds % 1000:03d}",
    ]
    if local.utcoffset() is not None and local.utcoffset() % timedelta(minutes=1) == timedelta(0):  # type: ignore[operator]
        texts.append(local.isoformat())
    records, faults = load(HEADER, *(["A", "1", text] for text in texts))

    assert not faults
    assert {record["timestamp"] for record in records} == {moment}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1.0),
        ("1e-7", 1e-7),
        ("6.42E+11", 6.42e11),
        (" 2.5 ", 2.5),
        (".5", 0.5),
        ("$1", 1.0),
        ("1.5K", 1500.0),
        ("5%", 5.0),
    ],
)
def test_numbers(text: str, number: float) -> None:
    records, _ = load(HEADER, ["BTC", text, "2025-05-09"])

    assert records[0]["price_usd"] == number


@pytest.mark.parametrize(
    "text",
    [
        "1,000",
        "1_000",
        "0x10",
        "€1",
        "inf",
        "-1",
        "0",
        "\u0661",
        "true",
        "1e400",
    ],
)
def test_what_is_no_plain_number_is_set_aside(text: str) -> None:
    records, (fault,) = load(HEADER, ["BTC", text, "2025-05-09"])

    assert not records
    assert fault.field == "price_usd"


@pytest.mark.parametrize("nothing", ["", "null", "NULL", "None", "NaN", "nan", "N/A", "n/a", "-"])
def test_no_value(nothing: str) -> None:
    header = [*HEADER, "name", "volume_24h", "market_cap", "percent_change_24h"]
    blanks = [nothing] * 4

    (record,), _ = load(header, ["BTC", "1", "2025-05-09", *blanks])
    assert [record[name] for name in header[3:]] == [None] * 4  # type: ignore[literal-required]

    for place, name in enumerate(HEADER):
        row = ["BTC", "1", "2025-05-09", *blanks]
        row[place] = nothing
        records, (fault,) = load(header, row)
        assert not records
        assert (fault.code, fault.field) == ("missing_value", name)


def test_a_ticker_may_read_like_nothing() -> None:
    records, faults = load(HEADER, ["NA", "1", "2025-05-09"])

    assert not faults
    assert records[0]["symbol"] == "NA"


def test_identity_and_dataset_come_from_columns_where_there_are_some() -> None:
    header = ["id", *HEADER, "source"]
    rows = [
        ["bitcoin", "btc", "1", "2025-05-09", "Binance"],
        ["wrapped", "btc", "1", "2025-05-09", ""],
    ]
    records, _ = load(header, *rows, dataset="mine")

    assert [(r["asset_id"], r["dataset"]) for r in records] == [
        ("bitcoin", "Binance"),
        ("wrapped", "mine"),
    ]


def test_candle_fields_are_there_only_where_they_are_said() -> None:
    header = [*HEADER, "interval", "open", "high", "low"]
    rows = [["A", "1", "2025-05-09", "1d", "2", "3", "1"], ["B", "1", "2025-05-09", "", "", "", ""]]
    (one, other), faults = load(header, *rows)

    assert not faults
    assert (one["interval"], one["open"], one["high"], one["low"]) == ("1d", 2.0, 3.0, 1.0)
    assert not {"interval", "open", "high", "low"} & set(other)


def test_one_bad_row_leaves_the_others_and_its_own_place() -> None:
    rows = [["A", "1", "2025-05-09"], ["B", "x", "2025-05-09"], ["", "1", "2025-05-09"]]
    rows += [["C", "1", "never"], ["D", "1", "2025-05-09"]]
    records, faults = load(HEADER, *rows)

    assert [r["symbol"] for r in records] == ["A", "D"]
    assert [(f.row, f.code) for f in faults] == [
        (1, "float_parsing"),
        (2, "missing_value"),
        (3, "timestamp_not_understood"),
    ]


def test_no_rows() -> None:
    assert load(HEADER) == ([], [])


def test_ragged_and_malformed_rows_are_faults_with_a_text() -> None:
    records: list[list[str] | str] = [["a", "b"], ["a"], 'x,"y\r\n', ["a", "b", "c"], ["c", "d"]]

    cells, places, faults = parsing.regular(records, 2)

    assert cells == [["a", "b"], ["c", "d"]]
    assert list(places) == [0, 4]
    assert [(f.row, f.code) for f in faults] == [
        (1, "ragged_row"),
        (2, "malformed_row"),
        (3, "ragged_row"),
    ]
    assert parsing.as_json(records[0], ["p", "q"]) == '{"p": "a", "q": "b"}'
    assert parsing.as_json(records[0], ["p", "p"]) == '["a", "b"]'
    assert parsing.as_json(records[1], ["p", "q"]) == '["a"]'
    assert parsing.as_json(records[2], ["p", "q"]) == '"x,\\"y"'
