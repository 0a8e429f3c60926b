"""The bytes of an object as those of a CSV: unpacked, and certainly UTF-8."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from itertools import chain

from marketdata.errors import FileRefused

GZIP = b"\x1f\x8b"
_CHUNK = 256 * 1024
_GZIP_WINDOW = 31
"""zlib's sign for "a gzip header, and the largest window"."""
_OTHERS = {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
}


def peek(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes (at least 4, if there are that many), and all bytes again."""
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= 4:  # noqa: PLR2004
            break
    return first, chain((first,) if first else (), chunks)


def unpack(chunks: Iterator[bytes], *, limit: int, what: str) -> Iterator[bytes]:
    """What a gzip stream holds (RFC 1952; several members count as one), in small pieces.

    Args:
        chunks: the packed bytes.
        limit: the most bytes that may come out.
        what: names the file, for messages.

    Raises:
        FileRefused: it is damaged, ends too early, or holds more than the limit.
    """
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    size = 0
    for chunk in chunks:
        data = chunk
        while data:
            if unpacker.eof:
                # Some programs fill up with zeros behind the last member.
                data = data.lstrip(b"\0")
                if not data:
                    break
                unpacker = zlib.decompressobj(_GZIP_WINDOW)
            try:
                out = unpacker.decompress(data, _CHUNK)
            except zlib.error as error:
                raise FileRefused(
                    f"{what} is damaged: it can't be unpacked after {size} bytes ({error}). "
                    "Pack and upload it again."
                ) from None
            data = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            size += len(out)
            if size > limit:
                raise FileRefused(
                    f"{what} unpacks to more than {limit / 2**20:.0f} MiB. A packed file can't "
                    "be split; upload it unpacked (it may have any size), or in several files, "
                    "or raise CSV_GZIP_MAX_BYTES.",
                    limit=limit,
                )
            if out:
                yield out
    if not unpacker.eof:
        raise FileRefused(
            f"{what} is cut off: its packed content ends after {size} bytes without its "
            "closing part. Pack and upload it again."
        )


def checked(chunks: Iterator[bytes], *, start: int = 0, what: str) -> Iterator[bytes]:
    """The same chunks, when they are UTF-8.

    Args:
        chunks: the bytes.
        start: the offset of the first one.
        what: names the file, for messages.

    Raises:
        FileRefused: names the first byte that is not UTF-8, or the format that it seems to be.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = start
    for chunk in chunks:
        if at == 0:
            for magic, name in _OTHERS.items():
                if chunk.startswith(magic):
                    raise FileRefused(
                        f"{what} is {name}. Save it as a CSV in UTF-8 (plain, or packed with "
                        "gzip) and upload it again."
                    )
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError as error:
            raise _not_utf8(what, at - held + error.start, error) from None
        at += len(chunk)
        yield chunk
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_utf8(what, at - (error.end - error.start), error) from None


def _not_utf8(what: str, offset: int, error: UnicodeDecodeError) -> FileRefused:
    return FileRefused(
        f"{what} is not UTF-8: byte {offset} is 0x{error.object[error.start]:02x} "
        f"({error.reason}). Save it as UTF-8 and upload it again.",
        offset=offset,
    )
