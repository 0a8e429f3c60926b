"""A Lambda function that cannot be started."""

print("before the failure")  # noqa: T201
raise RuntimeError("no settings")
