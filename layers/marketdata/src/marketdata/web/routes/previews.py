"""`POST /csv/preview`: what a file would become, before it is loaded."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, NoReturn

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Body

from marketdata import clock
from marketdata.documents.questions import merged
from marketdata.documents.runs import ColumnNote
from marketdata.errors import FileRefused, InvalidInput, NotFound
from marketdata.objects import INCOMING
from marketdata.web.models.common import Part
from marketdata.web.models.previews import MAX_FILE_BYTES, Preview, PreviewRequest
from marketdata.web.responses import responses
from marketdata.web.routing import new_router
from marketdata.web.services import Services, services

router = new_router()

_LARGEST = 32 * 2**20
"""The largest uploaded object that a preview reads, in bytes."""


@router.post(
    "/csv/preview",
    summary="What a CSV would become",
    description="Reads a file as a run would, and loads nothing: its dialect, what each column is "
    "and why, the first records, rows that would be set aside, and what is to be answered before.",
    responses=responses("What it would become, or why it would be refused.", 400, 401, 404),
    tags=["control"],
    operation_id="previewCsv",
    security=[{"bearer": []}],
)
def preview_csv(request: Request, body: Annotated[PreviewRequest, Body()]) -> Preview:
    """Preview a file."""
    # What reads CSVs is not loaded for the other routes.
    from marketdata.csv_files.answers import answers_of_metadata, faults_of  # noqa: PLC0415
    from marketdata.runs.previewing import preview  # noqa: PLC0415

    if body.text is None and body.base64 is None and body.key is None:
        _refuse("text", "Give `text`, `base64` or `key`.")
    answers = body.said()
    faults = faults_of(answers)
    if faults:
        # As in metadata: which characters can be seen, no schema can say.
        return Preview(refused=" ".join(f"{name} {why}." for name, why in faults.items()))
    try:
        data, metadata = _file(services(request), body)
        said = merged(answers_of_metadata(metadata, body.key or "the file"), answers)
        found = preview(
            data, key=body.key or "", answers=said, received_at=clock.now(), limit=_LARGEST
        )
    except FileRefused as error:
        return Preview(refused=error.message)
    if found is None:
        return Preview(refused="The file is empty: there is nothing to load.")
    dialect: dict[str, Any] = {**found.dialect}
    return Preview.model_validate(
        {
            "refused": None,
            "publisher": found.publisher,
            "encoding": found.encoding,
            "packed": found.packed,
            "dialect": dialect,
            "preamble": list(found.preamble),
            "header": list(found.header),
            "applied": _columns(found.applied),
            "quarantined": _columns(found.quarantined),
            "skipped": _columns(found.skipped),
            "reading": {
                name: value
                for name, value in found.layout.items()
                if name in ("numbers", "times", "constants", "dataset")
            },
            "questions": list(found.questions),
            "rows": found.rows,
            "records": [_record(record) for record in found.records],
            "set_aside": [
                {
                    "row": one.row,
                    "code": one.code,
                    "field": one.field,
                    "message": one.message,
                    "text": one.text,
                }
                for one in found.set_aside
            ],
            "reasons": dict(found.reasons),
        }
    )


def _file(given: Services, body: PreviewRequest) -> tuple[bytes, Mapping[str, str]]:
    """The bytes that are to be previewed, and their metadata."""
    if body.text is not None:
        try:
            return body.text.encode(), {}
        except UnicodeEncodeError:
            raise FileRefused("`text` is no text that UTF-8 can write.") from None
    if body.base64 is not None:
        try:
            data = base64.b64decode(body.base64, validate=True)
        except (binascii.Error, ValueError):
            raise FileRefused("`base64` is no base64: encode the file's bytes.") from None
        if len(data) > MAX_FILE_BYTES:
            raise FileRefused(
                f"The file has {len(data)} bytes, and a body may have {MAX_FILE_BYTES}. "
                "Upload it and give its key, or use `make preview`."
            )
        return data, {}
    return _object(given, body.key or "")


def _object(given: Services, key: str) -> tuple[bytes, Mapping[str, str]]:
    """The current version of an uploaded object.

    Raises:
        NotFound: there is none under this key.
    """
    objects = given.objects()
    version = objects.newest(key) if key.startswith(INCOMING) else None
    if version is None:
        raise NotFound(f"There is no object {key[:200]!r} in the bucket for uploads.")
    if (version.size or 0) > _LARGEST:
        raise FileRefused(
            f"{key} has {version.size} bytes, and a preview reads {_LARGEST} at most. Use `make "
            "preview` for a local copy of it."
        )
    with objects.open(version) as opened:
        return b"".join(opened.chunks), opened.metadata


def _columns(notes: Sequence[ColumnNote]) -> list[Part]:
    return [
        {
            "column": note["from"],
            "to": note["to"],
            "confidence": note["confidence"],
            "reason": note.get("reason", ""),
        }
        for note in notes
    ]


_HIDDEN = ("_id", "digest", "revision")


def _record(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: clock.iso(value) if isinstance(value, datetime) else value
        for name, value in record.items()
        if name not in _HIDDEN
    }


def _refuse(name: str, message: str) -> NoReturn:
    raise InvalidInput(
        f"{name}: {message}", faults=[{"in": "body", "name": name, "message": message}]
    )
