"""`POST /v1/sources/NAME/events`: rows of a source as JSON lines or a JSON array, plain or gzipped.

All rows of a request are taken or none. The surprise: a body is unpacked piece by piece and given up as soon as it is
larger than allowed, so that a few kilobytes of gzip never become gigabytes of memory.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from flyball import errors
from flyball.errors import BadRequest, Busy, Unavailable
from flyball.serving.http.asgi import Receive, Response, Scope, error_response, json, read_body
from flyball.serving.protocol.lines import BadLines, Row, parse_lines

__all__ = ["LINE_TYPES", "take_events"]

Push = Callable[[str, list[Row]], Awaitable[dict[str, Any]]]
LINE_TYPES = (b"application/json", b"application/x-ndjson", b"application/jsonl", b"application/json-lines")
_SHOWN = 100  # bad lines reported
_PIECE = 1 << 16
_AT_ONCE = 1 << 18  # bytes decoded on the event loop


async def take_events(source: str, scope: Scope, receive: Receive, push: Push | None, limit: int) -> Response:
    """Read a request's rows and hand them to ingest; answer what became of them.

    200: {accepted, rejected, duplicates, sequence}. 400: {error, errors: [{line, what, needed}]}, nothing was taken.
    429 and 503 carry Retry-After; whether rows were taken is unknown after a 503, so send them again with event ids.
    """
    try:
        body = await _body(scope, receive, limit)
        large = len(body) > _AT_ONCE  # a million lines take seconds, in which nobody else would be answered
        numbered = await asyncio.to_thread(parse_lines, body) if large else parse_lines(body)
    except BadLines as bad:
        return _refused(bad.lines)
    if push is None:
        raise Unavailable("this gateway has no ingest process behind it, so it cannot take events")
    try:
        answer = await push(source, [row for _, row in numbered])
    except errors.UnknownName as error:
        raise BadRequest(str(error), 404) from error
    except (errors.InputError, errors.DefinitionError) as error:
        raise BadRequest(str(error)) from error
    except Unavailable as error:
        return _later(error)
    if wrong := answer.get("errors"):
        lines = [(numbered[place][0], what, "a row that fits the source's columns") for place, what in wrong]
        return _refused(lines)
    return json({name: answer[name] for name in ("accepted", "rejected", "duplicates", "sequence") if name in answer})


async def _body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the plain body; gzip is unpacked within the limit."""
    packed = any(n == b"content-encoding" and v.strip().lower() == b"gzip" for n, v in scope["headers"])
    if not packed:
        return await read_body(scope, receive, limit, LINE_TYPES)
    headers = [(n, v) for n, v in scope["headers"] if n != b"content-encoding"]
    return _unzipped(await read_body({**scope, "headers": headers}, receive, limit, LINE_TYPES), limit)


def _unzipped(data: bytes, limit: int) -> bytes:
    reader = zlib.decompressobj(31)
    pieces, size = [], 0
    try:
        while data and not reader.eof:
            piece = reader.decompress(data, _PIECE)
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise BadRequest(f"the body unpacks to more than {limit} bytes; send fewer rows at once", 413)
            data = reader.unconsumed_tail
    except zlib.error as error:
        raise BadRequest(f"the body is no gzip as its content-encoding says: {error}") from error
    if not reader.eof:
        raise BadRequest("the gzipped body is cut short; send it whole")
    if reader.unused_data:
        raise BadRequest("the body has bytes after its gzip; send one gzip member")
    return b"".join(pieces)


def _refused(lines: list[tuple[int, str, str]]) -> Response:
    shown = [{"line": line, "what": what, "needed": needed} for line, what, needed in lines[:_SHOWN]]
    first = f"line {lines[0][0]}: {lines[0][1]}"
    text = f"{len(lines)} of the rows cannot be taken, so none was; {first}"
    return json({"error": text, "errors": shown, "bad": len(lines)}, 400)


def _later(error: Unavailable) -> Response:
    response = error_response(error)
    response.status = 429 if isinstance(error, Busy) else 503
    response.headers = [(b"retry-after", b"1")]
    return response
