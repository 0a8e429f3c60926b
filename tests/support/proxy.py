"""A TCP proxy in front of MongoDB that delays, drops and cuts connections on command.

    with running_proxy(mongod.port) as proxy:
        connect(proxy.uri, "test")
        proxy.cut()

It lives in a thread of the test's process, as a test commands it all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_PIECE = 64 * 1024


@dataclass(frozen=True)
class Manners:
    """How the proxy treats what passes through it."""

    delay: float = 0
    """Seconds that every piece is held back, and as much again at random."""
    drop: bool = False
    """Swallow everything, with all connections open: a network that lost its way."""
    refuse: bool = False
    """Reset new connections at once: a server that is not there."""
    cut_after: int | None = None
    """Bytes after which a connection is reset, in whatever message it may be."""


@dataclass(eq=False)
class _Link:
    """One client's connection with its counterpart."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    lost: bool = False
    """Something of it was swallowed: nothing that comes later can be understood."""
    passed: int = 0

    def reset(self) -> None:
        for writer in (self.client, self.server):
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@dataclass
class Proxy:
    """A running proxy."""

    target: int
    port: int = 0
    seed: int = 0
    connections: int = 0
    """Connections that it has taken so far."""
    resets: int = 0
    """Connections that it has reset."""
    _manners: Manners = field(default_factory=Manners)
    _links: set[_Link] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @property
    def uri(self) -> str:
        """The connection string for the database behind it."""
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    # --- commands -------------------------------------------------------------------------

    def behave(self, manners: Manners) -> None:
        """Treat everything so from now on."""
        self._call(self._behave, manners)

    def heal(self) -> None:
        """Let everything pass again; what was swallowed stays lost, its connections end."""
        self.behave(Manners())

    def cut(self) -> None:
        """Reset all connections there are."""
        self._call(self._cut)

    @contextmanager
    def behaving(self, manners: Manners) -> Iterator[None]:
        """Treat everything so for a while."""
        self.behave(manners)
        try:
            yield
        finally:
            self.heal()

    def _call[**P](self, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        async def run() -> None:
            function(*args, **kwargs)

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    # --- in the loop's thread ---------------------------------------------------------------

    def _behave(self, manners: Manners) -> None:
        self._manners = manners
        if not manners.drop:
            for link in [link for link in self._links if link.lost]:
                self._reset(link)

    def _cut(self) -> None:
        for link in list(self._links):
            self._reset(link)

    def _reset(self, link: _Link) -> None:
        self.resets += 1
        self._links.discard(link)
        link.reset()

    async def _serve(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        try:
            if self._manners.refuse:
                raise ConnectionRefusedError
            server_in, server_out = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            # The server is not there: nor is the proxy, then.
            client_out.transport.abort()
            return
        link = _Link(client_out, server_out)
        self._links.add(link)
        try:
            await asyncio.wait(
                [
                    asyncio.ensure_future(self._pump(link, client_in, server_out)),
                    asyncio.ensure_future(self._pump(link, server_in, client_out)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            self._links.discard(link)
            link.reset()

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        chance = random.Random(self.seed + self.connections)
        with contextlib.suppress(OSError):
            while piece := await source.read(_PIECE):
                manners = self._manners
                if manners.delay:
                    await asyncio.sleep(manners.delay * (1 + chance.random()))
                    manners = self._manners
                if manners.drop:
                    link.lost = True
                if link.lost:
                    continue
                link.passed += len(piece)
                if manners.cut_after is not None and link.passed > manners.cut_after:
                    sink.write(piece[: len(piece) // 2])
                    with contextlib.suppress(OSError):
                        await sink.drain()
                    self._reset(link)
                    return
                sink.write(piece)
                await sink.drain()

    async def _run(self, ready: Callable[[int], None], end: Awaitable[None]) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        async with server:
            ready(server.sockets[0].getsockname()[1])
            await end
            self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def running_proxy(target: int, *, seed: int = 0) -> Iterator[Proxy]:
    """Start a proxy on a free port in front of a port of this machine, and end it in every case."""
    proxy = Proxy(target, seed=seed)
    loop = proxy._loop
    ready, end = threading.Event(), loop.create_future()

    def listening(port: int) -> None:
        proxy.port = port
        ready.set()

    thread = threading.Thread(
        target=loop.run_until_complete, args=[proxy._run(listening, end)], daemon=True
    )
    thread.start()
    try:
        assert ready.wait(10), "the proxy does not listen"
        yield proxy
    finally:
        loop.call_soon_threadsafe(end.set_result, None)
        thread.join(10)
        loop.close()
