"""The forms of texts that clients send, as regular expressions.

Each has a sentence for people in `problems`, which is what a client is told.
"""

from __future__ import annotations

FILENAME = r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,120}\.([cCtT][sS][vV]|[tT][xX][tT])(\.[gG][zZ])?$"
CURRENCY = r"^[A-Za-z0-9]{2,10}$"
DATASET = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
REASON = r"^[a-z0-9_.]{1,64}$"
RUN_ID = r"^[A-Za-z0-9_.:-]{1,128}$"

_CONTROLS = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
_SPACES = r" \u00a0\u1680\u2000-\u200f\u202a-\u202f\u205f\u3000\ufeff"
SAID = f"^[^{_CONTROLS}{_SPACES}]([^{_CONTROLS}]*[^{_CONTROLS}{_SPACES}])?$"
"""A text in one line without blanks at its ends.

Spelled out, as what `\\s` and `.` take differs between the engines of clients and of pydantic.
"""
