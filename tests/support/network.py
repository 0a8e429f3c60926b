"""Where servers of the tests listen, and under which name the stack under test reaches them."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
from functools import cache

NAME_IN_CONTAINERS = "host.docker.internal"


def stack_kind() -> str:
    """`TEST_STACK`: `processes` (the default), `containers`, or `sam` (with the API under SAM)."""
    return os.environ.get("TEST_STACK", "processes")


@cache
def listen_on() -> str:
    """The address to listen on: `TEST_LISTEN_ON`, else loopback, or the bridge of Docker.

    Docker Desktop passes on to loopback what containers send to this machine; elsewhere they
    reach it at the bridge's address.
    """
    given = os.environ.get("TEST_LISTEN_ON")
    if given:
        return given
    if stack_kind() == "processes" or "Docker Desktop" in _docker("info", "{{.OperatingSystem}}"):
        return "127.0.0.1"
    (bridge, *_) = json.loads(_docker("network", "inspect", "bridge", "{{json .IPAM.Config}}"))
    # An engine that has just been installed does not tell the address; it is the first one.
    first = next(ipaddress.ip_network(bridge["Subnet"]).hosts())
    return str(bridge.get("Gateway") or first)


def known_as() -> str:
    """The name of this machine for the stack under test: `TEST_KNOWN_AS`, else as it is set up."""
    default = listen_on() if stack_kind() == "processes" else NAME_IN_CONTAINERS
    return os.environ.get("TEST_KNOWN_AS") or default


def _docker(*words: str) -> str:
    *command, form = words
    return subprocess.run(
        ["docker", *command, "--format", form], capture_output=True, text=True, check=True
    ).stdout.strip()
