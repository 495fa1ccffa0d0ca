"""Which routing table a worker serves: load, warm, examine, admit, exchange, drain.

`swap` prepares what a new table needs, exchanges all plans between two requests, and only then lets go of what nobody
uses any more; no request sees half a table. The surprise: a candidate that cannot be prepared does not stop the swap.
The worker then serves the new table without that arm's traffic and says so in its slot, because a rollback must never
wait for the version it takes away. A champion that cannot be prepared does: the former table goes on being served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flyball.errors import FlyballError, Refused, Unavailable
from flyball.features.spec import FeatureService
from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef
from flyball.serving.models.loading import Loaded, ModelCache, Watched
from flyball.serving.routing.plan import Arm, ModelPlan, Reader, make_plan
from flyball.serving.routing.vetoes import Vetoes
from flyball.serving.routing.warming import TooSlow, Unlike, examine, logged_rows
from flyball.serving.shared.slots import Counter, SharedMap, Slot, VetoReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flyball.rollout.routing import Protection
    from flyball.serving.log.personal import Protector

__all__ = ["Tables"]

log = logging.getLogger("flyball.serving")
_PATIENCE = 20.0  # seconds a champion's host may take to answer for the first time
_AT_ONCE = 0.25  # seconds any other host is waited for; later its traffic is given when it answers
_SWAP_AGAIN = 0.5  # seconds before a failed swap is tried again
_DRAIN = 10.0  # seconds beyond a request's deadline
_BREATH = 16  # plans made in a row before requests get their turn
Reasons = dict[tuple[str, str], VetoReason]  # by model and arm


class Tables:
    """Keep the plans of the table in force.

    `table` and `plans` (by model) are what requests read; `infer` maps paths of V2 inference to (plan, pinned arm).
    Models of the table that are in neither are asleep: their versions are loaded by the first request (`plan`).

    Args:
        models: Loads versions.
        shared: The node's shared map.
        slot: This worker's slot in it.
        read_with: Makes the reader of a feature service.
        logged: Folder of this worker's log segments, for rows to warm new versions with.
    """

    def __init__(
        self,
        models: ModelCache,
        *,
        shared: SharedMap,
        slot: Slot,
        read_with: Callable[[FeatureService], Reader],
        logged: Path | None = None,
    ) -> None:
        self.table: RoutingTable | None = None
        self.protector: Callable[[Mapping[str, Protection]], Protector] | None = None  # of what the log must not hold
        self.plans: dict[str, ModelPlan] = {}
        self.infer: dict[str, tuple[ModelPlan, Arm | None]] = {}
        self._models = models
        self._shared = shared
        self._slot = slot
        self._read_with = read_with
        self._logged = logged
        self._known: set[tuple[str, bool]] = set()
        self._waking: dict[str, asyncio.Task[ModelPlan]] = {}
        self._successor = shared.table_version != 0  # began under a table, so there is no former one to go on with
        self.vetoes = Vetoes(slot, lambda plan: self.plans.get(plan.route.model) is plan)
        models.on_evict = self._evicted

    # -- a new table --------------------------------------------------------------------------------------------------

    async def swap(self, table: RoutingTable) -> None:
        """Serve `table` from now on, acknowledge it, and release what only older tables used.

        Raises:
            FlyballError: a champion cannot be loaded or did not pass its examination; the table served so far stays,
                and the slot says that this one is refused.
        """
        try:
            plans, reasons = await self._prepare(table)
        except FlyballError as error:
            if not self._successor:
                self._slot.refuse(table.version, _reason(error))
                self._slot.add(Counter.SWAPS_REFUSED)
            raise
        old = list(self.plans.values())
        self._exchange(table, plans, reasons)
        await self._drained(old)
        kept = list(_refs(self.table or table))
        self._models.retain(kept)
        self._known &= {(ref.digest, ref.trusted) for ref in kept}  # what comes back is examined again

    async def _prepare(self, table: RoutingTable) -> tuple[dict[str, ModelPlan], Reasons]:
        plans: dict[str, ModelPlan] = {}
        reasons: Reasons = {}
        watched = [ref for route in table.models.values() if _is_watched(route) for ref in _refs_of(route)]
        eager = self._models.eager([r.champion for r in table.models.values() if not r.unloaded])
        awake = {ref.digest for ref in eager}
        self._models.pin([*watched, *(plan.champion.loaded.ref for plan in self.plans.values() if plan.inflight)])
        for n, route in enumerate(table.models.values()):
            if route.unloaded or not (route.champion.digest in awake or _is_watched(route) or self._is_change(route)):
                continue
            plans[route.model] = await self._plan(route, table.version, reasons)
            if n % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)
        for model in [m for m, plan in plans.items() if self._models.resident(plan.champion.loaded.ref) is None]:
            del plans[model]  # let go for memory while others were loaded: it sleeps
        return plans, reasons

    def _is_change(self, route: ModelRoute) -> bool:
        """Return whether a model gets another champion than it has, which must be seen to serve before it may."""
        before = self.table.models.get(route.model) if self.table is not None else None
        return self.table is not None and (before is None or before.champion.digest != route.champion.digest)

    async def _plan(self, route: ModelRoute, version: int, reasons: Reasons) -> ModelPlan:
        champion = await self._champion(route)
        rivals: dict[str, Loaded] = {}
        for name, ref in _rivals(route).items():
            loaded, reason = await self._rival(route, ref)
            if loaded is not None:
                rivals[name] = loaded
            if reason is not None:
                reasons[route.model, name] = reason
        warm = await self._warm(route)
        candidate = rivals.pop("candidate", None)
        plan = make_plan(route, version, champion, candidate, warm, self._read_with, variants=rivals)
        if route.serving.personal and self.protector is not None:
            plan.protect = self.protector(route.serving.personal)
        return plan

    async def _champion(self, route: ModelRoute) -> Loaded:
        loaded = await self._bring(route, route.champion)
        if not route.champion.trusted and self._is_new(route.champion):
            await loaded.probe(patience=_PATIENCE)
        await self._examine(route, loaded)
        return loaded

    async def _rival(self, route: ModelRoute, ref: VersionRef) -> tuple[Loaded | None, VetoReason | None]:
        """Return another arm's version, and why it gets no traffic for now."""
        loaded: Loaded | None = None
        try:
            loaded = await self._bring(route, ref)
            if ref.trusted:
                await self._examine(route, loaded)
            elif self._is_new(ref):  # in a host it hurts nobody: what it answers is evidence, and judged as such
                await loaded.probe(patience=_AT_ONCE)
                self._known.add((ref.digest, ref.trusted))
        except Exception as error:  # whatever is wrong with it: the table must not wait for it
            log.error("version not ready", extra={"version": ref.version, "cause": str(error)})
            gone = loaded is not None and isinstance(error, Unavailable)
            return loaded, VetoReason.STARTING if gone else _reason(error)
        return loaded, None

    async def _bring(self, route: ModelRoute, ref: VersionRef) -> Loaded:
        """Return a version; one that is not loaded must fit beside what serves its model now."""
        found = self._models.resident(ref)
        if found is None:
            plan = self.plans.get(route.model)
            self._models.admit(ref, beside=() if plan is None else [arm.loaded.ref for arm in plan.arms.values()])
            found = await self._models.get(ref)
        return found

    def _is_new(self, ref: VersionRef) -> bool:
        return (ref.digest, ref.trusted) not in self._known

    async def _examine(self, route: ModelRoute, loaded: Loaded) -> None:
        """Warm a version that this worker has not served yet, and see that it answers as registered and in time."""
        if self._is_new(loaded.ref):
            rows = await asyncio.to_thread(self._rows, route.model, loaded) if self.plans.get(route.model) else None
            await examine(loaded, rows, deadline=route.deadline)
            self._known.add((loaded.ref.digest, loaded.ref.trusted))

    def _rows(self, model: str, loaded: Loaded) -> np.ndarray | None:
        plan = self.plans.get(model)
        if self._logged is None or plan is None:
            return None
        names = {arm.version: arm.loaded.service.names for arm in plan.arms.values()}
        return logged_rows(self._logged, model, names, loaded)

    async def _warm(self, route: ModelRoute) -> list[Loaded]:
        loaded = []
        for ref in route.warm:
            try:
                loaded.append(await self._bring(route, ref))
            except FlyballError as error:
                log.warning("warm version not loaded", extra={"version": ref.version, "cause": str(error)})
        return loaded

    def _exchange(self, table: RoutingTable, plans: dict[str, ModelPlan], reasons: Reasons) -> None:
        """Put everything new in force; no await in here, so no request is between two tables."""
        before = self.plans
        self.table, self.plans, self.infer = table, plans, {}
        self._successor = False
        for plan in plans.values():
            self._open(plan)
            self._follow_control(plan, before.get(plan.route.model))
        self.vetoes.begin(plans.values(), reasons)
        self._slot.add(Counter.SWAPS)
        self._slot.acknowledge(table.version)

    def _open(self, plan: ModelPlan) -> None:
        model = plan.route.model
        self.infer[f"/v2/models/{model}/infer"] = plan, None
        for version, arm in plan.pinned.items():
            self.infer[f"/v2/models/{model}/versions/{version}/infer"] = plan, arm
            arm.loaded.batcher.slot = self._slot  # where it counts its batches
            self._listen(arm.loaded)

    def _listen(self, loaded: Loaded) -> None:
        """Hear of a host's death when it dies, not when the next request meets it."""
        if isinstance(loaded.host, Watched):
            loaded.host.when_lost(lambda: self._lost(loaded))

    def _lost(self, loaded: Loaded) -> None:
        """Take the traffic of every arm in force that this host answered; a champion has nobody to give it to."""
        for plan in self.plans.values():
            for arm in (*plan.arms.values(), plan.control):
                if arm is not None and arm is not plan.champion and arm.loaded is loaded:
                    self.veto(plan, VetoReason.HOST_GONE, arm)

    def _follow_control(self, plan: ModelPlan, before: ModelPlan | None) -> None:
        """Bring the hosted copy for the control cohort; the one of the former table goes on at once."""
        route = plan.route
        if not route.control_hosted or not route.champion.trusted:
            return
        ref = replace(route.champion, trusted=False)
        known = before.control if before is not None else None
        if known is not None and known.loaded.ref == ref:
            plan.control = replace(plan.champion, loaded=known.loaded)
        else:
            self.vetoes.follow_control(plan, lambda: self._hosted(ref))

    async def _hosted(self, ref: VersionRef) -> Loaded:
        loaded = await self._models.get(ref)
        self._listen(loaded)
        return loaded

    async def _drained(self, old: list[ModelPlan]) -> None:
        until = time.monotonic() + _DRAIN + max((p.route.deadline for p in old), default=0.0)
        while any(plan.inflight for plan in old) and time.monotonic() < until:
            await asyncio.sleep(0.005)

    # -- models that are asleep ---------------------------------------------------------------------------------------

    async def plan(self, model: str) -> ModelPlan:
        """Return the plan of a model, loading it when it is asleep; callers that come meanwhile wait for the same load.

        Raises:
            KeyError: the table has no such model.
            Unavailable: the model was taken out of service, or cannot be loaded.
        """
        found = self.plans.get(model)
        if found is not None:
            return found
        route = (self.table or _NOTHING).models[model]
        if route.unloaded:
            raise Unavailable(
                f"model {model} was taken out of service; bring it back with POST /v2/repository/models/{model}/load"
            )
        task = self._waking.get(model)
        if task is None:
            task = self._waking[model] = asyncio.create_task(self._wake(route))
            task.add_done_callback(lambda done: self._woken(model, done))
        try:
            async with asyncio.timeout(route.deadline):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise Unavailable(f"model {model} is being loaded; send the request again in a moment") from error

    async def _wake(self, route: ModelRoute) -> ModelPlan:
        table = self.table
        try:
            plan = await self._plan(route, table.version if table else 0, {})
        except FlyballError as error:
            raise Unavailable(f"model {route.model} cannot be loaded: {error}") from error
        if self.table is table:
            self.plans[route.model] = plan
            self._open(plan)
        return plan

    def _woken(self, model: str, done: asyncio.Task[ModelPlan]) -> None:
        self._waking.pop(model, None)
        if not done.cancelled() and done.exception() is not None:
            log.error("model not loaded", extra={"model": model, "cause": str(done.exception())})

    def _evicted(self, ref: VersionRef) -> None:
        """Put models to sleep whose champion was let go for memory; requests under way finish on it."""
        for model, plan in list(self.plans.items()):
            if plan.champion.loaded.ref.digest == ref.digest:
                del self.plans[model]
                for path in [p for p, (found, _) in self.infer.items() if found is plan]:
                    del self.infer[path]

    # -- following the node -------------------------------------------------------------------------------------------

    async def watch(self, read_table: Callable[[int], RoutingTable], *, interval: float = 0.02) -> None:
        """Follow the shared map for ever: beat, and swap when another table is wanted; a newer one ends a slow swap."""
        swapping: asyncio.Task[None] | None = None
        target, again = 0, 0.0
        try:
            while True:
                self._slot.beat()
                wanted = self._shared.table_version
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

    async def _follow(self, read_table: Callable[[int], RoutingTable], version: int) -> None:
        await self.swap(read_table(version))

    def veto(self, plan: ModelPlan, reason: VetoReason, arm: Arm) -> None:
        """Take an arm's traffic away in this worker, now; of the control cohort's copy, only the copy."""
        if arm is plan.control:
            ref = arm.loaded.ref
            self.vetoes.follow_control(plan, lambda: self._hosted(ref))
        elif arm is plan.arms.get(arm.name):  # else a copy that was taken away already
            self.vetoes.veto(plan, reason, arm.name)

    def close(self) -> None:
        """Stop asking after lost hosts, and unload everything."""
        self.vetoes.close()
        for task in self._waking.values():
            task.cancel()
        self._models.close()


_NOTHING = RoutingTable(0, 0, 0)


def _reason(error: Exception) -> VetoReason:
    match error:
        case Refused():
            return VetoReason.MEMORY
        case TooSlow():
            return VetoReason.SLOW
        case Unlike():
            return VetoReason.DIFFERENT
        case Unavailable():
            return VetoReason.HOST_GONE
        case _:
            return VetoReason.LOAD_FAILED


def _rivals(route: ModelRoute) -> dict[str, VersionRef]:
    """Return the versions of the other arms, by arm."""
    rivals = {variant.name: variant.version for variant in route.variants}
    return rivals if route.candidate is None else {"candidate": route.candidate, **rivals}


def _is_watched(route: ModelRoute) -> bool:
    """Return whether a comparison runs, so that nothing of it may be unloaded."""
    return bool(route.candidate or route.variants)


def _refs(table: RoutingTable) -> Iterable[VersionRef]:
    for route in table.models.values():
        if not route.unloaded:
            yield from _refs_of(route)


def _refs_of(route: ModelRoute) -> Iterable[VersionRef]:
    yield route.champion
    yield from _rivals(route).values()
    yield from route.warm
    if route.control_hosted:
        yield replace(route.champion, trusted=False)
