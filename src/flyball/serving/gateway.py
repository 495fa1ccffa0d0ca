"""The gateway: a raw ASGI application that serves one routing table at a time.

`swap` loads and warms what a new table needs, exchanges all plans between two requests, and only then lets go of what
nobody uses any more; no request sees half a table. The surprise: loading a candidate can fail without stopping the
swap. The worker then serves the new table without candidate traffic and says so in its slot, because a rollback must
never wait for the version it takes away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from flyball.errors import BadRequest, FlyballError, Unavailable
from flyball.features.ports import OnlineStore
from flyball.features.spec import FeatureService
from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef
from flyball.serving import asgi
from flyball.serving.access import AccessFile
from flyball.serving.answer import Answer, Answerer
from flyball.serving.asgi import Receive, Response, Scope, Send, error_response, read_body, send_response
from flyball.serving.handlers import Handlers
from flyball.serving.ids import IdMaker
from flyball.serving.log import LogWriter
from flyball.serving.models import Loaded, ModelCache
from flyball.serving.plan import Arm, ModelPlan, Reader, make_plan
from flyball.serving.protocol import Call, encode_infer, parse_infer
from flyball.serving.shadow import Shadows
from flyball.serving.slots import MapClock, SharedMap, VetoReason

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Gateway", "Push"]

log = logging.getLogger("flyball.serving")
Push = Callable[[str, list[dict[str, Any]]], Awaitable[dict[str, Any]]]
_PROBE_EVERY = 0.1  # seconds between two questions to a host that went away; doubled after each return
_PATIENCE = 20.0  # seconds a host may take to answer for the first time
_SWAP_AGAIN = 0.5  # seconds before a failed swap is tried again
_LIFTS = 3  # a host that came back this often is not trusted again by this worker
_DRAIN = 10.0  # seconds beyond a request's deadline


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
        self.table: RoutingTable | None = None
        self.plans: dict[str, ModelPlan] = {}
        self._models = models
        self._store = store
        self._read_with = read_with or self._online_reader
        self._key = key
        self._access = access
        self.max_body = max_body
        self._generation = self.slot.claim()
        self.slot.name_store(store_name)
        if log is not None:
            log.attach(self.slot)
        remote = bool(getattr(store, "remote", False))
        self._shadows = Shadows(self.slot, log, remote=remote)
        self._answerer = Answerer(
            shared=self.shared,
            slot=self.slot,
            log=log,
            ids=IdMaker(slot, self._generation << 10 | time.time_ns() & 1023),
            shadows=self._shadows,
            vetoed=self._veto,
            remote=remote,
        )
        self._infer: dict[str, tuple[ModelPlan, Arm | None]] = {}
        self._vetoes: dict[tuple[str, str | None, str], VetoReason] = {}
        self._lifts: dict[tuple[str, str | None, str], int] = {}
        self._known: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
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
            found = self._infer.get(scope["path"])
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

    async def swap(self, table: RoutingTable) -> None:
        """Serve `table` from now on, acknowledge it, and release what only older tables used.

        Raises:
            FlyballError: a champion cannot be loaded; the table served so far stays.
        """
        plans: dict[str, ModelPlan] = {}
        reasons: dict[str, VetoReason] = {}
        for route in table.models.values():
            plans[route.model], reason = await self._plan(route, table.version)
            if reason is not None:
                reasons[route.model] = reason
        old = list(self.plans.values())
        self._exchange(table, plans, reasons)
        await self._drained(old)
        self._models.retain(_refs(table) if self.table is table else _refs(self.table or table))

    async def watch(self, read_table: Callable[[int], RoutingTable], *, interval: float = 0.02) -> None:
        """Follow the shared map for ever: beat, and swap when another table is wanted; a newer one ends a slow swap."""
        swapping: asyncio.Task[None] | None = None
        target, again = 0, 0.0
        try:
            while True:
                self.slot.beat()
                wanted = self.shared.table_version
                served = self.table.version if self.table else 0
                if swapping is not None and swapping.done():
                    if not swapping.cancelled() and swapping.exception() is not None:
                        log.error("swap failed", extra={"table": target, "cause": str(swapping.exception())})
                        again = time.monotonic() + _SWAP_AGAIN
                    swapping = None
                if swapping is not None and wanted != target:
                    swapping.cancel()
                    swapping = None
                if swapping is None and wanted not in (0, served) and (wanted != target or time.monotonic() >= again):
                    target = wanted
                    swapping = asyncio.create_task(self._follow(read_table, wanted))
                await asyncio.sleep(interval)
        finally:
            if swapping is not None:
                swapping.cancel()

    async def close(self, *, drain: float = 5.0) -> None:
        """Finish shadow rows (for at most `drain` seconds), write the log, unload, leave the slot."""
        try:
            async with asyncio.timeout(drain):
                await self._shadows.idle()
        except TimeoutError:
            log.warning("shadow rows dropped at the end", extra={"rows": self._shadows.waiting})
        for task in self._tasks:
            task.cancel()
        self._models.close()
        aclose = getattr(self._store, "aclose", None)
        if aclose is not None:
            await aclose()
        if self.log is not None:
            self.log.close()
        self.slot.release()

    async def _follow(self, read_table: Callable[[int], RoutingTable], version: int) -> None:
        await self.swap(read_table(version))

    async def _plan(self, route: ModelRoute, version: int) -> tuple[ModelPlan, VetoReason | None]:
        champion = await self._models.get(route.champion)
        if not route.champion.trusted and route.champion.digest not in self._known:
            await champion.probe(patience=_PATIENCE)
        self._known.add(route.champion.digest)
        candidate: Loaded | None = None
        reason: VetoReason | None = None
        if route.candidate is not None:
            try:
                candidate = await self._models.get(route.candidate)
                if route.candidate.digest not in self._known:
                    await candidate.probe(patience=_PATIENCE)
                self._known.add(route.candidate.digest)
            except FlyballError as error:
                log.error("candidate not ready", extra={"version": route.candidate.version, "cause": str(error)})
                reason = VetoReason.LOAD_FAILED if candidate is None else VetoReason.HOST_GONE
        warm = await self._warm(route)
        return make_plan(route, version, champion, candidate, warm, self._read_with), reason

    async def _warm(self, route: ModelRoute) -> list[Loaded]:
        loaded = []
        for ref in route.warm:
            try:
                loaded.append(await self._models.get(ref))
            except FlyballError as error:
                log.warning("warm version not loaded", extra={"version": ref.version, "cause": str(error)})
        return loaded

    def _exchange(self, table: RoutingTable, plans: dict[str, ModelPlan], reasons: dict[str, VetoReason]) -> None:
        """Put everything new in force; no await in here, so no request is between two tables."""
        self.table, self.plans = table, plans
        self._infer = {}
        for model, plan in plans.items():
            self._infer[f"/v2/models/{model}/infer"] = plan, None
            for version, arm in plan.pinned.items():
                self._infer[f"/v2/models/{model}/versions/{version}/infer"] = plan, arm
        live = {plan.identity for plan in plans.values() if plan.candidate is not None}
        self._vetoes = {k: v for k, v in self._vetoes.items() if k in live}
        self.slot.clear_veto()
        for model, plan in plans.items():
            reason = reasons.get(model) or self._vetoes.get(plan.identity)
            if reason is not None:
                self._veto(plan, reason)
        self.slot.acknowledge(table.version)

    async def _drained(self, old: list[ModelPlan]) -> None:
        until = time.monotonic() + _DRAIN + max((p.route.deadline for p in old), default=0.0)
        while any(plan.inflight for plan in old) and time.monotonic() < until:
            await asyncio.sleep(0.005)

    # -- veto ---------------------------------------------------------------------------------------------------------

    def _veto(self, plan: ModelPlan, reason: VetoReason) -> None:
        """Take candidate traffic away in this worker, now."""
        if plan.vetoed:
            return
        plan.vetoed = True
        self._vetoes[plan.identity] = reason
        if self.plans.get(plan.route.model) is plan:
            self.slot.set_veto(plan.table, reason, plan.route.model)
        log.warning("candidate vetoed", extra={"model": plan.route.model, "reason": reason.name, "table": plan.table})
        if reason is VetoReason.HOST_GONE and plan.candidate is not None:
            task = asyncio.get_running_loop().create_task(self._lift(plan, plan.candidate))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _lift(self, plan: ModelPlan, candidate: Arm) -> None:
        """Give the traffic back when the candidate's host answers again, a few times at most."""
        lifts = self._lifts.get(plan.identity, 0)
        if lifts >= _LIFTS:
            return
        while self.plans.get(plan.route.model) is plan:
            await asyncio.sleep(_PROBE_EVERY * 2**lifts)
            try:
                await candidate.loaded.probe(patience=1.0)
            except (FlyballError, OSError):
                continue
            if self.plans.get(plan.route.model) is plan:
                self._lifts[plan.identity] = lifts + 1
                self._vetoes.pop(plan.identity, None)
                plan.breaker.reset()
                plan.vetoed = False
                self.slot.clear_veto()
                log.info("veto lifted", extra={"model": plan.route.model, "table": plan.table})
            return

    def _online_reader(self, service: FeatureService) -> Reader:
        from flyball.features.online import OnlineReader

        if self._store is None and service.views:
            raise Unavailable(
                f"model {service.model} reads {service.views[0].name}, but the gateway has no online store"
            )
        return OnlineReader(cast("OnlineStore", self._store), service)  # without views it asks no store


def _refs(table: RoutingTable) -> Iterable[VersionRef]:
    for route in table.models.values():
        yield route.champion
        if route.candidate is not None:
            yield route.candidate
        yield from route.warm


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
