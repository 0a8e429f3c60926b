"""`python -m marketdata.store.migrate`: bring a database's collections and indexes up to date.

How long things are kept follows from the environment: RAW_RETENTION_DAYS and
SNAPSHOT_RETENTION_DAYS, where 0 or nothing is for ever.
"""

from __future__ import annotations

import argparse
import os
import sys

from marketdata.errors import MarketDataError
from marketdata.settings import read_settings
from marketdata.store.connection import connect
from marketdata.store.migrations import migrate
from marketdata.store.retention import RetentionSettings, apply


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when the database is up to date, 1 with one line on what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m marketdata.store.migrate", description=__doc__)
    parser.add_argument(
        "--uri", default=os.environ.get("MONGODB_URI", ""), help="default: MONGODB_URI"
    )
    parser.add_argument(
        "--database",
        default=os.environ.get("MONGODB_DATABASE", "marketdata"),
        help="default: MONGODB_DATABASE, else marketdata",
    )
    options = parser.parse_args(arguments)
    try:
        retention = read_settings(RetentionSettings)
        store = connect(options.uri, options.database)
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
