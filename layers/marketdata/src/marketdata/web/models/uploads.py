"""Forms of /uploads."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from marketdata.web import patterns
from marketdata.web.models.common import Answer, Form, Time

MAX_FORM_BYTES = 5 * 1024**3
"""S3's own limit for what a form can put."""


class UploadRequest(Form):
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
        int | None,
        Field(
            ge=1,
            le=MAX_FORM_BYTES,
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
