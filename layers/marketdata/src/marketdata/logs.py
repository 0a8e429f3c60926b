"""The loggers of the functions: one JSON object a line."""

from __future__ import annotations

from aws_lambda_powertools import Logger

from marketdata.version import VERSION


def make_logger(service: str | None = None) -> Logger:
    """A logger whose every line tells the program's version.

    Args:
        service: the name under which it logs; None takes `POWERTOOLS_SERVICE_NAME`. Loggers of
            one name share their keys.
    """
    return Logger(service=service, version=VERSION)
