"""Which canonical fields of a page are not where, or what, they always were.

A field has *drifted* if rows have nothing of its kind at the place that its source documents, or
values that are of another unit all at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from marketdata.documents.mappings import FoundMapping
from marketdata.schema.drift import adapting, values
from marketdata.schema.drift.candidates import candidates, mapping, power
from marketdata.schema.drift.page import FEWEST_FOR_OPTIONAL, FEWEST_ROWS, REQUIRED, Page
from marketdata.schema.drift.shapes import value_at
from marketdata.schema.drift.values import Last

_AGREE = 0.9
_SURE = 0.95
_PLAUSIBLE = 0.9
_UNSURE = 0.7
_OTHER_UNIT = 0.65
_RECENT = timedelta(days=7)
_AHEAD = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Finding:
    """One field that has drifted."""

    to: str
    """The canonical field."""
    what: str
    """What has happened, as a sentence without its beginning: "is gone from all 250 rows"."""
    everywhere: bool
    """Whether no row can be read without a mapping."""
    kind: str
    """`missing`, `retyped` or `unit`."""
    candidates: list[FoundMapping] = field(default_factory=list)

    @property
    def required(self) -> bool:
        """Whether a row needs the field."""
        return self.to in REQUIRED


def find(page: Page, last: Mapping[int, Last], units: Iterable[str] = ()) -> list[Finding]:
    """The fields of a page that have drifted, each with what may be it now.

    Args:
        page: the rows.
        last: by the number of a row, what was said last of its asset; of as many as are known.
        units: fields about whose unit somebody is asked already: these stay so while nothing can
            be compared.
    """
    found = [finding for name in page.suspects() if (finding := _missing(page, name, last))]
    elsewhere = {finding.to for finding in found if finding.kind != "retyped"}
    for name in sorted(values.NUMBERS):
        if name in elsewhere or page.documented.fields.get(name) not in page.shape:
            continue
        finding = _unit(page, name, last, asked=name in set(units))
        if finding is not None:
            found = [one for one in found if one.to != name or one.kind != "retyped"]
            found.append(finding)
    return found


def _missing(page: Page, name: str, last: Mapping[int, Last]) -> Finding | None:
    path = page.documented.fields[name]
    read = [values.read(name, value_at(row, path)) for row in page.rows]
    ways = Counter(found[0] for found in read if found)
    needy = [index for index, found in enumerate(read) if found is None]
    usual, count = ways.most_common(1)[0] if ways else ("", 0)
    if usual not in ("", "same") and count > len(needy):
        return _retyped(page, name, usual, read, last)
    everywhere = len(needy) == len(page.rows)
    if name in REQUIRED:
        if not needy:
            return None
    elif not everywhere or len(page.rows) < FEWEST_FOR_OPTIONAL:
        return None
    found = candidates(page, name, needy, last)
    gone = everywhere and len(page.rows) >= FEWEST_ROWS and _is_gone(page, path)
    if not found and not gone:
        return None
    return Finding(name, _happened(page, path, needy), gone, "missing", found)


def _is_gone(page: Page, path: str) -> bool:
    """Whether a field is not there, or is of another kind; one of nulls alone has no values."""
    shape = page.shape.get(path)
    return shape is None or bool(shape.kinds)


def _happened(page: Page, path: str, needy: Sequence[int]) -> str:
    shape = page.shape.get(path)
    of = "all" if len(needy) == len(page.rows) else f"{len(needy)} of"
    if shape is None:
        return f"is gone from {of} {len(page.rows)} rows"
    if not shape.kinds:
        return f"is null in {of} {len(page.rows)} rows"
    said = next((v for i in needy if (v := value_at(page.rows[i], path)) is not None), None)
    like = f", like {said!r:.60}" if said is not None else ""
    return f"is not what it was in {of} {len(page.rows)} rows{like}"


def _retyped(
    page: Page,
    name: str,
    way: str,
    read: Sequence[tuple[str, Any] | None],
    last: Mapping[int, Last],
) -> Finding:
    path = page.documented.fields[name]
    if name == values.TIME:
        pairs = [(found[1], last[i]) for i, found in enumerate(read) if found and i in last]
        compared = values.compare(name, pairs, page.received_at)
        times = [found[1] for found in read if found]
        earliest, latest = page.received_at - _RECENT, page.received_at + _AHEAD
        likely = sum(earliest <= time <= latest for time in times) >= _AGREE * len(times)
        sure = _SURE if compared.says_something and compared.agreement >= _AGREE else _PLAUSIBLE
        confidence = sure if likely else _UNSURE
        reason = (
            f"The times are written as {way} now, and lie where such times do."
            if likely
            else f"The times are written as {way} now, if they are that: many are not of this week."
        )
    else:
        confidence, reason = _SURE, "The very same field, whose numbers come as text now."
    one = mapping(page, name, path, way, confidence, reason)
    return Finding(
        name, f"is written as {way} now", everywhere=False, kind="retyped", candidates=[one]
    )


def _unit(page: Page, name: str, last: Mapping[int, Last], *, asked: bool) -> Finding | None:
    """Whether all values of a field are of another unit at once."""
    path = page.documented.fields[name]
    read = {i: values.read(name, value_at(page.rows[i], path)) for i in last}
    pairs = [(found[1], last[i]) for i, found in read.items() if found]
    at = page.time
    factor = values.shifted(name, pairs, at)
    if factor is None:
        compared = values.compare(name, pairs, at)
        if not asked or compared.says_something:
            return None
        what = "can't be compared with the values before, which were of another unit"
        one = mapping(page, name, path, adapting.AS_IT_COMES, _UNSURE, f"It {what}.")
        return Finding(name, what, everywhere=True, kind="unit", candidates=[one])
    exponent = values.by_ten(factor)
    about = f"{factor:.3g}"
    what = f"is about {about} times what it was, for {len(pairs)} assets at once"
    made = []
    if exponent is not None:
        made.append(
            mapping(
                page,
                name,
                path,
                f"{adapting.TIMES}{power(-exponent)}",
                _UNSURE,
                f"The values are about {about} times the ones before, as in another unit.",
            )
        )
    made.append(
        mapping(
            page,
            name,
            path,
            f"{adapting.AS_IT_COMES}, about {factor:.1g} of before",
            _OTHER_UNIT,
            f"The values are about {about} times the ones before: is it still US dollars?"
            if name != "percent_change_24h"
            else f"The values are about {about} times the ones before: is it still percent?",
        )
    )
    return Finding(name, what, everywhere=True, kind="unit", candidates=made)
