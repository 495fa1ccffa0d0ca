"""The front of a request: who calls, may they, how often; ids, traces and lines about it.

The surprise: one pass over a request's headers picks the few that matter here, and what is not configured is not even
looked for. Names of what is kept in the scope begin with "flyball.".
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable

from flyball.errors import BadRequest
from flyball.serving.http.access import ADMIN, Access, AccessFile, KeyGrant
from flyball.serving.http.accesslog import AccessLog, Line, template
from flyball.serving.http.asgi import Response, Scope
from flyball.serving.http.limits import EVERYBODY, Rates
from flyball.serving.http.tracing import Tracer, parent_of
from flyball.serving.shared.slots import Counter, Slot

__all__ = ["Front", "key_sent"]

_HEARD = {b"x-request-id": "flyball.id", b"traceparent": "flyball.parent", b"origin": "flyball.origin",
          b"authorization": "flyball.authorization", b"x-api-key": "flyball.key",
          b"idempotency-key": "flyball.idempotency"}  # fmt: skip
_ONLY_THE_SERVERS = Access(closed=True)
_SANE = re.compile(rb"[\x21-\x7e]{1,128}")
_METHODS = b"GET, HEAD, POST"
_ASKED = (
    b"authorization, content-type, idempotency-key, inference-header-content-length, traceparent, x-api-key, "
    b"x-flyball-arm, x-request-id"
)
_TOLD = b"inference-header-content-length, retry-after, x-request-id"


class Front:
    """Stand before a gateway's handlers.

    Args:
        key: What callers must send (`server.key`), None for none.
        access: Keys with roles, models and rates; None knows only `key`.
        rates: The buckets of this node.
        rate: Requests a second of a key without a rate of its own, and of all callers without a key; 0 for no limit.
        origins: From where browsers may call; none by default.
        access_log: Where a line about each request goes.
        tracer: Exports spans.
    """

    def __init__(
        self,
        *,
        key: bytes | None = None,
        access: AccessFile | None = None,
        rates: Rates | None = None,
        rate: float = 0.0,
        origins: Iterable[str] = (),
        access_log: AccessLog | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._key = key
        self._access = access
        self._rates = rates or Rates.in_memory()
        self._rate = rate
        self._everybody = KeyGrant("callers without a key", "", seat=EVERYBODY)
        self._origins = frozenset(origin.rstrip("/").encode() for origin in origins)
        self._lines = access_log
        self._tracer = tracer
        self.keyed = key is not None or access is not None
        self._guarded = key is not None or access is not None or rate > 0
        self.watching = access_log is not None or tracer is not None
        self.slot: Slot | None = None

    # -- in -----------------------------------------------------------------------------------------------------------

    def enter(self, scope: Scope) -> Response | None:
        """Hear what the headers say; return an answer only to a browser that asks what it may send."""
        for name, value in scope["headers"]:
            if name in _HEARD:
                scope[_HEARD[name]] = value
        if self._origins and scope["method"] == "OPTIONS" and scope.get("flyball.origin") in self._origins:
            return self._preflight(scope)
        return None

    def check_key(self, scope: Scope) -> None:
        """Raise BadRequest unless the caller sent a key that may call now; what it may do goes into the scope.

        401: missing, wrong or expired; 429: too often.
        """
        if not self._guarded:
            return
        grant = self._grant(scope)
        rate = grant.rate or self._rate
        if rate:
            try:
                name = "key " + grant.name if grant.seat != EVERYBODY else grant.name
                self._rates.take(grant.seat, name, rate, grant.burst or max(1.0, rate))
            except BadRequest:
                self._count(Counter.REFUSED_RATE)
                raise

    def check_known(self, scope: Scope) -> None:
        """Raise BadRequest (401) unless the caller sent a key that opens anything; takes nothing from its rate."""
        if self.keyed:
            self._grant(scope)

    def _grant(self, scope: Scope) -> KeyGrant:
        if not self.keyed:
            return self._everybody
        try:
            given = (self._access or _ONLY_THE_SERVERS).grant(key_sent(scope), self._key)
        except BadRequest:
            self._count(Counter.REFUSED_KEY)
            raise
        if given is None:
            return self._everybody
        scope["flyball.role"] = given.role
        scope["flyball.grant"] = given
        return given

    def check_model(self, scope: Scope, model: str) -> None:
        """Raise BadRequest (403) unless the caller's key is for the model, before anything is loaded for its sake."""
        grant = scope.get("flyball.grant")
        if grant is None or not grant.models:
            return
        try:
            grant.require_model(model)
        except BadRequest:
            self._count(Counter.REFUSED_KEY)
            raise

    def check_read(self, scope: Scope, model: str, views: Callable[[], Iterable[str]]) -> None:
        """Raise BadRequest (403) unless the caller's key is for the model and its role may read these views."""
        grant = scope.get("flyball.grant")
        if grant is None:
            return
        try:
            if grant.models:
                grant.require_model(model)
            if self._access is not None and grant.role != ADMIN:
                access = self._access.current
                if access.readers:
                    access.require_read(grant.role, views())
        except BadRequest:
            self._count(Counter.REFUSED_KEY)
            raise

    def check_write(self, scope: Scope, source: str) -> None:
        """Raise BadRequest (403) unless the caller's role may push to a source."""
        grant = scope.get("flyball.grant")
        if grant is None or self._access is None:
            return
        try:
            if grant.models:
                raise BadRequest(
                    f"key {grant.name} is for models only ({', '.join(grant.models)}); it may not push", 403
                )
            self._access.current.require_write(grant.role, source)
        except BadRequest:
            self._count(Counter.REFUSED_KEY)
            raise

    # -- out ----------------------------------------------------------------------------------------------------------

    def leave(self, scope: Scope, response: Response, started: int) -> None:
        """Put ids and what browsers want to know on an answer, and note the request where that is asked for.

        Args:
            scope: Of the request.
            response: The answer; its headers grow.
            started: `perf_counter_ns` when the request came.
        """
        given = scope.get("flyball.id")
        if given is not None and _SANE.fullmatch(given) is None:
            given = None
        if given is None and (self.watching or response.status >= 500):
            given = scope["flyball.id"] = secrets.token_hex(16).encode()
        more = [] if given is None else [(b"x-request-id", given)]
        if self._origins:
            more.append((b"vary", b"origin"))
            origin = scope.get("flyball.origin")
            if origin in self._origins:
                more += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _TOLD)]
        if more:
            response.headers = [*(response.headers or ()), *more]
        if response.status == 503 and response.busy:
            self._count(Counter.REFUSED_BUSY)
        elif 400 <= response.status < 500 and response.status not in {401, 403, 429}:
            self._count(Counter.BAD_REQUESTS)
        if self.watching:
            self._note(scope, response, started, given or b"")

    def quiet(self, scope: Scope, status: int) -> bool:
        """Whether `leave` would do nothing for an answer: nothing was sent that it hears, and nothing is configured."""
        return status < 400 and not self.watching and not self._origins and "flyball.id" not in scope

    def close(self) -> None:
        """Write the lines and spans that wait."""
        if self._lines is not None:
            self._lines.close()
        if self._tracer is not None:
            self._tracer.close()

    def _note(self, scope: Scope, response: Response, started: int, request: bytes) -> None:
        now, took = time.time_ns(), time.perf_counter_ns() - started
        parent = parent_of(scope.get("flyball.parent", b""))
        path = template(scope["path"])
        grant = scope.get("flyball.grant")
        if self._lines is not None:
            received = next((int(v) for n, v in scope["headers"] if n == b"content-length" and v.isdigit()), 0)
            self._lines.put(Line(
                now, scope["method"], path, response.status, took, received, len(response.body), response.model,
                response.version, "" if grant is None else grant.name, request.decode(),
                "" if parent is None else parent.trace,
            ))  # fmt: skip
        if self._tracer is not None:
            facts = {"http.request.method": scope["method"], "http.route": path,
                     "http.response.status_code": response.status}  # fmt: skip
            if response.model:
                facts |= {"flyball.model": response.model, "flyball.version": response.version}
            self._tracer.record(
                parent, f"{scope['method']} {path}", ended=now, took=took, stages=response.stages, attributes=facts,
                failed=response.status >= 500,
            )  # fmt: skip

    def _preflight(self, scope: Scope) -> Response:
        headers = [(b"access-control-allow-methods", _METHODS), (b"access-control-allow-headers", _ASKED),
                   (b"access-control-max-age", b"600")]  # fmt: skip
        return Response(b"", 204, headers=headers)

    def _count(self, counter: Counter) -> None:
        if self.slot is not None:
            self.slot.add(counter)


def key_sent(scope: Scope) -> bytes:
    """Return the key that the caller sent, empty for none; `Front.enter` heard the headers before."""
    bearer = scope.get("flyball.authorization")
    if bearer is not None and bearer[:7].lower() == b"bearer ":
        return bytes(bearer[7:].strip())
    return bytes(scope.get("flyball.key", b""))
