"""Raw batches: the rows of one batch exactly as received, compressed."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from marketdata.documents.raw_batches import RawBatch
from marketdata.errors import UpstreamMalformed

MAX_COMPRESSED_BYTES = 12 * 1024 * 1024
"""MongoDB's limit for a document is 16 MiB; the rest is for what describes the payload."""

MAX_UNPACKED_BYTES = 48 * 1024 * 1024
"""A batch is unpacked whole when it is loaded, so this bounds the loader's memory."""

_LEVEL = 3
"""zlib's level: API payloads shrink to about a seventh; higher ones cost more than they save."""
_CSV_LEVEL = 1
"""Rows of numbers shrink to two fifths at any level, and the higher ones take twice the time."""


@dataclass(frozen=True, slots=True)
class Payload:
    """The rows of one batch, packed."""

    rows: int
    size: int
    """Bytes before compression."""
    digest: str
    """Hash of the unpacked bytes (BLAKE2b, 16 bytes, hexadecimal)."""
    data: bytes


def pack_json(texts: Iterable[str], *, rows_per_batch: int) -> Iterator[Payload]:
    """Rows as JSON texts, packed into batches as JSON arrays of the very same texts.

    A batch ends at `rows_per_batch` rows, or earlier where it would grow past
    `MAX_UNPACKED_BYTES` or `MAX_COMPRESSED_BYTES`. No rows give one empty batch, so that "the
    source answered nothing" is on record too.
    """
    part: list[bytes] = []
    size = 0
    empty = True
    for text in texts:
        row = text.encode("utf-8", "surrogatepass")
        if part and (len(part) >= rows_per_batch or size + len(row) > MAX_UNPACKED_BYTES):
            yield from _pack(part)
            part, size = [], 0
        part.append(row)
        size += len(row) + 2
        empty = False
    if part or empty:
        yield from _pack(part)


def _pack(rows: list[bytes]) -> Iterator[Payload]:
    body = b"[" + b",\n".join(rows) + b"]"
    data = zlib.compress(body, _LEVEL)
    if len(data) > MAX_COMPRESSED_BYTES and len(rows) > 1:
        # Rows that hardly shrink: two halves, and so on. No order and no row is lost.
        middle = len(rows) // 2
        yield from _pack(rows[:middle])
        yield from _pack(rows[middle:])
        return
    if len(data) > MAX_COMPRESSED_BYTES:
        raise UpstreamMalformed(
            f"One row alone is {len(body)} bytes ({len(data)} compressed), more than the "
            f"{MAX_COMPRESSED_BYTES} that the database can keep of a batch. No market data is "
            "like that; look at what the source answers."
        )
    yield Payload(
        rows=len(rows),
        size=len(body),
        digest=digest_of(body),
        data=data,
    )


def pack_csv(data: bytes, rows: int, digest: str) -> Payload:
    """A range of a CSV, whose bytes stay as they are; `digest` is theirs."""
    return Payload(rows, len(data), digest, zlib.compress(data, _CSV_LEVEL))


def digest_of(data: bytes) -> str:
    """The hash by which a payload's content is known."""
    return blake2b(data, digest_size=16).hexdigest()


def raw_id(source: str, place: str, digest: str) -> str:
    """The `_id` of a raw batch: the same content from the same place is the same batch.

    Args:
        source: the source's name.
        place: the page (`page 1 part 0`), or the object version and byte range.
        digest: hash of the content.
    """
    text = f"{len(source)},{len(place)}:{source}{place}{digest}"
    return blake2b(text.encode(), digest_size=16).hexdigest()


def unpack(document: RawBatch) -> bytes:
    """The bytes of a raw batch's document, as they were packed."""
    return zlib.decompress(document["data"])
