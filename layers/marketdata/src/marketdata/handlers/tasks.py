"""What all functions behind the state machine share: logs with context, errors by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata.errors import MarketDataError, TerminalError, TransientError
from marketdata.logs import make_logger
from marketdata.store.deadline import within

type Event = dict[str, Any]
type Handler = Callable[[Event, LambdaContext], Any]

_TO_TELL_SECONDS = 2.0
"""Of a call's time, what is left for telling that MongoDB did not answer."""


def task(service: str) -> Callable[[Callable[[Event, LambdaContext], Any]], Handler]:
    """Makes a handler of a function behind the state machine.

    The state machine matches an error by the exact name of its class, so every error leaves
    as `TransientError` (retried) or `TerminalError` (not retried), with the message and code
    of the one that was raised. No operation of MongoDB lasts longer than the function may.
    """
    logger = make_logger(service)

    def decorate(function: Callable[[Event, LambdaContext], Any]) -> Handler:
        @wraps(function)
        def handler(event: Event, context: LambdaContext) -> Any:
            logger.clear_state()
            logger.append_keys(request_id=context.aws_request_id, **_keys(event))
            try:
                with within(context, to_tell=_TO_TELL_SECONDS):
                    result = function(event, context)
            except MarketDataError as error:
                transient = isinstance(error, TransientError)
                logger.warning(str(error), code=error.code, retry=transient)
                kind = TransientError if transient else TerminalError
                raise kind(f"{error.code}: {error}") from error
            except Exception:
                logger.exception("An unexpected error; it is a defect of this program.")
                raise
            logger.info("done", result=result)
            return result

        return handler

    return decorate


def _keys(event: Mapping[str, Any]) -> dict[str, Any]:
    return {k: event[k] for k in ("run_id", "input", "source", "number") if k in event}
