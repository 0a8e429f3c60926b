"""The form of an API source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One HTTP GET whose answer is a JSON array of rows."""

    page: int
    """Number of the page, from 1."""
    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with the request and never stored or logged: keys travel here, not in `params`."""


class ApiSource(ABC):
    """A public API that answers pages of rows, each page a JSON array.

    A subclass says which page comes first and which comes after a page of so many rows
    (`page_after`), and what one row means in canonical terms (`candidate`).
    """

    name: ClassVar[str]
    """Also the module's name, the value of `source` in records, and the suffix of its function."""

    @classmethod
    @abstractmethod
    def from_environment(cls, environment: Mapping[str, str], secret: Mapping[str, str]) -> Self:
        """The source as the environment variables and the secret configure it.

        Raises:
            SettingsError: a setting is missing or malformed.
        """

    @abstractmethod
    def page_after(self, page: int, rows: int) -> PageRequest | None:
        """The request after page number `page`, which had `rows` rows; (0, 0) asks for the first.

        None when there is nothing more to ask.
        """

    def row_filter(self) -> Callable[[Any], bool] | None:
        """Which rows of a page were asked for, where the API itself can't be told.

        A row that is left out was never part of the run: it is neither kept raw nor counted
        as received, only as `left_out` of the page. A filter says what the settings ask for
        and judges no row's quality: that is validation's, and ends in quarantine. So it keeps
        what it can't read. A page of which it keeps nothing counts as malformed, as a field
        that was renamed would look like that.

        Returns:
            None to keep all rows, which also saves parsing them here; else a function that
            is given each row, whatever JSON value it is.
        """
        return None

    @staticmethod
    @abstractmethod
    def candidate(row: Mapping[str, Any]) -> dict[str, Any]:
        """One row under canonical names, without validation.

        What the source does not give is None. `source` and `dataset` are set by the caller.
        """


def number(value: object) -> object:
    """A numeric field as it came, but for what JSON could pass off as a number.

    `true` would otherwise validate as 1.0, which is a number that nobody sent.
    """
    return repr(value) if isinstance(value, bool) else value


def unknown_if_zero(value: object) -> object:
    """None for a zero, where the source writes 0 for "unknown"."""
    return None if value == 0 and not isinstance(value, bool) else number(value)
