"""The gateway: a raw ASGI application that serves one routing table at a time.

The surprise: V2 inference of a known model is one dictionary look-up away from its plan; everything else goes through
`handlers`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from flyball.errors import BadRequest, FlyballError, Unavailable
from flyball.features.ports import OnlineStore
from flyball.features.spec import FeatureService
from flyball.rollout.routing import RoutingTable
from flyball.serving import asgi
from flyball.serving.access import AccessFile
from flyball.serving.answer import Answerer
from flyball.serving.asgi import Receive, Response, Scope, Send, error_response, read_body, send_response
from flyball.serving.handlers import Handlers
from flyball.serving.ids import IdMaker
from flyball.serving.log import LogWriter
from flyball.serving.mapclock import MapClock
from flyball.serving.models import ModelCache
from flyball.serving.plan import Arm, ModelPlan, Reader
from flyball.serving.protocol import Call, encode_infer, parse_infer
from flyball.serving.request import Answer
from flyball.serving.shadow import Shadows
from flyball.serving.slots import SharedMap
from flyball.serving.swap import Tables

__all__ = ["Gateway", "Push"]

log = logging.getLogger("flyball.serving")
Push = Callable[[str, list[dict[str, Any]]], Awaitable[dict[str, Any]]]


class Gateway:
    """Serve predictions of the models in a routing table.

    Args:
        models: Loads versions.
        shared: The node's shared map; `SharedMap.in_memory()` when there is no node.
        slot: This worker's slot in it.
        store: The online store, needed when a model reads feature views.
        log: The prediction log; None writes none.
        key: What callers must send, None for no authentication. Health is always open.
        max_body: Largest body in bytes.
        measures: Returns the metrics of processes without a port, which `/metrics` appends.
        push: Forwards rows of a source to ingest and returns its acknowledgement.
        access: Keys with roles and what these may read and write; None knows only `key`.
        read_with: Makes the reader of a feature service; the default is `features.online.OnlineReader` on `store`.
        store_name: Which store that is, for the metrics.
    """

    def __init__(
        self,
        models: ModelCache,
        *,
        shared: SharedMap | None = None,
        slot: int = 0,
        store: OnlineStore | None = None,
        log: LogWriter | None = None,
        key: bytes | None = None,
        max_body: int = 8_000_000,
        push: Push | None = None,
        read_with: Callable[[FeatureService], Reader] | None = None,
        measures: Callable[[], bytes] = bytes,
        store_name: str = "lmdb",
        access: AccessFile | None = None,
    ) -> None:
        self.shared = shared or SharedMap.in_memory()
        self.slot = self.shared.slot(slot)
        self.clock = MapClock(self.shared)
        self.log = log
        self.push = push
        self.measures = measures
        self._store = store
        self._key = key
        self._access = access
        self.max_body = max_body
        self.draining = False
        self._generation = self.slot.claim()
        self.slot.name_store(store_name)
        if log is not None:
            log.attach(self.slot)
        self.tables = Tables(models, shared=self.shared, slot=self.slot, read_with=read_with or self._online_reader)
        remote = bool(getattr(store, "remote", False))
        self._shadows = Shadows(self.slot, log, remote=remote)
        self._answerer = Answerer(
            shared=self.shared,
            slot=self.slot,
            log=log,
            ids=IdMaker(slot, self._generation << 10 | time.time_ns() & 1023),
            shadows=self._shadows,
            vetoed=self.tables.veto,
            remote=remote,
        )
        self._handlers = Handlers(self)

    # -- ASGI ---------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event."""
        if scope["type"] != "http":
            await _other(scope, receive, send)
            return
        started = time.perf_counter_ns()
        response: Response
        try:
            found = self.tables.infer.get(scope["path"])
            if found is not None and scope["method"] == "POST":
                self.check_key(scope)
                self.check_read(scope, found[0])
                body = await read_body(scope, receive, self.max_body)
                response = await self._infer_v2(found, body, started)
            else:
                response = await self._handlers.handle(scope, receive, started)
        except FlyballError as error:
            response = error_response(error)
        except Exception as error:
            log.exception("request failed", extra={"path": scope["path"]})
            response = error_response(error)
        await send_response(send, response)
        if response.after is not None:
            response.after()

    def check_key(self, scope: Scope) -> None:
        """Raise BadRequest (401) unless the caller sent a key; what its role is goes into the scope."""
        if self._access is not None:
            scope["flyball.role"] = self._access.current.role(asgi.key_of(scope), self._key)
        elif self._key is not None and not asgi.allowed(scope, self._key):
            raise BadRequest("the key is missing or wrong; send it as Authorization: Bearer KEY or X-API-Key: KEY", 401)

    def check_read(self, scope: Scope, plan: ModelPlan) -> None:
        """Raise BadRequest (403) unless the caller's role may read the views of all versions that may answer."""
        role = scope.get("flyball.role")
        if role is not None and self._access is not None:
            arms = (plan.champion, plan.candidate, *plan.pinned.values())
            views = {view.name for arm in arms if arm is not None for view in arm.loaded.service.views}
            self._access.current.require_read(role, views)

    def check_write(self, scope: Scope, source: str) -> None:
        """Raise BadRequest (403) unless the caller's role may push to a source."""
        role = scope.get("flyball.role")
        if role is not None and self._access is not None:
            self._access.current.require_write(role, source)

    async def predict(self, plan: ModelPlan, call: Call, started: int, pinned: Arm | None = None) -> Answer:
        """Answer validated rows; the caller offers `Answer.jobs` to `mirror` once the answer is sent."""
        return await self._answerer.answer(plan, call, started, pinned=pinned)

    def after(self, answer: Answer) -> Callable[[], None] | None:
        """Return what is to run after the answer is sent."""
        jobs = answer.jobs
        return None if jobs is None else lambda: self._shadows.offer(jobs)

    async def _infer_v2(self, found: tuple[ModelPlan, Arm | None], body: bytes, started: int) -> Response:
        plan, pinned = found
        call = parse_infer(body, plan.inputs)
        answer = await self._answerer.answer(plan, call, started, pinned=pinned)
        encoded = encode_infer(
            plan.route.model, answer.version, answer.id, plan.table, answer.values, id=call.id,
            versions=answer.versions, features=answer.features,
        )  # fmt: skip
        return Response(encoded, after=self.after(answer))

    # -- tables -------------------------------------------------------------------------------------------------------

    @property
    def table(self) -> RoutingTable | None:
        """The routing table in force, None before the first."""
        return self.tables.table

    @property
    def plans(self) -> dict[str, ModelPlan]:
        """The plans of the table in force, by model."""
        return self.tables.plans

    async def swap(self, table: RoutingTable) -> None:
        """Serve `table` from now on; see `Tables.swap`."""
        await self.tables.swap(table)

    async def watch(self, read_table: Callable[[int], RoutingTable], *, interval: float = 0.02) -> None:
        """Follow the shared map for ever; see `Tables.watch`."""
        await self.tables.watch(read_table, interval=interval)

    def drain(self) -> None:
        """Say at readiness that this worker leaves; what comes is answered as before."""
        self.draining = True

    async def close(self, *, drain: float = 5.0) -> None:
        """Finish shadow rows (for at most `drain` seconds), write the log, unload, leave the slot."""
        try:
            async with asyncio.timeout(drain):
                await self._shadows.idle()
        except TimeoutError:
            log.warning("shadow rows dropped at the end", extra={"rows": self._shadows.waiting})
        self.tables.close()
        aclose = getattr(self._store, "aclose", None)
        if aclose is not None:
            await aclose()
        if self.log is not None:
            self.log.close()
        self.slot.release()

    def _online_reader(self, service: FeatureService) -> Reader:
        from flyball.features.online import OnlineReader

        if self._store is None and service.views:
            raise Unavailable(
                f"model {service.model} reads {service.views[0].name}, but the gateway has no online store"
            )
        return OnlineReader(cast("OnlineStore", self._store), service)  # without views it asks no store


async def _other(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer lifespan events, refuse web sockets."""
    if scope["type"] != "lifespan":
        await send({"type": "websocket.close", "code": 1003})
        return
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
