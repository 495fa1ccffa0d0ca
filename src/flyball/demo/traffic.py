"""A lean keep-alive HTTP/1.1 client for the simulator: many requests at once over a few connections.

The surprise: a general client costs more per request than the server it measures, so this one does only what a replay
needs: JSON in, JSON out, one request at a time on each connection, no redirects, no cookies.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Self

import msgspec

from flyball.errors import Unavailable

__all__ = ["Answer", "Traffic"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: HTTP status, decoded body, seconds from sending to the last byte."""

    status: int
    body: Any
    seconds: float


class Traffic:
    """Send requests to one host over at most `connections` kept-alive connections."""

    def __init__(self, host: str, port: int, *, connections: int = 16) -> None:
        self._host, self._port = host, port
        self._free: asyncio.Queue[_Connection] = asyncio.Queue()
        for _ in range(connections):
            self._free.put_nowait(_Connection(host, port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while not self._free.empty():
            self._free.get_nowait().close()

    async def post(self, path: str, body: bytes) -> Answer:
        """Send one POST; a connection that broke before it answered is tried once more, on a new one.

        Raises:
            Unavailable: nobody answers at the address.
        """
        connection = await self._free.get()
        try:
            return await connection.post(path, body)
        finally:
            self._free.put_nowait(connection)

    async def post_all(self, requests: list[tuple[str, bytes]]) -> list[Answer]:
        """Send many at once; answers in the order of the requests."""
        return await asyncio.gather(*(self.post(path, body) for path, body in requests))


class _Connection:
    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> Answer:
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        started = perf_counter()
        reused = self._writer is not None
        try:
            status, data = await self._exchange(head.encode() + body)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            if not reused:
                raise Unavailable(f"no answer from {self._host}:{self._port} ({error}); is flyball up?") from error
            status, data = await self._exchange(head.encode() + body)
        return Answer(status, msgspec.json.decode(data) if data else None, perf_counter() - started)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader is not None
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if b": " in line)
        data = await self._reader.readexactly(int(headers.get(b"content-length", b"0")))
        if headers.get(b"connection") == b"close":
            self.close()
        return int(lines[0].split(b" ", 2)[1]), data

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
