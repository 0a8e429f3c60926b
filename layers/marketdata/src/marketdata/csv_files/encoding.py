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
BYTE_ORDER_MARK = codecs.BOM_UTF8
_OTHERS = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"%PDF": "a PDF",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
}
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_HALF = 0.3
"""Of UTF-16 with Latin letters nearly every second byte is NUL, and always the same of the two."""
_UNDEFINED = bytes((0x81, 0x8D, 0x8F, 0x90, 0x9D))
"""Bytes that stand for nothing in Windows-1252."""
_ENOUGH = 4
_GOES_ON = 0x80
"""How bytes begin, in bits, that go on with a character of UTF-8."""


def detect_encoding(head: bytes, *others: bytes, what: str) -> str:
    """How a file's bytes are text: `utf-8`, `cp1252`, `utf-16-le` or `utf-16-be`.

    Args:
        head: its first bytes.
        others: parts of it from elsewhere, cut anywhere.
        what: names the file, for messages.

    Raises:
        FileRefused: it is no text, or text in another encoding; says what it seems to be.
    """
    _require_text(head, what)
    for mark, name in _UTF_16.items():
        if head.startswith(mark):
            return name
    if head.startswith(BYTE_ORDER_MARK):
        return "utf-8"
    sample = head[: 64 * 1024]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if (
        len(sample) >= _ENOUGH
        and max(even, odd) > _HALF * len(sample)
        and min(even, odd) * 20 < max(even, odd)
    ):
        return "utf-16-be" if even > odd else "utf-16-le"
    wrong = next((part for part in (head, *others) if not _is_utf8(part)), None)
    if wrong is None:
        return "utf-8"
    if _is_cp1252((head, *others)):
        return "cp1252"
    try:
        head.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(what, error.start, error) from None
    raise FileRefused(
        f"{what} is not UTF-8 in its middle or at its end, nor is it Windows-1252. Nothing was "
        "loaded. Save it as UTF-8 and upload it again."
    )


def _require_text(head: bytes, what: str) -> None:
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise FileRefused(
                f"{what} is {name}. Nothing was loaded. Save it as a CSV in UTF-8 (plain, or "
                "packed with gzip) and upload it again."
            )
    if head.startswith(GZIP):
        raise FileRefused(
            f"{what} is packed twice: there is a gzip file within the gzip file. Nothing was "
            "loaded. Pack it once and upload it again."
        )


def _is_utf8(part: bytes) -> bool:
    """Whether a part is UTF-8; it may begin and end within a character."""
    begin = next((at for at in range(min(4, len(part))) if part[at] & 0xC0 != _GOES_ON), 0)
    try:
        part[begin:].decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def _is_cp1252(parts: tuple[bytes, ...]) -> bool:
    return all(part.translate(None, _UNDEFINED) == part and b"\0" not in part for part in parts)


def recoded(chunks: Iterator[bytes], encoding: str, what: str) -> Iterator[bytes]:
    """A file in UTF-16 as UTF-8, without its byte order mark.

    Raises:
        FileRefused: it is not UTF-16 everywhere, or ends within a character.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    first = True
    try:
        for chunk in chunks:
            text = decoder.decode(chunk)
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            if text:
                yield text.encode()
        decoder.decode(b"", final=True)
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise FileRefused(
            f"{what} is not UTF-16 everywhere, as its beginning is ({error.reason}). Nothing was "
            "loaded. Save it as UTF-8 and upload it again."
        ) from None


def peek(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes (at least 16, if there are that many), and all bytes again."""
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= 16:  # noqa: PLR2004
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


def checked(
    chunks: Iterator[bytes], *, start: int = 0, what: str, encoding: str = "utf-8"
) -> Iterator[bytes]:
    """The same chunks, when they are text in an encoding.

    Args:
        chunks: the bytes.
        start: the offset of the first one.
        what: names the file, for messages.
        encoding: `utf-8`, or `cp1252`.

    Raises:
        FileRefused: names the first byte that is not UTF-8, or the format that it seems to be.
    """
    if encoding == "cp1252":
        yield from _checked_cp1252(chunks, start, what)
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = start
    for chunk in chunks:
        if at == 0:
            _require_text(chunk, what)
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


def _checked_cp1252(chunks: Iterator[bytes], start: int, what: str) -> Iterator[bytes]:
    at = start
    for chunk in chunks:
        if len(chunk.translate(None, _UNDEFINED)) != len(chunk):
            place = next(index for index, byte in enumerate(chunk) if byte in _UNDEFINED)
            raise FileRefused(
                f"{what} seems to be Windows-1252, and byte {at + place} (0x{chunk[place]:02x}) "
                "stands for nothing there. Nothing was loaded. Save it as UTF-8 and upload it "
                "again.",
                offset=at + place,
            )
        at += len(chunk)
        yield chunk


def _not_utf8(what: str, offset: int, error: UnicodeDecodeError) -> FileRefused:
    return FileRefused(
        f"{what} is not UTF-8: byte {offset} is 0x{error.object[error.start]:02x} "
        f"({error.reason}). Save it as UTF-8 and upload it again.",
        offset=offset,
    )
