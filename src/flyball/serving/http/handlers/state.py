"""How the server is: liveness, readiness, health, metrics, its own description.

The surprise: health speaks for the whole node, because every worker can read the totals of all slots.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

from flyball.serving.http.asgi import Response, json
from flyball.serving.http.handlers.ask import Ask, routes_of
from flyball.serving.http.metrics import render
from flyball.serving.shared.slots import ARMS

if TYPE_CHECKING:
    from flyball.serving.gateway import Gateway

__all__ = ["EXTENSIONS", "State", "version_of_flyball"]

EXTENSIONS = ("binary_tensor_data", "model_repository")


class State:
    """Answer for the server."""

    def __init__(self, gateway: Gateway) -> None:
        """Answer for `gateway`."""
        self._gateway = gateway
        self._since = time.monotonic()

    async def server(self, ask: Ask) -> Response:
        """Name the server and its extensions."""
        return json({"name": "flyball", "version": version_of_flyball(), "extensions": EXTENSIONS})

    async def live(self, ask: Ask) -> Response:
        """Say that the process answers."""
        return json({"live": True})

    async def ready(self, ask: Ask) -> Response:
        """Say whether predictions are served."""
        ready = self._gateway.ready
        return json({"ready": ready}, 200 if ready else 503)

    async def health(self, ask: Ask) -> Response:
        """Say how things stand on this node; degraded: predictions are served, but control cannot do its work."""
        gateway, table = self._gateway, self._gateway.table
        slots = [slot for slot in gateway.shared if slot.generation]
        totals = [slot.totals(index) for slot in slots for index in range(len(ARMS))]
        requests, errors = sum(t.requests for t in totals), sum(t.errors for t in totals)
        routes = routes_of(gateway)
        ready = self._gateway.ready
        served = "degraded" if gateway.shared.degraded else "ok"
        body = {
            "status": served if ready else "leaving" if gateway.draining else "starting",
            "uptime": round(time.monotonic() - self._since, 3),
            "workers": sum(slot.pid > 0 for slot in slots),
            "requests": requests,
            "errors": errors,
            "error_rate": errors / requests if requests else 0.0,
            "models": sorted(routes),
            "versions": {name: route.champion.version for name, route in sorted(routes.items())},
            "table_version": table.version if table else 0,
            "time": gateway.clock.now(),
        }
        return json(body, 200 if ready else 503)

    async def metrics(self, ask: Ask) -> Response:
        """Give Prometheus text."""
        text = render(self._gateway.shared) + self._gateway.measures()
        return Response(text, type=b"text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, ask: Ask) -> Response:
        """Give the OpenAPI document."""
        from flyball.serving.http.openapi import document_bytes

        return Response(document_bytes())


@lru_cache(maxsize=1)
def version_of_flyball() -> str:
    """Return the installed version, "0" when there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("flyball")
    except PackageNotFoundError:
        return "0"
