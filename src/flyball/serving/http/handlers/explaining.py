"""`POST /v2/models/M/explain`: what each feature contributed to the answers to rows.

The surprise: nothing is predicted and nothing is logged. The features are read as for a prediction now, the champion
(or the version named in the path) is explained, and no unit is assigned to anything.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.errors import BadRequest, FlyballError, Unavailable, shown
from flyball.serving.contributions.types import Explained
from flyball.serving.http.asgi import Response, json, read_body
from flyball.serving.http.handlers.ask import Ask
from flyball.serving.http.rendering import LARGE, apart
from flyball.serving.protocol import Call, decode_json, parse_infer, rows_call
from flyball.serving.routing.plan import Arm, ModelPlan, features_of

if TYPE_CHECKING:
    from flyball.serving.gateway import Gateway

__all__ = ["Explaining"]

_ROWS = 256  # explained at once: each may cost a thousand predictions
_DEADLINE = 2000  # ms
_LONGEST = 60_000


class Explaining:
    """Answer requests for explanations."""

    def __init__(self, gateway: Gateway) -> None:
        """Answer for `gateway`."""
        self._gateway = gateway

    async def explain(self, ask: Ask) -> Response:
        """Answer with contributions per row."""
        gateway, names = self._gateway, ask.names
        gateway.check_model(ask.scope, names["model"])
        plan, pinned = await gateway.named(names["model"], names.get("version"))
        gateway.check_read(ask.scope, plan)
        body = await read_body(ask.scope, ask.receive, gateway.max_body)
        large, decode = len(body) > LARGE, partial(decode_json, body, depth=gateway.max_depth)
        request = await apart(decode) if large else decode()
        until = time.monotonic() + _deadline(request) / 1000 - (time.perf_counter_ns() - ask.started) / 1e9
        call = await apart(_call, body, request, plan) if large else _call(body, request, plan)
        if call.n > _ROWS:
            raise BadRequest(f"the request has {call.n} rows, at most {_ROWS} are explained at once", 413)
        arm = pinned or plan.champion
        if call.n == 0:
            return json(_answer(plan, arm, None))
        matrix = await self._features(arm, call)
        hosts = gateway.explanations
        hosts.retain(a.loaded.ref.digest for p in gateway.plans.values() for a in p.pinned.values())
        found = await hosts.explain(arm.loaded.ref, matrix, until)
        response = json(_answer(plan, arm, found))
        response.model, response.version = plan.route.model, arm.version
        return response

    async def _features(self, arm: Arm, call: Call) -> np.ndarray:
        """Return the features of a version's rows (n, k), as a prediction would read them now."""
        gateway = self._gateway
        try:
            matrix = await features_of(arm, call.columns, call.n, gateway.clock.micros(), remote=gateway.remote)
        except BadRequest:
            raise
        except FlyballError as error:
            raise Unavailable(f"the features cannot be read: {error}") from error
        return np.ascontiguousarray(matrix)


def _deadline(request: object) -> int:
    parameters = request.get("parameters") if isinstance(request, dict) else None
    found = parameters.get("deadline_ms", _DEADLINE) if isinstance(parameters, dict) else _DEADLINE
    if type(found) is not int or not 1 <= found <= _LONGEST:
        raise BadRequest(f"deadline_ms is {shown(found, 60)}; send whole milliseconds from 1 to {_LONGEST}")
    return found


def _call(body: bytes, request: object, plan: ModelPlan) -> Call:
    """Take rows as `/predict` does, or tensors as V2 inference does."""
    inputs = plan.inputs
    if isinstance(request, dict) and "inputs" in request and "inputs" not in inputs:
        return parse_infer(body, inputs)
    if isinstance(request, dict) and "parameters" not in inputs:
        request = {name: value for name, value in request.items() if name != "parameters"}
    return rows_call(request, inputs)


def _answer(plan: ModelPlan, arm: Arm, found: Explained | None) -> dict[str, Any]:
    names = arm.loaded.service.names
    body: dict[str, Any] = {"model": plan.route.model, "model_version": arm.version, "rows": []}
    if found is None:
        return body
    body |= {"method": found.method, "space": found.space}
    if found.method == "sampled":
        body["samples"] = found.samples
    classes = arm.loaded.classes
    if classes is not None and len(found.base) in {1, len(classes)}:
        body["classes"] = list(classes if len(found.base) > 1 else classes[-1:])
    margin = found.margin
    for row in range(len(found.values)):
        told = {
            "base": _one(found.base),
            "contributions": {name: _one(found.values[row, k]) for k, name in enumerate(names)},
            "margin": _one(margin[row]),
        }
        if found.errors is not None:
            told["standard_errors"] = {name: _one(found.errors[row, k]) for k, name in enumerate(names)}
        body["rows"].append(told)
    return body


def _one(values: np.ndarray) -> Any:
    """Return a number, or a list for a model with several outputs; what is no number is null."""
    found = [None if math.isnan(value) else value for value in values.tolist()]
    return found[0] if len(found) == 1 else found
