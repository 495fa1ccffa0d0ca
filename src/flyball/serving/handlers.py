"""Everything the gateway answers besides the hot path of V2 inference: a table of paths, then the handlers.

The surprise: `/v2/models/M/infer` of a known model never gets here; it is one dictionary look-up in the gateway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from flyball.errors import BadRequest, Unavailable, nearest
from flyball.records.types import Outcome, Record
from flyball.rollout.routing import BUCKETS
from flyball.serving.asgi import Receive, Response, Scope, json, read_body
from flyball.serving.events import LINE_TYPES as _ROWS
from flyball.serving.events import take_events
from flyball.serving.metrics import render
from flyball.serving.plan import ModelPlan
from flyball.serving.protocol import decode_json, encode_rows, metadata, parse_outcomes, rows_call

if TYPE_CHECKING:
    from flyball.serving.gateway import Gateway

__all__ = ["Handlers"]

Handler = Callable[[Scope, Receive, int], Awaitable[Response]]
_OPEN = frozenset({"/health", "/v2/health/live", "/v2/health/ready"})


class Handlers:
    """Answer by path and method."""

    def __init__(self, gateway: Gateway) -> None:
        """Answer for `gateway`."""
        self._gateway = gateway
        self._exact: dict[str, dict[str, Handler]] = {
            "/v2": {"GET": self._server},
            "/v2/health/live": {"GET": self._live},
            "/v2/health/ready": {"GET": self._ready},
            "/health": {"GET": self._health},
            "/metrics": {"GET": self._metrics},
            "/model_info": {"GET": self._model_info},
            "/predict": {"POST": self._predict},
            "/v1/outcomes": {"POST": self._outcomes},
        }

    async def handle(self, scope: Scope, receive: Receive, started: int) -> Response:
        """Answer a request; 404 for an unknown path, 405 for the wrong method."""
        path, method = scope["path"], scope["method"]
        known = self._exact.get(path) or self._exact.get(path.rstrip("/")) or self._pattern(path)
        if path not in _OPEN:
            self._gateway.check_key(scope)
        if known is None:
            places = "predictions are at /v2/models/MODEL/infer and /predict, pushes at /v1/sources/SOURCE/events"
            raise BadRequest(f"there is nothing at {path}; {places}; all else is at the control port", 404)
        handler = known.get("GET" if method == "HEAD" else method)
        if handler is None:
            response = json({"error": f"{method} is not allowed at {path}; use {' or '.join(known)}"}, 405)
            response.headers = [(b"allow", ", ".join(known).encode())]
            return response
        response = await handler(scope, receive, started)
        return Response(b"", response.status, response.type) if method == "HEAD" else response

    def _pattern(self, path: str) -> dict[str, Handler] | None:
        match path.split("/")[1:]:
            case ["v2", "models", _] | ["v2", "models", _, "versions", _]:
                return {"GET": self._model}
            case ["v2", "models", _, "ready"] | ["v2", "models", _, "versions", _, "ready"]:
                return {"GET": self._model_ready}
            case ["v2", "models", _, "infer"] | ["v2", "models", _, "versions", _, "infer"]:
                return {"POST": self._unknown_model}
            case ["v1", "sources", name, "events"] if name:
                return {"POST": self._events}
            case _:
                return None

    # -- health and metadata ------------------------------------------------------------------------------------------

    async def _server(self, scope: Scope, receive: Receive, started: int) -> Response:
        return json({"name": "flyball", "version": _version(), "extensions": []})

    async def _live(self, scope: Scope, receive: Receive, started: int) -> Response:
        return json({"live": True})

    async def _ready(self, scope: Scope, receive: Receive, started: int) -> Response:
        return json({"ready": self._is_ready()}, 200 if self._is_ready() else 503)

    def _is_ready(self) -> bool:
        """A node without any model yet is ready; one that has not loaded its table is not."""
        return self._gateway.table is not None or self._gateway.shared.table_version == 0

    async def _health(self, scope: Scope, receive: Receive, started: int) -> Response:
        table = self._gateway.table
        body = {"status": "ok" if self._is_ready() else "starting", "table_version": table.version if table else 0,
                "models": sorted(self._gateway.plans), "time": self._gateway.clock.now()}  # fmt: skip
        return json(body, 200 if self._is_ready() else 503)

    async def _metrics(self, scope: Scope, receive: Receive, started: int) -> Response:
        text = render(self._gateway.shared) + self._gateway.measures()
        return Response(text, type=b"text/plain; version=0.0.4; charset=utf-8")

    async def _model_info(self, scope: Scope, receive: Receive, started: int) -> Response:
        table = self._gateway.table
        models = {name: _info(plan) for name, plan in self._gateway.plans.items()}
        return json({"table_version": table.version if table else 0, "models": models})

    async def _model(self, scope: Scope, receive: Receive, started: int) -> Response:
        plan = self._named(scope["path"])
        return json(metadata(plan.route.model, sorted(plan.pinned), list(plan.inputs.values())))

    async def _model_ready(self, scope: Scope, receive: Receive, started: int) -> Response:
        plan = self._named(scope["path"])
        return json({"name": plan.route.model, "ready": True})

    async def _unknown_model(self, scope: Scope, receive: Receive, started: int) -> Response:
        self._named(scope["path"])
        raise BadRequest(f"there is nothing at {scope['path']}; POST to /v2/models/MODEL/infer", 404)

    def _named(self, path: str) -> ModelPlan:
        parts = path.split("/")
        plan = self._plan(parts[3])
        if len(parts) > 5 and parts[5] not in plan.pinned:
            known = ", ".join(sorted(plan.pinned))
            raise BadRequest(f"version {parts[5]!r} of {parts[3]} is not served; these are: {known}", 404)
        return plan

    def _plan(self, model: str) -> ModelPlan:
        plans = self._gateway.plans
        if model in plans:
            return plans[model]
        close = nearest(model, plans)
        known = ", ".join(sorted(plans)) or "none"
        hint = f"did you mean {' or '.join(close)}?" if close else f"served: {known}."
        raise BadRequest(f"no model named {model!r} is served; {hint}", 404)

    # -- work ---------------------------------------------------------------------------------------------------------

    async def _predict(self, scope: Scope, receive: Receive, started: int) -> Response:
        request = decode_json(await read_body(scope, receive, self._gateway.max_body))
        plan = self._chosen(request)
        self._gateway.check_read(scope, plan)
        call = rows_call(request, plan.inputs)
        answer = await self._gateway.predict(plan, call, started)
        encoded = encode_rows(
            plan.route.model, answer.version, answer.id, plan.table, answer.values, versions=answer.versions,
            features=answer.features,
        )  # fmt: skip
        return Response(encoded, after=self._gateway.after(answer))

    def _chosen(self, request: object) -> ModelPlan:
        plans = self._gateway.plans
        name = request.get("model") if isinstance(request, dict) else None
        if isinstance(name, str) and (name in plans or len(plans) != 1):
            return self._plan(name)
        if len(plans) == 1:
            plan = next(iter(plans.values()))
            if name is not None and "model" not in plan.inputs:
                return self._plan(str(name))
            return plan
        raise BadRequest(f'several models are served ({", ".join(sorted(plans)) or "none"}); name one as "model"', 400)

    async def _outcomes(self, scope: Scope, receive: Receive, started: int) -> Response:
        gateway = self._gateway
        rows = parse_outcomes(await read_body(scope, receive, gateway.max_body, _ROWS))
        if gateway.log is None:
            raise Unavailable("this gateway keeps no prediction log, so it cannot take outcomes")
        received = gateway.clock.micros()
        records: list[Record] = [Outcome(pid, value, event, received, "api", rev) for pid, value, event, rev in rows]
        written = gateway.log.put(records, durable=True)
        if written is not None and not await written:
            raise Unavailable("the prediction log took no outcome: its disk is full; send them again later")
        return json({"accepted": len(records)})

    async def _events(self, scope: Scope, receive: Receive, started: int) -> Response:
        source = scope["path"].split("/")[3]
        self._gateway.check_write(scope, source)
        return await take_events(source, scope, receive, self._gateway.push, self._gateway.max_body)


def _info(plan: ModelPlan) -> dict[str, Any]:
    candidate = plan.route.candidate
    return {
        "champion": plan.champion.version,
        "candidate": candidate.version if candidate else None,
        "candidate_share": plan.route.candidate_cut / BUCKETS,
        "shadow": plan.route.shadow,
        "vetoed": plan.vetoed,
        "rollout": plan.route.rollout,
        "table_version": plan.table,
        "features": list(plan.champion.loaded.service.names),
        "inputs": [{"name": i.name, "type": i.type, "required": i.required} for i in plan.inputs.values()],
    }


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("flyball")
    except PackageNotFoundError:
        return "0"
