"""Does what changes something: every POST of the API, for the holder of the token."""

from __future__ import annotations

from marketdata.web.control import make_control

handler = make_control()
