"""Values as those of a field, and whether they could follow the ones before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.schema.drift.values import Last, by_ten, compare, read, shifted, time_of

NOW = datetime(2026, 11, 28, 6, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)


def last(price: float, change: float | None = 1.0) -> Last:
    """What was said of an asset an hour ago."""
    return Last("a", "A", "A", price, 1e6, 1e9, change, NOW - timedelta(hours=1))


@given(JSON, st.sampled_from(["price_usd", "timestamp", "name", "percent_change_24h"]))
def test_any_value_can_be_asked_for(value: Any, field: str) -> None:
    found = read(field, value)
    assert found is None or found[1] is not None


@pytest.mark.parametrize("value", [10**400, "1e999", float("inf"), float("nan"), True, "1,5", ""])
def test_what_is_no_number_of_a_record(value: object) -> None:
    assert read("price_usd", value) is None


@pytest.mark.parametrize("value", ["9" * 5_000, "2026-11-28", 20261128, "12:30:00", "soon", 0])
def test_what_is_no_time_of_a_price(value: object) -> None:
    assert time_of(value) is None


@pytest.mark.parametrize(
    ("value", "way"),
    [
        (1_795_845_600, "epoch_s"),
        (1_795_845_600_000, "epoch_ms"),
        (1_795_845_600_000_000, "epoch_us"),
        ("1795845600", "epoch_s"),
        ("2026-11-28T06:00:00Z", "same"),
    ],
)
def test_times(value: object, way: str) -> None:
    assert read("timestamp", value) == (way, NOW)


@given(st.lists(st.floats(min_value=5e-324, max_value=1.7e308), min_size=10, max_size=12))
def test_any_prices_can_be_compared(prices: list[float]) -> None:
    pairs = [(price, last(1 / price if price > 1 else 1.0)) for price in prices]
    found = compare("price_usd", pairs, NOW)
    assert 0 <= found.agreement <= 1
    assert by_ten(found.factor) is None or found.factor != 1


@pytest.mark.parametrize(
    ("factor", "moved"), [(1.0, False), (1.02, False), (100, True), (0.5, True)]
)
def test_another_unit_moves_all_values_at_once(factor: float, moved: bool) -> None:
    pairs = [(price * factor, last(price)) for price in (float(n) for n in range(2, 22))]
    assert (shifted("price_usd", pairs, NOW) is not None) is moved


def test_a_market_in_which_nothing_moves_is_no_other_unit() -> None:
    assert shifted("percent_change_24h", [(0.0, last(2.0, 3.0))] * 20, NOW) is None
    assert shifted("percent_change_24h", [(0.03, last(2.0, 3.0))] * 20, NOW) == pytest.approx(0.01)
