"""Volumes, market cap and change: which columns they are, and in which units."""

from __future__ import annotations

from datetime import datetime

from marketdata.csv_files import intervals
from marketdata.csv_files.assets import is_dollar, pair_of
from marketdata.csv_files.draft import Candidate, Draft
from marketdata.csv_files.fields import ASSET_UNITS, QUOTE_UNITS, Role
from marketdata.csv_files.intervals import DAY
from marketdata.schema.mapping import APPLIED_FROM


def settle(draft: Draft, times: list[datetime | None]) -> None:
    """Choose the interval first, as a volume is that of a row's interval.

    Args:
        draft: with time, price and asset settled.
        times: of each row of the sample its time; None if it can't be read.
    """
    _settle_interval(draft, times)
    if draft.profile is not None and draft.profile.is_own:
        for role in (Role.VOLUME, Role.MARKET_CAP, Role.CHANGE):
            for candidate in draft.of(role):
                draft.use(candidate.column.name.strip().lower(), candidate)
        for column in draft.columns:
            if column.name.strip() == "quote":
                draft.uses["quote"] = column.index
    _settle_volumes(draft)
    _settle_market_cap(draft)
    _settle_change(draft)
    for candidate in draft.of(Role.DATASET):
        if candidate.claim.confidence < APPLIED_FROM:
            draft.doubt(candidate, "its name does not say so for certain")
        elif "dataset" in draft.uses or candidate.column.are_times:
            draft.skip(candidate, "the data set is known already")
        else:
            draft.use("dataset", candidate)


def _settle_interval(draft: Draft, times: list[datetime | None]) -> None:
    answered = draft.answers.get("interval")
    for candidate in draft.of(Role.INTERVAL):
        cells = set(candidate.column.filled)
        known = cells and all(intervals.normalised(cell) is not None for cell in cells)
        if answered or not (known or (draft.profile is not None and draft.profile.is_own)):
            draft.skip(
                candidate,
                "the interval was given with the file"
                if answered
                else "its values are no intervals",
            )
        elif candidate.claim.confidence >= APPLIED_FROM and "interval" not in draft.uses:
            draft.use("interval", candidate)
    if "interval" in draft.uses or (draft.profile is not None and draft.profile.is_own):
        return
    if answered:
        if answered != "none":
            draft.constants["interval"] = intervals.normalised(answered) or answered
        return
    interval = _interval(draft, times)
    if interval is not None:
        draft.constants["interval"] = interval


def _interval(draft: Draft, times: list[datetime | None]) -> str | None:
    """How long each row's candle is; None for rows that are observations of one moment.

    A row is a candle if it has a high or a low, or if its time is a date alone. The canonical
    names of an observation say that it is none.
    """
    candles = bool({"high", "low", "open"} & draft.uses.keys())
    dates = draft.columns[draft.uses["timestamp"]].times.dates_alone and draft.time_column is None
    if not candles and not dates:
        return None
    series: dict[str, list[datetime]] = {}
    symbol = draft.uses.get("asset_id", draft.uses.get("symbol"))
    for row, time in zip(draft.rows, times, strict=True):
        if time is not None:
            series.setdefault("" if symbol is None else row[symbol].strip(), []).append(time)
    found = intervals.interval_of(series.values())
    if not candles:
        return DAY if found in (None, DAY) and not _is_canonical(draft) else None
    return found or (draft.hints.interval if candles else None) or (DAY if dates else None)


def _is_canonical(draft: Draft) -> bool:
    """Whether time and price are called as the fields of an observation."""
    named = {to: draft.columns[index].name.strip().lower() for to, index in draft.uses.items()}
    return all(named.get(to) == to for to in ("timestamp", "price_usd"))


def _settle_volumes(draft: Draft) -> None:
    interval = draft.constants.get("interval")
    found = [c for c in draft.of(Role.VOLUME) if c.column.filled and c.column.are_numbers]
    for candidate in draft.of(Role.VOLUME):
        if candidate not in found:
            if candidate.column.filled:
                draft.skip(candidate, "its values are no numbers")
            elif candidate.claim.canonical:
                draft.use("volume_24h", candidate)
            else:
                draft.skip(candidate, "it is empty")
    for candidate in found:
        if candidate.claim.confidence < APPLIED_FROM:
            draft.doubt(candidate, "its name does not say so for certain")
            continue
        to, why = _volume_field(draft, candidate, interval)
        if to is None:
            draft.doubt(candidate, why)
        elif to in draft.uses:
            draft.skip(
                candidate, f"column {draft.columns[draft.uses[to]].name!r} says it more exactly"
            )
        else:
            draft.use(to, candidate, why)


def _volume_field(  # noqa: PLR0911 - one for each case
    draft: Draft, candidate: Candidate, interval: str | None
) -> tuple[str | None, str]:
    """The field that a volume is, and why; None with the doubt if that is not certain."""
    unit = _volume_unit(draft, candidate)
    claim = candidate.claim
    if unit == ASSET_UNITS:
        return "base_volume", "it is in units of the asset, not in dollars"
    if unit is not None and not is_dollar(unit):
        return None, f"it is in {unit}, which is neither the asset's unit nor dollars"
    if unit is None and not claim.canonical and not claim.of_a_day:
        return None, "nothing says whether it is in dollars or in units of the asset"
    by_row = "interval" in draft.uses
    publisher_says = draft.profile is not None and draft.profile.volume_of_a_day
    if by_row or publisher_says or interval == DAY:
        # If each row says how long its candle is, only those of a day stay volumes of 24 hours.
        return "volume_24h", ""
    if interval is not None:
        return "volume", f"it is the turnover of {interval}, not of 24 hours"
    if claim.canonical or claim.of_a_day:
        return "volume_24h", ""
    return None, "nothing says of how long it is"


def _volume_unit(draft: Draft, candidate: Candidate) -> str | None:
    """A currency, or `ASSET_UNITS`; None if nothing says it."""
    unit = candidate.claim.unit
    if unit == QUOTE_UNITS:
        quote = draft.constants.get("currency", "USD")
        return "USD" if is_dollar(quote) else quote
    if unit is not None and not is_dollar(unit) and unit == _base(draft):
        return ASSET_UNITS
    beside = [c.claim.unit for c in draft.candidates.get(Role.VOLUME, ()) if c is not candidate]
    if unit is None and not candidate.claim.canonical and QUOTE_UNITS in beside:
        # `volume` beside `quote_volume`, as exchanges call them.
        return ASSET_UNITS
    return unit


def _base(draft: Draft) -> str | None:
    """The one asset that all rows are about; None if there are several."""
    if "symbol" in draft.constants:
        return draft.constants["symbol"]
    index = draft.uses.get("symbol")
    if index is None:
        return None
    bases = set()
    for cell in set(draft.columns[index].filled):
        pair = pair_of(cell, together=draft.pairs)
        bases.add(pair.base if pair else cell.upper())
    return bases.pop() if len(bases) == 1 else None


def _settle_market_cap(draft: Draft) -> None:
    for candidate in draft.of(Role.MARKET_CAP):
        _settle_simple(draft, candidate, "market_cap")


def _settle_change(draft: Draft) -> None:
    of_a_day = draft.constants.get("interval") == DAY
    for candidate in draft.of(Role.CHANGE):
        if not candidate.claim.of_a_day and not of_a_day:
            draft.doubt(candidate, "nothing says that it is the change of 24 hours")
        else:
            _settle_simple(draft, candidate, "percent_change_24h")


def _settle_simple(draft: Draft, candidate: Candidate, to: str) -> None:
    unit = candidate.claim.unit
    if candidate.claim.confidence < APPLIED_FROM:
        draft.doubt(candidate, "its name does not say so for certain")
    elif to in draft.uses:
        draft.skip(candidate, f"column {draft.columns[draft.uses[to]].name!r} says it more exactly")
    elif unit is not None and not is_dollar(unit):
        draft.skip(candidate, f"it is in {unit}, not in dollars")
    elif candidate.column.filled and not candidate.column.are_numbers:
        draft.skip(candidate, "its values are no numbers")
    else:
        draft.use(to, candidate)
