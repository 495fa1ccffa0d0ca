"""Which routing table a worker serves: load, warm, exchange, drain; and the worker's own veto.

`swap` loads and warms what a new table needs, exchanges all plans between two requests, and only then lets go of what
nobody uses any more; no request sees half a table. The surprise: loading a candidate can fail without stopping the
swap. The worker then serves the new table without candidate traffic and says so in its slot, because a rollback must
never wait for the version it takes away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flyball.errors import FlyballError
from flyball.features.spec import FeatureService
from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef
from flyball.serving.models import Loaded, ModelCache
from flyball.serving.plan import Arm, ModelPlan, Reader, make_plan
from flyball.serving.slots import Counter, SharedMap, Slot, VetoReason

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Tables"]

log = logging.getLogger("flyball.serving")
_PROBE_EVERY = 0.1  # seconds between two questions to a host that went away; doubled after each return
_PATIENCE = 20.0  # seconds a host may take to answer for the first time
_SWAP_AGAIN = 0.5  # seconds before a failed swap is tried again
_LIFTS = 3  # a host that came back this often is not trusted again by this worker
_DRAIN = 10.0  # seconds beyond a request's deadline
Identity = tuple[str, str | None, str]


class Tables:
    """Keep the plans of the table in force.

    `table` and `plans` (by model) are what requests read; `infer` maps paths of V2 inference to (plan, pinned arm).

    Args:
        models: Loads versions.
        shared: The node's shared map.
        slot: This worker's slot in it.
        read_with: Makes the reader of a feature service.
    """

    def __init__(
        self, models: ModelCache, *, shared: SharedMap, slot: Slot, read_with: Callable[[FeatureService], Reader]
    ) -> None:
        self.table: RoutingTable | None = None
        self.plans: dict[str, ModelPlan] = {}
        self.infer: dict[str, tuple[ModelPlan, Arm | None]] = {}
        self._models = models
        self._shared = shared
        self._slot = slot
        self._read_with = read_with
        self._vetoes: dict[Identity, VetoReason] = {}
        self._lifts: dict[Identity, int] = {}
        self._known: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

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

    def close(self) -> None:
        """Stop asking after lost hosts, and unload everything."""
        for task in self._tasks:
            task.cancel()
        self._models.close()

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
        self.infer = {}
        for model, plan in plans.items():
            self.infer[f"/v2/models/{model}/infer"] = plan, None
            for version, arm in plan.pinned.items():
                self.infer[f"/v2/models/{model}/versions/{version}/infer"] = plan, arm
        live = {plan.identity for plan in plans.values() if plan.candidate is not None}
        self._vetoes = {k: v for k, v in self._vetoes.items() if k in live}
        self._slot.clear_veto()
        for model, plan in plans.items():
            reason = reasons.get(model) or self._vetoes.get(plan.identity)
            if reason is not None:
                self.veto(plan, reason)
        self._slot.add(Counter.SWAPS)
        self._slot.acknowledge(table.version)

    async def _drained(self, old: list[ModelPlan]) -> None:
        until = time.monotonic() + _DRAIN + max((p.route.deadline for p in old), default=0.0)
        while any(plan.inflight for plan in old) and time.monotonic() < until:
            await asyncio.sleep(0.005)

    # -- veto ---------------------------------------------------------------------------------------------------------

    def veto(self, plan: ModelPlan, reason: VetoReason) -> None:
        """Take candidate traffic away in this worker, now."""
        if plan.vetoed:
            return
        plan.vetoed = True
        self._vetoes[plan.identity] = reason
        if self.plans.get(plan.route.model) is plan:
            self._slot.set_veto(plan.table, reason, plan.route.model)
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
                self._slot.clear_veto()
                log.info("veto lifted", extra={"model": plan.route.model, "table": plan.table})
            return


def _refs(table: RoutingTable) -> Iterable[VersionRef]:
    for route in table.models.values():
        yield route.champion
        if route.candidate is not None:
            yield route.candidate
        yield from route.warm
