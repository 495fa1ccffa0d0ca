"""Uvicorn as this node runs it: on an inherited socket, ended by us and not by its own signal handlers.

The surprise: uvicorn re-raises the signal that ended it, which would skip the last sync of the log; here SIGTERM only
asks it to drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

__all__ = ["GracefulServer"]


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class GracefulServer:
    """Serve an ASGI application on a listening socket until `end` is called.

    Args:
        app: The application.
        drain: Seconds that requests at hand may take after `end`.
        lifespan: Whether the application wants lifespan events.
    """

    def __init__(self, app: Any, *, drain: float = 5.0, lifespan: bool = False) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="on" if lifespan else "off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(drain)),
        )
        self._server = _Server(config)
        self._started: list[Callable[[], None]] = []

    def when_started(self, call: Callable[[], None]) -> None:
        """Call `call` once requests are accepted."""
        self._started.append(call)

    def end(self) -> None:
        """Accept nothing more, finish what is at hand, return from `run`."""
        self._server.should_exit = True

    async def run(self, sock: socket.socket) -> None:
        """Serve until `end`."""
        telling = asyncio.get_running_loop().create_task(self._tell())
        await self._server.serve(sockets=[sock])
        telling.cancel()

    async def _tell(self) -> None:
        while not self._server.started:
            await asyncio.sleep(0.005)
        for call in self._started:
            call()
