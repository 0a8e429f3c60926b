"""Composes the function `api`: everything that is read."""

from __future__ import annotations

from functools import cache

from marketdata import bootstrap
from marketdata.aws.schedule import Rule
from marketdata.settings import read_settings
from marketdata.web.application import Application
from marketdata.web.resolver import make_resolver
from marketdata.web.routes import (
    answers,
    data,
    docs,
    gaps,
    health,
    latest,
    quarantine,
    runs,
    stats,
    uploads,
)
from marketdata.web.services import Services
from marketdata.web.settings import ApiSettings

ROUTERS = (
    data.router,
    latest.router,
    gaps.router,
    runs.router,
    health.router,
    stats.router,
    quarantine.router,
    uploads.router,
    answers.router,
    docs.router,
)


def make_api() -> Application:
    """The function, as the environment configures it; nothing is opened yet."""
    settings = read_settings(ApiSettings)

    @cache
    def rule() -> Rule | None:
        return Rule(settings.schedule_rule_name) if settings.schedule_rule_name else None

    return Application(
        make_resolver(ROUTERS),
        Services(store=bootstrap.request_store, rule=rule, stack_id=settings.stack_id),
        allow_origin=settings.cors_allow_origin,
    )
