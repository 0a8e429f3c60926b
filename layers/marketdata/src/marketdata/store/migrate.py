"""`python -m marketdata.store.migrate`: bring a database's collections and indexes up to date.

How long things are kept follows from the environment: RAW_RETENTION_DAYS and
SNAPSHOT_RETENTION_DAYS, where 0 or nothing is for ever.
"""

from __future__ import annotations

import sys

from marketdata.errors import MarketDataError
from marketdata.settings import read_settings
from marketdata.store.command_line import read_place
from marketdata.store.migrations import migrate
from marketdata.store.retention import RetentionSettings, apply


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when the database is up to date, 1 with one line on what is wrong."""
    place = read_place("marketdata.store.migrate", __doc__, arguments)
    try:
        retention = read_settings(RetentionSettings)
        with place.opened() as store:
            done = [f"{migration.number} {migration.title}" for migration in migrate(store)]
            done += apply(store, retention)
    except MarketDataError as error:
        print(f"migrate: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for line in done or ["nothing to do"]:
        print(f"migrate: {line}")  # noqa: T201 - a command's output
    return 0


if __name__ == "__main__":
    sys.exit(main())
