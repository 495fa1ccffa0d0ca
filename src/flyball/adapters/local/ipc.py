"""Talk between the processes of one node: length-prefixed msgpack over unix sockets, many requests in flight.

A message is `<u32 length><msgpack [id, kind, ...]>`: kind "q" asks (method, body), "a" answers, "e" fails (error class
and sentence), "p" reports progress. The surprise: `PeerGone.sent` tells whether the peer may have acted on a request,
because only what never left may be sent again without asking the caller. Matrices travel as raw float64 bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from flyball import errors
from flyball.errors import DeadlineExceeded, FlyballError, InputError, IntegrityError, Unavailable

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Call", "Client", "PeerGone", "Server", "call_sync", "pack_matrix", "unpack_matrix"]

_LENGTH = struct.Struct("<I")
_MAX_MESSAGE = 1 << 29
_CHUNK = 1 << 20
_CONNECT_WAITS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class PeerGone(Unavailable):
    """Say that the process at the other end is not there; `sent` is False when it cannot have seen the request."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Call:
    """One request as its handler sees it: who asked, and a way to report progress."""

    __slots__ = ("_id", "_link", "method")

    def __init__(self, link: _Link, number: int, method: str) -> None:
        self._link = link
        self._id = number
        self.method = method

    def progress(self, body: Any) -> None:
        """Tell the caller how far the work is; from the event loop's thread only."""
        self._link.send([self._id, "p", body])


Handler = Callable[[Any, Call], Awaitable[Any]]


class _Link(asyncio.Protocol):
    """Cut a byte stream into messages, both ways; the only asyncio protocol here."""

    def __init__(self, received: Callable[[_Link, list[Any]], None], lost: Callable[[_Link], None]) -> None:
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for message in _cut(self._buffer):
            self._received(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._lost(self)

    def send(self, message: list[Any]) -> None:
        """Write one message; silently dropped when the other end is gone, which its reader learns by itself."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(_frame(message))

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class Server:
    """Answer requests on a unix socket with one async handler per method.

    Args:
        path: The socket; a stale one is replaced (the supervisor's lock says that nobody else owns it).
        handlers: Method name to `async handler(body, call) -> answer`; a FlyballError travels to the caller as itself.
        failed: Told of every exception that is no FlyballError, with the method.
    """

    def __init__(
        self, path: Path, handlers: Mapping[str, Handler], *, failed: Callable[[str, BaseException], None] | None = None
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._failed = failed
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Begin to listen; only this user may connect."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._link, str(self._path))
        self._path.chmod(0o600)

    async def close(self, *, drain: float = 5.0) -> None:
        """Stop listening, let running requests finish for up to `drain` seconds, hang up."""
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain)
        for link in list(self._links):
            link.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _link(self) -> _Link:
        link = _Link(self._received, self._links.discard)
        self._links.add(link)
        return link

    def _received(self, link: _Link, message: list[Any]) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(link, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, link: _Link, message: list[Any]) -> None:
        number, _, method, body = message
        handler = self._handlers.get(method)
        try:
            if handler is None:
                raise errors.UnknownName.of("method", method, self._handlers)
            link.send([number, "a", await handler(body, Call(link, number, method))])
        except FlyballError as error:
            link.send([number, "e", type(error).__name__, str(error)])
        except Exception as error:
            if self._failed is not None:
                self._failed(method, error)
            link.send([number, "e", "FlyballError", f"{method} failed: {type(error).__name__}: {error}"])


class Client:
    """Ask a server many things at once over one connection, which is made when needed and made again when lost."""

    def __init__(self, path: Path, *, name: str = "") -> None:
        self._path = path
        self._name = name or path.stem
        self._link: _Link | None = None
        self._connecting: asyncio.Lock | None = None
        self._next = 0
        self._waiting: dict[int, tuple[asyncio.Future[Any], Callable[[Any], None] | None]] = {}

    @property
    def connected(self) -> bool:
        """Whether the connection stands now."""
        return self._link is not None

    async def connect(self, *, wait: float = 0.0) -> None:
        """Connect, trying again with growing pauses for up to `wait` seconds.

        Raises:
            PeerGone: nobody listens (sent=False).
        """
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            until = time.monotonic() + wait
            for pause in _pauses():
                if self._link is not None:
                    return
                try:
                    _, self._link = await asyncio.get_running_loop().create_unix_connection(
                        lambda: _Link(self._received, self._lost), str(self._path)
                    )
                except OSError as error:
                    if time.monotonic() + pause >= until:
                        raise PeerGone(_absent(self._name, error), sent=False) from error
                    await asyncio.sleep(pause)

    async def call(
        self,
        method: str,
        body: Any = None,
        *,
        timeout: float | None = None,
        wait: float = 0.0,
        progress: Callable[[Any], None] | None = None,
    ) -> Any:
        """Ask and return the answer.

        Args:
            method: What is asked.
            body: Anything msgpack can say.
            timeout: Seconds until DeadlineExceeded; None waits for ever (a lost peer still ends it).
            wait: Seconds to keep trying to connect first.
            progress: Called with each progress message.

        Raises:
            PeerGone: no connection (sent=False), or lost before the answer (sent=True).
            DeadlineExceeded: no answer in time.
            FlyballError: what the handler raised, as the same class.
        """
        if self._link is None:
            await self.connect(wait=wait)
        link = self._link
        if link is None:
            raise PeerGone(_absent(self._name, None), sent=False)
        self._next += 1
        number = self._next
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (future, progress)
        try:
            link.send([number, "q", method, body])
            if timeout is None:
                return await future
            return await asyncio.wait_for(future, timeout)
        except TimeoutError as error:
            if isinstance(error, FlyballError):
                raise
            raise DeadlineExceeded(f"{self._name} did not answer {method} within {timeout:.3g} s") from error
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Hang up."""
        if self._link is not None:
            self._link.close()

    def _received(self, _: _Link, message: list[Any]) -> None:
        entry = self._waiting.get(message[0])
        if entry is None:
            return
        future, progress = entry
        if message[1] == "p":
            if progress is not None:
                progress(message[2])
        elif not future.done():
            if message[1] == "a":
                future.set_result(message[2])
            else:
                future.set_exception(_error(message[2], message[3]))

    def _lost(self, link: _Link) -> None:
        if self._link is not link:
            return
        self._link = None
        waiting, self._waiting = self._waiting, {}
        for future, _ in waiting.values():
            if not future.done():
                future.set_exception(PeerGone(f"{self._name} went away before it answered; ask again", sent=True))


def call_sync(
    path: Path,
    method: str,
    body: Any = None,
    *,
    timeout: float = 600.0,
    wait: float = 0.0,
    progress: Callable[[Any], None] | None = None,
) -> Any:
    """Ask one thing from ordinary (not async) code, such as the command line.

    Raises:
        PeerGone: nobody listens, or the peer went away before it answered.
        DeadlineExceeded: neither answer nor progress for `timeout` seconds.
        FlyballError: what the handler raised, as the same class.
    """
    name = path.stem
    with _connect_sync(path, name, wait) as peer:
        peer.settimeout(timeout)
        try:
            peer.sendall(_frame([1, "q", method, body]))
            return _await_sync(peer, name, progress)
        except TimeoutError as error:
            if isinstance(error, FlyballError):
                raise
            raise DeadlineExceeded(f"{name} did not answer {method} within {timeout:.3g} s") from error
        except (ConnectionError, BrokenPipeError) as error:
            raise PeerGone(f"{name} went away before it answered {method}; ask again", sent=True) from error


def pack_matrix(matrix: np.ndarray) -> list[Any]:
    """Return [shape, bytes] of a float64 array, C order."""
    import numpy as np

    array = np.ascontiguousarray(matrix, dtype=np.float64)
    return [list(array.shape), array.data.cast("B") if array.size else b""]


def unpack_matrix(packed: list[Any]) -> np.ndarray:
    """Return the read-only float64 array that `pack_matrix` packed.

    Raises:
        IntegrityError: the bytes do not fill the shape.
    """
    import numpy as np

    shape, data = packed
    size = 1
    for n in shape:
        size *= n
    if len(data) != size * 8:
        raise IntegrityError(f"a matrix of shape {shape} came with {len(data)} bytes instead of {size * 8}")
    return np.frombuffer(data, dtype=np.float64).reshape(shape)


def _frame(message: list[Any]) -> bytes:
    try:
        payload = _encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"what {message[2]!s:.40} is to carry holds a value that no message can say: {error}"
        ) from error
    return _LENGTH.pack(len(payload)) + payload


def _cut(buffer: bytearray) -> Iterator[list[Any]]:
    at = 0
    try:
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > _MAX_MESSAGE:
                raise IntegrityError(f"a message of {length} bytes was announced; at most {_MAX_MESSAGE} are allowed")
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                return
            message = _decode(bytes(memoryview(buffer)[at + _LENGTH.size : end]))
            at = end
            yield message
    finally:
        del buffer[:at]


def _error(name: str, message: str) -> FlyballError:
    found = getattr(errors, name, None)
    if isinstance(found, type) and issubclass(found, FlyballError):
        return found(message)
    return FlyballError(message)


def _absent(name: str, error: OSError | None) -> str:
    cause = f" ({os.strerror(error.errno)})" if error is not None and error.errno else ""
    return f"{name} is not running{cause}; start the node with: flyball up"


def _pauses() -> Iterator[float]:
    yield from _CONNECT_WAITS
    while True:
        yield 0.2


def _connect_sync(path: Path, name: str, wait: float) -> socket.socket:
    until = time.monotonic() + wait
    for pause in _pauses():
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            peer.connect(str(path))
        except OSError as error:
            peer.close()
            if time.monotonic() + pause >= until:
                raise PeerGone(_absent(name, error), sent=False) from error
            time.sleep(pause)
        else:
            return peer
    raise AssertionError("unreachable")


def _await_sync(peer: socket.socket, name: str, progress: Callable[[Any], None] | None) -> Any:
    buffer = bytearray()
    while True:
        data = peer.recv(_CHUNK)
        if not data:
            raise PeerGone(f"{name} went away before it answered; ask again", sent=True)
        buffer += data
        for _, kind, *rest in _cut(buffer):
            if kind == "a":
                return rest[0]
            if kind == "e":
                raise _error(rest[0], rest[1])
            if progress is not None:
                progress(rest[0])
