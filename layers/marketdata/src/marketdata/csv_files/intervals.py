"""How long the candles of a file are: found from their times."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

_SECOND = 1
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_UNITS = {"m": _MINUTE, "h": _HOUR, "d": _DAY, "w": 7 * _DAY}
# fmt: off
_LENGTHS = {
    _MINUTE: "1m", 3 * _MINUTE: "3m", 5 * _MINUTE: "5m", 10 * _MINUTE: "10m", 15 * _MINUTE: "15m",
    30 * _MINUTE: "30m", _HOUR: "1h", 2 * _HOUR: "2h", 3 * _HOUR: "3h", 4 * _HOUR: "4h",
    6 * _HOUR: "6h", 8 * _HOUR: "8h", 12 * _HOUR: "12h", _DAY: "1d", 2 * _DAY: "2d",
    3 * _DAY: "3d", 5 * _DAY: "5d", 7 * _DAY: "1w", 14 * _DAY: "2w",
}
# fmt: on
_MONTH = (28 * _DAY, 31 * _DAY)
_QUARTER = (89 * _DAY, 92 * _DAY)
_YEAR = (365 * _DAY, 366 * _DAY)
_WRITTEN = re.compile(
    r"(\d*) ?(m|min|minutes?|h|hr|hours?|d|days?|daily|w|wk|weeks?)", re.IGNORECASE
)
MONTH = "1M"
DAY = "1d"


def interval_of(times: Iterable[Sequence[datetime]]) -> str | None:
    """How far apart the times of series mostly are, as `1h` or `1d`; None if that can't be told.

    Gaps do no harm: the most frequent distance counts, if no other length is a real rival.

    Args:
        times: of each series its times, in any order.
    """
    steps: Counter[float] = Counter()
    for series in times:
        steps.update(
            (later - earlier) // timedelta(seconds=1)
            for earlier, later in pairwise(sorted(set(series)))
        )
    total = steps.total()
    if not total:
        return None
    for (shortest, longest), label in ((_MONTH, MONTH), (_QUARTER, "3M"), (_YEAR, "1y")):
        if sum(count for step, count in steps.items() if shortest <= step <= longest) > total * 0.6:
            return label
    step, count = steps.most_common(1)[0]
    # Prices of stocks pause on weekends: four of five steps are a day.
    return _LENGTHS.get(int(step)) if count > total / 2 else None


def normalised(text: str) -> str | None:
    """An interval as the record has it: `1 hour`, `60`, `H1`, `daily` are `1h`, `1h`, `1h`, `1d`.

    Returns:
        None if it names none.
    """
    said = text.strip()
    if said in (MONTH, "1mo", "1mon", "monthly", "month", "MN", "MN1", "M"):
        return MONTH
    swapped = re.fullmatch(r"([MHDW])(\d+)", said)
    if swapped is not None:
        said = f"{swapped[2]}{swapped[1].lower()}"
    found = _WRITTEN.fullmatch(said)
    if found is None:
        return None
    count, unit = int(found[1] or 1), found[2][0].lower()
    return _LENGTHS.get(count * _UNITS[unit]) if count < 10_000 else None  # noqa: PLR2004
