"""`/uploads/{id}/answer` and `/answers`: what files ask, and what was answered."""

from __future__ import annotations

from typing import Annotated

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Body, Path

from marketdata import clock
from marketdata.documents.questions import RememberedAnswers
from marketdata.errors import InvalidInput
from marketdata.runs.triggers import RunRequest
from marketdata.store import asking
from marketdata.store.upload_queries import UploadPosition
from marketdata.web import cursor as cursors
from marketdata.web.models.common import Part
from marketdata.web.models.uploads import (
    Answered,
    AnswerRequest,
    Answers,
    Forgotten,
    RememberedList,
)
from marketdata.web.parameters import DEFAULT_LIMIT, MAX_MS, CursorText, Limit, read_text
from marketdata.web.responses import responses
from marketdata.web.routes.refresh import start
from marketdata.web.routing import new_router
from marketdata.web.services import services

router = new_router()
control_router = new_router()
"""What changes something, for the function `control`."""

_UPLOAD = "csv-0f3a5b7c9d1e"


@control_router.post(
    "/uploads/<upload_id>/answer",
    summary="Answer what a file asks",
    description="Says what the file does not say, and starts a run that loads it. What is said "
    "outranks what is found in it. If something else is to be asked, it waits again.",
    status_code=202,
    responses=responses("A run takes the file.", 400, 401, 404, 409, status=202),
    tags=["control"],
    operation_id="answerUpload",
    security=[{"bearer": []}],
)
def answer(
    request: Request,
    upload_id: Annotated[str, Path(description="The upload's id.", examples=[_UPLOAD])],
    body: Annotated[AnswerRequest, Body()],
) -> Answered:
    """Answer the questions of a file."""
    said = body.said()
    if not said:
        message = "Say at least one thing: GET /uploads/{id} has the questions and their choices."
        raise InvalidInput(message, faults=[{"in": "body", "name": "", "message": message}])
    for text in (said.get("symbol"), said.get("asset_id"), *said.get("columns", {})):
        read_text("body", text, where="body")
    given = services(request)
    store = given.store()
    answered = asking.answer(store, upload_id, said)
    remembered = asking.remember(store, answered, said) if body.remember else None
    # If it dies here, the next run that looks for uploads takes the file.
    run = start(given, RunRequest(("csv",)))
    return Answered.model_validate(
        {
            "id": upload_id,
            "run_id": run.run_id,
            "started": run.status == "running",
            "answers": answered.get("answers", {}),
            "remembered_as": remembered,
        }
    )


@router.get(
    "/answers",
    summary="Answers that are remembered",
    description="What was answered for all files of one form below one folder, the latest first.",
    responses=responses("A page; an empty one if nothing is remembered.", 400, 404),
    tags=["operations"],
    operation_id="listAnswers",
)
def list_answers(
    request: Request, limit: Limit = DEFAULT_LIMIT, cursor: CursorText = None
) -> RememberedList:
    """One page of answers."""
    after = None
    if cursor is not None:
        milliseconds, last_id = cursors.decode("answers", cursor, 2)
        if not (
            type(milliseconds) is int and 0 <= milliseconds <= MAX_MS and isinstance(last_id, str)
        ):
            cursors.refuse()
        after = UploadPosition(clock.from_ms(milliseconds), last_id)
    found = asking.list_remembered(services(request).store(), limit=limit + 1, after=after)
    shown, more = found[:limit], len(found) > limit
    next_cursor = None
    if more:
        last = shown[-1]
        next_cursor = cursors.encode("answers", clock.to_ms(last["changed_at"]), last["_id"])
    return RememberedList.model_validate(
        {
            "data": [_shown(one) for one in shown],
            "pagination": {"limit": limit, "next_cursor": next_cursor, "has_more": more},
        }
    )


@control_router.delete(
    "/answers/<answers_id>",
    summary="Take answers back",
    description="Files that come from now on ask again. What was loaded stays.",
    responses=responses("They are taken back.", 400, 401, 404),
    tags=["control"],
    operation_id="forgetAnswers",
    security=[{"bearer": []}],
)
def forget(
    request: Request,
    answers_id: Annotated[str, Path(description="Names them.", examples=["0f3a5b7c9d1e"])],
) -> Forgotten:
    """Take remembered answers back."""
    return Forgotten.model_validate(
        {"data": _shown(asking.forget(services(request).store(), answers_id))}
    )


def _shown(document: RememberedAnswers) -> Part:
    used_at = document["used_at"]
    return {
        "id": document["_id"],
        "prefix": document["prefix"],
        "profile": document["profile"],
        "answers": Answers.model_validate(document["answers"]),
        "upload_id": document["object_id"],
        "key": document["key"],
        "since": clock.iso(document["since"]),
        "changed_at": clock.iso(document["changed_at"]),
        "used": document["used"],
        "used_at": None if used_at is None else clock.iso(used_at),
    }
