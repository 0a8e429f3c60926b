"""`make backfill`: what is given on the command line, and what is said of the progress."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from local.backfill import Asked, describe
from local.errors import LocalError

NOTHING = dict.fromkeys(("assets", "top", "days", "start", "end", "interval", "gaps"), "")
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def given(**options: str) -> dict[str, str]:
    return {"source": "coingecko", **NOTHING, **options}


@pytest.mark.parametrize(
    ("options", "body"),
    [
        (
            given(assets="bitcoin, ethereum,", days="365"),
            {
                "source": "coingecko",
                "assets": ["bitcoin", "ethereum"],
                "start": "2025-11-26T12:00:00+00:00",
            },
        ),
        (
            given(top="50", days="2", end="2026-03-03", interval="1h", gaps="yes"),
            {
                "source": "coingecko",
                "top": 50,
                "start": "2026-03-01T00:00:00+00:00",
                "end": "2026-03-03",
                "interval": "1h",
                "gaps": True,
            },
        ),
        (
            given(top="1", start="2026-01-01"),
            {"source": "coingecko", "top": 1, "start": "2026-01-01"},
        ),
    ],
)
def test_options_become_a_request(options: dict[str, str], body: dict[str, object]) -> None:
    assert Asked.read(options, NOW).body == body


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (given(days="1"), "either ASSETS"),
        (given(assets="a", top="1", days="1"), "either ASSETS"),
        (given(assets="a"), "either DAYS"),
        (given(assets="a", days="1", start="2026-01-01"), "either DAYS"),
        (given(assets="a", days="-1"), "DAYS must be a number"),
        (given(top="many", days="1"), "TOP must be a number"),
        (given(top="1", days="1", end="now"), "END must be a date"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(LocalError, match=words):
        Asked.read(options, NOW)


def test_progress_is_one_line() -> None:
    far = {
        "requests_done": 12,
        "requests": 50,
        "percent": 24.0,
        "assets_done": 12,
        "assets": 50,
        "rows": 4380,
        "estimated_end": "2026-11-26T14:05:33.000Z",
    }
    assert describe({"status": "running", "backfill": far}) == (
        "12 of 50 requests (24 %), 12 of 50 assets, 4,380 rows, done about 2026-11-26 14:05 UTC"
    )
    assert describe({"status": "running", "problem": "503"}) == "503"
