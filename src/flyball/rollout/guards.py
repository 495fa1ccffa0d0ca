"""What must not get worse during a rollout: `fb.guard.errors(...)` and its neighbours, each a `GuardrailSpec`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from flyball import units
from flyball.errors import DefinitionError, UnknownName
from flyball.rollout.types import GuardrailSpec
from flyball.units import Margin

__all__ = ["METRICS", "NO_MARGIN", "RATE_FLOOR", "SLOW_SHARE", "guard"]

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


def _positive(weight: float) -> float:
    if weight <= 0:
        raise DefinitionError(
            f"a guardrail has weight {weight:g}; it is a part of the error budget and must be above 0"
        )
    return weight
