"""The repository calls of V2: which models there are, and taking one into service or out of it.

The surprise: a worker changes nothing by itself. It asks control for another routing table, and answers when every
worker serves that one; so a model is out of service everywhere or nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flyball.errors import BadRequest, ConflictError, Refused, Unavailable, UnknownName, shown
from flyball.rollout.routing import ModelRoute
from flyball.serving.http.access import ADMIN
from flyball.serving.http.asgi import Response, json, read_body
from flyball.serving.http.handlers.ask import Ask, routes_of
from flyball.serving.protocol import decode_json

if TYPE_CHECKING:
    from flyball.serving.gateway import Gateway

__all__ = ["Repository"]

_OUT = "taken out of service; POST /v2/repository/models/MODEL/load brings it back"


class Repository:
    """Answer the repository calls."""

    def __init__(self, gateway: Gateway) -> None:
        """Answer for `gateway`."""
        self._gateway = gateway

    async def index(self, ask: Ask) -> Response:
        """List versions and their state; {"ready": true} leaves out what is not served."""
        asked = await self._body(ask)
        wanted = asked.get("ready", False)
        if not isinstance(wanted, bool):
            raise BadRequest(f'"ready" is {shown(wanted, 60)}; send true or false')
        entries = [e for route in routes_of(self._gateway).values() for e in _entries(route)]
        return json([e for e in entries if not wanted or e["state"] == "READY"])

    async def load(self, ask: Ask) -> Response:
        """Take a model into service again."""
        return await self._change("load", ask)

    async def unload(self, ask: Ask) -> Response:
        """Take a model out of service."""
        return await self._change("unload", ask)

    async def _change(self, action: str, ask: Ask) -> Response:
        gateway, model = self._gateway, ask.names["model"]
        role = ask.scope.get("flyball.role")
        if role not in {None, ADMIN}:
            raise BadRequest(f"role {role!r} may not {action} models; that takes a key of role {ADMIN!r}", 403)
        await self._body(ask)
        if gateway.repository is None:
            raise Unavailable(f"this gateway has no control process behind it, so it cannot {action} models")
        try:
            return json(await gateway.repository(action, model, role or "gateway"))
        except UnknownName as error:
            raise BadRequest(str(error), 404) from error
        except (Refused, ConflictError) as error:
            raise BadRequest(str(error), 409) from error

    async def _body(self, ask: Ask) -> dict[str, Any]:
        body = await read_body(ask.scope, ask.receive, self._gateway.max_body)
        found = decode_json(body, depth=self._gateway.max_depth) if body.strip() else {}
        if not isinstance(found, dict):
            raise BadRequest("the body is no object; send {} or nothing")
        return found


def _entries(route: ModelRoute) -> list[dict[str, str]]:
    state, reason = ("UNAVAILABLE", _OUT) if route.unloaded else ("READY", "")
    refs = [route.champion, route.candidate, *(v.version for v in route.variants), *route.warm]
    versions = dict.fromkeys(ref.version for ref in refs if ref is not None)
    return [{"name": route.model, "version": v, "state": state, "reason": reason} for v in versions]
