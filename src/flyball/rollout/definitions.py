"""What a user writes about a release: `Rollout(...)`.

The surprise: `Rollout(...)` returns a `RolloutSpec`; texts such as "1%", "12h" and "1pp" end here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from flyball import units
from flyball.errors import DefinitionError, DuplicateName
from flyball.rollout.types import GuardrailSpec, RolloutSpec, Step

__all__ = ["Rollout"]


def Rollout(
    *,
    steps: Sequence[str | float],
    bake: str | timedelta,
    shadow: str | timedelta = "0s",
    guardrails: Sequence[GuardrailSpec] = (),
    min_requests: int = 200,
    max_wait: str | timedelta = "7d",
    alpha: float = 0.01,
) -> RolloutSpec:
    """Describe how a candidate reaches all traffic.

    Args:
        steps: Rising shares in (0, 1], such as ["1%", "10%", "50%"]; promotion follows the last.
        bake: Least time at each step.
        shadow: Time for which traffic is only copied to the candidate; "0s" skips it.
        guardrails: What must not get worse, from `guard`.
        min_requests: Candidate requests (shadow: answers) each step must see.
        max_wait: After this long without a decision the rollout pauses.
        alpha: Chance of rolling back a harmless candidate, over the whole rollout and all guardrails.

    Raises:
        DefinitionError: steps that do not rise, a guardrail twice, numbers out of range.

    Example:
        >>> [step.share for step in Rollout(steps=["1%", "10%"], bake="12h").steps]
        [0.01, 0.1]
    """
    shares = _rising([units.share(step) for step in steps])
    names = [rail.name for rail in guardrails]
    for name in names:
        if names.count(name) > 1:
            raise DuplicateName(f"the rollout has {names.count(name)} guardrails named {name!r}; keep one of them")
    if not 0.0 < alpha < 0.5:
        raise DefinitionError(f"alpha is {alpha}; it is the chance of a false rollback, above 0 and below 0.5")
    if min_requests < 1:
        raise DefinitionError(f"min_requests is {min_requests}; a step needs at least 1 request to be judged")
    return RolloutSpec(
        steps=tuple(Step(share) for share in shares),
        bake=units.duration(bake),
        shadow=units.duration(shadow),
        guardrails=tuple(guardrails),
        min_requests=min_requests,
        max_wait=units.duration(max_wait),
        alpha=alpha,
    )


def _rising(shares: list[float]) -> tuple[float, ...]:
    if not shares:
        raise DefinitionError('a rollout has no steps; write rising shares such as steps=["1%", "10%", "50%"]')
    for number, share in enumerate(shares, start=1):
        if share < 0.0001:
            raise DefinitionError(f"step {number} has weight {share:g}; a step needs at least 0.0001 (0.01%)")
        if number > 1 and share <= shares[number - 2]:
            raise DefinitionError(
                f"step {number} has weight {share:.2f}, not above step {number - 1} ({shares[number - 2]:.2f}); "
                "steps must rise. Use abort to send traffic back."
            )
    return tuple(shares)
