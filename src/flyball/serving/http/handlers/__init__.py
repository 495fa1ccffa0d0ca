"""Everything the gateway answers besides the hot path of V2 inference.

`routes.ROUTES` lists the paths, the parts hold one method for each operation named there. The surprise:
`/v2/models/M/infer` of a known model never gets here; it is one dictionary look-up in the gateway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from flyball.errors import BadRequest
from flyball.serving.http.asgi import Receive, Response, Scope, json
from flyball.serving.http.handlers.ask import Ask, routes_of
from flyball.serving.http.handlers.data import Data
from flyball.serving.http.handlers.explaining import Explaining
from flyball.serving.http.handlers.flags import Flags
from flyball.serving.http.handlers.models import Models
from flyball.serving.http.handlers.predicting import Predicting
from flyball.serving.http.handlers.repository import Repository
from flyball.serving.http.handlers.routes import ROUTES, Route, Routes
from flyball.serving.http.handlers.state import State

if TYPE_CHECKING:
    from flyball.serving.gateway import Gateway

__all__ = ["ROUTES", "Ask", "Handlers", "Route", "routes_of"]

Handler = Callable[[Ask], Awaitable[Response]]
_PARTS = (State, Models, Predicting, Explaining, Repository, Data, Flags)


class Handlers:
    """Answer by path and method."""

    def __init__(self, gateway: Gateway) -> None:
        """Answer for `gateway`."""
        self._gateway = gateway
        self._routes = Routes()
        parts = [part(gateway) for part in _PARTS]
        self._calls: dict[str, Handler] = {
            route.operation: next(getattr(p, route.operation) for p in parts if hasattr(p, route.operation))
            for route in ROUTES
        }

    async def handle(self, scope: Scope, receive: Receive, started: int) -> Response:
        """Answer a request; 404 for an unknown path, 405 for the wrong method."""
        path, method = scope["path"], scope["method"]
        found = self._routes.find(path)
        if found is None:
            self._gateway.check_key(scope)
            places = "POST /predict and /v2/models/MODEL/infer predict, GET /openapi.json lists the others"
            raise BadRequest(f"there is nothing at {path!r:.200}; {places}; releases are at the control port", 404)
        methods, names = found
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None or not route.open:
            self._gateway.check_key(scope)
        if route is None:
            return _other_method(method, path, methods)
        response = await self._calls[route.operation](Ask(scope, receive, started, names))
        return Response(b"", response.status, response.type) if method == "HEAD" else response


def _other_method(method: str, path: str, methods: dict[str, Route]) -> Response:
    allowed = [*methods, *(["HEAD"] if "GET" in methods else [])]
    if method == "OPTIONS":
        response = Response(b"", 204)
    else:
        response = json({"error": f"{method[:20]} is not allowed at {path[:200]}; use {' or '.join(methods)}"}, 405)
    response.headers = [(b"allow", ", ".join(allowed).encode())]
    return response
