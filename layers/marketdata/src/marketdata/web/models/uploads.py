"""Forms of /uploads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue
from pydantic.config import JsonDict

from marketdata.documents.questions import Answerable
from marketdata.documents.questions import Answers as SaidOfFile
from marketdata.web import patterns
from marketdata.web.models.common import RUN_ID, WHOLE, Answer, Asked, Cursored, Form, Time

KnownInterval = Literal[
    "none", "1m", "3m", "5m", "10m", "15m", "30m", "1h", "2h", "3h", "4h", "6h", "8h", "12h",
    "1d", "2d", "3d", "5d", "1w", "2w", "1M",
]  # fmt: skip
Said = Annotated[str, Field(min_length=1, max_length=64, pattern=patterns.SAID)]
MAX_COLUMNS = 500
MAX_FORM_BYTES = 5 * 1024**3
"""S3's own limit for what a form can put."""


class UploadRequest(Asked):
    """A file that is to be put."""

    filename: Annotated[
        str,
        Field(
            pattern=patterns.FILENAME,
            description="Its name, ending in `.csv`, `.tsv` or `.txt`, or in one of these and "
            "`.gz`, in any case; the same name "
            "again is a new version of the same object.",
            examples=["prices.csv"],
        ),
    ]
    size: Annotated[
        Annotated[int, Field(ge=1, le=MAX_FORM_BYTES), WHOLE] | None,
        Field(
            description="Its size in bytes. If you give it, S3 accepts exactly this size.",
            examples=[52431],
        ),
    ] = None
    dataset: Annotated[
        str | None,
        Field(
            pattern=patterns.DATASET,
            description="Whose series it is, for a file that does not say so itself: two "
            "publishers' BTC are two series.",
            examples=["kaggle"],
        ),
    ] = None


class Upload(Answer):
    """A form to send the file with: multipart/form-data, all `fields` first, `file` last."""

    url: str = Field(examples=["https://bucket.s3.amazonaws.com/"])
    fields: dict[str, str] = Field(
        examples=[{"key": "incoming/prices.csv", "Content-Type": "text/csv", "policy": "..."}]
    )
    key: str = Field(description="The key of the object.", examples=["incoming/prices.csv"])
    max_bytes: int = Field(description="The largest size that is accepted.")
    expires_at: Time


UploadState = Literal["taken", "waiting", "done", "refused", "ignored"]


def one_of(*names: str) -> JsonDict:
    """What an OpenAPI document says of a body of which at least one of some fields is given."""
    said: list[JsonValue] = [
        {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names
    ]
    return {"anyOf": said}


class Answers(Asked):
    """What is said of a file. What is said outranks what is found in it."""

    symbol: Said | None = Field(
        default=None,
        description="The symbol of the one asset that the whole file is about.",
        examples=["ETH"],
    )
    asset_id: Said | None = Field(
        default=None, description="The id of that asset; its symbol if it is not said."
    )
    currency: Annotated[str, Field(pattern=patterns.CURRENCY)] | None = Field(
        default=None,
        description="The currency of its prices. Of others than dollars and stablecoins of "
        "dollars, each row is quarantined.",
        examples=["USD"],
    )
    dates: Literal["day_first", "month_first"] | None = Field(
        default=None, description="How dates like 03/04/2025 are meant."
    )
    numbers: Literal["decimal_point", "decimal_comma"] | None = Field(
        default=None, description="How numbers like 1.234 or 1,234 are meant."
    )
    interval: KnownInterval | None = Field(
        default=None,
        description="How long each row's candle is; `none` for observations of one moment.",
        examples=["1d"],
    )
    columns: dict[Annotated[str, Field(max_length=256)], Answerable] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_COLUMNS,
        description="Of columns, as the file names them: the field that each is, or `skip`.",
        examples=[{"Last": "price_usd"}],
    )

    def said(self) -> SaidOfFile:
        """What was given, as it is kept."""
        given: Any = self.model_dump(include=set(Answers.model_fields), exclude_none=True)
        answers: SaidOfFile = given
        return answers


class AnswerRequest(Answers):
    """An answer to the questions of a file."""

    model_config = ConfigDict(json_schema_extra=one_of(*Answers.model_fields))

    remember: bool = Field(
        default=False,
        description="Keep it for all files with the same header below the same folder.",
    )


class Choice(Form):
    """A way to answer."""

    answer: Answers = Field(description="What to send.")
    means: str = Field(description="What the file says then.")


class Question(Form):
    """Something that a file does not say, and that is not guessed."""

    about: Literal["symbol", "currency", "dates", "numbers", "interval", "columns", "times"]
    text: str = Field(description="The question, and how to answer it.")
    choices: list[Choice] = Field(description="Answers to choose from; others may be as good.")
    column: str | None = Field(default=None, description="The column that it is about.")


class Answered(Answer):
    """What came of an answer."""

    id: str = Field(description="The upload.")
    run_id: str = Field(
        description="The run that takes the file, or one that is under way: then the next run "
        "takes it.",
        examples=[RUN_ID],
    )
    started: bool = Field(description="Whether that run was started now.")
    answers: Answers = Field(description="All that is said of the file by now.")
    remembered_as: str | None = Field(
        description="Names what is remembered, as in `DELETE /answers/{id}`; null if it is not."
    )


class Remembered(Form):
    """Answers for all files of one form below one folder."""

    id: str
    prefix: str = Field(
        description="What the keys of these files begin with.", examples=["incoming/desk7/"]
    )
    profile: str = Field(description="A hash of their header.")
    answers: Answers
    upload_id: str = Field(description="The upload that was answered last so.")
    key: str = Field(description="Its key.")
    since: Time
    changed_at: Time
    used: int = Field(description="How many files have used them.")
    used_at: Time | None


class RememberedList(Answer):
    """Answers that are remembered, the latest first."""

    data: list[Remembered]
    pagination: Cursored


class Forgotten(Answer):
    """Answers that were taken back."""

    data: Remembered


class OneUpload(Answer):
    """An uploaded object's version."""

    data: ListedUpload


class ListedUpload(Form):
    """An object in the bucket for uploads."""

    state: UploadState = Field(
        description="`taken`: a run has it, and not all of it is loaded; `waiting`: it asks "
        "something, "
        "and nothing of it is loaded before somebody has answered; `done`: all of it is "
        "loaded, or it was skipped; `refused`: it can't be loaded; `ignored`: no run takes it, "
        "because of its key."
    )
    key: str = Field(
        description="Of an ignored one that ends with a slash, all beneath it is meant.",
        examples=["incoming/prices.csv"],
    )
    id: str = Field(
        description="Names it, as in `GET /uploads/{id}`.", examples=["csv-0f3a5b7c9d1e"]
    )
    version_id: str | None = Field(description="Null of an ignored one.")
    size: int | None = Field(description="In bytes.")
    run_id: str | None = Field(
        description="The run that has it; null of an ignored one.", examples=[RUN_ID]
    )
    at: Time = Field(description="When the run took it, or it was noticed first.")
    reason: str | None = Field(
        description="Of an ignored one, and of one that waits: why, and what to do. What became of "
        "the others is told by their run."
    )
    questions: list[Question] = Field(
        default_factory=list, description="Of one that waits: what it asks."
    )
    answers: Answers | None = Field(
        default=None, description="What was said of it; null if nothing was."
    )


class UploadList(Answer):
    """Objects in the bucket, the latest first."""

    data: list[ListedUpload]
    pagination: Cursored
