"""Payloads recorded from the real sources; they lie beside the checkout, not in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"


def recorded(name: str) -> Any:
    """A recorded JSON payload; the test is skipped where the recordings are absent."""
    return json.loads(recorded_bytes(name))


def recorded_bytes(name: str) -> bytes:
    """A recorded file's bytes; the test is skipped where the recordings are absent."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"the recordings are not on this machine: {path.name}")
    return path.read_bytes()
