"""A client of the project's own API, as far as the local tool needs it."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from local.errors import RunFailedError

POLL_SECONDS = 0.5
REQUEST_SECONDS = 60
SERVER_ERROR = 500


class ApiError(Exception):
    """The API answered with an error, or not at all.

    Attributes:
        status: the HTTP status; None when there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Asks the API of one stack."""

    def __init__(self, api_url: str, token: str) -> None:
        self.api_url = api_url.rstrip("/")
        self._token = token

    def get(self, path: str) -> dict[str, Any]:
        """Ask for a resource.

        Raises:
            ApiError: the answer is an error or no JSON object.
        """
        return self._ask("GET", path)

    def refresh(self) -> str:
        """Start a run, or find the one under way. Returns its id.

        Raises:
            ApiError: it was refused.
        """
        answer = self.post("/refresh")
        run_id = answer.get("run_id")
        if not isinstance(run_id, str):
            raise ApiError(f"POST /refresh answered without a run_id: {answer}")
        return run_id

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask for a change.

        Raises:
            ApiError: it was refused, or the answer is no JSON object.
        """
        headers = {"Authorization": f"Bearer {self._token}"}
        if body is None:
            return self._ask("POST", path, headers)
        headers["Content-Type"] = "application/json"
        return self._ask("POST", path, headers, json.dumps(body).encode())

    def wait_for(
        self, run_id: str, *, seconds: float, look: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Wait until a run has ended; ``look`` is called with every state of it on the way.

        Raises:
            RunFailedError: it has not ended after ``seconds``, or the API stopped answering.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                run = self.get(f"/runs/{run_id}")
            except ApiError as error:
                # A gateway that is busy may fail once; one that goes on failing has lost the run.
                if error.status is not None and error.status < SERVER_ERROR:
                    raise RunFailedError(
                        f"the state of run {run_id} could not be read: {error}"
                    ) from error
                run = {"status": "running", "problem": str(error)}
            look(run)
            if run.get("status") != "running":
                return run
            if time.monotonic() > deadline:
                problem = run.get("problem")
                raise RunFailedError(
                    f"run {run_id} has not ended after {seconds:g} s"
                    + (f"; the API says: {problem}" if problem else " (set by RUN_TIMEOUT)")
                )
            time.sleep(POLL_SECONDS)

    def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the stack's own address
            self.api_url + path,
            data=body,
            method=method,
            headers={"Accept": "application/json", **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:  # noqa: S310
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode("utf-8", errors="replace")
            raise ApiError(f"{method} {path}: {error.code} {text[:500]}", error.code) from None
        except (OSError, ValueError) as error:
            raise ApiError(f"{method} {path}: {error}") from None
        if not isinstance(answer, dict):
            raise ApiError(f"{method} {path} did not answer with a JSON object")
        return answer
