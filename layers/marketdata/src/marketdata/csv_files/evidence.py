"""What the columns of a file hold, seen in a sample of its rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from marketdata.csv_files import numbers, times
from marketdata.csv_files.numbers import BLANK, NumberEvidence
from marketdata.csv_files.times import TimeEvidence

_OPAQUE = re.compile(
    r"[0-9a-f]{8,}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE
)
"""Ids that programs draw: UUIDs and hashes."""
_INTEGER = re.compile(r"-?\d{1,30}", re.ASCII)
_MOSTLY = 0.9
_MOST = 0.5
_LEAPS = 2


@dataclass(frozen=True)
class SampledColumn:
    """One column of the sample."""

    index: int
    name: str
    """As the file writes it."""
    cells: Sequence[str]
    """Its cells, without blanks around them, in the order of the file."""

    @cached_property
    def filled(self) -> list[str]:
        """The cells that say something."""
        return [cell for cell in self.cells if cell.lower() not in BLANK and cell not in BLANK]

    @cached_property
    def distinct(self) -> int:
        """How many different ones there are."""
        return len(set(self.filled))

    @cached_property
    def numbers(self) -> NumberEvidence:
        """What they are as numbers."""
        return numbers.examine(self.cells)

    @cached_property
    def times(self) -> TimeEvidence:
        """What they are as times."""
        return times.examine(self.cells)

    @property
    def are_numbers(self) -> bool:
        """Whether most are numbers; the other rows are set aside."""
        return bool(self.filled) and self.numbers.numbers >= _MOST * len(self.filled)

    @property
    def are_times(self) -> bool:
        """Whether most are times, of a day or within one."""
        return bool(self.filled) and self.times.times >= _MOST * len(self.filled)

    @cached_property
    def integers(self) -> list[int] | None:
        """The cells as integers; None if some are none."""
        if not self.filled or not all(map(_INTEGER.fullmatch, self.filled)):
            return None
        return [int(cell) for cell in self.filled]

    @cached_property
    def counts(self) -> bool:
        """Whether it is a row number that counts: up or down by one, row after row."""
        found = self.integers
        if found is None or len(found) < 2:  # noqa: PLR2004 - one alone counts nothing
            return False
        steps = [later - earlier for earlier, later in pairwise(found)]
        # A sample has its head, its middle and its tail, with a leap between them.
        usual = max(steps.count(1), steps.count(-1))
        return usual >= _MOSTLY * len(steps) and len(steps) - usual <= _LEAPS

    @property
    def unique(self) -> bool:
        """Whether each cell differs from all others."""
        return len(self.filled) > 1 and self.distinct == len(self.filled)

    @cached_property
    def opaque(self) -> bool:
        """Whether its cells are ids that a program has drawn."""
        return bool(self.filled) and all(_OPAQUE.fullmatch(cell) for cell in self.filled)
