"""docker-compose.yml: pinned images, and nothing that listens beyond loopback."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from local.containers import MONGODB, REPLAY
from local.settings import ROOT, setting_names

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.mark.parametrize("service", SERVICES)
def test_images_have_a_version(service: str) -> None:
    assert re.search(r":\d[\w.]*$", SERVICES[service]["image"])


def test_ports_are_on_loopback() -> None:
    ports = [port for one in SERVICES.values() for port in one.get("ports", ())]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert not [name for name, one in SERVICES.items() if one.get("network_mode") == "host"]


def test_the_variables_that_it_reads_are_settings() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    read = set(re.findall(r"\$\{([A-Z_]+)", text))
    assert read - {"SSL_CERT_FILE", "COMPOSE_PROJECT_NAME"} <= setting_names()


def test_addresses_are_those_of_the_services() -> None:
    assert MONGODB.startswith("mongodb://mongodb:27017/")
    assert "mongodb" in SERVICES
    assert REPLAY.startswith("http://replay:")
    assert REPLAY.rpartition(":")[2] in SERVICES["replay"]["entrypoint"]
