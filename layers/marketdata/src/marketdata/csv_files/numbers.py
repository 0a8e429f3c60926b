"""Numbers as people and programs write them: thousands, decimals, money, suffixes, nothing.

A column has one form, found from all its cells together: `1.810` alone may be 1.81 or 1810. Values
stay texts with all their digits; nothing goes through a float here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from typing import Self

from marketdata.documents.questions import DecimalSign
from marketdata.documents.raw_batches import StoredNumbers

_WORDS = (
    "null", "none", "nan", "n/a", "na", "#n/a", "#na", "n.a.", "#value!", "#div/0!", "#ref!",
    "\\n", "<na>", "nil", "undefined", "missing", "-nan", "nat",
)  # fmt: skip
BLANK = frozenset(
    {"", "-", "--", "---", "\u2013", "\u2014", "?", "."}
    | {form for word in _WORDS for form in (word, word.upper(), word.capitalize(), word.title())}
    | {"NaN", "-NaN", "N/a", "NaT", "\\N"}
)
"""How programs write that there is no value, without the blanks around it."""

_SPACES = " \u00a0\u202f\u2009'\u2019"
"""What parts thousands beside a comma or a point: blanks, thin ones, and apostrophes."""


@dataclass(frozen=True, slots=True)
class NumberForm:
    """How the numbers of a column are written."""

    decimal: str = "."
    """The decimal sign: a point or a comma."""
    grouping: str = ""
    """Characters that part thousands, each of which may; often none."""

    def document(self) -> StoredNumbers:
        """The stored form."""
        return {"decimal": self.decimal, "grouping": self.grouping}

    @classmethod
    def of(cls, stored: StoredNumbers) -> Self:
        """The form that was stored."""
        return cls(stored["decimal"], stored["grouping"])


PLAIN = NumberForm()
"""As a program writes them: a decimal point and no grouping."""
POINT = NumberForm(".", "," + _SPACES)
COMMA = NumberForm(",", "." + _SPACES)

_SIGNS = {
    "$": "USD", "US$": "USD", "USD": "USD", "USDT": "USDT", "USDC": "USDC", "DOLLAR": "USD",
    "DOLLARS": "USD", "€": "EUR", "EUR": "EUR", "EURO": "EUR", "EUROS": "EUR", "£": "GBP",
    "GBP": "GBP", "¥": "JPY", "JPY": "JPY", "CNY": "CNY", "RMB": "CNY", "₩": "KRW", "KRW": "KRW",
    "₹": "INR", "INR": "INR", "₿": "BTC", "BTC": "BTC", "ETH": "ETH", "CHF": "CHF", "CAD": "CAD",
    "C$": "CAD", "A$": "AUD", "AUD": "AUD", "HK$": "HKD", "₽": "RUB", "RUB": "RUB", "₺": "TRY",
    "R$": "BRL", "BRL": "BRL", "PLN": "PLN", "SEK": "SEK", "MXN": "MXN", "SGD": "SGD",
}  # fmt: skip
_MONEY = "|".join(re.escape(sign) for sign in sorted(_SIGNS, key=len, reverse=True))
_SCALES = {
    "K": 3, "TSD": 3, "THOUSAND": 3, "M": 6, "MN": 6, "MIO": 6, "MLN": 6, "MILLION": 6, "MM": 6,
    "B": 9, "BN": 9, "MRD": 9, "BLN": 9, "BILLION": 9, "T": 12, "TN": 12, "TRN": 12, "TRILLION": 12,
}  # fmt: skip
_SCALE = "|".join(sorted(_SCALES, key=len, reverse=True))
_NUMBER = re.compile(
    rf"""
    (?P<open>\()? \s*
    (?P<sign>[-+\u2212])? \s*
    (?:(?P<before>{_MONEY}) \s* (?P<inner>[-+\u2212])? \s*)?
    (?P<digits>\d(?:[\d.,{_SPACES}]*\d)?[.,]? | [.,]\d+)
    (?P<exponent>[eE][-+]?\d{{1,3}})?
    \s* (?P<scale>{_SCALE})? \s* (?P<after>{_MONEY})? \s* (?P<percent>%)? \s*
    (?P<trailing>[-\u2212])? \s*
    (?P<close>\))?
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_SPACE_SIGNS = re.compile(f"[{_SPACES}]")
_PROGRAM = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_PLAIN_COLUMN = re.compile(
    r"(?:[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?:\n|\Z))*+", re.ASCII
)
_COMMA_COLUMN = re.compile(
    r"(?:-?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d*)?(?:\n|\Z)|-?\d+(?:,\d*)?(?:\n|\Z))*+", re.ASCII
)
_POINT_COLUMN = re.compile(
    r"(?:-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?(?:\n|\Z)|-?\d+(?:\.\d*)?(?:\n|\Z))*+", re.ASCII
)
_FROM_COMMA = str.maketrans({".": None, ",": "."})
_FROM_POINT = str.maketrans({",": None})
_EXACT = Context(prec=400)
_LONGEST = 80


@dataclass(frozen=True, slots=True)
class NumberEvidence:
    """What the cells of a column say of their form."""

    point: bool
    """Each cell that is a number can be read with a decimal point."""
    comma: bool
    """Each can be read with a decimal comma."""
    plain: bool
    """Both readings agree in all cells."""
    example: str | None
    """A cell whose value depends on the reading."""
    numbers: int
    """Cells that are numbers, whichever reading is right."""
    blanks: int
    others: int
    currencies: frozenset[str]
    """Currencies that stand with the numbers."""
    percent: bool
    """Some numbers are followed by a percent sign."""
    program: bool
    """Each number is written as a program does: digits and a point."""
    grouped: bool = False
    """Some cell shows for certain which sign parts what."""


def examine(cells: Sequence[str]) -> NumberEvidence:
    """What the cells of a column say of their form.

    Args:
        cells: as the file writes them; blanks around them do not matter.
    """
    together = "\n".join(cells)
    if together and _PLAIN_COLUMN.fullmatch(together):
        return _examine_program(cells)
    return _examine_written(cells)


def _examine_written(cells: Sequence[str]) -> NumberEvidence:
    """The same of cells of any kind, one by one."""
    point = comma = plain = program = True
    settled = percent = False
    example = None
    numbers = blanks = others = 0
    currencies: set[str] = set()
    for cell in dict.fromkeys(cells):
        text = cell.strip()
        if text in BLANK:
            blanks += 1
            continue
        found = _NUMBER.fullmatch(text)
        if found is None or (found["open"] is None) != (found["close"] is None):
            others += 1
            continue
        by_point, by_comma = (_number_in(found, form) for form in (POINT, COMMA))
        if by_point is None and by_comma is None:
            others += 1
            continue
        numbers += 1
        program = program and _PROGRAM.fullmatch(text) is not None
        percent = percent or found["percent"] is not None
        for name in (found["before"], found["after"]):
            if name:
                currencies.add(_SIGNS[name.upper()])
        if by_point is None or by_comma is None:
            settled = True
        elif by_point != by_comma:
            plain = False
            example = example or cell.strip()
        point = point and by_point is not None
        comma = comma and by_comma is not None
    if len(cells) != numbers + blanks + others:
        counted = [cell.strip() in BLANK for cell in cells]
        total = len(cells)
        blanks = sum(counted)
        bad = {c for c in set(cells) if not _is_number(c)}
        others = sum(cell in bad for cell in cells) - blanks
        numbers = total - blanks - others
    return NumberEvidence(
        point,
        comma,
        plain and point and comma,
        example,
        numbers,
        blanks,
        others,
        frozenset(currencies),
        percent,
        program,
        settled,
    )


def _examine_program(cells: Sequence[str]) -> NumberEvidence:
    """The same of cells each of which is a number as a program writes it."""
    signed = [cell for cell in cells if "." in cell]
    either = [cell for cell in signed if _EITHER.fullmatch(cell)]
    settled = len(either) < len(signed)
    return NumberEvidence(
        point=True,
        comma=not settled,
        plain=not signed,
        example=either[0] if either else None,
        numbers=len(cells),
        blanks=0,
        others=0,
        currencies=frozenset(),
        percent=False,
        program=True,
        grouped=settled,
    )


_EITHER = re.compile(r"[-+]?[1-9]\d{0,2}\.\d{3}", re.ASCII)
"""What may be a number with decimals or one with thousands."""


def _is_number(cell: str) -> bool:
    found = _NUMBER.fullmatch(cell.strip())
    return found is not None and any(_number_in(found, form) is not None for form in (POINT, COMMA))


def form_of(
    evidence: NumberEvidence,
    others: Sequence[NumberEvidence],
    *,
    delimiter: str,
    quoted: bool,
    answer: DecimalSign | None,
) -> NumberForm | None:
    """The form of a column's numbers; None if nothing settles it, or if its cells contradict.

    Args:
        evidence: of the column.
        others: of the other columns of numbers in the same file.
        delimiter: of the file.
        quoted: whether its numbers are quoted, so that they may hold the delimiter.
        answer: what somebody said.
    """
    points = PLAIN if evidence.program else POINT
    if answer is not None:
        possible = evidence.point if answer == "decimal_point" else evidence.comma
        form = points if answer == "decimal_point" else COMMA
        return form if possible else None
    if evidence.point != evidence.comma:
        return points if evidence.point else COMMA
    if not evidence.point:
        return None
    settled = {other.comma for other in others if other.grouped and other.point != other.comma}
    if len(settled) == 1:
        return COMMA if settled.pop() else points
    # A decimal comma could not stand in an unquoted cell of a file with commas.
    certain = evidence.plain or (delimiter == "," and not quoted)
    return points if certain else None


def _number_in(found: re.Match[str], form: NumberForm) -> str | None:
    """The digits of a number in a form. With an exponent none are grouped: 1.000e+1 is 10."""
    digits = found["digits"]
    other = "," if form.decimal == "." else "."
    grouped = found["exponent"] is not None and (other in digits or _SPACE_SIGNS.search(digits))
    return None if grouped else _digits(digits, form)


def _digits(text: str, form: NumberForm) -> str | None:
    """Digits with signs between them as `1234.5`; None if they are none in this form.

    Thousands are parted in threes, or as in India in twos before the last three.
    """
    whole, sign, rest = text.partition(form.decimal)
    other = "," if form.decimal == "." else "."
    if form.decimal in rest or other in rest or _SPACE_SIGNS.search(rest):
        return None
    parts = re.split(f"[{re.escape(other)}{_SPACES}]", whole)
    if len(parts) > 1:
        if len({c for c in whole if not c.isdigit()}) > 1 or not parts[0] or len(parts[-1]) != 3:  # noqa: PLR2004
            return None
        middle = {len(part) for part in parts[1:-1]}
        threes = middle <= {3} and len(parts[0]) <= 3  # noqa: PLR2004
        lakhs = middle == {2} and len(parts[0]) <= 2 and other == ","  # noqa: PLR2004
        if not (threes or lakhs) or parts[0].startswith("0"):
            return None
    digits = "".join(parts)
    return f"{digits or '0'}.{rest}" if sign and rest else digits or None


def read(values: Sequence[str], form: NumberForm) -> tuple[Sequence[str | None], dict[int, str]]:
    """A column of numbers as texts that Python reads as the same numbers, with all their digits.

    Args:
        values: the cells.
        form: how they are written.

    Returns:
        The texts, None where a cell says nothing or is no number; `values` themselves if each is
        written as a program does. And of those that are no number the reason, by index.
    """
    together = "\n".join(values)
    if form == PLAIN:
        if together and _PLAIN_COLUMN.fullmatch(together):
            return values, {}
    elif form.decimal == "," and together and _COMMA_COLUMN.fullmatch(together):
        return list(together.translate(_FROM_COMMA).split("\n")), {}
    elif form.decimal == "." and together and _POINT_COLUMN.fullmatch(together):
        return list(together.translate(_FROM_POINT).split("\n")), {}
    found: list[str | None] = []
    bad: dict[int, str] = {}
    for index, value in enumerate(values):
        text = value.strip()
        if form.decimal == "." and _PROGRAM.fullmatch(text):
            found.append(text)
        elif text in BLANK:
            found.append(None)
        else:
            number = _read_one(text, form)
            found.append(number)
            if number is None:
                bad[index] = f"It is no number (is {value[:_LONGEST]!r})"
    return found, bad


def _read_one(text: str, form: NumberForm) -> str | None:
    found = _NUMBER.fullmatch(text)
    if found is None or (found["open"] is None) != (found["close"] is None):
        return None
    if form == PLAIN:
        # Seen later in the file than what was looked at: it may be grouped, if that is certain.
        digits = _number_in(found, POINT)
        if digits is not None and digits != _number_in(found, COMMA) is not None:
            digits = digits if "," not in found["digits"] else None
    else:
        digits = _number_in(found, form)
    if digits is None:
        return None
    negative = (
        sum(
            found[name] is not None and found[name] in "-\u2212(" and found[name] != ""
            for name in ("sign", "inner", "open", "trailing")
        )
        % 2
        == 1
    )
    number = f"{'-' if negative else ''}{digits}{found['exponent'] or ''}"
    if found["scale"] is None:
        return number
    try:
        scaled = Decimal(number).scaleb(_SCALES[found["scale"].upper()], _EXACT)
    except InvalidOperation:
        return None
    return format(scaled, "f") if -50 < scaled.adjusted() < 50 else str(scaled)  # noqa: PLR2004
