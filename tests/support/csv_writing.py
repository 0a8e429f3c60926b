"""Writing CSVs in any dialect, independently of what reads them."""

from __future__ import annotations

from collections.abc import Sequence

from marketdata.csv_files.dialect import Dialect


def write_row(row: Sequence[str], dialect: Dialect, *, always: bool = False) -> str:
    """A row as a line, without its end.

    Args:
        row: its cells.
        dialect: how they are written.
        always: quote all of them, and not only where it is needed.
    """
    return dialect.delimiter.join(write_cell(cell, dialect, always=always) for cell in row)


def write_cell(cell: str, dialect: Dialect, *, always: bool = False) -> str:
    """A cell, quoted where it has to be."""
    quote = dialect.quote
    special = (dialect.delimiter, quote, "\r", "\n")
    needed = any(sign in cell for sign in special) or cell != cell.strip()
    if dialect.escape:
        needed = needed or dialect.escape in cell
    if not (always or needed):
        return cell
    if dialect.escape:
        cell = cell.replace(dialect.escape, dialect.escape * 2)
        return f"{quote}{cell.replace(quote, dialect.escape + quote)}{quote}"
    return f"{quote}{cell.replace(quote, quote * 2)}{quote}"
