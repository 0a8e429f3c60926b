"""What came, page by page, compared with what was asked for.

A list in pages is no single answer: its order moves between two requests, and a source may give
fewer rows than it was asked for. Both would lose rows in silence. So the pipeline remembers what
the page before had, and says in words and figures what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Self

from marketdata.documents.runs import ShortPage
from marketdata.documents.sources import StoredExtent
from marketdata.runs.extraction.selection import parse_row
from marketdata.sources.base import ApiSource, rank_in

_SHOWN = 5
"""Pages that a warning lists."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Which rows a page has, as far as that shows whether the next page follows on it."""

    digest: str
    """A hash of the rows' ids in their order: pages of equal digests are the same page."""
    ids: frozenset[str] = frozenset()
    """Hashes of the rows' ids; empty where they are not known any more."""
    lowest_rank: int | None = None
    """The lowest rank of its rows; None where they have none."""
    highest_rank: int | None = None
    """The highest one. Within a page ranks need not be in order: a source ranks and sorts by
    figures of different ages."""

    @classmethod
    def of(cls, stored: StoredExtent | None) -> Self | None:
        """As it is stored; None if nothing is."""
        if stored is None:
            return None
        return cls(
            stored["digest"],
            frozenset(stored.get("ids", [])),
            stored["lowest_rank"],
            stored["highest_rank"],
        )

    def document(self, *, ids: bool = True) -> StoredExtent:
        """As it is stored, with the ids or without."""
        stored: StoredExtent = {
            "digest": self.digest,
            "lowest_rank": self.lowest_rank,
            "highest_rank": self.highest_rank,
        }
        if ids:
            stored["ids"] = sorted(self.ids)
        return stored


@dataclass(slots=True)
class ExtentReader:
    """Looks at the rows of a page as they pass, and tells its extent in the end."""

    source: ApiSource
    _ids: list[str] = field(default_factory=list)
    _ranks: list[int] = field(default_factory=list)

    def of(self, texts: Iterable[str]) -> Iterator[str]:
        """The same rows, each looked at."""
        for text in texts:
            row = parse_row(text)
            # Without an id, the row stands for it.
            self._ids.append(self.id_of(row) or _hash(text))
            if isinstance(row, dict) and (rank := rank_in(self.source.rank_of(row))) is not None:
                self._ranks.append(rank)
            yield text

    def id_of(self, row: object) -> str | None:
        """A hash of the id of a row, whatever JSON value it is; None if it has none.

        An id may be any text, even one that can't be stored (a lone surrogate), and of any length.
        """
        if not isinstance(row, dict):
            return None
        id_ = self.source.map_row(row).get("asset_id")
        return _hash(id_) if isinstance(id_, str) and id_ else None

    def extent(self) -> Extent:
        """Of all rows that have passed."""
        return Extent(
            _hash("\0".join(self._ids)),
            frozenset(self._ids),
            min(self._ranks, default=None),
            max(self._ranks, default=None),
        )


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Shift:
    """The order of a list moved between the requests for two pages: rows may be on neither."""

    page: int
    """The first of the two."""
    missing_ranks: range
    """Ranks between the two pages; empty if there are none."""
    repeated: int
    """Rows that both pages have: where one came down to the later page, another one went up."""

    @classmethod
    def between(cls, page: int, before: Extent, after: Extent) -> Self | None:
        """How a page and the next one do not fit; None if they do.

        Args:
            page: the number of the first one.
            before: what it has.
            after: what the next one has.
        """
        missing = range(0)
        if before.highest_rank is not None and after.lowest_rank is not None:
            missing = range(before.highest_rank + 1, after.lowest_rank)
        repeated = len(before.ids & after.ids)
        return cls(page, missing, repeated) if missing or repeated else None

    def describe(self) -> str:
        """What does not fit, in a sentence."""
        pages = f"page {self.page} and page {self.page + 1}"
        if self.missing_ranks:
            first, last = self.missing_ranks[0], self.missing_ranks[-1]
            ranks = f"rank {first} is" if first == last else f"ranks {first} to {last} are"
            return f"Between {pages} {ranks} missing: the order moved while they were fetched."
        rows = "1 row is" if self.repeated == 1 else f"{self.repeated} rows are"
        return f"{rows} on both {pages}: the order moved while they were fetched."


def describe_short(
    short: Sequence[ShortPage], asked: int, *, pages: int, page_size: int, received: int
) -> str:
    """What to say of pages that brought fewer rows than were asked for, though more followed.

    Args:
        short: these pages.
        asked: pages that the settings ask for.
        pages: pages that were received.
        page_size: rows of a full page.
        received: rows of all pages.
    """
    told = ", ".join(f"page {one['page']} {one['rows']}" for one in short[:_SHOWN])
    more = f" and {len(short) - _SHOWN} more" if len(short) > _SHOWN else ""
    sizes = {one["rows"] for one in short}
    why = (
        f"The source seems to give {short[0]['rows']} rows a page at most, whatever it is asked for"
        if len(short) == pages and len(sizes) == 1
        else "Rows may be missing that no page had"
    )
    return (
        f"{len(short)} of {pages} pages had fewer than the {page_size} rows that they were asked "
        f"for, though more rows followed: {told}{more}. {why}: {received} rows came, of "
        f"{asked * page_size} that {asked} pages can have."
    )


def repeated_in(digests: Sequence[str]) -> list[tuple[int, int]]:
    """The pages that repeat an earlier one, each with the first that it repeats.

    Args:
        digests: by page, a hash of which rows it has; empty where that is not known.
    """
    first = dict[str, int]()
    repeats = []
    for page, digest in enumerate(digests, start=1):
        if digest and first.setdefault(digest, page) < page:
            repeats.append((page, first[digest]))
    return repeats


def describe_repeated(repeats: Sequence[tuple[int, int]]) -> str:
    """What to say of pages that are the same as earlier ones, each given with that one."""
    told = ", ".join(f"page {page} is the same as page {of}" for page, of in repeats[:_SHOWN])
    more = f", and {len(repeats) - _SHOWN} more are like that" if len(repeats) > _SHOWN else ""
    return (
        f"{told[0].upper()}{told[1:]}{more}. The source repeats pages: that brought nothing new, "
        "and what belongs there may be missing."
    )


def describe_unpaged(page: int, asked: int, *, page_size: int, rows: int, received: int) -> str:
    """What to say of a source whose next page is the same as its last one.

    Args:
        page: the last page.
        asked: pages that the settings ask for.
        page_size: rows of a full page.
        rows: rows of the last page.
        received: rows of all pages.
    """
    same = f"Page {page + 1} is the same as page {page}"
    came = f"{received} rows came, of {asked * page_size} that {asked} pages can have"
    if rows == page_size:
        return f"{same}, though page {page} was full: {came}. The source does not page any more."
    return (
        f"{same}, which had {rows} of {page_size} rows: {came}. The source does not page, and "
        "whether it has more rows is not known."
    )
