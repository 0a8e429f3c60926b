"""Looking at an object before it is cut: its head, its middle and its end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from marketdata.csv_files.understanding import HEAD_BYTES, PART_BYTES, Parts
from marketdata.objects import ObjectReader, OpenObject

_LOOKED_THROUGH = 128 * 2**20
"""Bytes of a packed file that are unpacked to look at it; of a longer one, its end is not seen."""


def sample_ranges(
    opened: OpenObject, objects: ObjectReader
) -> tuple[bytes, bytes, bytes, Iterator[bytes]]:
    """Of a file whose ranges can be read: head, middle and tail; then all its bytes again."""
    head, chunks = _take(opened.chunks, HEAD_BYTES)
    size = opened.version.size or len(head)
    if len(head) >= size:
        return head, b"", b"", chunks
    version = opened.version
    tail_from = max(len(head), size - PART_BYTES)
    tail = objects.read(version, tail_from, size)
    middle_from = len(head) + (tail_from - len(head)) // 2
    middle_end = min(middle_from + PART_BYTES, tail_from)
    middle = objects.read(version, middle_from, middle_end) if middle_end > middle_from else b""
    return head, middle, tail, chunks


def sample_stream(chunks: Iterator[bytes]) -> Parts:
    """Of a file that can only be read from its beginning: head, middle and tail."""
    head, rest = _take(chunks, HEAD_BYTES)
    head, beyond = head[:HEAD_BYTES], head[HEAD_BYTES:]
    size, middle, tail, next_middle = len(head), b"", b"", 2 * HEAD_BYTES
    for chunk in chain((beyond,) if beyond else (), _behind(rest, len(head) + len(beyond))):
        size += len(chunk)
        tail = (tail + chunk)[-PART_BYTES:]
        if size >= next_middle:
            # Once the end is known, the middle is where this was at half of it or later.
            middle, next_middle = tail, 2 * size
        if size > _LOOKED_THROUGH:
            return Parts(head, False, middle, b"")
    return Parts(head, size == len(head), middle, tail)


def _behind(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for chunk in chunks:
        if count >= len(chunk):
            count -= len(chunk)
        else:
            yield chunk[count:]
            count = 0


def _take(chunks: Iterator[bytes], count: int) -> tuple[bytes, Iterator[bytes]]:
    """At least so many of the first bytes, if there are that many; and all bytes again."""
    first = bytearray()
    for chunk in chunks:
        first += chunk
        if len(first) >= count:
            break
    data = bytes(first)
    return data, chain((data,) if data else (), chunks)


def first(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """What tells an encoding, and all bytes again."""
    return _take(chunks, PART_BYTES)
