"""What models are: V2 metadata and readiness, and `/model_info`.

The surprise: a model that is asleep has metadata, for which it is loaded, but `/model_info` wakes nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from flyball.errors import Unavailable
from flyball.features.spec import FeatureService
from flyball.rollout.routing import BUCKETS, ModelRoute
from flyball.serving.http.asgi import Response, json
from flyball.serving.http.handlers.ask import Ask, routes_of
from flyball.serving.protocol import metadata
from flyball.serving.routing.plan import ModelPlan

if TYPE_CHECKING:
    from flyball.serving.gateway import Gateway

__all__ = ["Models"]


class Models:
    """Answer for the models."""

    def __init__(self, gateway: Gateway) -> None:
        """Answer for `gateway`."""
        self._gateway = gateway

    async def model(self, ask: Ask) -> Response:
        """Give V2 metadata."""
        self._gateway.check_model(ask.scope, ask.names["model"])
        plan, _ = await self._gateway.named(ask.names["model"], ask.names.get("version"))
        return json(metadata(plan.route.model, sorted(plan.pinned), plan.inputs))

    async def model_ready(self, ask: Ask) -> Response:
        """Say whether a model answers; 503 when not."""
        name = ask.names["model"]
        self._gateway.check_model(ask.scope, name)
        try:
            plan, _ = await self._gateway.named(name, ask.names.get("version"))
        except Unavailable as error:
            return json({"name": name, "ready": False, "error": str(error)}, 503)
        return json({"name": plan.route.model, "ready": True})

    async def model_info(self, ask: Ask) -> Response:
        """Tell what there is to know of every model that the caller's key is for."""
        gateway, table = self._gateway, self._gateway.table
        grant = ask.scope.get("flyball.grant")
        routes = {n: r for n, r in routes_of(gateway).items() if grant is None or not grant.models or n in grant.models}
        models = {name: _info(route, gateway.plans.get(name)) for name, route in routes.items()}
        body = {"table_version": table.version if table else 0, "models": models, "settings": gateway.settings}
        return json(body)


def _info(route: ModelRoute, plan: ModelPlan | None) -> dict[str, Any]:
    candidate = route.candidate
    info: dict[str, Any] = {
        "champion": route.champion.version,
        "version": route.champion.version,
        "candidate": candidate.version if candidate else None,
        "candidate_share": route.candidate_cut / BUCKETS,
        "shadow": route.shadow,
        "rollout": route.rollout,
        "state": "unloaded" if route.unloaded else "asleep" if plan is None else "ready",
        "serving": msgspec.to_builtins(route.serving),
    }
    if plan is not None:
        loaded = plan.champion.loaded
        info |= {
            "type": loaded.kind,
            "format": loaded.format,
            "classes": loaded.classes,
            "vetoed": plan.vetoed,
            "table_version": plan.table,
            "features": list(loaded.service.names),
            "feature_types": _types(loaded.service),
            "inputs": [{"name": i.name, "type": i.type, "required": i.required} for i in plan.inputs.values()],
        }
    return info


def _types(service: FeatureService) -> list[dict[str, Any]]:
    """Return name, type and origin of each matrix column; a vector is one."""
    inputs = {i.name: i.type for i in service.inputs}
    stored = {(view.name, f.name): f.type for view in service.views for f in view.features}
    found: list[dict[str, Any]] = []
    for column in service.columns:
        match column.kind:
            case "view":
                kind = stored.get((column.view or "", column.name), "float64")
            case "field":
                kind = inputs.get(column.name, "float64")
            case _:
                kind = "float64"
        found.append({"name": column.name, "type": kind, "from": column.view or column.kind})
    return found
