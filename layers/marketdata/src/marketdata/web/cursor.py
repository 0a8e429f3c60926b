"""Cursors: where a list goes on, as an opaque text.

A cursor is a small JSON list in base64url. It is not signed, since nothing in it is trusted:
whoever reads one back checks the type of every part, and what comes out is only ever compared
with a field, as any parameter is.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NoReturn

from marketdata.errors import InvalidInput

MAX_CHARACTERS = 8_000


def encode(kind: str, *parts: Any) -> str:
    """A cursor of a list (`kind`), with what its next page comes after."""
    text = json.dumps([kind, *parts], separators=(",", ":"), ensure_ascii=False)
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(kind: str, cursor: str, parts: int) -> list[Any]:
    """The parts of a cursor; their types are the caller's to check.

    Raises:
        InvalidInput: it is no cursor of this list.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        found = json.loads(urlsafe_b64decode(padded.encode("ascii")), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        refuse()
    if not isinstance(found, list) or len(found) != parts + 1 or found[0] != kind:
        refuse()
    return found[1:]


def refuse() -> NoReturn:
    """Say that a cursor is not valid.

    Raises:
        InvalidInput: always.
    """
    raise InvalidInput(
        "cursor: it is not one that this list gave out. Take `next_cursor` of a page as it is, or "
        "start again without a cursor.",
        faults=[{"in": "query", "name": "cursor", "message": "is not a cursor of this list"}],
    )


def text_or_none(part: object) -> bool:
    """Whether a part is a text or null."""
    return part is None or isinstance(part, str)


def texts(part: object) -> bool:
    """Whether a part is a list of texts."""
    return isinstance(part, list) and all(isinstance(text, str) for text in part)


def id_bytes(part: object, length: int) -> bytes:
    """A part that is an id of so many bytes, as hexadecimal text.

    Raises:
        InvalidInput: it is something else.
    """
    if isinstance(part, str) and re.fullmatch(f"[0-9a-f]{{{2 * length}}}", part):
        return bytes.fromhex(part)
    refuse()


def _no_constant(_name: str) -> NoReturn:
    raise ValueError
