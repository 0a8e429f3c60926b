"""What somebody says of a file: in an object's metadata, or in answer to its questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from marketdata.csv_files import intervals
from marketdata.csv_files.draft import ANSWERABLE
from marketdata.documents.questions import Answers
from marketdata.errors import FileRefused

NO_INTERVAL = "none"
"""The interval of observations of one moment."""
DAY_ORDERS = ("day_first", "month_first")
DECIMAL_SIGNS = ("decimal_point", "decimal_comma")
_METADATA = {
    "symbol": "symbol",
    "asset-id": "asset_id",
    "currency": "currency",
    "dates": "dates",
    "numbers": "numbers",
    "interval": "interval",
}
"""By the name behind `x-amz-meta-`."""


def answers_of_metadata(metadata: Mapping[str, str], what: str) -> Answers:
    """What an object's metadata says of the file.

    Args:
        metadata: by name, without `x-amz-meta-`.
        what: names the file, for messages.

    Raises:
        FileRefused: a value is none that the name may have.
    """
    found = {
        to: metadata[name].strip()
        for name, to in _METADATA.items()
        if metadata.get(name, "").strip()
    }
    answers = cast("Answers", found)
    for name, why in faults_of(answers).items():
        raise FileRefused(
            f"The metadata x-amz-meta-{name.replace('_', '-')} of {what} {why}. Nothing of the "
            "file was loaded. Upload it again with another value, or without one."
        )
    return answers


def faults_of(answers: Answers) -> dict[str, str]:
    """What is wrong with answers, by name; empty if they can be used."""
    found: dict[str, str] = {}
    said: Mapping[str, Any] = answers
    for name, allowed in (("dates", DAY_ORDERS), ("numbers", DECIMAL_SIGNS)):
        if name in said and said[name] not in allowed:
            found[name] = f"is {said[name]!r}, and may be {' or '.join(allowed)}"
    for name in ("symbol", "asset_id", "currency"):
        text = said.get(name)
        if text is not None and not (text.strip() and text.isprintable() and len(text) <= 64):  # noqa: PLR2004
            found[name] = f"is {text[:80]!r}, and is to be 1 to 64 characters that can be seen"
    currency = said.get("currency")
    if currency is not None and "currency" not in found and not currency.strip().isalnum():
        found["currency"] = f"is {currency!r}, and is to be a currency as USD, EUR or USDT"
    interval = said.get("interval")
    if interval is not None and interval != NO_INTERVAL and not intervals.normalised(interval):
        found["interval"] = (
            f"is {interval[:80]!r}, and may be one like 1m, 1h, 1d, 1w or 1M, or `{NO_INTERVAL}`"
        )
    for column, to in said.get("columns", {}).items():
        if to not in ANSWERABLE:
            found["columns"] = (
                f"says that column {column[:80]!r} is {to[:80]!r}, and may say "
                f"{', '.join(ANSWERABLE)}"
            )
    return found
