"""The few lines of ASGI that the gateway needs: read a body, send bytes, say an error.

The surprise: there is no framework. A request is a dictionary of its server's, an answer two messages, and what a
framework would do between them is what most of a small model's time went to.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

from flyball.errors import BadRequest, Busy, DeadlineExceeded, FlyballError, Unavailable

__all__ = [
    "AT_ONCE",
    "Arriving",
    "Message",
    "Receive",
    "Response",
    "Scope",
    "Send",
    "error_response",
    "json",
    "read_body",
    "send_response",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("flyball.serving")
AT_ONCE = 32  # bodies of the largest size that may be on their way at once
_JSON = b"application/json"
_encode = msgspec.json.encode


class Arriving:
    """Bytes of bodies that are here in part: slow callers, together, may not hold more than some memory."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        """Begin with none."""
        self.bytes = 0

    def take(self, size: int, limit: int) -> None:
        """Count `size` bytes more; raises Busy when that is too much, but counts them until they are given back."""
        self.bytes += size
        if self.bytes > AT_ONCE * limit:
            error = Busy(f"bodies of {self.bytes} bytes are on their way to this worker already; send this one again")
            error.retry_after = 1.0
            raise error

    def give(self, size: int) -> None:
        """Count `size` bytes less."""
        self.bytes -= size


_arriving = Arriving()  # of this process: what it guards is this process's memory


@dataclass(slots=True)
class Response:
    """Status, body and type; `after` runs when the answer is sent.

    `model`, `version` and `stages` (µs of parse, features, wait, model) are what the access log and traces say.
    """

    body: bytes
    status: int = 200
    type: bytes = _JSON
    headers: list[tuple[bytes, bytes]] | None = None
    after: Callable[[], None] | None = None
    model: str = ""
    version: str = ""
    stages: tuple[int, ...] = ()
    busy: bool = False  # refused because too much waits


def json(value: object, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(_encode(value), status)


def error_response(error: Exception) -> Response:
    """Return {"error": text} with the status that fits."""
    match error:
        case BadRequest():
            status = error.status
        case DeadlineExceeded():
            status = 504
        case Unavailable():
            status = 503
        case _:
            status = 500
    known = isinstance(error, FlyballError)
    response = json({"error": str(error) if known else f"internal error: {type(error).__name__}"}, status)
    response.busy = isinstance(error, Busy)
    if isinstance(error, FlyballError) and error.retry_after is not None:
        response.headers = [(b"retry-after", b"%d" % max(1, math.ceil(error.retry_after)))]
    if status == 401:
        response.headers = [(b"www-authenticate", b"Bearer")]
    return response


async def read_body(scope: Scope, receive: Receive | bytes, limit: int, types: tuple[bytes, ...] = (_JSON,)) -> bytes:
    """Return a request's body, which is received in parts or is here.

    Raises:
        BadRequest: 413 for more than `limit` bytes, 415 for another content type, 400 when the caller went away.
        Busy: bodies that come in parts hold as much memory already as `AT_ONCE` of the largest.
    """
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value not in types and value.partition(b";")[0].strip().lower() not in types:
                wanted = " or ".join(t.decode() for t in types)
                if value.startswith(b"application/x-www-form-urlencoded"):
                    wanted += " (with curl: --json '...')"  # what `curl -d` says of everything
                raise BadRequest(f"content type {value.decode('latin-1')!r} is not understood; send {wanted}", 415)
        elif name == b"content-length" and _length(value) > limit:
            raise _too_large(_length(value), limit)
        elif name == b"content-encoding" and value != b"identity":
            raise BadRequest(f"content encoding {value.decode('latin-1')!r} is not understood; send plain bytes", 415)
    if isinstance(receive, bytes):
        if len(receive) > limit:
            raise _too_large(len(receive), limit)
        return receive
    message = await receive()
    if message["type"] == "http.disconnect":
        raise BadRequest("the caller went away")
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise _too_large(len(body), limit)
        return body
    parts, size = [body], len(body)
    try:
        _arriving.take(size, limit)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise BadRequest("the caller went away")
            body = message.get("body", b"")
            parts.append(body)
            size += len(body)
            _arriving.take(len(body), limit)
            if size > limit:
                raise _too_large(size, limit)
        return b"".join(parts)
    finally:
        _arriving.give(size)


async def send_response(send: Send, response: Response) -> None:
    """Send status, headers and body; a caller who went away meanwhile is only noted."""
    headers = [(b"content-type", response.type), (b"content-length", b"%d" % len(response.body))]
    if response.headers:
        headers += response.headers
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
    except (OSError, RuntimeError) as error:  # what uvloop raises for a closed transport
        log.debug("the caller went away before the answer", extra={"cause": str(error)})


def _length(value: bytes) -> int:
    """Return a content-length; a server has checked it, an in-process client has not."""
    if len(value) > 18 or not value.isdigit():
        raise BadRequest(f"content-length {value[:20].decode('latin-1')!r} is no number of bytes")
    return int(value)


def _too_large(size: int, limit: int) -> BadRequest:
    return BadRequest(f"the body has {size} bytes or more, at most {limit} are taken; send fewer rows at once", 413)
