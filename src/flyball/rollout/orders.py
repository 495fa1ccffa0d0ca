"""What people say to a rollout: start, pause, resume, approve, promote, abort. Recorded here, obeyed by the reconciler.

The surprise: an order changes one word of the status and no table. It may be given while the controller is down, and
harm that is found before it is obeyed goes first.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from flyball.errors import ConflictError, Refused, RevisionConflict, UnknownName
from flyball.rollout.definitions.calendar import frozen
from flyball.rollout.judging.progress import needs_approval
from flyball.rollout.judging.storms import StormRule, storm
from flyball.rollout.ports import RolloutStore
from flyball.rollout.types import TERMINAL, Phase, RolloutEvent, RolloutSpec, RolloutStatus

__all__ = ["order", "start"]

_ORDERS: dict[str, Literal["run", "pause", "promote", "abort"]] = {
    "run": "run", "pause": "pause", "promote": "promote", "abort": "abort", "approve": "run",
}  # fmt: skip
_ORDER_TRIES = 20


def start(
    store: RolloutStore,
    spec: RolloutSpec,
    *,
    model: str,
    candidate: str,
    champion: str,
    now: datetime,
    cause: str = "manual",
    actor: str = "",
    skip_shadow: bool = False,
    fence: int | None = None,
    force: bool = False,
    rule: StormRule | None = None,
) -> RolloutStatus:
    """Record a new rollout; the next reconcile begins it.

    Args:
        store: Where rollouts are kept.
        spec: What is wanted.
        model: The model.
        candidate: The version to release.
        champion: The version in force.
        now: Domain time.
        cause: Why it was started.
        actor: Who started it; "loop" may not force.
        skip_shadow: Leave the shadow phase out.
        fence: The lease's fence, for an actor that holds one.
        force: Start in spite of a rollback storm; recorded.
        rule: What a storm is; three rollbacks within seven days when left out.

    Raises:
        Refused: the candidate is the champion.
        ConflictError: the model has a rollout that is not finished, or too many were rolled back lately.
    """
    if candidate == champion:
        raise Refused(f"{model} {candidate} is the champion already; a rollout needs another version")
    found = storm((known for _, known in store.list(model)), model, now, rule)
    if found is not None and (actor == "loop" or not force):
        raise ConflictError(str(found))
    status = RolloutStatus(
        id=f"{model}-{candidate}-{now:%Y%m%dT%H%M%S%f}", model=model, candidate=candidate, champion=champion,
        phase=Phase.PENDING, revision=0, created=now, entered=now, cause=cause, actor=actor, skip_shadow=skip_shadow,
    )  # fmt: skip
    store.create(spec, status)
    _, status = store.get(status.id)
    details = {"candidate": candidate, "champion": champion, "cause": cause, "actor": actor, "skip_shadow": skip_shadow}
    if found is not None:
        details["forced"] = str(found)
    reason = f"{candidate} wants the place of {champion}" + ("; the shadow phase is skipped" if skip_shadow else "")
    event = RolloutEvent(status.id, now, "RolloutStarted", reason, details)
    return store.save(status, expected=status.revision, fence=fence, events=[event])


def order(
    store: RolloutStore,
    rollout: str,
    wanted: str,
    *,
    now: datetime,
    reason: str = "",
    actor: str = "",
    force: bool = False,
) -> RolloutStatus:
    """Record a person's order; the next reconcile obeys it unless the evidence says harm.

    Args:
        store: Where rollouts are kept.
        rollout: The rollout's id.
        wanted: "run" (resume), "pause", "promote", "abort", or "approve" (the step, or the promotion, that waits next).
        now: Domain time.
        reason: Why, in words.
        actor: Who.
        force: Promote although the calendar is frozen; recorded.

    Raises:
        UnknownName: no such rollout or order.
        Refused: the rollout is finished, nothing waits for approval, or the calendar is frozen.
        ConflictError: the status kept changing while we tried.
    """
    if wanted not in _ORDERS:
        raise UnknownName.of("order", wanted, _ORDERS)
    for _ in range(_ORDER_TRIES):
        spec, status = store.get(rollout)
        if status.phase in TERMINAL:
            raise Refused(f"rollout {rollout} is over ({status.phase}); start a new one")
        ordered, details = _ordered(spec, status, wanted, reason, now, force=force)
        details |= {"wanted": wanted, "actor": actor, "evidence": status.state.get("evidence")}
        event = RolloutEvent(rollout, now, "OrderGiven", reason or wanted, details)
        try:
            return store.save(ordered, expected=status.revision, fence=None, events=[event])
        except RevisionConflict:
            continue
    raise ConflictError(f"rollout {rollout} kept changing while {wanted!r} was recorded; try again")


def _ordered(
    spec: RolloutSpec, status: RolloutStatus, wanted: str, reason: str, now: datetime, *, force: bool
) -> tuple[RolloutStatus, dict[str, Any]]:
    """Return the status with an order in it, and what is worth remembering of it."""
    if wanted == "approve":
        index = 0 if status.step < 0 else status.step + 1
        if not needs_approval(spec, index) or status.approved >= index:
            what = f"step {index + 1}" if index < len(spec.steps) else "its promotion"
            raise Refused(f"rollout {status.id} needs no approval now: {what} has it, or asks for none")
        return replace(status, approved=index), {"step": index}
    why = frozen(spec.calendar, now) if wanted == "promote" else ""
    if why and not force:
        raise Refused(f"rollout {status.id} may not be promoted now: {why}; wait, or promote with --force and a reason")
    return replace(status, wanted=_ORDERS[wanted], reason=reason), {"forced": why} if why else {}
