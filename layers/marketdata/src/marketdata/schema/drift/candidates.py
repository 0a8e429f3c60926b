"""What may be a field that is not at its place any more, and how certain that is.

How certain, from 0 to 1, is decided by name, by type, and above all by values: each is compared
with what was said last of the same asset. A name alone never reaches 0.8: without values to compare
with, a person has to look. Nor does another unit, whatever speaks for it: it is a guess.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from marketdata.documents.mappings import FoundMapping
from marketdata.schema.drift import adapting, values
from marketdata.schema.drift.page import FEWEST_ROWS, REQUIRED, Page
from marketdata.schema.drift.shapes import value_at
from marketdata.schema.drift.values import Comparison, Last
from marketdata.schema.mapping import (
    APPLIED_FROM,
    CURRENCY_WORDS,
    QUARANTINED_FROM,
    likeness,
    words,
)

_MOST_CANDIDATES = 8
_BELONGS_TO_THE_REST = 0.1
"""What more of the other rows have is a field beside the one that is missing, not in its place."""
_AGREE = 0.9
_DISAGREE = 0.5
_UNSURE = 0.79
_UNKNOWN_NAME = 0.7
_OTHER_UNIT = 0.65
_SAME_LEAF = 0.95
_USD = frozenset({"usd", "us", "dollar", "dollars"})
_HOLDS_A_VALUE = _USD | {"value", "amount", "current", "latest", "last", "price", "now"}
# fmt: off
_OTHER_THINGS = frozenset((
    "high", "low", "ath", "atl", "avg", "average", "mean", "median", "vwap", "twap", "bid", "ask",
    "open", "min", "max", "supply", "diluted", "fdv", "next", "previous", "prev", "expires",
    "expiry", "created", "first", "listed", "added", "rank", "peak", "forecast", "predicted",
    "target", "index", "date", "count", "trades", "dominance", "fee", "locked", "tvl",
))
# fmt: on
"""Words of other things than a field's own, whatever else a name says."""
_SPANS = frozenset("hdwmy")


@dataclass(frozen=True, slots=True)
class _Candidate:
    path: str
    way: str
    name: float
    compared: Comparison
    read: Mapping[int, Any]
    exponent: int | None = None
    """Of values that are as much as they were, but for this power of ten."""


def candidates(
    page: Page, name: str, needy: Sequence[int], last: Mapping[int, Last]
) -> list[FoundMapping]:
    """What may be a field now, judged; the most certain first."""
    lacking = set(needy)
    found = []
    for path in page.unknown:
        candidate = _candidate(page, name, path, lacking, last)
        if candidate is not None:
            found.append((candidate, *_judged(candidate)))
    found.sort(key=lambda one: (-one[1], one[0].path))
    good = [one for one in found if one[1] >= QUARANTINED_FROM]
    made = []
    for candidate, confidence, reason in found[:_MOST_CANDIDATES]:
        rivals = [o for o in good if o[0] is not candidate and confidence >= QUARANTINED_FROM]
        certain, why = _among(candidate, confidence, reason, rivals)
        made.append(mapping(page, name, candidate.path, _way(candidate), certain, why))
    return sorted(made, key=lambda one: (-one["confidence"], one["from"]))


def _among(
    candidate: _Candidate,
    confidence: float,
    reason: str,
    rivals: Sequence[tuple[_Candidate, float, str]],
) -> tuple[float, str]:
    """How certain one candidate is beside others that may be the field just as well."""
    for rival, other, _ in rivals:
        if _same(candidate, rival):
            better = (confidence, rival.path) > (other, candidate.path)
            if not better:
                return 0.4, f"`{rival.path}` says the same, and its name is nearer."
        elif other >= _UNKNOWN_NAME and confidence >= APPLIED_FROM:
            return _UNSURE, f"{reason} But `{rival.path}` may be it as well."
    return confidence, reason


def _same(a: _Candidate, b: _Candidate) -> bool:
    return a.read.keys() == b.read.keys() and all(b.read[i] == v for i, v in a.read.items())


def _way(candidate: _Candidate) -> str:
    if candidate.exponent is None:
        return candidate.way
    return f"{adapting.TIMES}{power(-candidate.exponent)}"


def power(exponent: int) -> str:
    """A power of ten as digits: 0.01 for -2."""
    return f"{10**exponent}" if exponent >= 0 else f"0.{'0' * (-exponent - 1)}1"


def _candidate(
    page: Page, name: str, path: str, needy: set[int], last: Mapping[int, Last]
) -> _Candidate | None:
    read = [values.read(name, value_at(row, path)) for row in page.rows]
    mine = {i: found for i, found in enumerate(read) if found and i in needy}
    others = sum(found is not None for i, found in enumerate(read) if i not in needy)
    rest = len(page.rows) - len(needy)
    if not mine or (rest and others > _BELONGS_TO_THE_REST * rest):
        return None
    if len(mine) < _AGREE * len(needy) and len(mine) < FEWEST_ROWS:
        return None
    way, _ = Counter(found[0] for found in mine.values()).most_common(1)[0]
    told = {i: value for i, (how, value) in mine.items() if how == way}
    pairs = [(value, last[i]) for i, value in told.items() if i in last]
    at = page.received_at if name == values.TIME else page.time
    compared = values.compare(name, pairs, at)
    exponent = None
    if name in values.NUMBERS and compared.says_something:
        exponent = values.by_ten(compared.factor)
        if exponent is not None:
            scaled = [(value / 10.0**exponent, was) for value, was in pairs]
            compared = values.compare(name, scaled, at)
    certain = _name_of(name, path, page.documented.fields[name])
    return _Candidate(path, way, certain, compared, told, exponent)


def _name_of(name: str, path: str, before: str) -> float:
    """How certainly a path means a field, by its names alone."""
    *parents, leaf = path.split(".")
    *old_parents, old = before.split(".")
    around = {word for parent in parents for word in words(parent)}
    said = set(words(leaf)) | around
    own = set(words(old)) | {word for parent in old_parents for word in words(parent)}
    strange = said - own
    if strange & _OTHER_THINGS or strange & (CURRENCY_WORDS - _USD):
        return 0.0
    if any(_is_span(word) and word != "24h" for word in strange):
        return 0.0
    if leaf == old:
        return _SAME_LEAF
    if parents and parents[-1] == old and set(words(leaf)) <= _HOLDS_A_VALUE:
        return _SAME_LEAF
    joined = likeness(f"{parents[-1]}_{leaf}", name, old) if parents else 0.0
    # Letters that only resemble each other say nothing of a parent's. And not 0: that is a name
    # which says something else.
    return max(0.05, likeness(leaf, name, old), joined if joined >= APPLIED_FROM else 0.0)


def _is_span(word: str) -> bool:
    """Whether a word is a span of time, as 7d."""
    return word[:1].isdigit() and word.lstrip("0123456789") in _SPANS


def _judged(  # noqa: PLR0911 - one for each kind of evidence
    one: _Candidate,
) -> tuple[float, str]:
    """How certain a candidate is, and why."""
    compared = one.compared
    if not compared.says_something:
        return (
            min(_UNSURE, one.name),
            "Its name is like it; there are no earlier values to compare with.",
        )
    share = f"{round(compared.agreement * compared.compared)} of {compared.compared}"
    if compared.agreement < _DISAGREE:
        return min(0.4, one.name / 2), f"Only {share} values could follow the ones before."
    if one.name == 0:
        return 0.45, f"{share} values could follow the ones before, but it is called otherwise."
    if one.exponent is not None:
        if one.name < QUARANTINED_FROM or compared.agreement < _AGREE:
            return 0.4, f"{share} values could follow the ones before, in another unit."
        return (
            _OTHER_UNIT,
            f"{share} values follow the ones before if multiplied by {power(-one.exponent)}.",
        )
    if compared.agreement < _AGREE or not compared.tight:
        certain = 0.6 if one.name >= QUARANTINED_FROM else 0.45
        return certain, f"{share} values could follow the ones before; all together they moved."
    if one.name < QUARANTINED_FROM:
        return _UNKNOWN_NAME, f"{share} values follow the ones before, but its name says little."
    certain = APPLIED_FROM + (1 - APPLIED_FROM) * one.name * compared.agreement
    return round(min(0.99, certain), 2), f"{share} values follow the ones before."


def mapping(
    page: Page, to: str, path: str, way: str, confidence: float, reason: str
) -> FoundMapping:
    """A mapping of a page's source, under the id that whoever finds it gives it."""
    text = json.dumps([page.documented.source, to, path, way])
    return {
        "id": blake2b(text.encode(), digest_size=8).hexdigest(),
        "from": path,
        "to": to,
        "as": way,
        "confidence": round(confidence, 2),
        "reason": reason,
        "required": to in REQUIRED,
    }
