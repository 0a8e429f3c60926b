"""The time of the database's server: the one clock that all execution environments share.

A function's own clock can be minutes off. Whatever decides between two functions (which value
was received later, whether a lease has run out, when the next request may go out) is therefore
told by the server: inside an update as `$$NOW`, outside of one by this module.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from marketdata import clock
from marketdata.store.connection import Store, store_errors


@dataclass(frozen=True, slots=True)
class ServerClock:
    """The server's time as it was once told, plus what has passed since on a monotonic clock.

    Good for one call of a function: between two calls an environment may be frozen, and whether
    its monotonic clock goes on then is not promised.
    """

    told: datetime
    """What the server said."""
    at: float
    """The monotonic clock's seconds at the middle of the question: half a round trip is the
    most that `told` can be wrong by."""

    def now(self) -> datetime:
        """The server's time now, in UTC, cut to milliseconds."""
        passed = timedelta(seconds=time.monotonic() - self.at)
        return clock.from_ms(clock.to_ms(self.told + passed))


def server_clock(store: Store) -> ServerClock:
    """Ask the server for its time, once.

    Raises:
        StoreUnavailable: it does not answer.
    """
    with store_errors("asking the server for its time"):
        asked = time.monotonic()
        # A command's answer has aware times only on demand.
        answer = store.client.admin.command("hello", codec_options=store.database.codec_options)
        told: datetime = answer["localTime"]
        return ServerClock(told, (asked + time.monotonic()) / 2)
