"""What a file asks before it is loaded, and what was answered: parts of documents."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NotRequired, TypedDict

type DayOrder = Literal["day_first", "month_first"]
type Answerable = Literal[
    "asset_id",
    "base_volume",
    "currency",
    "dataset",
    "high",
    "interval",
    "low",
    "market_cap",
    "name",
    "open",
    "percent_change_24h",
    "price_usd",
    "skip",
    "symbol",
    "timestamp",
    "volume",
    "volume_24h",
]
"""What a column may be said to be."""
type DecimalSign = Literal["decimal_point", "decimal_comma"]


class Answers(TypedDict, total=False):
    """What somebody has said of a file. What is said outranks what is found."""

    symbol: str
    """The symbol of the one asset that the whole file is about."""
    asset_id: str
    """The id of that asset; the symbol where it is not said."""
    currency: str
    """The currency of its prices, as `USD` or `EUR`."""
    dates: DayOrder
    """How dates like 03/04/2025 are meant."""
    numbers: DecimalSign
    """How numbers like 1.234 or 1,234 are meant."""
    interval: str
    """How long each row's candle is, as `1h` or `1d`; `none` for observations of one moment."""
    columns: dict[str, str]
    """Of a column, as the file names it: the field that it is, or `skip`."""


def merged(weaker: Answers, stronger: Answers) -> Answers:
    """Answers of two, of which the second ones outrank the first; columns by their names."""
    both: Any = {**weaker, **stronger}
    columns = {**weaker.get("columns", {}), **stronger.get("columns", {})}
    if columns:
        both["columns"] = columns
    answers: Answers = both
    return answers


class Choice(TypedDict):
    """A way to answer a question."""

    answer: Answers
    """What to send."""
    means: str
    """What the file says then, with one of its own values as the example."""


class Question(TypedDict):
    """Something that a file does not say, and without which it would be guessed."""

    about: Literal["symbol", "currency", "dates", "numbers", "interval", "columns", "times"]
    """What is asked, which is the name of the answer, too (`times` is answered by `columns`)."""
    text: str
    """The question in the file's own words, with what can be done."""
    choices: list[Choice]
    """Answers to choose from; empty where anything may be the answer."""
    column: NotRequired[str]
    """The column that it is about."""


KINDS = 20
"""Of how many findings a batch or an input tells at most; there are hardly so many."""
EXAMPLES = 3
"""How many of its cells a finding shows."""


class Finding(TypedDict):
    """Cells of an optional field that nobody understands; their rows were loaded without."""

    field: str
    """The canonical field."""
    column: str
    """The column, as the file names it."""
    code: str
    """Why, as a stable reason code."""
    count: int
    """How many cells."""
    examples: list[str]
    """The first few of them, as the file writes them."""


class RememberedAnswers(TypedDict):
    """A document of the collection `answers`: what was said of all files of a profile and a prefix.

    What is said of a file itself, by its metadata or in answer to its own questions, outranks it.
    """

    _id: str
    """A hash of the profile and the prefix."""
    profile: str
    """A hash of the header and the dialect that the files have."""
    prefix: str
    """What the files' keys begin with: up to the last slash, which it includes."""
    answers: Answers
    """What was said."""
    object_id: str
    """The upload that was answered last so."""
    key: str
    """Its key."""
    since: datetime
    """When it was said first, by the database's clock."""
    changed_at: datetime
    """When it was said last."""
    used: int
    """How many files have used it."""
    used_at: datetime | None
    """When one did so last."""
