"""Which column is the price, and which are the rest of its candle."""

from __future__ import annotations

from collections.abc import Sequence

from marketdata.csv_files.assets import KNOWN_TICKERS, is_dollar, pair_of
from marketdata.csv_files.draft import PROFILED, Candidate, Draft
from marketdata.csv_files.fields import Claim, Role
from marketdata.errors import FileRefused
from marketdata.schema.mapping import APPLIED_FROM, key_of

_MOSTLY = 0.9
_SAME = 1e-9
_FEW = 4
_ROUNDED = 1.001
_EDGES = ((Role.OPEN, "open"), (Role.HIGH, "high"), (Role.LOW, "low"))


def settle(draft: Draft) -> None:
    """Choose the price and the other prices of the candle.

    Raises:
        FileRefused: no column is a price.
    """
    for role, to in _EDGES:
        _settle_edge(draft, role, to)
    _drop_impossible(draft)
    found = draft.of(Role.PRICE)
    if not found:
        _ask_or_refuse(draft)
        return
    currency = draft.answers.get("currency", "USD").upper()
    sure = [c for c in found if c.claim.confidence >= APPLIED_FROM]
    # Prices in several currencies: those in dollars, or in the one that was asked for.
    dollars = [c for c in sure if c.claim.unit is not None and _matches(c.claim.unit, currency)]
    unsaid = [c for c in sure if c.claim.unit is None]
    rivals = dollars or unsaid or sure
    if not rivals:
        draft.ask_column(
            "price_usd",
            found,
            f"{draft.what} has no column that is certainly its price. Which is it?",
        )
        return
    inside = [c for c in rivals if _is_inside(draft, c)]
    best = (inside or rivals)[0]
    equals = [c for c in inside or rivals if _rivals(best, c) and not _same_values(draft, best, c)]
    if len(equals) > 1:
        draft.ask_column(
            "price_usd",
            equals,
            f"{len(equals)} columns of {draft.what} may be its price, and they differ. Which is "
            "it?",
        )
        return
    draft.use("price_usd", best)
    if best.claim.unit is not None:
        draft.constants.setdefault("currency", best.claim.unit)
    for other in draft.of(Role.PRICE):
        draft.skip(other, f"column {best.column.name!r} is the price")


def _matches(unit: str, currency: str) -> bool:
    return unit == currency or (is_dollar(unit) and is_dollar(currency))


def _rivals(best: Candidate, other: Candidate) -> bool:
    """Whether nothing but their place in a list tells two candidates apart.

    A close is a price that was paid, whatever else there is; so is a column that is called
    exactly as the record's field.
    """
    if other is best:
        return True
    if best.claim.rank >= PROFILED:
        return False
    names = {key_of(best.column.name), key_of(other.column.name)}
    return not names & {"close", "priceusd", "usdprice"} and (best.claim.unit == other.claim.unit)


def _settle_edge(draft: Draft, role: Role, to: str) -> None:
    found = [c for c in draft.sure(role) if c.column.are_numbers]
    for candidate in draft.of(role):
        if candidate not in found:
            draft.skip(candidate, "its values are no prices")
    if not found:
        return
    in_dollars = [c for c in found if c.claim.unit is None or is_dollar(c.claim.unit)]
    best = (in_dollars or found)[0]
    draft.use(to, best)
    for other in found:
        if other is not best:
            draft.skip(other, f"column {best.column.name!r} is the {to}")


def _drop_impossible(draft: Draft) -> None:
    found = draft.of(Role.PRICE)
    others = [c for c in found if c.column.are_numbers and not c.column.counts]
    for candidate in found:
        column = candidate.column
        if not column.filled:
            draft.skip(candidate, "it is empty")
        elif not column.are_numbers:
            draft.skip(candidate, "its values are no numbers")
        elif column.counts and (
            others or (candidate.claim.unit is None and _starts_low(column.integers))
        ):
            draft.skip(candidate, "it counts the rows")


def _starts_low(found: Sequence[int] | None) -> bool:
    return found is not None and len(found) > _FEW and min(found) <= 1


def _is_inside(draft: Draft, candidate: Candidate) -> bool:
    """Whether a price lies between low and high nearly everywhere; so if there are none."""
    if "low" not in draft.uses or "high" not in draft.uses:
        return True
    low, high = (draft.values(draft.columns[draft.uses[to]]) for to in ("low", "high"))
    price = draft.values(candidate.column)
    known = [
        (lowest, value, highest)
        for lowest, value, highest in zip(low, price, high, strict=True)
        if lowest is not None and value is not None and highest is not None and lowest <= highest
    ]
    inside = sum(
        lowest <= value * _ROUNDED and value <= highest * _ROUNDED
        for lowest, value, highest in known
    )
    return inside >= _MOSTLY * len(known)


def _same_values(draft: Draft, one: Candidate, other: Candidate) -> bool:
    if one is other:
        return False
    pairs = zip(draft.values(one.column), draft.values(other.column), strict=True)
    return all(
        a is None or b is None or abs(a - b) <= _SAME * max(abs(a), abs(b)) for a, b in pairs
    )


_MOST_ASKED = 6


def _ask_or_refuse(draft: Draft) -> None:
    """Ask which column of numbers is the price, if a few may be.

    Raises:
        FileRefused: none may be, or each is the price of another asset.
    """
    shown = ", ".join(repr(column.name) for column in draft.columns[:40])
    skipped = [
        f" {note['from']!r} is none: {note['reason']}."
        for state, note in draft.notes.values()
        if state == "skipped" and note["to"] == Role.PRICE and "reason" in note
    ]
    wide = [
        column.name
        for column in draft.columns
        if column.index not in draft.notes
        and column.are_numbers
        and (column.name.strip().upper() in KNOWN_TICKERS or pair_of(column.name, together=True))
    ]
    numbers = [
        Candidate(column, Claim(Role.PRICE, 0.5))
        for column in draft.columns
        if column.index not in draft.notes
        and not any(
            column is candidate.column and candidate.claim.confidence >= APPLIED_FROM
            for found in draft.candidates.values()
            for candidate in found
        )
        and column.are_numbers
        and not column.counts
    ]
    if 0 < len(numbers) <= _MOST_ASKED and len(wide) < 2:  # noqa: PLR2004 - one alone is a price
        draft.ask_column(
            "price_usd",
            numbers,
            f"No column of {draft.what} is called like a price. Which one is it?",
        )
        return
    if len(wide) > 1:
        skipped.append(
            f" Columns like {wide[0]!r} and {wide[1]!r} seem to be the prices of one asset each: "
            "write a row for each time and asset instead (in pandas: `melt`)."
        )
    raise FileRefused(
        f"{draft.what} has no column with a price. Its columns are: {shown}.{''.join(skipped)} "
        "Nothing was loaded. Rename the column that is the price to `price_usd`, and upload the "
        "file again.",
        missing=["price_usd"],
        columns=[column.name for column in draft.columns[:40]],
    )
