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


class StoredDialect(TypedDict):
    """How the bytes of a CSV are lines and cells: a stored `csv_files.dialect.Dialect`."""

    encoding: str
    """`utf-8` or `cp1252`: that of the bytes that are kept. (UTF-16 is kept as UTF-8.)"""
    delimiter: str
    """The character between cells: a comma, a semicolon, a tab or a pipe."""
    quote: str
    """The character around cells that hold anything: `"` or `'`."""
    escape: str
    """The character before a quote within quotes; empty where such a quote is doubled."""
    trim: bool
    """Blanks around cells, also before a quote, are no part of them."""
    extra: int
    """Empty cells that rows may have behind the last column of the header."""
    comment: str
    """What a line that is a comment begins with; empty if there are none."""
    not_rows: list[str]
    """Lines, without their ends, that are no rows wherever they stand: headers that are repeated,
    footers."""


class StoredNumbers(TypedDict):
    """How the numbers of a column are written."""

    decimal: str
    """The decimal sign: a point or a comma."""
    grouping: str
    """Characters that part thousands, each of which may; often none."""


class StoredTimes(TypedDict):
    """How the times of a file are written."""

    order: str
    """`day_first`, `month_first`, or empty where no date needs it."""
    serial: bool
    """Plain numbers are a spreadsheet's days."""
    time_column: NotRequired[int]
    """The index of the column with the time of day that belongs to the date."""


class StoredLayout(TypedDict):
    """How a file's rows are read, beside the header; found once, and kept with each batch."""

    columns: dict[str, int]
    """Of each canonical field that the file has, the index of its column."""
    dataset: str
    """The dataset of rows that name none."""
    dialect: NotRequired[StoredDialect]
    """How its bytes are lines and cells; RFC 4180 in UTF-8 where it is absent."""
    numbers: NotRequired[dict[str, StoredNumbers]]
    """Of canonical fields whose numbers are not as a program writes them: how they are."""
    times: NotRequired[StoredTimes]
    """How times are written, where they are not as a program writes them."""
    constants: NotRequired[dict[str, str]]
    """Values of fields that no column has and that are the same in all rows: the symbol of a file
    about one asset, the interval of its candles, its currency."""
    currency_column: NotRequired[int]
    """The index of the column that says the currency of a row's prices."""
    pairs: NotRequired[bool]
    """Symbols that are written together, as BTCUSD, are pairs."""
    own: NotRequired[bool]
    """It is what this service itself gives: nothing of it is to be understood anew."""


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
