"""A metric of predictions and outcomes, paired where both arms answered the same row."""

from __future__ import annotations

import math

from flyball.experiments.sequential.confidence import BURN, Bounds, difference, mean_bounds
from flyball.experiments.stats import Moments
from flyball.rollout.accounts.stretch import Stretch
from flyball.rollout.accounts.units import ByUnit
from flyball.rollout.bins import CANDIDATE, CONTROL, Allocation, Row
from flyball.rollout.guards import NO_MARGIN
from flyball.rollout.types import SAFE_ALPHA, GuardrailEvidence, GuardrailSpec

__all__ = ["MeanAccount"]


class MeanAccount:
    """Account of a metric of predictions and outcomes, paired where both arms answered the same row."""

    def __init__(self, rail: GuardrailSpec, alpha: float) -> None:
        self.rail = rail
        tests = (rail.margin.absolute < NO_MARGIN) + (rail.limit is not None)
        self._alpha = alpha / tests
        self._harm, self._candidate, self._control = ByUnit(), ByUnit(), ByUnit()
        self._strata: dict[int, tuple[ByUnit, ByUnit]] = {}
        self._breached = ""

    def fail(self, index: int, candidate: int, control: int, stretch: Stretch, allocation: Allocation) -> None:
        """Failures say nothing about outcomes."""

    def observe(self, row: Row) -> None:
        """Take one outcome with the answers it judges."""
        mine = None if row.candidate is None else _loss(self.rail.metric, row.truth, row.candidate)
        theirs = None if row.control is None else _loss(self.rail.metric, row.truth, row.control)
        if mine is not None:
            self._candidate.add(row.unit, mine)
        if mine is not None and theirs is not None:
            self._harm.add(row.unit, mine - theirs)
            self._control.add(row.unit, theirs)
        elif mine is not None or theirs is not None:
            strata = self._strata.setdefault(row.allocation, (ByUnit(), ByUnit()))
            arm = CANDIDATE if mine is not None else CONTROL
            strata[arm].add(row.unit, mine if mine is not None else theirs or 0.0)
        if mine is not None and not self._breached:
            self._breached = self._look()

    def _bounds(self) -> tuple[Bounds, float]:
        """Return the harm and the control's running mean."""
        if self._harm.moments.n:
            return mean_bounds(self._harm.moments, lower=self._alpha, upper=SAFE_ALPHA), self._control.moments.mean
        pairs = [(c.moments, b.moments) for c, b in self._strata.values()]
        base = Moments()
        for _, control in pairs:
            base = base.merge(control)
        return difference(pairs, lower=self._alpha, upper=SAFE_ALPHA), base.mean

    def _look(self) -> str:
        harm, base = self._bounds()
        margin = self.rail.margin.at(base)
        if harm.lower > margin:
            return (
                f"{self.rail.metric} of the candidate is worse by {harm.estimate:.4g} "
                f"(at least {harm.lower:.4g}), beyond the margin of {margin:.4g}"
            )
        if self.rail.limit is not None:
            own = mean_bounds(self._candidate.moments, lower=self._alpha, upper=SAFE_ALPHA)
            if own.lower > self.rail.limit:
                return f"{self.rail.metric} of the candidate is at least {own.lower:.4g}, above max={self.rail.limit:g}"
        return ""

    def evidence(self, stretches: list[Stretch]) -> GuardrailEvidence:
        """Return what is known now."""
        harm, base = self._bounds()
        margin = self.rail.margin.at(base)
        own = mean_bounds(self._candidate.moments, lower=self._alpha, upper=SAFE_ALPHA)
        capped = self.rail.limit is None or own.upper < self.rail.limit
        relative = margin >= NO_MARGIN or harm.upper < margin
        return GuardrailEvidence(
            name=self.rail.name,
            breached=bool(self._breached),
            safe=not self._breached and harm.n >= BURN and capped and relative,
            limit=self.rail.limit,
            harm=harm.estimate,
            lower=_finite(harm.lower),
            upper=_finite(harm.upper),
            margin=margin if margin < NO_MARGIN else None,
            samples=harm.n,
            error=_finite(harm.error),
            text=self._breached or _mean_text(self.rail.metric, harm, margin, base),
        )


def _loss(metric: str, truth: float, value: float) -> float:
    return (truth - value) ** 2 if metric == "mse" else abs(truth - value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean_text(metric: str, harm: Bounds, margin: float, base: float) -> str:
    if harm.n < BURN:
        return f"not enough outcomes yet: {harm.n} of {BURN} needed to judge {metric}"
    return (
        f"{metric} differs by {harm.estimate:+.4g} [{harm.lower:+.4g}, {harm.upper:+.4g}] from the champion's "
        f"{base:.4g}" + (f"; the margin is {margin:.4g}" if margin < NO_MARGIN else "")
    )
