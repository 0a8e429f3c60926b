"""When a row was observed: which column says it, and how it is written."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import TypeAdapter, ValidationError

from marketdata.csv_files import times
from marketdata.csv_files.draft import Candidate, Draft
from marketdata.csv_files.fields import Claim, Role
from marketdata.csv_files.times import TimeForm
from marketdata.errors import FileRefused
from marketdata.schema.mapping import APPLIED_FROM

_ORDERS = {"day_first": "day before month", "month_first": "month before day"}


def settle(draft: Draft) -> None:
    """Choose the column of times, and that of the times of day if dates have one of their own.

    Raises:
        FileRefused: no column is a time.
    """
    candidates = draft.of(Role.TIME)
    clocks = [c for c in candidates if c.column.times.clock_only and c.column.filled]
    found = [c for c in candidates if c not in clocks and _may_be_time(c)]
    for candidate in candidates:
        if candidate not in clocks and candidate not in found:
            draft.skip(candidate, "its values are no times")
    if not found:
        _ask_or_refuse(draft, clocks)
        return
    own = [c for c in found if not c.claim.of_the_row and c.claim.confidence >= APPLIED_FROM]
    rows_own = [c for c in found if c.claim.of_the_row]
    for candidate in rows_own if own else ():
        draft.skip(candidate, "it says when a row was written, and another column when it was seen")
    best = _best(draft, own or rows_own or found)
    if best is None:
        return
    if best.claim.confidence < APPLIED_FROM:
        draft.ask_column(
            "timestamp",
            found,
            f"{draft.what} has no column that is certainly the time of its prices. Which is it?",
        )
        return
    draft.use("timestamp", best)
    for other in draft.of(Role.TIME):
        if other in clocks and best.column.times.dates_alone and draft.time_column is None:
            draft.time_column = other.column.index
            draft.note(other, "applied", "timestamp", "it is the time of day of the date beside it")
        elif other.claim.confidence >= APPLIED_FROM:
            draft.skip(other, f"column {best.column.name!r} says the time")
    _settle_form(draft, best)


def _may_be_time(candidate: Candidate) -> bool:
    column = candidate.column
    if not column.filled:
        return False
    return column.are_times or column.times.serial or column.times.unsure is not None


def _ask_or_refuse(draft: Draft, clocks: list[Candidate]) -> None:
    """Ask whether a column that holds times is the time, though its name does not say so.

    Raises:
        FileRefused: no column does.
    """
    claimed = {c.column.index for found in draft.candidates.values() for c in found}
    times_of = [
        Candidate(column, Claim(Role.TIME, 0.5))
        for column in draft.columns
        if column.index not in claimed and column.are_times and not column.times.constant
    ]
    if times_of:
        draft.ask_column(
            "timestamp",
            times_of,
            f"No column of {draft.what} is called like a time. Which one is that of its prices?",
        )
        return
    shown = ", ".join(repr(column.name) for column in draft.columns[:40])
    only = f" Column {clocks[0].column.name!r} has times of day without a date." if clocks else ""
    raise FileRefused(
        f"{draft.what} has no column with the time of each price, so it is no series of prices. "
        f"Its columns are: {shown}.{only} Nothing was loaded. Add a column `timestamp`, or rename "
        "the column that is the time to `timestamp`, and upload the file again.",
        missing=["timestamp"],
        columns=[column.name for column in draft.columns[:40]],
    )


def _best(draft: Draft, found: list[Candidate]) -> Candidate | None:
    """The likeliest: one that varies before one that does not, then by name."""
    varying = [c for c in found if not c.column.times.constant or len(c.column.filled) < 2]  # noqa: PLR2004
    for candidate in found:
        if varying and candidate not in varying:
            draft.skip(candidate, "it is the same in all rows, and another time is not")
    rivals = varying or found
    # Times with a time of day say more than dates alone, if the names are as good.
    exact = [c for c in rivals if not c.column.times.dates_alone]
    clear = [c for c in exact or rivals if c.column.are_times and c.column.times.unsure is None]
    return (clear or exact or rivals)[0]


def _settle_form(draft: Draft, best: Candidate) -> None:
    evidence, name = best.column.times, best.column.name
    if evidence.unsure is not None:
        draft.ask(
            {
                "about": "times",
                "column": name,
                "text": f"Column {name!r} of {draft.what} does not say its times exactly: "
                f"{evidence.unsure} Upload the file again with times in full "
                "(2025-05-09T06:00:00Z, "
                "or Unix time with all its digits), or answer which other column is the time.",
                "choices": [],
            }
        )
        return
    if evidence.serial and not evidence.ordered:
        draft.time_form = TimeForm(serial=True)
        return
    if not evidence.ordered:
        return
    order = draft.answers.get("dates") or times.order_of(evidence, best.column.cells)
    if order is None and draft.profile is not None and draft.profile.order:
        order = "month_first" if draft.profile.order == "month_first" else "day_first"
    if order is None and not evidence.day_first and not evidence.month_first:
        raise FileRefused(
            f"Column {name!r} of {draft.what} has dates with the day first and dates with the "
            "month "
            f"first (one is {evidence.example!r}). Nothing was loaded. Write them as 2025-05-09 "
            "and upload the file again."
        )
    if order is None:
        draft.ask(
            {
                "about": "dates",
                "column": name,
                "text": f"Does {evidence.example!r} in column {name!r} of {draft.what} begin "
                "with the day or with the month? No date of the file settles it.",
                "choices": [
                    {"answer": {"dates": "day_first"}, "means": _ORDERS["day_first"]},
                    {"answer": {"dates": "month_first"}, "means": _ORDERS["month_first"]},
                ],
            }
        )
        return
    draft.time_form = TimeForm(order=order)


_INSTANTS = TypeAdapter(list[datetime])


def instants(draft: Draft) -> list[datetime | None]:
    """Of each row of the sample its time, in UTC; None if it can't be read."""
    cells = draft.columns[draft.uses["timestamp"]].cells
    clocks = None if draft.time_column is None else draft.columns[draft.time_column].cells
    texts, _ = times.read(cells, draft.time_form, clocks)
    found: list[datetime | None] = []
    for text in texts:
        try:
            time = None if text is None else _INSTANTS.validate_python([text])[0]
        except ValidationError:
            time = None
        if time is not None and time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        found.append(time)
    return found
