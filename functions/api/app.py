"""Answers what is read: every GET of the API."""

from __future__ import annotations

from marketdata.web.api import make_api

handler = make_api()
