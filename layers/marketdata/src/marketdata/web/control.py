"""Composes the function `control`: everything that changes something."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from marketdata import bootstrap
from marketdata.errors import SettingsError
from marketdata.settings import read_settings
from marketdata.web.application import Application
from marketdata.web.auth import bearer
from marketdata.web.resolver import make_resolver
from marketdata.web.routes import answers, backfills, previews, quarantine, refresh
from marketdata.web.routes import uploads as upload_routes
from marketdata.web.services import Services
from marketdata.web.settings import ControlSettings

if TYPE_CHECKING:
    from marketdata.aws.s3 import Uploads
    from marketdata.aws.s3_objects import S3Objects
    from marketdata.runs.starting import WorkflowStarter

ROUTERS = (
    refresh.router,
    backfills.router,
    upload_routes.control_router,
    answers.control_router,
    previews.router,
    quarantine.control_router,
)


def make_control() -> Application:
    """The function, as the environment configures it; nothing is opened yet."""
    settings = read_settings(ControlSettings)

    @cache
    def engine() -> WorkflowStarter:
        from marketdata.aws.step_functions import StepFunctions  # noqa: PLC0415 - boto3 is slow to import

        return StepFunctions(settings.state_machine_arn)

    @cache
    def uploads() -> Uploads:
        from marketdata.aws.s3 import Uploads  # noqa: PLC0415 - boto3 is slow to import

        if not settings.uploads_bucket:
            raise SettingsError("UPLOADS_BUCKET is not set. Give the function the bucket's name.")
        return Uploads(settings.uploads_bucket)

    @cache
    def objects() -> S3Objects:
        from marketdata.aws.s3_objects import S3Objects  # noqa: PLC0415 - boto3 is slow to import

        if not settings.uploads_bucket:
            raise SettingsError("UPLOADS_BUCKET is not set. Give the function the bucket's name.")
        return S3Objects(settings.uploads_bucket)

    return Application(
        make_resolver(ROUTERS),
        Services(
            store=bootstrap.request_store,
            engine=engine,
            uploads=uploads,
            objects=objects,
            upload_max_bytes=settings.upload_max_bytes,
            sources=settings.names(),
            environment=bootstrap.environment,
            most_resumptions=settings.batch_max_resumptions,
        ),
        authorise=bearer(lambda: bootstrap.secret().get("refresh_token", "")),
        allow_origin=settings.cors_allow_origin,
    )
