"""The identity of a record, as the 20 bytes that are its `_id`, and the digest of what it says."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat, starmap
from operator import add
from typing import Any

from marketdata import clock
from marketdata.schema.record import VALUE_FIELDS, Columns

ID_BYTES = 20
DIGEST_BYTES = 12
_HASH_BYTES = 12
_SIGN = 1 << 63
_LATER = ("volume", "base_volume", "quote")
"""Value fields that came later: a record without them has the digest that it always had."""
_NUMBERS = tuple(field for field in VALUE_FIELDS if field not in ("symbol", "name", *_LATER))
_PACKED = struct.Struct(f"<{len(_NUMBERS)}d").pack
_NONE = float("nan")


def record_id(
    source: str, dataset: str, asset_id: str, interval: str, timestamp: datetime
) -> bytes:
    """The `_id` of one record: 8 bytes of time, then 12 bytes of hash.

    The time leads (milliseconds since 1970, big-endian, offset by 2**63 so that bytes sort as
    numbers): inserts of one batch then touch neighbouring pages of the index, and the `_id`
    index itself answers time ranges and newest-first orders. The hash is BLAKE2b (RFC 7693)
    over the four texts with their lengths before them, so that no two quadruples read the
    same; with 12 bytes, a collision among a million
    records of the same millisecond has probability below 1e-17.
    """
    return _head(timestamp) + _series(source, dataset, asset_id, interval)


def record_ids(columns: Columns) -> list[bytes]:
    """The `_id` of each record of some validated columns; see `record_id`."""
    times = columns["timestamp"]
    heads = {time: _head(time) for time in set(times)}
    intervals = columns.get("interval")
    series = zip(
        columns["source"],
        columns["dataset"],
        columns["asset_id"],
        repeat("", len(times)) if intervals is None else [i or "" for i in intervals],
        strict=True,
    )
    return list(map(add, map(heads.__getitem__, times), starmap(_series, series)))


def digest(record: Mapping[str, Any]) -> bytes:
    """A hash of what a record says: of its `VALUE_FIELDS`.

    Records of equal digests say the same, so that whether two do is known by comparing twelve
    bytes. (Of unequal ones it is not known: 0.0 equals -0.0.) The first bytes of BLAKE2b over
    the numbers as IEEE doubles, NaN where there is none, which no value is, the texts with the
    symbol's length before them, and fields that came later behind a byte that no text has.
    """
    return digests({field: (value,) for field, value in record.items()})[0]


def digests(columns: Columns) -> list[bytes]:
    """The digest of each of some records; see `digest`."""
    symbols, names = columns["symbol"], columns["name"]
    texts = map(_said, symbols, names)
    numbers = [_numbers(columns.get(field), len(symbols)) for field in _NUMBERS]
    said = map(add, map(_PACKED, *numbers), texts)
    if not columns.keys().isdisjoint(_LATER):
        said = map(add, said, _later(columns, len(symbols)))
    return [hashed.digest()[:DIGEST_BYTES] for hashed in map(blake2b, said)]


def _numbers(values: Sequence[float | None] | None, rows: int) -> Iterable[float | None]:
    if values is None:
        return repeat(_NONE, rows)
    return [_NONE if value is None else value for value in values] if None in values else values


def _later(columns: Columns, rows: int) -> Iterable[bytes]:
    volumes, base_volumes, quotes = (columns.get(field) or [None] * rows for field in _LATER)
    return [
        b""
        if volume is None and base is None and quote is None
        else b"\xff" + _PAIR(_nan(volume), _nan(base)) + (quote or "").encode()
        for volume, base, quote in zip(volumes, base_volumes, quotes, strict=True)
    ]


_PAIR = struct.Struct("<2d").pack


def _nan(value: float | None) -> float:
    return _NONE if value is None else value


def _head(timestamp: datetime) -> bytes:
    return (clock.to_ms(timestamp) + _SIGN).to_bytes(8, "big")


# A file of a million rows has a few thousand assets.
@lru_cache(maxsize=50_000)
def _said(symbol: str, name: str | None) -> bytes:
    return f"{len(symbol)},{symbol}{name or ''}".encode()


@lru_cache(maxsize=50_000)
def _series(source: str, dataset: str, asset_id: str, interval: str) -> bytes:
    text = f"{len(source)},{len(dataset)},{len(asset_id)}:{source}{dataset}{asset_id}{interval}"
    return blake2b(text.encode(), digest_size=_HASH_BYTES).digest()


def time_of(id_: bytes) -> bytes:
    """The first part of an `_id`, which tells its time and sorts as times do."""
    return id_[:-_HASH_BYTES]


def ms_of(id_: bytes) -> int:
    """The time of an `_id`, in milliseconds since 1970."""
    return int.from_bytes(id_[:-_HASH_BYTES]) - _SIGN


def span_of(first: bytes, last: bytes) -> tuple[bytes, bytes]:
    """The lowest and the highest possible `_id` of these times; see `time_of`."""
    return first + bytes(_HASH_BYTES), last + b"\xff" * _HASH_BYTES


def first_id(timestamp: datetime) -> bytes:
    """The lowest possible `_id` at a time: ids from it on are of that time or later."""
    return _head(timestamp) + bytes(_HASH_BYTES)


def last_id(timestamp: datetime) -> bytes:
    """The highest possible `_id` at a time: ids up to it are of that time or earlier."""
    return _head(timestamp) + b"\xff" * _HASH_BYTES
