"""What the commands have in common that somebody runs on a database."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from marketdata.store.connection import Store, connect


@dataclass(frozen=True, slots=True)
class Place:
    """A database: where it is, and its name."""

    uri: str = field(repr=False)
    """May hold a password."""
    database: str

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """A store that waits for an answer as long as it takes, such as for an index.

        Raises:
            SettingsError: the URI is malformed, or there is none.
        """
        store = connect(self.uri, self.database, patient=True)
        try:
            yield store
        finally:
            store.client.close()


def read_place(module: str, about: str | None, arguments: list[str] | None) -> Place:
    """The database that a command is given, by its arguments or else by the environment.

    Args:
        module: the command's name, for its help.
        about: what it does, for its help.
        arguments: None for those of the process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument(
        "--uri", default=os.environ.get("MONGODB_URI", ""), help="default: MONGODB_URI"
    )
    parser.add_argument(
        "--database",
        default=os.environ.get("MONGODB_DATABASE", "marketdata"),
        help="default: MONGODB_DATABASE, else marketdata",
    )
    given = parser.parse_args(arguments)
    return Place(given.uri, given.database)
