"""How a file is to be read: decided once, from its header and a sample of its rows.

What can't be known is asked, and nothing is guessed. Everything that was decided is noted with its
reason, so that a person can see why a column became what it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b

from marketdata.csv_files import (
    amount_columns,
    asset_columns,
    columns,
    parsing,
    price_columns,
    profiles,
    time_columns,
)
from marketdata.csv_files.assets import hints_of, pair_of
from marketdata.csv_files.dialect import RFC_4180, Dialect
from marketdata.csv_files.draft import Draft
from marketdata.csv_files.evidence import SampledColumn
from marketdata.csv_files.fields import claims_of
from marketdata.csv_files.numbers import PLAIN
from marketdata.csv_files.times import TimeForm
from marketdata.documents.questions import Answers, Question
from marketdata.documents.raw_batches import StoredLayout
from marketdata.documents.runs import ColumnNote
from marketdata.errors import FileRefused
from marketdata.schema.mapping import APPLIED_FROM, REQUIRED
from marketdata.schema.record import Fault, validate

_NEEDED = ("price_usd", "open", "high", "low")
"""Numbers without which a row is no price, or a wrong one."""
_JUDGED_FROM = 100
"""Rows of a sample from which "nearly all are bad" says something about the file."""
_NEARLY_ALL = 0.95
_NOT_THE_FORM = frozenset(
    ("quote_not_usd", "timestamp_unknown", "timestamp_in_future", "timestamp_too_early",
     "low_above_high", "greater_than")
)  # fmt: skip
"""Faults of rows that are understood: a file full of them is read, and its rows are set aside."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows from the head, the middle and the tail of a file."""

    header: list[str] | None
    """The names of its columns; None if it has no header."""
    rows: list[list[str]]
    """Rows that have a cell for each column."""
    odd: int
    """Other records that were seen: malformed or ragged ones."""
    quoted: bool
    """Whether cells of numbers are quoted."""
    units: Sequence[str] = ()
    """Of each column what a row of units says; empty if there is none."""
    ticker: str = ""
    """The one symbol that a second header names."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a file is to be read, and what has to be asked before."""

    header: list[str]
    layout: StoredLayout
    applied: list[ColumnNote]
    quarantined: list[ColumnNote]
    skipped: list[ColumnNote]
    questions: list[Question]
    profile: str
    """A hash of the header and the delimiter: files of one profile ask the same."""
    publisher: str | None
    """Whose form of file it is, where that is known."""


def judge(
    sample: Sample,
    *,
    dialect: Dialect,
    key: str,
    answers: Answers,
    dataset: str,
    received_at: datetime,
    what: str,
) -> Judgement:
    """Decide how a file is read.

    Args:
        sample: some of its rows.
        dialect: how its bytes are lines and cells.
        key: the object's key, which may say what it is about.
        answers: what was said of it; it outranks what is found.
        dataset: the data set of rows that name none.
        received_at: against which "too far ahead" is judged.
        what: names the file, for messages.

    Raises:
        FileRefused: it is no series of prices, or its form is not understood; says what is missing
            and what to do.
    """
    header, profile = _header(sample, what, answered="columns" in answers)
    sampled = [
        SampledColumn(index, name, [row[index].strip() for row in sample.rows])
        for index, name in enumerate(header)
    ]
    hints = hints_of(key)
    if sample.ticker:
        pair = pair_of(sample.ticker, together=False)
        symbol, quote = (pair.base, pair.quote) if pair else (sample.ticker.upper(), hints.quote)
        hints = replace(hints, symbol=symbol, quote=quote)
    draft = Draft.begin(
        what,
        sampled,
        sample.rows,
        dialect,
        hints,
        answers,
        profile,
        quoted=sample.quoted,
        units=sample.units,
    )
    if sample.rows:
        _settle(draft)
    else:
        _settle_empty(draft)
    layout = _layout(draft, dataset)
    judgement = _judgement(draft, header, layout, profile_id(sample.header or [], dialect))
    if not judgement.questions:
        _refuse_if_nearly_all_are_bad(sample, judgement, received_at, what)
    return judgement


def _settle(draft: Draft) -> None:
    time_columns.settle(draft)
    draft.settle_numbers()
    price_columns.settle(draft)
    asset_columns.settle(draft)
    if "timestamp" in draft.uses:
        amount_columns.settle(draft, time_columns.instants(draft))
    _settle_number_forms(draft)


def _settle_empty(draft: Draft) -> None:
    """A file without rows: its names must at least make sense."""
    for role, found in draft.candidates.items():
        if found and found[0].claim.confidence >= APPLIED_FROM:
            draft.use(role, found[0])
    draft.uses = {to: index for to, index in draft.uses.items() if to in columns.FIELDS}
    if draft.hints.symbol is not None and "symbol" not in draft.uses:
        draft.constants["symbol"] = draft.constants["asset_id"] = draft.hints.symbol
    missing = [to for to in REQUIRED if to not in draft.uses and to not in draft.constants]
    if missing:
        shown = ", ".join(repr(column.name) for column in draft.columns[:40])
        raise FileRefused(
            f"{draft.what} has no column for {', '.join(missing)}, and no row that would tell "
            "more. "
            f"Its columns are: {shown}. Nothing was loaded. Rename the columns and upload the file "
            "again.",
            missing=missing,
            columns=[column.name for column in draft.columns[:40]],
        )


def _header(
    sample: Sample, what: str, *, answered: bool
) -> tuple[list[str], profiles.Profile | None]:
    if sample.header is not None:
        return sample.header, profiles.profile_of(sample.header)
    numbers = [[_number(cell) for cell in row] for row in sample.rows[:50]]
    unnamed = profiles.unnamed_profile(numbers)
    if unnamed is not None:
        return list(unnamed.header), unnamed.profile
    width = len(sample.rows[0]) if sample.rows else 0
    if not width:
        raise FileRefused(
            f"{what} has no header and no row that can be read. Nothing was loaded. Give it a "
            "first line with the names of its columns and upload it again."
        )
    header = [f"column {index + 1}" for index in range(width)]
    if not answered:
        raise FileRefused(
            f"{what} has no header, and is no file of a publisher whose columns are known without "
            f"one. Its first row is {', '.join(map(repr, sample.rows[0][:20]))}. Nothing was "
            "loaded. Give it a first line with the names of its columns and upload it again."
        )
    return header, None


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _settle_number_forms(draft: Draft) -> None:
    """Ask how numbers are meant where that is not settled, and leave what contradicts itself."""
    for to, index in list(draft.uses.items()):
        column = draft.columns[index]
        if to not in columns.NUMBERS or index in draft.number_forms or not column.filled:
            continue
        evidence = column.numbers
        if evidence.point or evidence.comma:
            if to in _NEEDED:
                _ask_numbers(draft, column)
            else:
                del draft.uses[to]
                _revoke(
                    draft, index, "nothing says whether its sign is one of decimals or of thousands"
                )
        elif to in _NEEDED:
            raise FileRefused(
                f"Column {column.name!r} of {draft.what} has numbers with a decimal point and "
                "numbers "
                "with a decimal comma. Nothing was loaded. Write all of them in one way and upload "
                "the file again."
            )
        else:
            del draft.uses[to]
            _revoke(draft, index, "its numbers are written in more than one way")


def _revoke(draft: Draft, index: int, why: str) -> None:
    _, note = draft.notes[index]
    confidence = min(note["confidence"], 0.75)
    draft.notes[index] = ("quarantined", {**note, "confidence": confidence, "reason": why})


def _ask_numbers(draft: Draft, column: SampledColumn) -> None:
    example = column.numbers.example or column.filled[0]
    draft.ask(
        {
            "about": "numbers",
            "text": f"Is {example!r} in column {column.name!r} of {draft.what} a number with "
            "thousands or one with decimals? No number of the file settles it.",
            "choices": [
                {"answer": {"numbers": "decimal_point"}, "means": "a point is the decimal sign"},
                {"answer": {"numbers": "decimal_comma"}, "means": "a comma is the decimal sign"},
            ],
        }
    )


def _layout(draft: Draft, dataset: str) -> StoredLayout:
    layout: StoredLayout = {"columns": dict(draft.uses), "dataset": dataset}
    if draft.dialect != RFC_4180:
        layout["dialect"] = draft.dialect.document()
    forms = {
        to: form.document()
        for to, index in draft.uses.items()
        if to in columns.NUMBERS and (form := draft.number_forms.get(index, PLAIN)) != PLAIN
    }
    if forms:
        layout["numbers"] = forms
    if draft.time_form != TimeForm() or draft.time_column is not None:
        layout["times"] = draft.time_form.document()
        if draft.time_column is not None:
            layout["times"]["time_column"] = draft.time_column
    if draft.constants:
        layout["constants"] = draft.constants
    if draft.currency_column is not None:
        layout["currency_column"] = draft.currency_column
    if draft.pairs:
        layout["pairs"] = True
    if draft.profile is not None and draft.profile.is_own:
        layout["own"] = True
    return layout


def _judgement(draft: Draft, header: list[str], layout: StoredLayout, profile: str) -> Judgement:
    notes: dict[str, list[ColumnNote]] = {"applied": [], "quarantined": [], "skipped": []}
    for column in draft.columns:
        said = draft.notes.get(column.index)
        if said is not None:
            notes[said[0]].append(said[1])
        elif column.name.strip():
            notes["skipped"].append(_unknown(column))
    return Judgement(
        header,
        layout,
        notes["applied"],
        notes["quarantined"],
        notes["skipped"],
        draft.questions,
        profile,
        draft.profile.name if draft.profile else None,
    )


def profile_id(header: Sequence[str], dialect: Dialect) -> str:
    """A hash of a header and its delimiter: files of one profile ask the same."""
    text = json.dumps([list(header), dialect.delimiter])
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _unknown(column: SampledColumn) -> ColumnNote:
    claims = claims_of(column.name)
    confidence = min(claims[0].confidence, 0.49) if claims else 0.0
    to = claims[0].role.value if claims else ""
    reason = "no field of the record is meant by it"
    return {"from": column.name, "to": to, "confidence": confidence, "reason": reason}


def _refuse_if_nearly_all_are_bad(
    sample: Sample, judgement: Judgement, received_at: datetime, what: str
) -> None:
    """Refuse a file whose rows could only be set aside one by one.

    Raises:
        FileRefused: names the most frequent fault and an example.
    """
    total = len(sample.rows) + sample.odd
    if total < _JUDGED_FROM:
        return
    bad: list[Fault] = []
    if sample.rows:
        cut = parsing.transposed(sample.rows, len(judgement.header))
        table = columns.table(cut, len(sample.rows), judgement.layout)
        _, faults = validate(table, now=received_at)
        bad = [fault for fault in faults if fault.code not in _NOT_THE_FORM]
    if len(bad) + sample.odd < _NEARLY_ALL * total:
        return
    if len(bad) < sample.odd:
        why = (
            f"{sample.odd} of {total} lines that were looked at do not have the "
            f"{len(judgement.header)} cells of the header"
        )
    else:
        (code, field), count = Counter((fault.code, fault.field) for fault in bad).most_common(1)[0]
        example = next(fault for fault in bad if (fault.code, fault.field) == (code, field))
        why = (
            f"of {total} rows that were looked at, {count} have no usable {field or 'form'}: "
            f"{example.message}"
        )
    raise FileRefused(
        f"Nearly all rows of {what} would be set aside: {why}. So the file is refused whole, and "
        "nothing was loaded. Correct it and upload it again."
    )
