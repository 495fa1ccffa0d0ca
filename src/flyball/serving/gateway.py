"""The gateway: a raw ASGI application that serves one routing table at a time.

The surprise: V2 inference of a known model is one dictionary look-up away from its plan; everything else goes through
`handlers`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from flyball.errors import BadRequest, FlyballError, Unavailable, nearest
from flyball.features.ports import OnlineStore
from flyball.features.spec import FeatureService
from flyball.rollout.routing import RoutingTable, VersionRef
from flyball.serving.contributions.asking import ExplainHost, Explanations
from flyball.serving.flow.answer import Answerer
from flyball.serving.flow.cache import AnswerCache
from flyball.serving.flow.request import Answer
from flyball.serving.flow.shadow import Shadows
from flyball.serving.http.access import AccessFile
from flyball.serving.http.accesslog import template
from flyball.serving.http.asgi import Message, Receive, Response, Scope, Send, error_response, read_body, send_response
from flyball.serving.http.front import Front, key_sent
from flyball.serving.http.handlers import Handlers
from flyball.serving.http.idempotency import Replays
from flyball.serving.http.rendering import INFER_TYPES, LARGE, apart, check_depth, check_rows, infer_response, no_rows
from flyball.serving.http.testers import asked_arm
from flyball.serving.log.ids import IdMaker, keyed_id
from flyball.serving.log.writer import LogWriter
from flyball.serving.models.loading import ModelCache
from flyball.serving.protocol import Call, parse_infer
from flyball.serving.routing.plan import Arm, ModelPlan, Reader
from flyball.serving.routing.swap import Tables
from flyball.serving.shared.mapclock import MapClock
from flyball.serving.shared.slots import SharedMap

if TYPE_CHECKING:
    from flyball.rollout.routing import Protection
    from flyball.serving.log.personal import PersonalKeys, Protector

__all__ = ["Gateway", "Push", "Repository"]

log = logging.getLogger("flyball.serving")
Push = Callable[[str, list[dict[str, Any]]], Awaitable[dict[str, Any]]]
Repository = Callable[[str, str, str], Awaitable[dict[str, Any]]]


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
        personal: Loads the keys by which personal fields are hashed and encrypted in the log.
        front: Who may call, how often, and what is noted about it; made of `key` and `access` by default.
        read_with: Makes the reader of a feature service; the default is `features.online.OnlineReader` on `store`.
        store_name: Which store that is, for the metrics.
        max_rows: Rows of one request, 0 for no limit; a model's own limit goes before it.
        max_depth: Levels of JSON in the bodies that hold rows.
        repository: Has control take a model ("load") or leave it out ("unload"); called with (action, model, who).
        settings: What `/model_info` shows of the server's settings; no secrets.
        max_waiting: Requests under way before more are refused.
        cache_memory: Bytes of answers that are kept for models that ask for it.
        explainers: Connects to what explains a version; without it nothing is explained.
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
        max_rows: int = 0,
        max_depth: int = 32,
        repository: Repository | None = None,
        settings: Mapping[str, Any] | None = None,
        front: Front | None = None,
        personal: Callable[[], PersonalKeys] | None = None,
        max_waiting: int = 4_096,
        cache_memory: int = 64_000_000,
        explainers: Callable[[VersionRef], ExplainHost] | None = None,
    ) -> None:
        self.shared = shared or SharedMap.in_memory()
        self.slot = self.shared.slot(slot)
        self.clock = MapClock(self.shared)
        self.log = log
        self.push = push
        self.measures = measures
        self._store = store
        self.front = front or Front(key=key, access=access)
        self.front.slot = self.slot
        self.max_body = max_body
        self.max_rows = max_rows
        self.max_depth = max_depth
        self.repository = repository
        self.settings = dict(settings or {})
        self.draining = False
        self._generation = self.slot.claim()
        self.slot.name_store(store_name)
        if log is not None:
            log.attach(self.slot)
        self.tables = Tables(
            models,
            shared=self.shared,
            slot=self.slot,
            read_with=read_with or self._online_reader,
            logged=None if log is None else log.folder,
        )
        self.explanations = Explanations(explainers)
        remote = self.remote = bool(getattr(store, "remote", False))
        self._personal = personal
        self.tables.protector = self.protector
        self._shadows = Shadows(self.slot, log, remote=remote)
        self._answerer = Answerer(
            shared=self.shared,
            slot=self.slot,
            log=log,
            ids=IdMaker(slot, self._generation << 10 | time.time_ns() & 1023),
            shadows=self._shadows,
            vetoed=self.tables.veto,
            remote=remote,
            max_waiting=max_waiting,
            cache=AnswerCache(cache_memory, slot=self.slot) if cache_memory > 0 else None,
        )
        self._replays = Replays()
        self._handlers = Handlers(self)

    # -- ASGI ---------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event."""
        if scope["type"] != "http":
            await _other(scope, receive, send)
            return
        response = await self.respond(scope, receive)
        await send_response(send, response)
        if response.after is not None:
            response.after()

    def takes(self, url: bytes) -> bool:
        """Whether a POST to this URL is inference of a known model, which `respond` answers from its body alone."""
        return url.decode("latin-1") in self.tables.infer and not self.remote

    async def respond(self, scope: Scope, arrives: Receive | bytes) -> Response:
        """Return the answer to a request, whose body is here or has to be received; `after` is the caller's to run.

        It raises nothing but CancelledError.
        """
        started = time.perf_counter_ns()
        response: Response
        front = self.front
        try:
            met = front.enter(scope)
            found = self.tables.infer.get(scope["path"])
            if met is not None:
                response = met
            elif found is not None and scope["method"] == "POST":
                self.check_key(scope)
                self.check_read(scope, found[0])
                body = await read_body(scope, arrives, self.max_body, INFER_TYPES)
                response = await self.infer_v2(found, scope, body, started)
            else:
                response = await self._handlers.handle(scope, _receiver(arrives), started)
        except FlyballError as error:
            response = error_response(error)
        except Exception as error:
            log.exception("request failed", extra={"path": template(scope["path"])})
            response = error_response(error)
        if not front.quiet(scope, response.status):
            front.leave(scope, response, started)
        return response

    def check_key(self, scope: Scope) -> None:
        """Raise BadRequest (401, 429) unless the caller sent a key that may call now; see `Front.check_key`."""
        self.front.check_key(scope)

    def check_model(self, scope: Scope, model: str) -> None:
        """Raise BadRequest (403) unless the caller's key is for the model; asked before `named` loads it."""
        self.front.check_model(scope, model)

    def check_read(self, scope: Scope, plan: ModelPlan) -> None:
        """Raise BadRequest (403) unless the caller may ask the model and read the views of all its versions."""
        if "flyball.grant" in scope:
            self.front.check_read(scope, plan.route.model, lambda: _views(plan))

    def check_write(self, scope: Scope, source: str) -> None:
        """Raise BadRequest (403) unless the caller's role may push to a source."""
        self.front.check_write(scope, source)

    async def predict(self, plan: ModelPlan, call: Call, started: int, pinned: Arm | None = None) -> Answer:
        """Answer validated rows; the caller offers `Answer.jobs` to `mirror` once the answer is sent."""
        return await self._answerer.answer(plan, call, started, pinned=pinned)

    def after(self, answer: Answer) -> Callable[[], None] | None:
        """Return what is to run after the answer is sent."""
        jobs = answer.jobs
        return None if jobs is None else lambda: self._shadows.offer(jobs)

    async def infer_v2(self, found: tuple[ModelPlan, Arm | None], scope: Scope, body: bytes, started: int) -> Response:
        """Answer a V2 inference request for (plan, the version asked for by name or None)."""
        if "flyball.idempotency" in scope:
            pid = self.keyed(scope, body)
            return await self.once(scope, body, lambda: self._infer(found, scope, body, started, pid))
        return await self._infer(found, scope, body, started)

    def keyed(self, scope: Scope, body: bytes, part: int = 0) -> str:
        """Return the prediction id that every worker gives this request: of its caller, key, path and body."""
        key = scope["flyball.idempotency"]
        return keyed_id(scope["path"].encode(), key_sent(scope), key, body, b"%d" % part)

    async def once(self, scope: Scope, body: bytes, make: Callable[[], Awaitable[Response]]) -> Response:
        """Return what `make` answers, or what was answered when the same caller sent this Idempotency-Key before."""
        place = scope["path"].encode() + b"\0" + key_sent(scope)
        return await self._replays.once(scope["flyball.idempotency"], body, make, scope=place)

    async def _infer(
        self, found: tuple[ModelPlan, Arm | None], scope: Scope, body: bytes, started: int, pid: str = ""
    ) -> Response:
        plan, pinned = found
        if len(body) > LARGE:  # reading it takes long enough for others to notice
            call = await apart(parse_infer, body, plan.inputs, scope["headers"])
        else:
            call = parse_infer(body, plan.inputs, scope["headers"])
        if pid:
            call.pid = pid
        if call.n != 1:
            check_rows(plan, call.n, self.max_rows)
            if call.n == 0:
                return infer_response(plan, call, no_rows(plan, pinned.version if pinned else ""))
        if call.attributes is not None:
            check_depth(call.attributes, self.max_depth)
        if plan.testers:
            call.wish = asked_arm(scope, plan)
        answer = await self._answerer.answer(plan, call, started, pinned=pinned)
        return infer_response(plan, call, answer, self.after(answer))

    async def named(self, model: str, version: str | None = None) -> tuple[ModelPlan, Arm | None]:
        """Return a model's plan, loading it when it is asleep, and the arm of a version asked for by name.

        Raises:
            BadRequest: 404, the model or the version is not served; the sentence names what is.
            Unavailable: the model was taken out of service, or cannot be loaded.
        """
        try:
            plan = await self.tables.plan(model)
        except KeyError:
            raise _unknown_model(model, self.table) from None
        if version is None:
            return plan, None
        if version not in plan.pinned:
            known = ", ".join(sorted(plan.pinned))
            raise BadRequest(f"version {version!r:.80} of {model} is not served; these are: {known}", 404)
        return plan, plan.pinned[version]

    # -- tables -------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether requests may come: the table in force is served, or there is none yet, and the worker stays.

        A worker whose batcher broke is not ready until a turn of it succeeds.
        """
        if self.draining or any(plan.champion.loaded.batcher.broken for plan in self.plans.values()):
            return False
        return self.table is not None or self.shared.table_version == 0

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
        self.explanations.close()
        aclose = getattr(self._store, "aclose", None)
        if aclose is not None:
            await aclose()
        if self.log is not None:
            self.log.close()
        self.front.close()
        self.slot.release()

    def protector(self, personal: Mapping[str, Protection]) -> Protector:
        """Return what keeps personal fields out of the log; without keys of a project, hashes mean nothing later."""
        from flyball.serving.log.personal import PersonalKeys, Protector

        keys = PersonalKeys(secrets.token_bytes(32)) if self._personal is None else self._personal()
        return Protector(personal, keys)

    def _online_reader(self, service: FeatureService) -> Reader:
        from flyball.features.online import OnlineReader

        if self._store is None and service.views:
            raise Unavailable(
                f"model {service.model} reads {service.views[0].name}, but the gateway has no online store"
            )
        return OnlineReader(cast("OnlineStore", self._store), service)  # without views it asks no store


def _views(plan: ModelPlan) -> set[str]:
    """Return the views of all versions that may answer."""
    arms = (plan.champion, *plan.arms.values(), *plan.pinned.values())
    return {view.name for arm in arms for view in arm.loaded.service.views}


def _receiver(arrives: Receive | bytes) -> Receive:
    """Return what a body that is here is received with: a table may have left the model out since it was known."""
    if not isinstance(arrives, bytes):
        return arrives
    message = {"type": "http.request", "body": arrives, "more_body": False}

    async def receive() -> Message:
        return message

    return receive


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


def _unknown_model(model: str, table: RoutingTable | None) -> BadRequest:
    models = table.models if table else {}
    close = nearest(model, models)
    known = ", ".join(sorted(models)) if len(models) <= 20 else f"{len(models)} models"
    hint = f"did you mean {' or '.join(close)}?" if close else f"served: {known or 'none'}."
    return BadRequest(f"no model named {model!r:.200} is served; {hint}", 404)
