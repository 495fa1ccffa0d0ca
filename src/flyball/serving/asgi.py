"""The few lines of ASGI that the gateway needs: read a body, know the caller, send bytes."""

from __future__ import annotations

import hmac
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

from flyball.errors import BadRequest, Busy, DeadlineExceeded, FlyballError, Unavailable

__all__ = [
    "Message",
    "Receive",
    "Response",
    "Scope",
    "Send",
    "allowed",
    "error_response",
    "json",
    "key_of",
    "read_body",
    "send_response",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("flyball.serving")
_JSON = b"application/json"
_encode = msgspec.json.encode


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
    text = str(error) if isinstance(error, FlyballError) else f"internal error: {type(error).__name__}"
    response = json({"error": text}, status)
    response.busy = isinstance(error, Busy)
    after = getattr(error, "retry_after", None)  # seconds, of errors that pass
    if after is not None:
        response.headers = [(b"retry-after", b"%d" % max(1, math.ceil(after)))]
    if status == 401:
        response.headers = [(b"www-authenticate", b"Bearer")]
    return response


async def read_body(scope: Scope, receive: Receive, limit: int, types: tuple[bytes, ...] = (_JSON,)) -> bytes:
    """Return a request's body.

    Raises:
        BadRequest: 413 for more than `limit` bytes, 415 for another content type, 400 when the caller went away.
    """
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value not in types and value.partition(b";")[0].strip().lower() not in types:
                wanted = " or ".join(t.decode() for t in types)
                raise BadRequest(f"content type {value.decode('latin-1')!r} is not understood; send {wanted}", 415)
        elif name == b"content-length" and _length(value) > limit:
            raise _too_large(_length(value), limit)
        elif name == b"content-encoding" and value != b"identity":
            raise BadRequest(f"content encoding {value.decode('latin-1')!r} is not understood; send plain bytes", 415)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise BadRequest("the caller went away")
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise _too_large(len(body), limit)
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the caller went away")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(size, limit)
    return b"".join(parts)


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


def allowed(scope: Scope, key: bytes) -> bool:
    """Return whether the caller sent `key` (Authorization: Bearer, or X-API-Key), compared in constant time."""
    return hmac.compare_digest(key_of(scope), key)


def key_of(scope: Scope) -> bytes:
    """Return the key that the caller sent, empty for none."""
    given = b""
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            given = value[7:].strip()
        elif name == b"x-api-key":
            given = value
    return bytes(given)


def _length(value: bytes) -> int:
    """Return a content-length; a server has checked it, an in-process client has not."""
    if len(value) > 18 or not value.isdigit():
        raise BadRequest(f"content-length {value[:20].decode('latin-1')!r} is no number of bytes")
    return int(value)


def _too_large(size: int, limit: int) -> BadRequest:
    return BadRequest(f"the body has {size} bytes or more, at most {limit} are taken; send fewer rows at once", 413)
