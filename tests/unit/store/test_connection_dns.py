"""What becomes of it when the hosts of a `mongodb+srv` URI can't be looked up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dns import message, rcode, resolver

from marketdata.errors import MarketDataError, SettingsError, StoreUnavailable
from marketdata.store import runs
from marketdata.store.connection import connect

URI = "mongodb+srv://somebody:sesame@cluster0.example.mongodb.net/"


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket in place of the machine's name server; as it is, it never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        asked = resolver.Resolver(configure=False)
        asked.nameservers, asked.port = ["127.0.0.1"], sock.getsockname()[1]

        def resolve(name: str, kind: str, **_: float) -> resolver.Answer:
            # The driver waits for five seconds.
            return asked.resolve(name, kind, lifetime=0.5)

        monkeypatch.setattr(resolver, "resolve", resolve)
        yield sock


@contextmanager
def answering(sock: socket.socket, code: rcode.Rcode) -> Iterator[None]:
    """The name server answers whatever it is asked with this code and no record."""

    def serve() -> None:
        while True:
            data, client = sock.recvfrom(4096)
            if not data:
                return
            answer = message.make_response(message.from_wire(data))
            answer.set_rcode(code)
            sock.sendto(answer.to_wire(), client)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"", sock.getsockname())
        thread.join()


def met(uri: str = URI) -> MarketDataError:
    """What connecting raises, in a process that is no function."""
    with pytest.raises(MarketDataError) as caught:
        connect(uri, "marketdata")
    # Neither the message nor what a log shows of its cause may hold a password.
    assert caught.value.__suppress_context__
    for word in ("somebody", "sesame", "cluster0"):
        assert word not in caught.value.message
    return caught.value


def test_a_name_server_that_does_not_answer_may_do_so_later(name_server: socket.socket) -> None:
    error = met()
    assert type(error) is StoreUnavailable
    assert "DNS did not answer" in error.message
    assert "LifetimeTimeout" in error.message


@pytest.mark.parametrize("code", [rcode.SERVFAIL, rcode.REFUSED])
def test_a_name_server_that_fails_may_not_do_so_later(
    name_server: socket.socket, code: rcode.Rcode
) -> None:
    with answering(name_server, code):
        assert type(met()) is StoreUnavailable


@pytest.mark.parametrize(
    ("code", "name"), [(rcode.NXDOMAIN, "NXDOMAIN"), (rcode.NOERROR, "NoAnswer")]
)
def test_a_host_that_dns_does_not_know_is_a_setting(
    name_server: socket.socket, code: rcode.Rcode, name: str
) -> None:
    with answering(name_server, code):
        error = met()
    assert type(error) is SettingsError
    assert f"DNS has no SRV record of the hosts in MONGODB_URI ({name})" in error.message


def test_a_name_that_no_host_can_have_is_a_setting(name_server: socket.socket) -> None:
    error = met("mongodb+srv://somebody:sesame@cluster0..example.net/")
    assert type(error) is SettingsError
    assert "host's name" in error.message


def test_a_function_asks_dns_at_the_first_use_and_again_at_the_next(
    name_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Lambda the driver opens nothing before: a client that is kept must not stay broken."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    store = connect(URI, "marketdata")
    try:
        with pytest.raises(StoreUnavailable, match="DNS did not answer") as caught:
            runs.find(store, "a run")
        assert "sesame" not in caught.value.message
        with (
            answering(name_server, rcode.NXDOMAIN),
            pytest.raises(SettingsError, match="no SRV record"),
        ):
            runs.find(store, "a run")
    finally:
        store.client.close()
