"""Which rows of a page are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from marketdata.errors import UpstreamMalformed
from marketdata.sources.json_stream import parse


def parse_row(text: str) -> Any:
    """A row of a page, whatever JSON value it is; None for one that is nested too deeply."""
    try:
        return parse(text)
    except RecursionError:
        return None


class Selection:
    """The rows of one page that the source's settings ask for, and the count of the others."""

    def __init__(self, keep: Callable[[Any], bool] | None) -> None:
        """Of a filter, which is given each row as parsed JSON; without one, all rows are kept."""
        self._keep = keep
        self._objects = 0
        self.rows = 0
        """Rows that the source answered, so far."""
        self.filtered = 0
        """Of these, the ones that the settings do not ask for."""

    def of(self, texts: Iterable[str]) -> Iterator[str]:
        """The rows that are kept, each as its JSON text, of all rows."""
        for text in texts:
            self.rows += 1
            self._objects += text.startswith("{")
            if self._keep is None or self._keep(parse_row(text)):
                yield text
            else:
                self.filtered += 1

    def require_rows(self, what: str) -> None:
        """Refuse a list of which nothing can be a row that was asked for; an empty one is fine.

        Args:
            what: the source and page, for the message.

        Raises:
            UpstreamMalformed: says so.
        """
        if self.rows and not self._objects:
            raise UpstreamMalformed(
                f"{what} answered a list of {self.rows} values of which none is an object, as rows "
                "are. Its format has changed, or it is another resource; check the source's URL."
            )
        if self.rows and self.rows == self.filtered:
            raise UpstreamMalformed(
                f"{what} answered {self.rows} rows, and by the source's settings none of "
                "them was asked for. Either a field that they go by has changed, or they ask "
                "for nothing."
            )
