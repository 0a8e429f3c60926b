"""Texts as they were meant: without characters that nobody sees, and None where nothing is said.

A symbol with a zero width space in it looks like another symbol, is not equal to it, and would be
an asset of its own. Such characters come from web pages, spreadsheets and padded fields.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from unicodedata import category

NOTHING = frozenset(
    written
    for word in ("", "null", "none", "nan", "n/a", "na", "-", "--")
    for written in (word, word.upper(), word.capitalize(), "NaN", "N/a")
)
"""How programs write that there is no value."""
NO_NAME = NOTHING - {"NA", "na", "Na"}
"""The same for texts, as NA may well be a ticker."""

_WHITE = re.compile(r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")
"""Controls that part words, as a space does (`str.isspace`)."""


def visible(text: str) -> str | None:
    """A text without the characters that nobody sees; None if one may stand for something.

    Removed are format characters wherever they are (Unicode's category Cf: zero width, marks of
    direction, soft hyphens), and controls (Cc) at either end, as of a padded field. Line breaks
    and tabs between words become a space. Another control within a text is neither padding nor
    white space: what it was meant to be nobody can tell.
    """
    text = "".join(c for c in text if category(c) != "Cf")
    begin, end = 0, len(text)
    while begin < end and _is_padding(text[begin]):
        begin += 1
    while end > begin and _is_padding(text[end - 1]):
        end -= 1
    text = _WHITE.sub(" ", text[begin:end])
    return None if any(category(c) == "Cc" for c in text) else text


def _is_padding(character: str) -> bool:
    return character.isspace() or category(character) == "Cc"


def all_visible(texts: Sequence[object]) -> bool:
    """Whether no text has a character that `visible` looks for; quick for what is nearly always so.

    What is no text is passed over.
    """
    # Of everything that is printable, nothing is a control or a format character.
    return "".join(text for text in texts if isinstance(text, str)).isprintable()
