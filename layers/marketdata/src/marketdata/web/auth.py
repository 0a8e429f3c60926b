"""Who may change something: the holder of the stack's refresh token."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping

from marketdata.errors import Unauthorized
from marketdata.web.problems import NoTokenSet


def bearer(token: Callable[[], str]) -> Callable[[Mapping[str, str]], None]:
    """A check that lets through only requests with `Authorization: Bearer <token>`.

    Args:
        token: the expected token, asked for at each request; without one nobody gets through.
    """

    def authorise(headers: Mapping[str, str]) -> None:
        expected = token()
        if not expected:
            raise NoTokenSet(
                "This service has no `refresh_token` in its secret, so it refuses all requests "
                "that change something. Put one there and deploy with another SettingsVersion."
            )
        given = headers.get("authorization", "")
        if not given:
            raise Unauthorized("This route needs the header `Authorization: Bearer <token>`.")
        scheme, _, value = given.partition(" ")
        # Compared as bytes: texts beyond ASCII are refused by compare_digest.
        same = hmac.compare_digest(
            value.strip().encode("utf-8", "surrogatepass"), expected.encode("utf-8")
        )
        if scheme.lower() != "bearer" or not same:
            raise Unauthorized("The bearer token in the header `Authorization` is not valid.")

    return authorise
