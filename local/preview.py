"""``make preview``: what a CSV would become, without a stack and without the bucket."""

import gzip
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from local.console import Screen
from local.errors import LocalError
from marketdata.csv_files.answers import faults_of
from marketdata.documents.questions import Answers
from marketdata.errors import FileRefused
from marketdata.runs.previewing import Preview
from marketdata.runs.previewing import preview as read

_SHOWN_FIELDS = (
    "timestamp",
    "symbol",
    "asset_id",
    "price_usd",
    "open",
    "high",
    "low",
    "volume_24h",
    "volume",
    "base_volume",
    "market_cap",
    "percent_change_24h",
    "interval",
    "quote",
)


def preview(screen: Screen, file: str, key: str, given: Mapping[str, str]) -> None:
    """Show what a file would become, as a table.

    Args:
        screen: where to.
        file: its path.
        key: the key that it will have; `incoming/` and its name if empty.
        given: answers by name, empty texts where nothing was given.

    Raises:
        LocalError: it can't be read, or would be refused; says why.
    """
    path = Path(file)
    if not file or not path.is_file():
        raise LocalError(f"there is no file {file!r}: give FILE=path/to/prices.csv")
    answers = cast("Answers", {name: value for name, value in given.items() if value})
    for name, why in faults_of(answers).items():
        raise LocalError(f"{name.upper()} {why}")
    try:
        found = read(
            path.read_bytes(),
            key=key or f"incoming/{path.name}",
            answers=answers,
            received_at=datetime.now(UTC),
        )
    except (FileRefused, OSError, gzip.BadGzipFile) as error:
        raise LocalError(f"it would be refused: {error}") from None
    if found is None:
        raise LocalError("the file is empty: there is nothing to load")
    for line in _lines(found):
        screen.say(line)


def _lines(found: Preview) -> list[str]:
    dialect = {
        name: value
        for name, value in found.dialect.items()
        if value not in ("", 0, False, []) and name not in ("not_rows", "encoding")
    }
    packed = ", packed" if found.packed else ""
    lines = [
        f"form         {found.publisher or 'of no publisher that is known'}",
        f"dialect      {found.encoding}{packed}, "
        + ", ".join(f"{name} {value!r}" for name, value in dialect.items()),
    ]
    constants = found.layout.get("constants", {})
    if constants:
        lines.append(
            "all rows     " + ", ".join(f"{name} {value}" for name, value in constants.items())
        )
    lines += ["", "columns"]
    notes = [
        *(("used", note) for note in found.applied),
        *(("in doubt", note) for note in found.quarantined),
        *(("not used", note) for note in found.skipped),
    ]
    lines += _table(
        [["", "column", "field", "confidence", "why"]]
        + [
            [
                state,
                note["from"],
                "" if state == "not used" else note["to"],
                f"{note['confidence']:.2f}",
                note.get("reason", ""),
            ]
            for state, note in notes
        ]
    )
    for question in found.questions:
        lines += ["", f"question     {question['text']}"]
        lines += [f"             {one['answer']}: {one['means']}" for one in question["choices"]]
    if found.questions:
        return [*lines, "", "It would wait for an answer: nothing of it would be loaded before."]
    aside = sum(found.reasons.values())
    lines += ["", f"{found.rows} rows: {found.rows - aside} records, {aside} set aside"]
    lines += [f"             {count} {reason}" for reason, count in found.reasons.items()]
    if found.records:
        lines += ["", *_records(found.records)]
    if found.set_aside:
        lines += ["", "set aside"]
        lines += _table(
            [["row", "reason", "message"]]
            + [[str(one.row), one.code, one.message[:100]] for one in found.set_aside]
        )
    return lines


def _records(records: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [name for name in _SHOWN_FIELDS if any(r.get(name) is not None for r in records)]
    rows = [[_cell(record.get(name)) for name in names] for record in records]
    return _table([names, *rows])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [min(40, max(map(len, column))) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
