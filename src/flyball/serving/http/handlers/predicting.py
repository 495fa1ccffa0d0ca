"""Predictions in the short forms, and V2 inference that the gateway's look-up did not find.

The surprise: `/batch_predict` is many requests in a row, each with its own deadline and prediction id, and gives way to
other callers between two of them.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from flyball.errors import BadRequest, shown
from flyball.serving.flow.request import Answer
from flyball.serving.http.asgi import Response, Scope, json, read_body
from flyball.serving.http.handlers.ask import Ask, routes_of
from flyball.serving.http.rendering import INFER_TYPES, LARGE, apart, check_rows, labelled_of, no_rows, rows_response
from flyball.serving.http.testers import asked_arm
from flyball.serving.protocol import Call, decode_json, rows_call
from flyball.serving.routing.plan import ModelPlan

if TYPE_CHECKING:
    from flyball.serving.gateway import Gateway

__all__ = ["Predicting", "pieces"]

_BATCH = 256
_MOST = 4096  # rows of one batch


class Predicting:
    """Answer requests for predictions."""

    def __init__(self, gateway: Gateway) -> None:
        """Answer for `gateway`."""
        self._gateway = gateway

    async def infer(self, ask: Ask) -> Response:
        """Answer V2 inference of a model that is asleep, or whose path was written in another way."""
        gateway, names = self._gateway, ask.names
        gateway.check_model(ask.scope, names["model"])
        plan, pinned = await gateway.named(names["model"], names.get("version"))
        gateway.check_read(ask.scope, plan)
        body = await read_body(ask.scope, ask.receive, gateway.max_body, INFER_TYPES)
        return await gateway.infer_v2((plan, pinned), ask.scope, body, ask.started)

    async def predict(self, ask: Ask) -> Response:
        """Answer rows."""
        plan, call, _ = await self._rows(ask)
        if "flyball.idempotency" in ask.scope:
            body = ask.scope["flyball.body"]
            call.pid = self._gateway.keyed(ask.scope, body)
            return await self._gateway.once(ask.scope, body, lambda: self._one(ask, plan, call))
        return await self._one(ask, plan, call)

    async def _one(self, ask: Ask, plan: ModelPlan, call: Call) -> Response:
        gateway = self._gateway
        if call.n == 0:
            return rows_response(plan, call, no_rows(plan), ask.started)
        answer = await gateway.predict(plan, call, ask.started)
        return rows_response(plan, call, answer, ask.started, gateway.after(answer))

    async def batch_predict(self, ask: Ask) -> Response:
        """Answer many rows, a batch at a time."""
        plan, call, request = await self._rows(ask)
        size = request.get("batch_size", _BATCH) if "batch_size" not in plan.inputs else _BATCH
        if type(size) is not int or not 1 <= size <= _MOST:
            raise BadRequest(f"batch_size is {shown(size, 60)}; send a whole number from 1 to {_MOST}")
        if "flyball.idempotency" in ask.scope:
            body = ask.scope["flyball.body"]
            return await self._gateway.once(ask.scope, body, lambda: self._many(ask, plan, call, size))
        return await self._many(ask, plan, call, size)

    async def _many(self, ask: Ask, plan: ModelPlan, call: Call, size: int) -> Response:
        gateway = self._gateway
        answers: list[Answer] = []
        for part, piece in enumerate(pieces(call, size)):
            if "flyball.idempotency" in ask.scope:
                piece.pid = gateway.keyed(ask.scope, ask.scope["flyball.body"], part)
            answers.append(await gateway.predict(plan, piece, time.perf_counter_ns()))
            await asyncio.sleep(0)
        after = [run for run in map(gateway.after, answers) if run is not None]

        def run_all() -> None:
            for run in after:
                run()

        response = json(_together(plan, call, answers, time.perf_counter_ns() - ask.started))
        response.after = run_all if after else None
        return response

    async def _rows(self, ask: Ask) -> tuple[ModelPlan, Call, dict[str, Any]]:
        gateway = self._gateway
        body = await read_body(ask.scope, ask.receive, gateway.max_body)
        if "flyball.idempotency" in ask.scope:
            ask.scope["flyball.body"] = body
        depth = gateway.max_depth
        large = len(body) > LARGE
        found = await apart(partial(decode_json, body, depth=depth)) if large else decode_json(body, depth=depth)
        plan = await self._chosen(ask.scope, found)
        gateway.check_read(ask.scope, plan)
        given = (found.get("rows") or found.get("instances")) if isinstance(found, dict) else None
        if isinstance(given, list):
            check_rows(plan, len(given), gateway.max_rows)  # before a column is built
        call = await apart(rows_call, found, plan.inputs) if large else rows_call(found, plan.inputs)
        if plan.testers:
            call.wish = asked_arm(ask.scope, plan)
        return plan, call, found if isinstance(found, dict) else {}

    async def _chosen(self, scope: Scope, request: object) -> ModelPlan:
        """Return the plan of the model that a body names, or of the only one."""
        gateway = self._gateway
        routes = routes_of(gateway)
        name = request.get("model") if isinstance(request, dict) else None
        if isinstance(name, str) and (name in routes or len(routes) != 1):
            gateway.check_model(scope, name)
            return (await gateway.named(name))[0]
        if len(routes) == 1:
            gateway.check_model(scope, next(iter(routes)))
            plan, _ = await gateway.named(next(iter(routes)))
            if isinstance(request, dict) and "model" in request and "model" not in plan.inputs:
                return (await gateway.named(_name(name)))[0]
            return plan
        if isinstance(request, dict) and "model" in request:
            _name(name)
        if not isinstance(request, dict):
            raise BadRequest('the body is no object; send {"model": "NAME", "rows": [{...}, ...]} or one row\'s fields')
        known = ", ".join(sorted(routes)) or "none"
        raise BadRequest(f'several models are served ({known:.500}); name one as "model"' if routes else
                         "no model is served yet; promote a version first", 400)  # fmt: skip


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise BadRequest(
            f'"model" is {shown(value, 60)}; send a model\'s name, or leave it out where there is one model'
        )
    return value


def pieces(call: Call, size: int) -> list[Call]:
    """Return a request's rows as requests of at most `size` rows."""
    if call.n <= size:
        return [call] if call.n else []
    found = []
    for at in range(0, call.n, size):
        to = min(at + size, call.n)
        units, attributes = call.units, call.attributes
        found.append(
            Call(
                {name: column[at:to] for name, column in call.columns.items()},
                to - at,
                units=units[at:to] if isinstance(units, list) else units,
                attributes=attributes[at:to] if isinstance(attributes, list) else attributes,
                wish=call.wish,
            )
        )
    return found


def _together(plan: ModelPlan, call: Call, answers: list[Answer], spent: int) -> dict[str, Any]:
    labelled = [labelled_of(plan, answer) for answer in answers]
    versions = [v for a in answers for v in (a.versions or [a.version] * len(a.values))]
    body: dict[str, Any] = {
        "model": plan.route.model,
        "model_version": versions[0] if versions else plan.champion.version,
        "table_version": plan.table,
        "predictions": [
            v for a, named in zip(answers, labelled, strict=True) for v in (named.predictions if named else a.values)
        ],
        "count": call.n,
        "batches": len(answers),
        "rows_per_second": round(call.n / (spent / 1e9), 1),
        "latency_ms": round(spent / 1e6, 3),
        "prediction_ids": [a.id if k == 0 else f"{a.id}#{k}" for a in answers for k in range(len(a.values))],
    }
    known = [named for named in labelled if named is not None]
    if known and len(known) == len(answers):
        body["probabilities"] = [row for named in known for row in named.probabilities]
        body["classes"] = known[0].classes
    if len(set(versions)) > 1:
        body["model_versions"] = versions
    if state := next((a.features for a in answers if a.features), ""):
        body["features"] = state
    return body
