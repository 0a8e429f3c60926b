"""What the loaders that are killed have to load: a little of everything that a batch can be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from marketdata import clock
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from tests.bench.files import Upload, market_csv
from tests.support.crash import Scene, Work
from tests.support.pipeline import coin, load, put_rows
from tests.support.scenes import BEFORE, MIXED, NEWER

RECEIVED = clock.from_ms(1_746_770_400_000)
HEADER = "symbol,name,price_usd,volume_24h,market_cap,percent_change_24h,timestamp\n"

type Case = Callable[[Store, str], Scene]


def pages(store: Store, uri: str) -> Scene:
    """Pages of an API: new rows, known and changed ones, late ones, repeated ones, bad ones.

    The last page is the one before it once more.
    """
    load(store, [*BEFORE, coin("said")], run_id="first", minute=0)
    load(store, [*NEWER, coin("said")], run_id="newest", minute=20)
    mixed = [*MIXED, coin("said", current_price=5)]
    back = [coin("changed"), coin("new", current_price=7), coin("known"), coin("late"), []]
    early = [coin("moved"), coin("twice", current_price=1), coin("changed", current_price=2)]
    calm = [coin("calm"), coin("bad", current_price="x"), None]
    keys = [
        put_rows(store, mixed, run_id="mixed", minute=10),
        put_rows(store, back, run_id="back", minute=30),
        put_rows(store, mixed, run_id="again", minute=40),
        put_rows(store, early, run_id="early", minute=5),
        put_rows(store, calm, run_id="calm", minute=12, page=2),
        put_rows(store, calm, run_id="calm again", minute=32, page=2),
    ]
    return Scene(store, uri, [(key, None) for key in keys])


def file(store: Store, uri: str) -> Scene:
    """A CSV in three ranges, over what an older one of the same publisher had brought."""
    old = [_line(f"C{n}", n + 1, 0) for n in range(8)]
    upload(store, old, name="old", hours=0).load()
    new = [
        *[_line(f"C{n}", n + 1 + (n % 2), 0) for n in range(8)],
        *[_line(f"C{n}", n + 2, 1) for n in range(4)],
        "C9,Nine,about 5,1,1,1,2025-05-09T06:00:00Z\n",
        'C9,"Ni"ne,5,1,1,1,2025-05-09T06:00:00Z\n',
        "too,few\n",
        # What the ranges before have said already, and what they have not.
        _line("C1", 1, 0),
        _line("C1", 3, 0),
        _line("C2", 4, 1),
        *[_line(f"N{n}", 1, 0) for n in range(3)],
    ]
    return Scene(store, uri, _work(upload(store, new, name="new", hours=1, batch_rows=7)))


def again(store: Store, uri: str) -> Scene:
    """A CSV that is uploaded again with a row changed, one added and a bad one."""
    old = [_line(f"C{n}", n + 1, hour) for hour in range(2) for n in range(8)]
    upload(store, old, name="old", key="market", hours=0).load()
    new = [_line("C2", 9, 0) if line == old[2] else line for line in old]
    new += [_line("N0", 1, 1), "too,few\n"]
    return Scene(store, uri, _work(upload(store, new, name="new", key="market", hours=1)))


def large(store: Store, uri: str) -> Scene:
    """A range of more rows than are written at once, half of them known."""
    upload(store, [market_csv(3_000).decode()], name="half", hours=0).load()
    rows = market_csv(6_000, changed_every=40).decode()
    return Scene(store, uri, _work(upload(store, [rows], name="whole", hours=1)))


def long(store: Store, uri: str) -> Scene:
    """More rows, most of them new, with one that comes twice, other prices, and bad rows.

    They are written in several parts, and so are loaded by several calls that have little time.
    """
    upload(store, [market_csv(2_600).decode()], name="half", hours=0).load()
    rows = market_csv(10_100, changed_every=40).decode()
    lines = rows.splitlines(keepends=True)
    fields = lines[2_000].split(",")
    odd = [",".join([*fields[:3], price, *fields[4:]]) for price in ("1.5", "none", "0")]
    return Scene(store, uri, _work(upload(store, [rows, lines[1], *odd], name="all", hours=1)))


def upload(
    store: Store,
    lines: list[str],
    *,
    name: str,
    hours: int,
    key: str | None = None,
    batch_rows: int = 0,
) -> Upload:
    """An uploaded CSV, cut."""
    text = "".join(lines) if lines[0].startswith("symbol,") else HEADER + "".join(lines)
    return Upload(
        store,
        text.encode(),
        name=name,
        key=key,
        received=RECEIVED + timedelta(hours=hours),
        batch_rows=batch_rows or 50_000,
    )


def _work(upload: Upload) -> list[Work]:
    keys = [BatchKey(upload.run_id, upload.input_id, number) for number in upload.numbers]
    return [(key, upload.objects) for key in keys]


def _line(symbol: str, price: float, hour: int) -> str:
    return f"{symbol},Coin {symbol},{price},10,100,0.5,2025-05-09T{hour:02}:00:00Z\n"
