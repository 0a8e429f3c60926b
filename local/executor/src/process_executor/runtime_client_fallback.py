"""Stand-in for awslambdaric's compiled module ``runtime_client`` where there is none.

The interface is the compiled module's: these four functions with positional arguments. One
connection is kept open for the life of the process.
"""

import http.client
import os

_PREFIX = "/2018-06-01/runtime/invocation/"
_user_agent = ""
_connection: http.client.HTTPConnection | None = None


def _call(
    method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> http.client.HTTPResponse:
    global _connection  # noqa: PLW0603 - the compiled module keeps one per process too
    if _connection is None:
        _connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    _connection.request(
        method, _PREFIX + path, body=body, headers={"User-Agent": _user_agent, **(headers or {})}
    )
    return _connection.getresponse()


def _post(path: str, body: bytes, headers: dict[str, str]) -> None:
    response = _call("POST", path, body, headers)
    answer = response.read()
    if response.status != http.client.ACCEPTED:
        raise RuntimeError(f"the Runtime API refused {path}: {response.status} {answer!r}")


def initialize_client(user_agent: str) -> None:
    """Set the name that requests carry."""
    global _user_agent  # noqa: PLW0603
    _user_agent = user_agent


def next() -> tuple[bytes, dict[str, str | None]]:  # noqa: A001 - the name that awslambdaric calls
    """Wait for the next call; its payload and headers."""
    response = _call("GET", "next")
    body = response.read()
    if response.status != http.client.OK:
        raise RuntimeError(f"the Runtime API gave no call: {response.status} {body!r}")
    names = (
        "Lambda-Runtime-Aws-Request-Id",
        "Lambda-Runtime-Trace-Id",
        "Lambda-Runtime-Invoked-Function-Arn",
        "Lambda-Runtime-Deadline-Ms",
        "Lambda-Runtime-Client-Context",
        "Lambda-Runtime-Cognito-Identity",
        "Lambda-Runtime-Aws-Tenant-Id",
        "Lambda-Runtime-Invocation-Id",
        "Content-Type",
    )
    return body, {name: response.getheader(name) for name in names}


def post_invocation_result(
    invoke_id: str, content: bytes, content_type: str, invocation_id: str | None = None
) -> None:
    """Send the handler's answer."""
    del invocation_id  # one call at a time: the request id names it
    _post(f"{invoke_id}/response", content, {"Content-Type": content_type})


def post_error(
    invoke_id: str, error: str, xray_fault: str, invocation_id: str | None = None
) -> None:
    """Send the handler's error, a JSON text."""
    del invocation_id, xray_fault
    _post(f"{invoke_id}/error", error.encode(), {"Content-Type": "application/json"})
