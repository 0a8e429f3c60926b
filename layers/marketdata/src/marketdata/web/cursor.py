"""Cursors: where a list goes on, as an opaque text.

A cursor is a small JSON list in base64url, a dot, and a checksum. What has not this form is a
malformed parameter (400); what has it and is none that the list gave out leads nowhere (404).
It is not signed, since nothing in it is trusted: whoever reads one back checks the type of
every part, and what comes out is only ever compared with a field, as any parameter is.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Any, NoReturn

from marketdata.errors import NotFound

PATTERN = r"^[A-Za-z0-9_-]{8,8000}\.[0-9a-f]{8}$"
"""The form of every cursor."""


class UnknownCursor(NotFound):
    """A cursor that its list has not given out."""

    code = "unknown_cursor"


def encode(kind: str, *parts: Any) -> str:
    """A cursor of a list (`kind`), with what its next page comes after."""
    text = json.dumps([kind, *parts], separators=(",", ":"), ensure_ascii=False)
    body = urlsafe_b64encode(text.encode()).rstrip(b"=")
    return f"{body.decode()}.{_checksum(body)}"


def decode(kind: str, cursor: str, parts: int) -> list[Any]:
    """The parts of a cursor; their types are the caller's to check.

    Raises:
        UnknownCursor: it is no cursor of this list.
    """
    body, _, checksum = cursor.encode("ascii", "replace").partition(b".")
    if _checksum(body) != checksum.decode():
        refuse()
    try:
        found = json.loads(urlsafe_b64decode(body + b"=" * (-len(body) % 4)))
    except (ValueError, RecursionError):
        refuse()
    if not isinstance(found, list) or len(found) != parts + 1 or found[0] != kind:
        refuse()
    return found[1:]


def _checksum(body: bytes) -> str:
    return blake2b(body, digest_size=4).hexdigest()


def refuse() -> NoReturn:
    """Say that a cursor leads nowhere.

    Raises:
        UnknownCursor: always.
    """
    raise UnknownCursor(
        "cursor: there is no page at this one; this list has not given it out. Take `next_cursor` "
        "of a page as it is, or start again without a cursor."
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
