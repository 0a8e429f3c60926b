"""A sample CSV to upload: made up by a seeded generator, the same every time.

It has what makes such files hard to read: columns under other names than the canonical ones,
quoted names with commas and quotes in them, empty cells, and times in three forms.
"""

import csv
import io
import random
from datetime import UTC, datetime, timedelta
from functools import cache

from local.replay.samples import _KNOWN, TAKEN_AT

HOURS = 12
SAMPLE_ROWS = HOURS * len(_KNOWN)
"""Each row is a record of its own."""

_UNKNOWN = 0.05
"""Share of the cells of a column that say nothing."""

SAMPLE_KEY = "incoming/sample-prices.csv"


def _time(moment: datetime, form: int) -> str:
    if form == 0:
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    seconds = int(moment.timestamp())
    return str(seconds) if form == 1 else str(seconds * 1000)


@cache
def sample_csv() -> bytes:
    """Return hourly prices of known coins as a CSV in UTF-8; `SAMPLE_ROWS` rows, and a header."""
    chance = random.Random(20250604)  # noqa: S311 - repeatable, not secret
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(
        (
            "id",
            "ticker",
            "name",
            "usd_price",
            "tx_volume",
            "market_cap",
            "percent_change_24h",
            "time",
        )
    )
    start = (TAKEN_AT - timedelta(hours=HOURS)).astimezone(UTC)
    for hour in range(HOURS):
        for number, (coin_id, ticker, name, price, market_cap, _) in enumerate(_KNOWN):
            factor = 1 + chance.gauss(0, 0.01)
            volume = round(market_cap * chance.uniform(0.002, 0.2), 2)
            writer.writerow(
                (
                    coin_id,
                    ticker.upper(),
                    f'{name}, "{ticker}"' if number % 5 == 0 else name,
                    f"{price * factor:.10g}",
                    "" if chance.random() < _UNKNOWN else volume,
                    "null" if chance.random() < _UNKNOWN else round(market_cap * factor),
                    f"{chance.gauss(0, 3.5):.4f}",
                    _time(start + timedelta(hours=hour), number % 3),
                )
            )
    return out.getvalue().encode()
