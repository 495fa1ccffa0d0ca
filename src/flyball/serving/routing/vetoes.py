"""A worker's own vetoes: which arms it gives no traffic, why, and when it gives it back.

The surprise: a host that is still starting is treated like one that went away. A table is never held up by it: the
arm's units get the champion until the host answers, which is asked ten times a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable

from flyball.errors import FlyballError
from flyball.serving.models.loading import Loaded
from flyball.serving.routing.plan import Arm, ModelPlan, control_arm
from flyball.serving.shared.slots import Slot, VetoReason

__all__ = ["Vetoes"]

log = logging.getLogger("flyball.serving")
_PROBE_EVERY = 0.1  # seconds between two questions to a host that went away; doubled after each return
_LIFTS = 3  # a host that came back this often is not trusted again by this worker
_AWAY = {VetoReason.HOST_GONE, VetoReason.STARTING}
Identity = tuple[str, str | None, str]


class Vetoes:
    """Remember vetoes over changes of the table, for as long as the arms they belong to are served.

    Args:
        slot: Where the candidates' vetoes are told.
        in_force: Whether a plan is the one that answers its model.
    """

    def __init__(self, slot: Slot, in_force: Callable[[ModelPlan], bool]) -> None:
        self._slot = slot
        self._in_force = in_force
        self._known: dict[Identity, VetoReason] = {}
        self._lifts: dict[Identity, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, plans: Iterable[ModelPlan], reasons: dict[tuple[str, str], VetoReason]) -> None:
        """Apply to a new table's plans what still holds, and what preparing them found (by model and arm)."""
        plans = list(plans)
        live = {plan.identity(name) for plan in plans for name in _rivals(plan)}
        self._known = {identity: reason for identity, reason in self._known.items() if identity in live}
        self._slot.clear_veto()
        for plan in plans:
            for name in _rivals(plan):
                reason = reasons.get((plan.route.model, name)) or self._known.get(plan.identity(name))
                if reason is not None:
                    self.veto(plan, reason, name)

    def veto(self, plan: ModelPlan, reason: VetoReason, name: str) -> None:
        """Take an arm's traffic away in this worker, now."""
        if name in plan.off:
            return
        plan.off.add(name)
        self._known[plan.identity(name)] = reason
        if name == "candidate" and self._in_force(plan):
            self._slot.set_veto(plan.table, reason, plan.route.model)
        facts = {"model": plan.route.model, "arm": name, "reason": reason.name, "table": plan.table}
        log.warning("arm vetoed", extra=facts)
        arm = plan.arms.get(name)
        if reason in _AWAY and arm is not None:
            self._start(self._lift(plan, arm, starting=reason is VetoReason.STARTING))

    def follow_control(self, plan: ModelPlan, bring: Callable[[], Coroutine[None, None, Loaded]]) -> None:
        """Have the champion's copy in a host answer the control cohort as soon as it can."""
        plan.control = None
        self._start(self._control(plan, bring))

    def close(self) -> None:
        """Stop asking."""
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _lift(self, plan: ModelPlan, arm: Arm, *, starting: bool) -> None:
        """Give the traffic back when the arm's host answers again, a few times at most; the first start is none."""
        identity = plan.identity(arm.name)
        lifts = self._lifts.get(identity, 0)
        if lifts >= _LIFTS:
            return
        while self._in_force(plan):
            await asyncio.sleep(_PROBE_EVERY if starting else _PROBE_EVERY * 2**lifts)
            if not await _answers(arm.loaded) or not self._in_force(plan):
                continue
            self._lifts[identity] = lifts + (not starting)
            self._known.pop(identity, None)
            arm.breaker.reset()
            plan.off.discard(arm.name)
            if arm.name == "candidate":
                self._slot.clear_veto()
            log.info("veto lifted", extra={"model": plan.route.model, "arm": arm.name, "table": plan.table})
            return

    async def _control(self, plan: ModelPlan, bring: Callable[[], Coroutine[None, None, Loaded]]) -> None:
        while self._in_force(plan):
            try:
                hosted = await bring()
            except FlyballError as error:
                log.warning("control copy not there", extra={"model": plan.route.model, "cause": str(error)})
                await asyncio.sleep(1.0)
                continue
            if await _answers(hosted) and self._in_force(plan):
                plan.control = control_arm(plan.champion, hosted)
                return
            await asyncio.sleep(_PROBE_EVERY)


async def _answers(loaded: Loaded) -> bool:
    try:
        await loaded.probe(patience=1.0)
    except (FlyballError, OSError):
        return False
    return True


def _rivals(plan: ModelPlan) -> list[str]:
    """Return the arms that a plan should have beside the champion, loaded or not."""
    rivals = [variant.name for variant in plan.route.variants]
    return rivals if plan.route.candidate is None else ["candidate", *rivals]
