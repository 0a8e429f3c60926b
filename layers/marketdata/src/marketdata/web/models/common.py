"""What the forms of several routes share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Time = Annotated[
    str, Field(json_schema_extra={"format": "date-time"}, examples=["2025-05-09T08:15:00.000Z"])
]
"""A time as ISO 8601 in UTC with milliseconds."""

type Part = dict[str, Any]
"""A part of an answer, before its form validates it."""

RUN_ID = "20250509T081500Z-3f2a9c41d07e"


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""For integers in bodies: JSON knows one kind of number, so 5.0 is 5. It comes after the bounds."""


class Form(BaseModel):
    """Base of all forms: exactly the fields that are declared, all of them always there."""

    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


class Asked(Form):
    """Base of the bodies of requests: a value has the type that is declared, and no other.

    `true` is no number, `"5"` is none, and `"yes"` is neither true nor false.
    """

    model_config = ConfigDict(strict=True)


class Answer(Form):
    """What every JSON answer carries."""

    request_id: str = Field(
        default="",
        description="Identifies this request in the log.",
        examples=["6f0d8c2e-3f55-4c7e-9a53-2f6b3a1f8a11"],
    )
    api_latency_ms: float = Field(
        default=0.0,
        ge=0,
        description="Milliseconds from the function's receipt of the request to its answer.",
        examples=[4.271],
    )


class ErrorBody(Form):
    """What went wrong."""

    code: str = Field(description="A stable name for programs.", examples=["invalid_input"])
    message: str = Field(
        description="What is wrong and what helps, for people.",
        examples=["limit: Input should be less than or equal to 1000 (is '5000')"],
    )
    details: dict[str, Any] = Field(
        description="More about it, by code. Of every 400: `faults`, a list of `in` (query, path, "
        "body or request), `name` and `message`.",
        examples=[
            {
                "faults": [
                    {
                        "in": "query",
                        "name": "limit",
                        "message": "Input should be less than or equal to 1000 (is '5000')",
                    }
                ]
            }
        ],
    )


class Error(Answer):
    """Every error has this form."""

    error: ErrorBody


class Cursored(Form):
    """Where a list goes on."""

    limit: int = Field(description="The most entries on a page.", examples=[100])
    next_cursor: str | None = Field(
        default=None, description="Give it as `cursor` to get the next page; null on the last."
    )
    has_more: bool = Field(description="Whether there is a next page.")
