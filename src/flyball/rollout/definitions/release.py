"""What a user writes about a release: `Rollout(...)`, the short call of a canary; other ways are in `strategies`.

The surprise: `Rollout(...)` returns a `RolloutSpec`; texts such as "1%", "12h" and "1pp" end here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from flyball import units
from flyball.errors import DefinitionError, DuplicateName
from flyball.rollout.routing import conditions
from flyball.rollout.types import Calendar, GuardrailSpec, RolloutSpec, Step

__all__ = ["LEAST_SHARE", "Rollout", "as_step", "checked", "step"]

LEAST_SHARE = 0.0001


def Rollout(
    *,
    steps: Sequence[str | float | Step],
    bake: str | timedelta,
    shadow: str | timedelta = "0s",
    guardrails: Sequence[GuardrailSpec] = (),
    min_requests: int = 200,
    max_wait: str | timedelta = "7d",
    alpha: float = 0.01,
    calendar: Calendar | None = None,
    approve_promotion: bool = False,
) -> RolloutSpec:
    """Describe how a candidate reaches all traffic.

    Args:
        steps: Rising shares in (0, 1], such as ["1%", "10%", "50%"], or `strategy.step(...)` with holds of its own;
            promotion follows the last.
        bake: Least time at each step.
        shadow: Time for which traffic is only copied to the candidate; "0s" skips it.
        guardrails: What must not get worse, from `guard`.
        min_requests: Candidate requests (shadow: answers) each step must see.
        max_wait: After this long without a decision the rollout pauses.
        alpha: Chance of rolling back a harmless candidate, over the whole rollout and all guardrails.
        calendar: When shares may rise, from `calendar(...)`; always, when left out.
        approve_promotion: Whether a person approves before the candidate becomes champion.

    Raises:
        DefinitionError: steps that do not rise, a guardrail twice, numbers out of range.

    Example:
        >>> [step.share for step in Rollout(steps=["1%", "10%"], bake="12h").steps]
        [0.01, 0.1]
    """
    if not steps:
        raise DefinitionError('a rollout has no steps; write rising shares such as steps=["1%", "10%", "50%"]')
    return checked(
        RolloutSpec(
            steps=tuple(as_step(one) for one in steps),
            bake=units.duration(bake),
            shadow=units.duration(shadow),
            guardrails=tuple(guardrails),
            min_requests=min_requests,
            max_wait=units.duration(max_wait),
            alpha=alpha,
            calendar=calendar or Calendar(),
            approve_promotion=approve_promotion,
        )
    )


def step(
    share: str | float,
    *,
    bake: str | timedelta | None = None,
    min_requests: int | None = None,
    min_units: int = 0,
    weeks: int = 0,
    approval: bool = False,
    where: Mapping[str, object] | None = None,
    name: str = "",
) -> Step:
    """Describe one step with holds of its own; what is left out is the rollout's.

    Args:
        share: Share of the units, in (0, 1]; with `where`, of the segment's.
        bake: Least time.
        min_requests: Least candidate requests.
        min_units: Least distinct units of the candidate.
        weeks: Least whole weeks, so that every weekday counts alike.
        approval: Whether a person approves before it begins.
        where: What a request's attributes must be to take part, as in `Segment`.
        name: What the segment is called.

    Raises:
        DefinitionError: a number is out of range.

    Example:
        >>> step("50%", where={"country": "NL"}, approval=True).where[0].values
        ('NL',)
    """
    if min_units < 0 or weeks < 0 or (min_requests is not None and min_requests < 1):
        raise DefinitionError(
            f"a step has min_requests={min_requests}, min_units={min_units}, weeks={weeks}; counts are not negative, "
            "and a step needs at least 1 request to be judged"
        )
    limits = conditions(f"step {name or share!r}", where) if where is not None else ()
    if where is not None and not limits:
        raise DefinitionError("a step's segment has no condition; write where={'country': ['NL', 'BE']}")
    return Step(
        units.share(share), None if bake is None else units.duration(bake), min_requests, min_units, weeks, approval,
        limits, name,
    )  # fmt: skip


def as_step(given: str | float | Step) -> Step:
    """Return a step of what a user wrote."""
    return given if isinstance(given, Step) else step(given)


def checked(spec: RolloutSpec) -> RolloutSpec:
    """Return the spec, or say what makes no sense in it.

    Raises:
        DefinitionError: steps that do not rise, numbers out of range.
        DuplicateName: a guardrail twice.
    """
    names = [rail.name for rail in spec.guardrails]
    for name in names:
        if names.count(name) > 1:
            raise DuplicateName(f"the rollout has {names.count(name)} guardrails named {name!r}; keep one of them")
    if not 0.0 < spec.alpha < 0.5:
        raise DefinitionError(f"alpha is {spec.alpha}; it is the chance of a false rollback, above 0 and below 0.5")
    if spec.min_requests < 1:
        raise DefinitionError(f"min_requests is {spec.min_requests}; a step needs at least 1 request to be judged")
    if spec.max_wait <= timedelta(0):
        raise DefinitionError("max_wait is 0; write how long a rollout may go without a decision, such as 7d")
    return replace(spec, steps=_rising(spec.steps))


def _rising(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps, of which shares rise as long as they are shares of the same requests."""
    before: Step | None = None
    for number, each in enumerate(steps, start=1):
        if each.share < LEAST_SHARE:
            raise DefinitionError(f"step {number} has weight {each.share:g}; a step needs at least 0.0001 (0.01%)")
        if each.where and each.share >= 1.0:
            raise DefinitionError(
                f"step {number} gives the candidate all of a segment, which leaves nobody to compare with; "
                "write 95% or less"
            )
        if before is not None and before.where == each.where and each.share <= before.share:
            raise DefinitionError(
                f"step {number} has weight {each.share:.2f}, not above step {number - 1} ({before.share:.2f}); "
                "steps must rise. Use abort to send traffic back."
            )
        if before is not None and not before.where and each.where:
            raise DefinitionError(
                f"step {number} goes back from all requests to a segment; put steps with where= before the others"
            )
        before = each
    return steps
