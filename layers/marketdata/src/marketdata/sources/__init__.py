"""What each source looks like: how to page it and how its fields map to the canonical record.

One module per source. A module is found by its name (`marketdata.sources.<name>`) and exposes
`SOURCE`, a class derived from `ApiSource`. This part knows nothing of MongoDB or of AWS.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from marketdata.errors import SettingsError
from marketdata.sources.base import ApiSource
from marketdata.sources.history import HistorySource

_PARTS_OF_THIS_PACKAGE = {"base", "error_bodies", "history", "http", "json_stream"}


def names() -> list[str]:
    """The names of all API sources that this library has, sorted."""
    found = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted(found - _PARTS_OF_THIS_PACKAGE)


def load(name: str) -> type[ApiSource]:
    """The source of that name.

    Raises:
        SettingsError: there is no such source; the message lists those there are.
    """
    if name not in names():
        raise SettingsError(
            f"There is no source {name!r}. Sources are: {', '.join(names())}. "
            "Correct SOURCES or add the module; see docs/adding-a-source.md."
        )
    source: type[ApiSource] = import_module(f"marketdata.sources.{name}").SOURCE
    return source


def load_with_history(name: str) -> type[HistorySource]:
    """The source of that name, which tells the past as well.

    Raises:
        SettingsError: there is no such source, or it has no history.
    """
    source = load(name)
    if not issubclass(source, HistorySource):
        raise SettingsError(
            f"The source {name!r} has no history. Sources with one are: "
            f"{', '.join(with_history())}."
        )
    return source


def with_history() -> list[str]:
    """The names of the sources that tell the past, sorted."""
    return [name for name in names() if issubclass(load(name), HistorySource)]
