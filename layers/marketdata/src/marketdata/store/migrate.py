"""`python -m marketdata.store.migrate`: bring a database's collections and indexes up to date."""

from __future__ import annotations

import argparse
import os
import sys

from marketdata.errors import MarketDataError
from marketdata.store.connection import connect
from marketdata.store.migrations import migrate


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
        applied = migrate(connect(options.uri, options.database))
    except MarketDataError as error:
        print(f"migrate: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for migration in applied:
        print(f"migrate: {migration.number} {migration.title}")  # noqa: T201 - a command's output
    if not applied:
        print("migrate: nothing to do")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
