"""A loader simple enough to be read at a glance: what the real one has to end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

type Lines = dict[tuple[str, str], list[tuple[float, int, int]]]
"""Asset and time -> its line of (price, receipt, row), in which neighbours differ."""


def reference_lines(receipts: Mapping[int, Sequence[tuple[str, str, float]]]) -> Lines:
    """The lines of all rows (asset, time, price) by receipt; a price that is none is left out."""
    lines: Lines = {}
    for receipt, rows in sorted(receipts.items()):
        for number, (asset, time, price) in enumerate(rows):
            if price > 0:
                line = lines.setdefault((asset, time), [])
                if not line or line[-1][0] != price:
                    line.append((price, receipt, number))
    return lines
