"""`POST /uploads`: where to put a CSV."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Body

from marketdata import clock
from marketdata.errors import InvalidInput
from marketdata.web.models.uploads import Upload, UploadRequest
from marketdata.web.responses import responses
from marketdata.web.routing import new_router
from marketdata.web.services import services

router = new_router()

FOLDER = "incoming/"
EXPIRES = timedelta(minutes=15)


@router.post(
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
