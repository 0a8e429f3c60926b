"""`/uploads`: where to put a CSV, and what is in the bucket."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, get_args

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Body, Path, Query

from marketdata import clock
from marketdata.documents.objects import IgnoredObject, ObjectState, UploadedObject
from marketdata.errors import InvalidInput
from marketdata.store import asking, upload_queries
from marketdata.store.upload_queries import UploadPosition
from marketdata.web import cursor as cursors
from marketdata.web.models.common import Part
from marketdata.web.models.uploads import OneUpload, Upload, UploadList, UploadRequest, UploadState
from marketdata.web.parameters import DEFAULT_LIMIT, MAX_MS, CursorText, Limit
from marketdata.web.responses import responses
from marketdata.web.routing import new_router
from marketdata.web.services import services

router = new_router()
control_router = new_router()
"""What changes something, for the function `control`."""

FOLDER = "incoming/"
EXPIRES = timedelta(minutes=15)


@control_router.post(
    "/uploads",
    summary="Get a form to put a CSV with",
    description="Returns a presigned form. Send it as multipart/form-data, with the file last. "
    "When the object arrives, a run loads it automatically.",
    status_code=201,
    responses=responses("The form.", 400, 401, status=201),
    tags=["control"],
    operation_id="createUpload",
    security=[{"bearer": []}],
)
def create_upload(request: Request, body: Annotated[UploadRequest, Body()]) -> Upload:
    """A presigned form for one object under `incoming/`."""
    given = services(request)
    limit = given.upload_max_bytes
    if body.size is not None and body.size > limit:
        raise InvalidInput(
            f"size: {body.size} bytes are more than the {limit} that are taken. Split the file, "
            "or put it into the bucket with an S3 client.",
            faults=[{"in": "body", "name": "size", "message": f"is more than {limit}"}],
        )
    key = FOLDER + body.filename
    form = given.uploads().presign(
        key,
        content_type="application/gzip" if key.lower().endswith(".gz") else "text/csv",
        smallest=body.size or 1,
        largest=body.size or limit,
        dataset=body.dataset,
        expires=EXPIRES,
    )
    return Upload(
        url=form.url,
        fields=form.fields,
        key=key,
        max_bytes=body.size or limit,
        expires_at=clock.iso(clock.now() + EXPIRES),
    )


@router.get(
    "/uploads",
    summary="Uploaded objects",
    description="Objects in the bucket, by what became of them: those that runs have taken, or, "
    "with `state=ignored`, those that no run takes because of their key, each with the reason.",
    responses=responses("A page; an empty one if nothing matches.", 400, 404),
    tags=["operations"],
    operation_id="listUploads",
)
def list_uploads(
    request: Request,
    state: Annotated[
        UploadState, Query(description="Only those of this state.", examples=["ignored"])
    ] = "done",
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorText = None,
) -> UploadList:
    """One page of objects, the latest first."""
    asked, after = str(state), None
    if cursor is not None:
        kept, milliseconds, last_id = cursors.decode("uploads", cursor, 3)
        if not (
            kept in get_args(UploadState)
            and type(milliseconds) is int
            and 0 <= milliseconds <= MAX_MS
            and isinstance(last_id, str)
        ):
            cursors.refuse()
        asked, after = kept, UploadPosition(clock.from_ms(milliseconds), last_id)
    store = services(request).store()
    if asked == "ignored":
        ignored = upload_queries.find_ignored(store, limit=limit + 1, after=after)
        found = [_ignored(one) for one in ignored]
    else:
        taken = upload_queries.find_taken(store, ObjectState(asked), limit=limit + 1, after=after)
        found = [_taken(one) for one in taken]
    shown, more = found[:limit], len(found) > limit
    next_cursor = None
    if more:
        last = shown[-1]
        next_cursor = cursors.encode("uploads", asked, clock.to_ms(last.at), last.id)
    return UploadList.model_validate(
        {
            "data": [one.shown for one in shown],
            "pagination": {"limit": limit, "next_cursor": next_cursor, "has_more": more},
        }
    )


@router.get(
    "/uploads/<upload_id>",
    summary="One upload",
    description="What became of one version of an uploaded object; of one that waits, what it "
    "asks.",
    responses=responses("The upload.", 400, 404),
    tags=["operations"],
    operation_id="getUpload",
)
def get_upload(
    request: Request,
    upload_id: Annotated[str, Path(description="Its id.", examples=["csv-0f3a5b7c9d1e"])],
) -> OneUpload:
    """One uploaded object's version."""
    found = asking.find(services(request).store(), upload_id)
    return OneUpload.model_validate({"data": _taken(found).shown})


@dataclass(frozen=True, slots=True)
class _Listed:
    """An object of a list, with its place in it."""

    at: datetime
    id: str
    shown: Part


def _taken(document: UploadedObject) -> _Listed:
    at = document["taken_at"]
    waits = document["state"] == ObjectState.WAITING
    return _Listed(
        at,
        document["_id"],
        {
            "state": document["state"],
            "key": document["key"],
            "version_id": document["version_id"],
            "size": document["size"],
            "run_id": document["run_id"],
            "at": clock.iso(at),
            "reason": asking.why(document["_id"]) if waits else document.get("reason"),
            "id": document["_id"],
            "questions": document.get("questions", []) if waits else [],
            "answers": document.get("answers"),
        },
    )


def _ignored(document: IgnoredObject) -> _Listed:
    at = document["noticed_at"]
    return _Listed(
        at,
        document["_id"],
        {
            "state": "ignored",
            "key": document["key"],
            "version_id": None,
            "size": None,
            "run_id": None,
            "at": clock.iso(at),
            "reason": document["reason"],
            "id": document["_id"],
        },
    )
