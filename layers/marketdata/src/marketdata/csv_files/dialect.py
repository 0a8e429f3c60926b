"""How the bytes of a CSV are lines and cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from marketdata.documents.raw_batches import StoredDialect


@dataclass(frozen=True, slots=True)
class Dialect:
    """One value, found once a file, and used by all that reads any part of it."""

    encoding: str = "utf-8"
    """`utf-8` or `cp1252`: that of the bytes that are kept. (UTF-16 is kept as UTF-8.)"""
    delimiter: str = ","
    """The character between cells: a comma, a semicolon, a tab or a pipe."""
    quote: str = '"'
    """The character around cells that hold anything: `"` or `'`."""
    escape: str = ""
    """The character before a quote within quotes; empty where such a quote is doubled."""
    trim: bool = False
    """Blanks around cells, also before a quote, are no part of them."""
    extra: int = 0
    """Empty cells that rows may have behind the last column of the header."""
    comment: str = ""
    """What a line that is a comment begins with; empty if there are none."""
    not_rows: tuple[str, ...] = ()
    """Lines, without their ends, that are no rows wherever they stand: headers that are repeated,
    footers."""

    def document(self) -> StoredDialect:
        """The stored form."""
        return {
            "encoding": self.encoding,
            "delimiter": self.delimiter,
            "quote": self.quote,
            "escape": self.escape,
            "trim": self.trim,
            "extra": self.extra,
            "comment": self.comment,
            "not_rows": list(self.not_rows),
        }

    @classmethod
    def of(cls, stored: StoredDialect | None) -> Self:
        """The dialect that was stored; RFC 4180 in UTF-8 where none was."""
        if stored is None:
            return cls()
        return cls(
            encoding=stored["encoding"],
            delimiter=stored["delimiter"],
            quote=stored["quote"],
            escape=stored["escape"],
            trim=stored["trim"],
            extra=stored["extra"],
            comment=stored["comment"],
            not_rows=tuple(stored["not_rows"]),
        )


RFC_4180 = Dialect()
"""Comma, double quote, UTF-8: what a CSV is where nothing else is known."""
