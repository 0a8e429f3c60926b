"""Forms of /uploads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from marketdata.web import patterns
from marketdata.web.models.common import RUN_ID, WHOLE, Answer, Asked, Cursored, Form, Time

MAX_FORM_BYTES = 5 * 1024**3
"""S3's own limit for what a form can put."""


class UploadRequest(Asked):
    """A file that is to be put."""

    filename: Annotated[
        str,
        Field(
            pattern=patterns.FILENAME,
            description="Its name, ending in `.csv` or `.csv.gz`, in any case; the same name "
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


UploadState = Literal["taken", "done", "refused", "ignored"]


class ListedUpload(Form):
    """An object in the bucket for uploads."""

    state: UploadState = Field(
        description="`taken`: a run has it, and not all of it is loaded; `done`: all of it is "
        "loaded, or it was skipped; `refused`: it can't be loaded; `ignored`: no run takes it, "
        "because of its key."
    )
    key: str = Field(
        description="Of an ignored one that ends with a slash, all beneath it is meant.",
        examples=["incoming/prices.csv"],
    )
    version_id: str | None = Field(description="Null of an ignored one.")
    size: int | None = Field(description="In bytes.")
    run_id: str | None = Field(
        description="The run that has it; null of an ignored one.", examples=[RUN_ID]
    )
    at: Time = Field(description="When the run took it, or it was noticed first.")
    reason: str | None = Field(
        description="Of an ignored one: why, and what to do. What became of the others is told by "
        "their run."
    )


class UploadList(Answer):
    """Objects in the bucket, the latest first."""

    data: list[ListedUpload]
    pagination: Cursored
