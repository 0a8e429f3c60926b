"""Start LocalStack with two corrections that it has no setting for; its own interpreter runs this.

It listens on the loopback interface only. Its server takes the port from ``GATEWAY_LISTEN`` and
ignores the address, and so would let everybody who reaches this machine run code on it.

It knows which resource types it can make without asking its maker's server. Without that server's
answer it takes every type for unsupported, and the only setting for this would have it report
those that really are as created.
"""

import functools
import importlib
from typing import Any


def _listen_on_loopback_only() -> None:
    endpoints: Any = importlib.import_module("twisted.internet.endpoints")
    endpoints.TCP4ServerEndpoint = functools.partial(
        endpoints.TCP4ServerEndpoint, interface="127.0.0.1"
    )


def _know_the_resource_types() -> None:
    catalog: Any = importlib.import_module("localstack.utils.catalog.catalog")
    common: Any = importlib.import_module("localstack.utils.catalog.common")
    plugins: Any = importlib.import_module("localstack.utils.catalog.plugins")
    offline: Any = catalog.AwsCatalogRuntimePlugin

    @functools.cache
    def available() -> set[str]:
        types: set[str] = offline._get_cfn_resources_available_at_runtime()  # noqa: SLF001
        return types

    def status(_self: object, resource_name: str, *_: object) -> Any:
        if resource_name in available():
            return common.CloudFormationResourcesSupportAtRuntime.AVAILABLE
        return common.CloudFormationResourcesSupportInLatest.NOT_SUPPORTED

    offline.get_cloudformation_resource_status = status
    plugins.get_aws_catalog = functools.cache(offline)


def main() -> None:
    """Run LocalStack until it is terminated."""
    _listen_on_loopback_only()
    _know_the_resource_types()
    importlib.import_module("localstack.runtime.main").main()


if __name__ == "__main__":
    main()
