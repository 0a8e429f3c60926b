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

_BLANK = re.compile(
    "["
    # Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties: joiners, fillers, variation
    # selectors, shorthand and musical format controls, tags, and what is kept free for more.
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    # The braille pattern without a dot is a symbol, and blank.
    r"\u2800"
    "]+"
)
"""What nobody sees, whatever its category: some of it counts as letters, marks or symbols."""


def visible(text: str) -> str | None:
    """A text without the characters that nobody sees; None if one may stand for something.

    Removed are format characters wherever they are (Unicode's category Cf: zero width, marks of
    direction, soft hyphens), what else leaves no trace (fillers, variation selectors, tags, blank
    braille), and controls (Cc) at either end, as of a padded field. Line breaks and tabs between
    words become a space. Another control within a text is neither padding nor white space: what it
    was meant to be nobody can tell.
    """
    text = "".join(c for c in _BLANK.sub("", text) if category(c) != "Cf")
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
    all_ = "".join(text for text in texts if isinstance(text, str))
    # Of everything that is printable, nothing is a control or a format character.
    return all_.isprintable() and (all_.isascii() or _BLANK.search(all_) is None)
