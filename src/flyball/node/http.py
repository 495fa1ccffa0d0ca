"""Uvicorn as this node runs it: on an inherited socket, ended by us and not by its own signal handlers.

The surprises: uvicorn re-raises the signal that ended it, which would skip the last sync of the log; here SIGTERM only
asks it to drain. And while it drains, connections are still answered: those in the kernel's queue are taken out of it
before the socket is closed, and an idle one may send one request more, for a client may have sent it already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from flyball.errors import ConfigError
from flyball.node.connection import Connection, Limits

__all__ = ["GracefulServer", "tls_context"]

_HANDSHAKES = 0.5  # seconds that those who waited in the queue may take for TLS
_TAKING_OVER = 1.0  # seconds at most that connections are taken over, should they never end
_LOOK_EVERY = 1.0  # seconds between two looks at the files of TLS
log = logging.getLogger("flyball.node")


class _Server(uvicorn.Server):
    """A server whose end leaves nobody without an answer."""

    waiting: socket.socket | None = None  # the same listening socket, to empty its queue

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, take over who waits in the kernel's queue, let everybody finish."""
        for server in self.servers:
            server.close()
        if self.waiting is not None:
            await self._take_over(self.waiting, sockets or [])
        await super().shutdown(sockets)

    async def _take_over(self, listening: socket.socket, sockets: list[socket.socket]) -> None:
        """Accept until nobody waits, then close at once: who comes in between would be reset."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _TAKING_OVER
        while made := [
            loop.create_task(loop.connect_accepted_socket(self._connection, found, ssl=self.config.ssl))
            for found in _accepted(listening)
        ]:
            await asyncio.wait(made, timeout=_HANDSHAKES)
            if loop.time() > until:
                break
        for sock in (listening, *sockets):
            sock.close()

    def _connection(self) -> Connection:
        return Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


class GracefulServer:
    """Serve an ASGI application on a listening socket until `end` is called.

    Args:
        app: The application.
        drain: Seconds that requests at hand may take after `end`.
        lifespan: Whether the application wants lifespan events.
        limits: What a caller may send, and how slowly.
        tls: Serve HTTPS with this certificate and key (PEM files); both are read again when they change.
    """

    def __init__(
        self,
        app: Any,
        *,
        drain: float = 5.0,
        lifespan: bool = False,
        limits: Limits | None = None,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self._limits = limits or Limits()
        direct = app if hasattr(app, "takes") else None  # what it takes, it answers without ASGI's messages
        config = uvicorn.Config(
            app,
            http=type("_Connection", (Connection,), {"limits": self._limits, "direct": direct}),
            ws="none",
            lifespan="on" if lifespan else "off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # nobody asks who the caller was behind a proxy
            date_header=False,
            timeout_graceful_shutdown=max(1, round(drain)),
        )
        config.load()
        self._tls = tls
        config.ssl = None if tls is None else tls_context(*tls)
        self._config = config
        self._server = _Server(config)
        self._started: list[Callable[[], None]] = []
        self._ending: list[Callable[[], None]] = []

    def when_started(self, call: Callable[[], None]) -> None:
        """Call `call` once requests are accepted."""
        self._started.append(call)

    def when_ending(self, call: Callable[[], None]) -> None:
        """Call `call` at once when the server is asked to end."""
        self._ending.append(call)

    def end(self) -> None:
        """Accept nothing more, finish what is at hand, return from `run`."""
        for call in self._ending:
            call()
        self._server.should_exit = True

    async def run(self, sock: socket.socket) -> None:
        """Serve until `end`."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            self._server.waiting = sock.dup()
        tasks = [loop.create_task(work) for work in (self._tell(), self._sweep(), self._follow_files())]
        try:
            await self._server.serve(sockets=[sock])
        finally:
            for task in tasks:
                task.cancel()

    async def _tell(self) -> None:
        while not self._server.started:
            await asyncio.sleep(0.005)
        for call in self._started:
            call()

    async def _sweep(self) -> None:
        """Look at all connections now and then; that is cheaper than timers for each request."""
        loop = asyncio.get_running_loop()
        every = min(1.0, self._limits.slow / 5, self._limits.idle / 5)
        while True:
            await asyncio.sleep(every)
            now = loop.time()
            for connection in list(self._server.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(now)

    async def _follow_files(self) -> None:
        """Use a renewed certificate for new connections; one that cannot be used is logged and the old one serves."""
        if self._tls is None or self._config.ssl is None:
            return
        known = _stamps(self._tls)
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            found = _stamps(self._tls)
            if found == known:
                continue
            known = found
            try:
                tls_context(*self._tls)  # a pair that does not fit must not reach the context that serves
                self._config.ssl.load_cert_chain(*self._tls)
                log.info("certificate read again")
            except ConfigError as error:
                log.error("certificate not read again: %s", error)


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the context of a server with this certificate (chain) and key; TLS 1.2 is the oldest it speaks.

    Raises:
        ConfigError: a file is missing, is no PEM, or the two do not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"TLS cannot be served with server.tls_certificate {certificate.name!r} and server.tls_key {key.name!r} "
            f"({error}); both are PEM files, and the key is that of the certificate"
        ) from error
    return context


def _accepted(listening: socket.socket) -> Iterator[socket.socket]:
    """Yield the connections that wait in the kernel's queue."""
    while True:
        try:
            found, _ = listening.accept()
        except OSError:  # nobody waits, or the socket is gone
            return
        found.setblocking(False)
        yield found


def _stamps(files: tuple[Path, Path]) -> list[int]:
    stamps = []
    for file in files:
        try:
            stamps.append(file.stat().st_mtime_ns)
        except OSError:
            stamps.append(0)
    return stamps
