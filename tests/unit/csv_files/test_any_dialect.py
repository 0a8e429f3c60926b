"""A table that is written in any dialect reads back equal, or as a question: never different.

And files that are no good break nothing: each row is a record or is set aside, or the file is
refused, in time.
"""

from __future__ import annotations

import gzip
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata.csv_files.dialect import Dialect
from marketdata.errors import FileRefused
from marketdata.runs.previewing import Preview, preview
from tests.support.csv_writing import write_row

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_EAST = timezone(timedelta(hours=5, minutes=30))
SYMBOLS = ("BTC", "ETH", "MSFT", "BRK.B", "1INCH")


@dataclass(frozen=True)
class Row:
    symbol: str
    price: Decimal
    volume: Decimal | None
    at: datetime


ROWS = st.lists(
    st.builds(
        Row,
        symbol=st.sampled_from(SYMBOLS),
        price=st.decimals("0.0001", "9999999", places=4),
        volume=st.none() | st.decimals("0", "999999999", places=2),
        at=st.datetimes(datetime(2002, 1, 1), datetime(2025, 12, 31)).map(  # noqa: DTZ001 - made aware
            lambda at: at.replace(second=0, microsecond=0, tzinfo=UTC)
        ),
    ),
    min_size=1,
    max_size=12,
)


def grouped(number: Decimal, group: str, point: str) -> str:
    text = f"{number:,f}"
    return text.replace(",", "\0").replace(".", point).replace("\0", group)


NUMBERS: dict[str, Callable[[Decimal], str]] = {
    "plain": lambda number: f"{number:f}",
    "point": lambda number: grouped(number, ",", "."),
    "comma": lambda number: grouped(number, ".", ","),
    "comma alone": lambda number: grouped(number, "", ","),
    "blanks": lambda number: grouped(number, " ", "."),
    "dollars": lambda number: f"${grouped(number, ',', '.')}",
    "exponent": lambda number: f"{number:e}",
}
DATES: dict[str, Callable[[datetime], str]] = {
    "iso": lambda at: at.isoformat(),
    "iso blank": lambda at: f"{at:%Y-%m-%d %H:%M:%S}",
    "utc": lambda at: f"{at:%Y-%m-%d %H:%M UTC}",
    "offset": lambda at: f"{at.astimezone(_EAST):%Y-%m-%d %H:%M:%S%z}",
    "basic": lambda at: f"{at:%Y%m%dT%H%M%SZ}",
    "seconds": lambda at: str(int(at.timestamp())),
    "milliseconds": lambda at: str(int(at.timestamp()) * 1000),
    "nanoseconds": lambda at: str(int(at.timestamp()) * 10**9),
    "day first": lambda at: f"{at:%d/%m/%Y %H:%M}",
    "month first": lambda at: f"{at:%m/%d/%Y %I:%M %p}",
    "dots": lambda at: f"{at:%d.%m.%Y %H:%M:%S}",
    "names": lambda at: f"{at:%b %d, %Y %H:%M}",
    "rfc": lambda at: f"{at:%a, %d %b %Y %H:%M:%S GMT}",
}
HEADERS = {
    "canonical": ("symbol", "price_usd", "volume_24h", "timestamp"),
    "words": ("Ticker", "Price (USD)", "Volume 24h (USD)", "Time"),
    "shuffled": ("coin symbol", "close", "24h volume", "Date"),
}
PREAMBLES = ("", "https://www.example.com/data\n", "# made by a program\n", "\n\n", "My prices\n\n")
FOOTERS = ("", "\n\n", ",,,\n", "Source: example.com\n")


@dataclass(frozen=True)
class Dress:
    """How a table is written."""

    dialect: Dialect
    header: tuple[str, str, str, str]
    number: str
    date: str
    order: tuple[int, ...]
    preamble: str
    footer: str
    end: str
    blank: str
    encoding: str
    always: bool
    repeat: bool
    packed: bool
    trailing: bool


DRESSES = st.builds(
    Dress,
    dialect=st.builds(
        Dialect,
        delimiter=st.sampled_from([",", ";", "\t", "|"]),
        quote=st.sampled_from(['"', "'"]),
        escape=st.just(""),
    ),
    header=st.sampled_from(list(HEADERS.values())),
    number=st.sampled_from(sorted(NUMBERS)),
    date=st.sampled_from(sorted(DATES)),
    order=st.permutations(range(4)).map(tuple),
    preamble=st.sampled_from(PREAMBLES),
    footer=st.sampled_from(FOOTERS),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    blank=st.sampled_from(["", "null", "NaN", "-", "\\N", "N/A"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]),
    always=st.booleans(),
    repeat=st.booleans(),
    packed=st.booleans(),
    trailing=st.booleans(),
)


def dressed(rows: list[Row], dress: Dress) -> bytes:
    number, date = NUMBERS[dress.number], DATES[dress.date]
    lines = [list(dress.header)]
    lines += [
        [
            row.symbol,
            number(row.price),
            dress.blank if row.volume is None else number(row.volume),
            date(row.at),
        ]
        for row in rows
    ]
    if dress.repeat and len(lines) > 2:
        lines.insert(2, list(dress.header))
    delimiter = dress.dialect.delimiter
    text = "".join(
        write_row([line[place] for place in dress.order], dress.dialect, always=dress.always)
        + (delimiter if dress.trailing else "")
        + "\n"
        for line in lines
    )
    footer = dress.footer.replace(",", delimiter)
    written = (dress.preamble + text + footer).replace("\n", dress.end).encode(dress.encoding)
    return gzip.compress(written, mtime=0) if dress.packed else written


@given(rows=ROWS, dress=DRESSES)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_table_in_any_dialect_reads_back_equal_or_as_a_question(
    rows: list[Row], dress: Dress
) -> None:
    data = dressed(rows, dress)
    try:
        found = preview(data, key="incoming/x.csv", answers={}, received_at=NOW, records=10**6)
    except FileRefused:
        # Nothing is loaded then, and the user is told: of tables of a row or two, which may look
        # like anything, and of what contradicts itself.
        return
    assert found is not None
    if found.questions:
        return
    if found.reasons:
        # A quote that stands once in a file may be a part of a name; its row is set aside.
        plain = gzip.decompress(data) if dress.packed else data
        assert plain.count(b"'") == 2, (data, found.set_aside)
        return
    # A volume all of whose numbers may be read in two ways is left out, and told.
    doubted = any(note["to"] == "volume_24h" for note in found.quarantined)
    made = [(r["symbol"], r["price_usd"], r["volume_24h"], r["timestamp"]) for r in found.records]
    assert made == [
        (r.symbol, float(r.price), None if r.volume is None or doubted else float(r.volume), r.at)
        for r in rows
    ], data


def test_most_dialects_are_read_and_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """A reading that asked always would be never different, too."""
    random.seed(7)
    right = asked = refused = 0
    for _ in range(300):
        at = datetime(2024, 1, 1, 6, tzinfo=UTC)
        rows = [
            Row(
                "BTC",
                Decimal(random.randrange(10**7)) / 100 + 1,
                Decimal(random.randrange(10**8)) / 100,
                at + timedelta(days=n),
            )
            for n in range(40)
        ]
        dress = Dress(
            Dialect(delimiter=random.choice(",;\t|"), quote=random.choice("\"'")),
            random.choice(list(HEADERS.values())),
            random.choice(sorted(NUMBERS)),
            random.choice(sorted(DATES)),
            tuple(random.sample(range(4), 4)),
            random.choice(PREAMBLES),
            random.choice(FOOTERS),
            random.choice(["\n", "\r\n", "\r"]),
            "",
            random.choice(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]),
            *(random.random() < 0.5 for _ in range(4)),
        )
        try:
            found = preview(
                dressed(rows, dress), key="", answers={}, received_at=NOW, records=10**6
            )
        except FileRefused:
            refused += 1
            continue
        assert found is not None
        if found.questions:
            asked += 1
        elif not found.reasons and [r["price_usd"] for r in found.records] == [
            float(row.price) for row in rows
        ]:
            right += 1
    with capsys.disabled():
        os.write(1, f"\nany dialect: {right} right, {asked} asked, {refused} refused\n".encode())
    assert right >= 285


BROKEN = st.lists(
    st.sampled_from(
        [b"symbol,price_usd,timestamp\n", b"BTC,1.5,2025-05-09\n", b"BTC;1,5;09.05.2025\n", b"\n",
         b",,,\n", b'"', b"'", b"\\", b"\0", b"\xff", b"\xe9", b"\r", b"#", b"sep=;\n",
         b"a,b,c,d\n",
         b"\xef\xbb\xbf", b"\x1f\x8b", b"1,2,3\n", b"-", b" ", b"\t", b"|", b"<html>", b"{", b"[1]",
         b"1e999,", b"NaN,", b"2025-13-45,", b"symbol", b"date,close,open,high,low\n", b"x" * 300,
         b"2025-05-09,1,2,3,0\n", "€".encode(), b"\x81", b"\x1a", b"2025-05-09T06:00:00Z,"]
    ),
    max_size=30,
).map(b"".join)  # fmt: skip


def conserved(data: bytes) -> Preview | None:
    begin = time.monotonic()
    found, refusal = None, ""
    try:
        found = preview(data, key="incoming/x.csv", answers={}, received_at=NOW, records=10**6)
    except FileRefused as error:
        refusal = error.message
    assert len(refusal) < 10_000
    assert time.monotonic() - begin < 5
    if found is not None and not found.questions:
        assert len(found.records) + sum(found.reasons.values()) == found.rows
    return found


@given(data=BROKEN | st.binary(max_size=400))
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
def test_files_that_are_no_good_break_nothing(data: bytes) -> None:
    conserved(data)


_SIGNS = b"\"',;\t|\n\r\0\xff\x81 \\#-.0123"


def mutated(draw: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.randrange(1, 12)):
        kind, at = draw.randrange(5), draw.randrange(len(data) + 1)
        if kind == 0:
            data[at:at] = bytes(
                draw.choices(b"\"',;\t|\n\r\0\xff\x81 \\#-.0123", k=draw.randrange(1, 4))
            )
        elif kind == 1:
            del data[at : at + draw.randrange(1, 40)]
        elif kind == 2 and at < len(data):
            data[at] = draw.randrange(256)
        elif kind == 3:
            end = at + draw.randrange(1, 200)
            data[end:end] = data[at:end]
        else:
            data = data[: max(1, at)]
    return bytes(data)


def test_ten_thousand_malformed_files() -> None:
    """As many as are wanted (`FUZZED_FILES`); here a sample, another one each day."""
    count = int(os.environ.get("FUZZED_FILES", "1500"))
    seed = int(os.environ.get("SEED", f"{datetime.now(UTC):%Y%m%d}"))
    draw = random.Random(seed)
    at = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [Row("BTC", Decimal(n + 1) / 4, Decimal(n), at + timedelta(hours=n)) for n in range(30)]
    seeds = [
        dressed(
            rows,
            Dress(
                Dialect(delimiter=delimiter, quote=quote), HEADERS["words"], number, date,
                (0, 1, 2, 3), "", "", "\n", "", encoding, False, True, False, False,
            ),
        )
        for delimiter, quote in ((",", '"'), (";", "'"), ("\t", '"'))
        for number, date in (("plain", "iso"), ("comma", "day first"), ("dollars", "names"))
        for encoding in ("utf-8", "utf-16", "cp1252")
    ]  # fmt: skip
    for number in range(count):
        data = mutated(draw, seeds)
        try:
            conserved(data)
        except Exception as error:
            error.add_note(f"SEED={seed}, file {number}: {data!r}")
            raise


HOSTILE: dict[str, bytes] = {
    "empty lines": b"a,b\n" + b"\n" * 4_000_000,
    "delimiters": b"symbol,price_usd,timestamp\n" + b",,,\n" * 500_000,
    "two letters": b"ab\n" * 400_000,
    "two letters below a header": b"symbol,price_usd,timestamp\n" + b"ab\n" * 250_000,
    "quotes": b"symbol,price_usd,timestamp\n" + b'"\n' * 100_000,
    "one long line": b"symbol,price_usd,timestamp\n" + b"x" * 900_000 + b"\n",
    "many columns": b",".join(b"c%d" % n for n in range(499)) + b"\n" + b"1," * 498 + b"1\n",
    "digits": b"symbol,price_usd,timestamp\nA," + b"9" * 100_000 + b",2025-05-09\n",
    "signs": b'symbol,price_usd,timestamp\nA,"' + b"1," * 50_000 + b'",2025-05-09\n',
    "blanks": b"symbol,price_usd,timestamp\nA," + b" " * 300_000 + b",2025-05-09\n",
    "parentheses": b"symbol,price_usd,timestamp\nA," + b"(" * 50_000 + b",2025-05-09\n",
    "a long date": b"symbol,price_usd,timestamp\nA,1," + b"May " * 50_000 + b"\n",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_shapes_stay_cheap(name: str) -> None:
    conserved(HOSTILE[name])


def test_nearly_all_bad_is_refused_whole_and_a_part_is_set_aside() -> None:
    good = b"A,1,2025-05-09\n"
    with pytest.raises(FileRefused, match="Nearly all rows"):
        preview(
            b"symbol,price_usd,timestamp\n" + good * 3 + b"ab\n" * 5_000,
            key="", answers={}, received_at=NOW,
        )  # fmt: skip
    found: Any = preview(
        b"symbol,price_usd,timestamp\n" + (good + b"ab\n") * 500,
        key="", answers={}, received_at=NOW,
    )  # fmt: skip
    assert found.reasons == {"ragged_row": 500}
