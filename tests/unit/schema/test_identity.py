"""The `_id` of a record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import assume, example, given
from hypothesis import strategies as st

from marketdata import clock
from marketdata.schema.identity import ID_BYTES, first_id, last_id, ms_of, record_id

TEXT = st.text(alphabet="ab,:/0é", max_size=4)
PARTS = st.tuples(TEXT, TEXT, TEXT, TEXT)
TIMES = st.integers(0, 253_000_000_000_000_000).map(
    lambda microseconds: clock.EPOCH + timedelta(microseconds=microseconds)
)
NOON = datetime(2025, 5, 9, 12, tzinfo=UTC)


@given(PARTS, PARTS, TIMES, TIMES)
@example(("a", "", "b", ""), ("b", "", "a", ""), NOON, NOON + timedelta(milliseconds=1))
def test_ids_sort_as_their_times(
    a: tuple[str, str, str, str], b: tuple[str, str, str, str], earlier: datetime, later: datetime
) -> None:
    assume(clock.to_ms(earlier) < clock.to_ms(later))
    assert record_id(*a, earlier) < first_id(later) <= record_id(*b, later)
    assert len(record_id(*a, earlier)) == len(first_id(later)) == ID_BYTES == 20


@given(PARTS, PARTS)
@example(("ab", "", "c", ""), ("a", "b", "c", ""))
@example(("a", "b", "", "c"), ("a", "b", "c", ""))
@example(("1", "1,1", "1", "1"), ("1,1", "1", "1", "1"))
@example(("a", "", "b:", ""), ("a", "", "b", ":"))
def test_no_two_identities_read_the_same(
    a: tuple[str, str, str, str], b: tuple[str, str, str, str]
) -> None:
    assert (record_id(*a, NOON) == record_id(*b, NOON)) == (a == b)


@given(PARTS, TIMES)
def test_an_id_tells_its_time(parts: tuple[str, str, str, str], time: datetime) -> None:
    for id_ in (record_id(*parts, time), first_id(time), last_id(time)):
        assert ms_of(id_) == clock.to_ms(time)


@given(PARTS, TIMES)
def test_what_is_below_a_millisecond_does_not_count(
    parts: tuple[str, str, str, str], time: datetime
) -> None:
    cut = clock.from_ms(clock.to_ms(time))
    assert record_id(*parts, time) == record_id(*parts, cut)
    assert record_id(*parts, cut) != record_id(*parts, cut + timedelta(milliseconds=1))


def test_an_id_stays_what_it_is() -> None:
    # Every record in every database hangs on this value.
    assert record_id("coingecko", "", "bitcoin", "", NOON).hex() == (
        "80000196b4eaaa0001db17312310ec3ba0e08363"
    )


def test_times_before_1970_sort_too() -> None:
    assert first_id(datetime(1969, 1, 1, tzinfo=UTC)) < first_id(clock.EPOCH)
