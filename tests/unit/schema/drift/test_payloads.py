"""Recorded payloads, drifted in many ways: what is used unasked is right, the rest is asked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from marketdata import sources
from marketdata.documents.reviews import ReviewState
from marketdata.schema.drift.adapting import Held, adapt
from marketdata.schema.drift.deciding import Settled, settle
from marketdata.schema.drift.finding import find
from marketdata.schema.drift.page import Documented, Page
from marketdata.schema.drift.policies import Policies
from marketdata.schema.drift.values import Last
from tests.support.recorded import recorded

type Row = dict[str, Any]
type Drift = Callable[[Row, int], None]

PAYLOADS = {
    "coingecko": "coingecko_markets_2025-05-09.json",
    "coinpaprika": "coinpaprika_tickers_2021-08-12_part1.json",
}


def _rows(source: str) -> list[Row]:
    rows: list[Row] = recorded(PAYLOADS[source])
    return rows[:250]


def _documented(source: str) -> Documented:
    kind = sources.load(source)
    return Documented(source, kind.fields, kind.documented)


def _last(source: str, rows: list[Row]) -> dict[int, Last]:
    """What was said an hour before: as now, but for a small move."""
    told = {}
    for index, row in enumerate(rows):
        said = sources.load(source).map_row(row)
        time = datetime.fromisoformat(said["timestamp"])
        told[index] = Last(
            asset_id=said["asset_id"],
            symbol=said["symbol"].upper(),
            name=said["name"],
            price_usd=said["price_usd"] * (1 + 0.004 * ((index % 7) - 3)),
            volume_24h=said["volume_24h"],
            market_cap=said["market_cap"],
            percent_change_24h=said["percent_change_24h"],
            timestamp=time - timedelta(hours=1),
        )
    return told


def _settled(
    source: str,
    rows: list[Row],
    last: dict[int, Last],
    states: dict[str, ReviewState] | None = None,
    policy: str = "",
) -> Settled:
    documented = _documented(source)
    newest = max(one.timestamp for one in last.values()) if last else datetime.now(UTC)
    page = Page(documented, rows, newest + timedelta(hours=1))
    findings = find(page, last)
    return settle(documented, findings, states or {}, Policies.read(policy))


def _home(source: str, row: Row) -> Row:
    """The object that has the prices."""
    found: Row = row if source == "coingecko" else row["quotes"]["USD"]
    return found


def _price(source: str) -> str:
    return "current_price" if source == "coingecko" else "price"


def _drifts(source: str) -> dict[str, Drift]:  # noqa: C901 - one function for each way
    price = _price(source)

    def home(row: Row) -> Row:
        return _home(source, row)

    def rename(row: Row, _: int) -> None:
        home(row)["price_in_usd"] = home(row).pop(price)

    def rename_beyond_recognition(row: Row, _: int) -> None:
        home(row)["zz"] = home(row).pop(price)

    def retype_price(row: Row, _: int) -> None:
        home(row)[price] = repr(home(row)[price])

    def retype_time(row: Row, _: int) -> None:
        row["last_updated"] = int(datetime.fromisoformat(row["last_updated"]).timestamp())

    def nest(row: Row, _: int) -> None:
        home(row)[price] = {"usd": home(row)[price]}

    def move(row: Row, _: int) -> None:
        row["market_data"] = {price: home(row).pop(price)}

    def split_time(row: Row, _: int) -> None:
        date, _sep, time = row.pop("last_updated").partition("T")
        row["last_updated_date"], row["last_updated_time"] = date, time

    def drop(row: Row, _: int) -> None:
        del home(row)[price]

    def new_nulls(row: Row, index: int) -> None:
        if index % 3 == 0:
            home(row)[price] = None

    def cents(row: Row, _: int) -> None:
        home(row)[price] = home(row)[price] * 100

    def euros(row: Row, _: int) -> None:
        home(row)[price] = home(row)[price] * 0.885

    def reorder(row: Row, _: int) -> None:
        items = list(row.items())[::-1]
        row.clear()
        row.update(items)

    def noise(row: Row, index: int) -> None:
        row["sentiment"], row["score"] = index / 7, f"{index}"
        home(row)["price_eur"] = home(row)[price] * 0.9

    def swapped_for_a_high(row: Row, _: int) -> None:
        home(row)["highest_price_bid"] = home(row).pop(price)

    return {
        "rename": rename,
        "rename beyond recognition": rename_beyond_recognition,
        "retype of the price": retype_price,
        "retype of the time": retype_time,
        "nest": nest,
        "unnest": move,
        "split": split_time,
        "drop": drop,
        "new nulls": new_nulls,
        "unit change": cents,
        "currency change": euros,
        "reorder": reorder,
        "added noise": noise,
        "another thing's name": swapped_for_a_high,
    }


EXPECTED = {
    "rename": "right",
    "rename beyond recognition": "asked",
    "retype of the price": "right",
    "retype of the time": "right",
    "nest": "right",
    "unnest": "right",
    "split": "refused",
    "drop": "refused",
    "new nulls": "right",
    "unit change": "asked",
    "currency change": "asked",
    "reorder": "right",
    "added noise": "right",
    "another thing's name": "refused",
}


def _outcome(source: str, before: list[Row], after: list[Row]) -> str:
    settled = _settled(source, after, _last(source, before))
    if settled.refused is not None:
        return "refused"
    map_row, fields = sources.load(source).map_row, _documented(source).fields
    asked = False
    for row, was in zip(after, before, strict=True):
        adapted = adapt(row, settled.mapping, fields)
        if isinstance(adapted, Held):
            asked = True
            continue
        got, want = map_row(adapted), map_row(was)
        if got["price_usd"] is None:
            # Validation sets such a row aside: nothing is loaded without a price.
            continue
        if float(got["price_usd"]) != float(want["price_usd"]):
            return "wrong"
        if got["timestamp"] != want["timestamp"]:
            time = datetime.fromisoformat(want["timestamp"]).replace(microsecond=0)
            if got["timestamp"] != time:
                return "wrong"
        if any(got[name] != want[name] for name in got if name not in ("price_usd", "timestamp")):
            return "wrong"
    return "asked" if asked else "right"


@pytest.mark.parametrize("source", PAYLOADS)
@pytest.mark.parametrize("name", EXPECTED)
def test_drifted_payloads(source: str, name: str) -> None:
    before = [row for row in _rows(source) if _home(source, row)[_price(source)]]
    after = copy.deepcopy(before)
    drift = _drifts(source)[name]
    for index, row in enumerate(after):
        drift(row, index)
    outcome = _outcome(source, before, after)
    assert outcome == EXPECTED[name]


@pytest.mark.parametrize("source", PAYLOADS)
def test_without_history_a_rename_is_asked(source: str) -> None:
    rows = copy.deepcopy(_rows(source))
    for index, row in enumerate(rows):
        _drifts(source)["rename"](row, index)
    settled = _settled(source, rows, {})
    assert not settled.mapping["applied"]
    (asked,) = settled.mapping["quarantined"]
    assert asked["to"] == "price_usd"


@pytest.mark.parametrize(
    ("policy", "part"),
    [
        ("", "applied"),
        ("quarantine", "quarantined"),
        ("*.price_usd=freeze", "refused"),
        ("coingecko.price_usd=discard", "discarded"),
    ],
)
def test_policies(policy: str, part: str) -> None:
    before = _rows("coingecko")
    after = copy.deepcopy(before)
    for index, row in enumerate(after):
        _drifts("coingecko")["rename"](row, index)
    settled = _settled("coingecko", after, _last("coingecko", before), policy=policy)
    if part == "refused":
        assert settled.refused is not None
        assert "freeze" in settled.refused
        return
    assert settled.refused is None
    used = {name: bool(found) for name, found in settled.mapping.items()}
    assert [name for name, there in used.items() if there and name != "skipped"] == [part]


def test_what_was_decided_goes_before_what_is_likely() -> None:
    before = _rows("coingecko")
    after = copy.deepcopy(before)
    for index, row in enumerate(after):
        _drifts("coingecko")["rename"](row, index)
    last = _last("coingecko", before)
    (found,) = _settled("coingecko", after, last).mapping["applied"]
    for state, part in (
        (ReviewState.APPROVED, "applied"),
        (ReviewState.QUARANTINED, "quarantined"),
        (ReviewState.REJECTED, "skipped"),
    ):
        mapping = _settled("coingecko", after, last, {found["id"]: state}).mapping
        told = {
            "applied": mapping["applied"],
            "quarantined": mapping["quarantined"],
            "skipped": mapping["skipped"],
        }
        assert [one["id"] for one in told[part]] == [found["id"]]
