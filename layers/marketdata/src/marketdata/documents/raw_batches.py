"""Documents of the collection `raw_batches`: the rows of one batch, exactly as received."""

from __future__ import annotations

from datetime import datetime
from typing import NotRequired, TypedDict

from marketdata.documents.objects import StoredVersion


class PageOrigin(TypedDict):
    """The answer of a source that rows came with."""

    url: str
    """What was asked, without keys."""
    page: int
    """The page's number, from 1."""
    status: int
    """HTTP status."""
    etag: str | None
    """The answer's ETag."""
    content_type: str | None
    """The answer's Content-Type."""
    fetched_at: datetime
    """When the answer was received, by the database's clock."""
    rows: int
    """Rows in the whole answer."""
    left_out: NotRequired[int]
    """Of these, the ones that were filtered, and are not kept."""


class RangeOrigin(StoredVersion):
    """The range of an uploaded object that rows came from."""

    range: list[int]
    """Offsets of the first byte and after the last one, of the unpacked file."""


class StoredLayout(TypedDict):
    """The part of a file's dialect that is kept: what reading its rows takes beside the header."""

    columns: dict[str, int]
    """Of each canonical field that the file has, the index of its column."""
    dataset: str
    """The dataset of rows that name none."""


class FileLayout(StoredLayout):
    """A file's header with the part of its dialect that is kept."""

    header: list[str]
    """The cells of the header line."""


class RawBatch(TypedDict):
    """The rows of one batch as received, packed; several batches may have the same one."""

    _id: str
    """Hash of the source, the place (page or range) and the content."""
    source: str
    """The source; `csv` for uploads."""
    format: str
    """`json` for a JSON array of rows of a page, `history` for one of points of a series, `csv` for
    a range of a file."""
    origin: PageOrigin | RangeOrigin
    """Where the rows came from."""
    first_row: int
    """Number of the first row in its page or file, from 0."""
    rows: int
    """How many rows it has."""
    size: int
    """Bytes before packing."""
    digest: str
    """Hash of the unpacked bytes (BLAKE2b, 16 bytes, hexadecimal)."""
    received_at: datetime
    """When the rows were received first."""
    data: bytes
    """The rows, compressed with zlib."""
    seen_at: NotRequired[datetime]
    """When a batch last referred to it; its expiry counts from here. Set as it is stored."""
    version: NotRequired[str]
    """Of a file: S3's id of the object's version."""
    header: NotRequired[list[str]]
    """Of a file: the cells of its header line."""
    layout: NotRequired[StoredLayout]
    """Of a file: the part of its dialect that is kept."""
    malformed: NotRequired[list[list[int]]]
    """Of a file: offset within the rows, and length, of each malformed record."""
