"""What a user writes about a release: `Rollout(...)` and the guardrails of `guard`.

The surprise: `Rollout(...)` returns a `RolloutSpec`; texts such as "1%", "12h" and "1pp" end here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from flyball import units
from flyball.errors import DefinitionError, DuplicateName, UnknownName
from flyball.rollout.types import GuardrailSpec, RolloutSpec
from flyball.units import Margin

__all__ = ["METRICS", "NO_MARGIN", "RATE_FLOOR", "SLOW_SHARE", "Rollout", "guard"]

METRICS = ("mae", "mse")
NO_MARGIN = 1e300  # a guardrail with only an absolute limit; infinity has no JSON
RATE_FLOOR = 0.01  # least margin of a rate: one percentage point
SLOW_SHARE = 0.01  # what a p99 allows


class guard:  # noqa: N801 read as a namespace: fb.guard.errors(...)
    """Name what must not get worse during a rollout."""

    @staticmethod
    def errors(*, margin: str | float | Margin = "1pp", weight: float = 1.0) -> GuardrailSpec:
        """Watch failed answers, per unit episode.

        Args:
            margin: "1pp" is the most harm a promotion accepts; "20%" lets the candidate fail 1.2 times as often before
                evidence counts against it (and promotion still accepts one percentage point).
            weight: Its part of the rollout's error budget.
        """
        parsed = units.margin(margin)
        floored = replace(parsed, absolute=parsed.absolute or RATE_FLOOR)
        return GuardrailSpec("errors", "errors", floored, weight=_positive(weight))

    @staticmethod
    def latency(*, p99: str | timedelta, weight: float = 1.0) -> GuardrailSpec:
        """Watch answers slower than `p99`, against the control cohort.

        The candidate's answers come through its host process; that hop counts as its own.
        """
        limit = units.duration(p99).total_seconds()
        if limit <= 0:
            raise DefinitionError(f"guard.latency has p99={p99!r}; it needs a time above 0, such as 50ms")
        return GuardrailSpec("latency", "latency", Margin(absolute=SLOW_SHARE), limit=limit, weight=_positive(weight))

    @staticmethod
    def metric(
        name: str,
        *,
        margin: str | float | Margin | None = None,
        max: float | None = None,
        weight: float = 1.0,
    ) -> GuardrailSpec:
        """Watch a metric of predictions and their outcomes.

        Args:
            name: "mae" or "mse"; smaller is better.
            margin: Most harm that is accepted: "5%" of the champion's value, or "0.3" in the metric's unit.
            max: Absolute limit for the candidate, whatever the champion does.
            weight: Its part of the rollout's error budget.
        """
        if name not in METRICS:
            raise UnknownName.of("guardrail metric", name, METRICS)
        if margin is None and max is None:
            raise DefinitionError(f'guard.metric("{name}") has no limit; give margin="5%" or max=4.0')
        parsed = units.margin(margin) if margin is not None else Margin(absolute=NO_MARGIN)
        return GuardrailSpec(name, "metric", parsed, metric=name, limit=max, weight=_positive(weight))


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
        >>> Rollout(steps=["1%", "10%"], bake="12h").steps
        (0.01, 0.1)
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
        steps=shares,
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


def _positive(weight: float) -> float:
    if weight <= 0:
        raise DefinitionError(
            f"a guardrail has weight {weight:g}; it is a part of the error budget and must be above 0"
        )
    return weight
