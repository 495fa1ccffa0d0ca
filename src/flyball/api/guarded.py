"""Who may ask the admin API and who may change things: keys, roles, origins; and the record of who did.

The surprise: refusals are recorded too, but of callers without a right key only some each second.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from flyball.api.features import READS
from flyball.errors import (
    BadRequest,
    ConflictError,
    DeadlineExceeded,
    FlyballError,
    InputError,
    Refused,
    Unavailable,
    UnknownName,
)  # fmt: skip
from flyball.serving.http.access import ADMIN

if TYPE_CHECKING:
    from flyball.api.app import Controller
    from flyball.serving.http.access import Access, AccessFile

__all__ = ["Auditor", "Endpoint", "actor_of", "guarded", "http_error", "path_of", "status_of", "view_of"]

log = logging.getLogger("flyball.api")
Endpoint = Callable[[Request], Awaitable[Any]]
_STRANGERS = 10  # refused callers without a key that are audited each second


def actor_of(request: Request) -> str:
    """Return who asks, for the record: the name of the key, where keys have names."""
    return getattr(request.state, "actor", "") or "api"


def guarded(
    path: str, methods: dict[str, Endpoint], key: bytes | None, access: AccessFile | None, auditor: Auditor
) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers a path: it checks who asks, records changes, and makes answers of errors.

    Args:
        path: As routed, with its parameters' names.
        methods: What answers each method.
        key: The one key there is without named keys; None for no key.
        access: Keys with roles; None for none.
        auditor: Writes changes down.
    """

    async def answer(request: Request) -> Response:
        response = await decide(request)
        if request.method not in {"GET", "HEAD"} and path not in READS:
            await auditor.note(request, path, response.status_code)
        return response

    async def decide(request: Request) -> Response:
        try:
            if path_of(request) != "/health":
                if access is not None:
                    _check_role(request, key, access.current)
                elif key is not None:
                    _check_key(request, key)
            if request.method not in {"GET", "HEAD"}:
                _check_origin(request)
            endpoint = methods["GET" if request.method == "HEAD" else request.method]
            return _json(await endpoint(request))
        except FlyballError as error:
            return _json({"error": str(error)}, status_of(error))

    return answer


class Auditor:
    """Write down who asked for a change and what came of it, refusals too.

    Of callers without a right key only some are written down each second: they must not fill the database.
    """

    def __init__(self, control: Controller) -> None:
        self._control = control
        self._second, self._strangers = 0, 0

    async def note(self, request: Request, path: str, status: int) -> None:
        """Record one request for a change and the status that answered it."""
        actor = getattr(request.state, "actor", "")
        if status == 401 and not self._has_room():
            return
        try:
            project = self._control.project
            facts = {"status": status, **{name: str(value)[:200] for name, value in request.path_params.items()}}
            action, subject = f"{request.method} {path}", path_of(request)[:200]
            who = actor or ("key unknown" if status == 401 else "api")
            await self._control.work(
                lambda: project.database.audit.record(project.clock.now(), who, action, subject, facts)
            )
        except FlyballError as error:  # without its database control changes nothing either
            log.error("not audited: %s", error, extra={"path": path, "status": status})

    def _has_room(self) -> bool:
        second = int(time.monotonic())
        self._strangers = 1 if second != self._second else self._strangers + 1
        self._second = second
        return self._strangers <= _STRANGERS


def status_of(error: FlyballError) -> int:
    """Return the HTTP status of an error."""
    match error:
        case BadRequest():
            return error.status
        case UnknownName():
            return 404
        case InputError():
            return 400
        case Refused() | ConflictError():
            return 409
        case DeadlineExceeded():
            return 504
        case Unavailable():
            return 503
        case _:
            return 500


def _check_role(request: Request, key: bytes | None, access: Access) -> None:
    grant = access.grant(_sent(request), key)
    role = request.state.role = None if grant is None else grant.role
    request.state.actor = "" if grant is None else f"key {grant.name}"
    if role in {None, ADMIN}:
        return
    if request.method not in {"GET", "HEAD"}:
        if path_of(request) in READS:
            return  # a read, of the views that its body names
        raise BadRequest(f"role {role!r} may only read here; a key of role {ADMIN!r} may change things", 403)
    if path_of(request).startswith("/v1/features/"):
        access.require_read(role, [view_of(request)])


def view_of(request: Request) -> str:
    """Return the view that a path of features names."""
    return path_of(request).removeprefix("/v1/features/")


def path_of(request: Request) -> str:
    """Return the path that was routed; older Starlettes make `request.url` of the Host header, which callers choose."""
    return str(request.scope["path"])


def _sent(request: Request) -> bytes:
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    return (sent.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")).encode()


def _check_key(request: Request, key: bytes) -> None:
    if not hmac.compare_digest(_sent(request), key):
        raise BadRequest("this API needs its key; send it as Authorization: Bearer KEY", 401)


def _check_origin(request: Request) -> None:
    """Refuse what a browser sends for a page of another site; programs send no Origin."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise BadRequest(
            f"a page of {origin} may not change things here; use the command line or this server's own pages", 403
        )
    if request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
        raise BadRequest("a page of another site may not change things here", 403)


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body, enc_hook=str), status, media_type="application/json")


async def http_error(request: Request, error: Exception) -> Response:
    """Answer what no route answers, as JSON too."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: f"there is nothing at {path_of(request)}", 405: f"{request.method} is not allowed here"}
    headers = error.headers if isinstance(error, HTTPException) else None
    response = _json({"error": words.get(status, "the request failed")}, status)
    response.headers.update(headers or {})
    return response
