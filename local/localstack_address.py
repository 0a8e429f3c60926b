"""Have LocalStack give the API of a stack the same address each time.

LocalStack runs this within itself: by ``localstack_main.py``, or in a container as a script that it
runs as it starts. An address has the id of the REST API in it, which LocalStack makes up. It takes
one from a tag instead, which the template can't give: SAM puts tags on the stage alone.
"""

import importlib
import re
from typing import Any

_TAG = "_custom_id_"


def api_id(stack_name: str) -> str:
    """Return the id of a stack's REST API: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9-]", "-", stack_name.lower())


def keep_addresses() -> None:
    """Change how this LocalStack makes REST APIs."""
    module: Any = importlib.import_module(
        "localstack.services.apigateway.resource_providers.aws_apigateway_restapi"
    )
    provider: Any = module.ApiGatewayRestApiProvider
    create = provider.create

    def create_by_name(self: object, request: Any) -> Any:
        tag = {"Key": _TAG, "Value": api_id(request.stack_name)}
        tags = request.desired_state.get("Tags") or []
        request.desired_state["Tags"] = [*tags, tag]
        return create(self, request)

    provider.create = create_by_name


# As a script it is executed without a name of its own.
if globals().get("__name__") in (None, "builtins", "__main__"):
    keep_addresses()
