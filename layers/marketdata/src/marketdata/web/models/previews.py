"""Forms of /csv/preview."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from marketdata.web.models.common import Answer, Form
from marketdata.web.models.uploads import Answers, Question, one_of

MAX_FILE_BYTES = 1_000_000
"""The largest file that a body may bring."""


class PreviewRequest(Answers):
    """A file, or the key of an uploaded one, with what is said of it."""

    model_config = ConfigDict(json_schema_extra=one_of("text", "base64", "key"))

    text: Annotated[str, Field(max_length=MAX_FILE_BYTES)] | None = Field(
        default=None,
        description="The file as text.",
        examples=["symbol,price_usd,timestamp\nBTC,97000.5,2025-05-09\n"],
    )
    base64: Annotated[str, Field(max_length=4 * MAX_FILE_BYTES // 3 + 4)] | None = Field(
        default=None,
        description="In place of `text`: the file in base64, be it packed or in any encoding.",
    )
    key: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None,
        description="Without `text` and `base64`: the key of an object under `incoming/`, which is "
        "read. With one of them: the key that the file will have, as it may say what it is about.",
        examples=["incoming/BTC/prices.csv"],
    )


class Column(Form):
    """What a column becomes."""

    column: str = Field(description="Its name in the file.", examples=["Close"])
    to: str = Field(description="The field of the record.", examples=["price_usd"])
    confidence: float = Field(ge=0, le=1)
    reason: str = Field(description="Why; empty where the name says it all.")


class SetAside(Form):
    """A row that would be quarantined."""

    row: int = Field(description="Its number in the file, from 0.")
    code: str = Field(examples=["missing_value"])
    field: str
    message: str
    text: str = Field(description="The row.")


class Preview(Answer):
    """What a file would become."""

    refused: str | None = Field(
        description="Why the file would be refused whole, and what to do; null if it is understood."
    )
    publisher: str | None = Field(
        default=None, description="Whose form of file it is, where that is known."
    )
    encoding: str | None = Field(default=None, examples=["utf-8"])
    packed: bool = Field(default=False, description="Whether it is compressed.")
    dialect: dict[str, Any] = Field(
        default_factory=dict, description="Delimiter, quote, escape, and lines that are no rows."
    )
    preamble: list[str] = Field(default_factory=list, description="Lines before the header.")
    header: list[str] = Field(default_factory=list)
    applied: list[Column] = Field(default_factory=list, description="Columns that are used.")
    quarantined: list[Column] = Field(
        default_factory=list, description="Columns that might be a field, and are not used."
    )
    skipped: list[Column] = Field(default_factory=list, description="The other columns.")
    reading: dict[str, Any] = Field(
        default_factory=dict,
        description="How numbers and times are written, and what is the same in all rows: the "
        "symbol, the currency, the interval.",
    )
    questions: list[Question] = Field(
        default_factory=list, description="What is to be answered before it is loaded."
    )
    rows: int = Field(default=0, description="Its rows; 0 if there are questions.")
    records: list[dict[str, Any]] = Field(default_factory=list, description="The first 20 records.")
    set_aside: list[SetAside] = Field(
        default_factory=list, description="The first 20 rows that would be quarantined."
    )
    reasons: dict[str, int] = Field(
        default_factory=dict, description="How many rows would be quarantined, by reason."
    )
