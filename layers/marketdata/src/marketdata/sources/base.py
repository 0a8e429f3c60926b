"""The form of an API source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Quota:
    """What a source allows: a token bucket's rate and size."""

    per_minute: float = 10
    """Requests a minute in the long run."""
    burst: float = 10
    """Requests that may come at once after a rest."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One HTTP GET whose answer is a JSON array of rows."""

    page: int
    """Number of the page, from 1."""
    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with the request and never stored or logged: keys travel here, not in `params`."""
    shown: frozenset[str] = frozenset()
    """Parts of the address's path that may be shown, beside words of APIs: an asset's id."""

    @property
    def fingerprint(self) -> str:
        """A hash of what is asked for, the same for whoever asks."""
        text = "\0".join([self.url, *(f"{k}={v}" for k, v in sorted(self.params.items()))])
        return _hash(text)


@dataclass(frozen=True, slots=True)
class Upstream:
    """Who is asked, and as whom: with another host or key come another quota and other faults."""

    name: str
    """The source's name."""
    host: str
    identity: str
    """A hash, as keys are not to be stored."""

    @classmethod
    def of(cls, name: str, request: PageRequest) -> Upstream:
        """The upstream that a request goes to."""
        host = urlsplit(request.url).netloc.rpartition("@")[2]
        keys = (f"{k}\0{v}" for k, v in sorted(request.headers.items()))
        return cls(name, host, _hash("\0".join([host, *keys])))


@dataclass(frozen=True, slots=True)
class Validators:
    """What a source said of a page's content, to ask later whether it is still the same."""

    etag: str | None = None
    last_modified: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a conditional request (RFC 9110, section 13.1)."""
        named = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in named.items() if value}


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class ApiSource(ABC):
    """A public API that answers pages of rows, each page a JSON array.

    A subclass says how many pages to ask for, what to ask for each (`page`), and what one row means
    in canonical terms (`map_row`).
    """

    name: ClassVar[str]
    """Also the module's name, the value of `source` in records, and the suffix of its function."""
    conditional: ClassVar[bool] = False
    """Whether its validators (ETag, Last-Modified) can be trusted: a page is then asked for under
    the condition that it has changed. Never with a `row_filter`, which could change meanwhile."""
    page_size: ClassVar[int | None] = None
    """Rows of a full page; None where one answer is the whole list."""
    pages: int = 1
    """Pages to ask for at most: the list ends before at a page without rows."""
    fields: ClassVar[Mapping[str, str]] = {}
    """Where `map_row` finds each canonical field: the path of its value in a row, with dots between
    the names of nested objects. Without it the source's drift is not followed."""
    documented: ClassVar[frozenset[str]] = frozenset()
    """Paths of all other fields that the source documents. None of these ever is a canonical field
    that has left its place, however alike it is: a high of the day is no price."""
    quota: Quota = Quota()
    """How often it may be asked, by all execution environments together."""

    @property
    def most_requests(self) -> int:
        """Requests that a run makes if each is answered: one for each page.

        One more may show that a list ends with a page that is not full.
        """
        return self.pages + (self.page_size is not None)

    @classmethod
    @abstractmethod
    def from_environment(cls, environment: Mapping[str, str], secret: Mapping[str, str]) -> Self:
        """The source as the environment variables and the secret configure it.

        Raises:
            SettingsError: a setting is missing or malformed.
        """

    @abstractmethod
    def page(self, number: int) -> PageRequest:
        """The request for a page, by its number from 1.

        One beyond `pages` may be asked for as well, to see whether a list ends with a page that is
        not full.
        """

    @staticmethod
    def rank_of(row: Mapping[str, Any]) -> int | None:
        """The row's place in the order of the pages, from 1; None where the source tells none.

        By it the pipeline sees that rows are missing between two pages. `rank_in` reads it.
        """
        del row
        return None

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
    def map_row(row: Mapping[str, Any]) -> dict[str, Any]:
        """One row under canonical names, without validation.

        What the source does not give is None. `source` and `dataset` are set by the caller.
        """


_LARGEST_RANK = 2**31 - 1


def rank_in(value: object) -> int | None:
    """A rank as it can be one, a whole number from 1; None for whatever else a source tells."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 1 <= value <= _LARGEST_RANK else None


def number(value: object) -> object:
    """A numeric field as it came, but for what JSON could pass off as a number.

    `true` would otherwise validate as 1.0, which is a number that nobody sent.
    """
    return repr(value) if isinstance(value, bool) else value


def unknown_if_zero(value: object) -> object:
    """None for a zero, where the source writes 0 for "unknown"."""
    return None if value == 0 and not isinstance(value, bool) else number(value)
