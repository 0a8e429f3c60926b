"""The version of this program, as `layers/marketdata/pyproject.toml` has it."""

from __future__ import annotations

from importlib.metadata import version

VERSION = version("marketdata")
"""What `GET /`, the OpenAPI document, every log line and the User-Agent show."""
