"""A metric of predictions and outcomes: its mean per unit or a ratio, paired where both arms answered the same row.

The surprise: evidence is looked at once for each closed bin, not for each row. A test that holds at every look holds at
fewer, and a look costs more than a row.
"""

from __future__ import annotations

import math
from dataclasses import replace

from flyball.experiments.sequential.confidence import BURN, Bounds, difference, mean_bounds
from flyball.experiments.stats import Moments
from flyball.rollout.definitions.guards import NO_MARGIN
from flyball.rollout.evidence.accounts.power import mean_power
from flyball.rollout.evidence.accounts.stretch import Stretch
from flyball.rollout.evidence.accounts.units import Accumulator, ByUnit, RatioByUnit, WithCovariate
from flyball.rollout.evidence.accounts.values import judged_by, value_of
from flyball.rollout.evidence.closed import CANDIDATE, CONTROL, SCORES, Allocation, Counts, Row
from flyball.rollout.evidence.unit_store import UnitStore
from flyball.rollout.types import SAFE_ALPHA, GuardrailEvidence, GuardrailSpec

__all__ = ["MeanAccount", "coverage_of", "no_outcomes", "unusable_text"]

_APART = 0.9  # part of the level that rows without pairs are tested at; if pairs come later, they get the rest


class MeanAccount:
    """Account of a metric; inside, more is always worse.

    Args:
        rail: The guardrail, of kind "metric", or "shift" by the mean.
        alpha: Its part of the error budget.
        units: Where unit values are kept.
        group: The group of rows that it reads.
        columns: Names of a row's named numbers.
    """

    def __init__(
        self, rail: GuardrailSpec, alpha: float, units: UnitStore | None = None, *, group: int = 0,
        columns: list[str] | None = None,
    ) -> None:  # fmt: skip
        self.rail, self._group = rail, group
        self._units = units or UnitStore()
        self._metric = "prediction" if rail.kind == "shift" else rail.metric
        self._both = rail.kind == "shift"  # either direction is harm
        capped = rail.limit is not None
        tests = (rail.margin.absolute < NO_MARGIN) * (1 + self._both) + capped
        self._alpha = alpha / max(tests, 1)
        self._safe = SAFE_ALPHA / (1 + self._both)
        self._sign = -1.0 if rail.harm == "down" else 1.0
        self._column = (columns or []).index(rail.over or rail.covariate) if rail.over or rail.covariate else -1
        self._harm, self._candidate, self._control = self._arm(paired=True), self._arm(), self._arm()
        self._strata: dict[int, tuple[Accumulator, Accumulator]] = {}
        self._paired = False
        self._tested_apart = False  # whether rows were compared without pairs before pairs came
        self._fresh = False
        self._unjudged = [0, 0]
        self._rows = 0
        self._breached = ""

    def _arm(self, *, paired: bool = False) -> Accumulator:
        if self.rail.over:
            return RatioByUnit(self._units.table())
        if self.rail.covariate and not paired:  # of a pair both have the same covariate, and it cancels
            return WithCovariate(self._units.table())
        return ByUnit(self._units.table())

    def fail(self, index: int, candidate: int, control: int, stretch: Stretch, allocation: Allocation) -> None:
        """Failures say nothing about outcomes."""

    def count(self, index: int, counts: Counts) -> None:
        """Counts say nothing about outcomes."""

    def exceed(self, index: int, episodes: int) -> None:
        """Slow answers say nothing about outcomes."""

    def observe(self, row: Row) -> None:
        """Take one row with the answers it judges."""
        if row.group != self._group:
            return
        row = judged_by(self._metric, row)
        mine, theirs = value_of(self._metric, row, row.candidate), value_of(self._metric, row, row.control)
        other = row.named[self._column] if self._column >= 0 else 0.0
        lacking = other is None
        if lacking or (mine is None and row.candidate is not None) or (theirs is None and row.control is not None):
            self._unjudged[CANDIDATE] += row.candidate is not None and (lacking or mine is None)
            self._unjudged[CONTROL] += row.control is not None and (lacking or theirs is None)
        if other is None:
            return
        self._rows += 1
        if mine is not None:
            mine *= self._sign
            self._fresh = True
            self._candidate.add(row.unit, mine, other)
        if theirs is not None:
            theirs *= self._sign
        if mine is not None and theirs is not None:
            self._paired = True
            self._harm.add(row.unit, mine - theirs, other)
            self._control.add(row.unit, theirs, other)
        elif not self._paired and (mine is not None or theirs is not None):
            strata = self._strata.get(row.allocation)
            if strata is None:
                strata = self._strata[row.allocation] = self._arm(), self._arm()
            arm, value = (CONTROL, theirs) if mine is None else (CANDIDATE, mine)
            strata[arm].add(row.unit, value or 0.0, other)

    def look(self, stretches: list[Stretch]) -> None:
        """Ask for a breach, when the candidate has new values."""
        if not self._fresh or self._breached:
            return
        self._fresh = False
        self._breached = self._ask()

    def judge(self, stretches: list[Stretch]) -> None:
        """Everything is asked in `look`."""

    def _bounds(self) -> tuple[Bounds, float]:
        """Return the harm and the control's running mean, both with more for worse."""
        if self._paired:
            pairs = _settled(self._harm.moments)
            left = 1.0 - _APART if self._tested_apart else 1.0
            harm = mean_bounds(pairs, lower=left * self._alpha, upper=self._safe)
            if pairs.n >= BURN and pairs.m2 == 0.0:  # the arms differ by one number in every row, such as 0
                harm = Bounds(pairs.mean, pairs.mean, pairs.mean, pairs.n, 0.0)
            return harm, self._control.moments.mean
        strata = self._adjusted()
        base = Moments()
        for _, control in strata:
            base = base.merge(control)
        return difference(strata, lower=_APART * self._alpha, upper=self._safe), base.mean

    def _adjusted(self) -> list[tuple[Moments, Moments]]:
        """Return each stratum's arms; with a covariate, less what it explains (CUPED, Deng et al. 2013).

        The coefficient is one for both arms and all strata, so it moves no difference that the covariate does not.
        """
        arms = [*self._strata.values()]
        covered = [(c.pairs, b.pairs) for c, b in arms if isinstance(c, WithCovariate) and isinstance(b, WithCovariate)]
        if not covered:
            return [(c.moments, b.moments) for c, b in arms if math.isfinite(c.moments.m2 + b.moments.m2)]
        spread = math.fsum(p.xx for pair in covered for p in pair)
        theta = math.fsum(p.xy for pair in covered for p in pair) / spread if spread > 0 else 0.0
        adjusted = []
        for c, b in covered:
            centre = (c.n * c.x + b.n * b.x) / max(c.n + b.n, 1)
            adjusted.append((c.less(theta, centre), b.less(theta, centre)))
        return adjusted

    def _ask(self) -> str:
        own = mean_bounds(_settled(self._candidate.moments), lower=self._alpha, upper=SAFE_ALPHA)
        if own.n < self.rail.min_samples:
            return ""
        harm, base = self._bounds()
        self._tested_apart |= not self._paired and harm.n >= BURN
        margin = self.rail.margin.at(base)
        name = self._name()
        if harm.lower > margin:
            verb = "higher" if self._both else "worse"
            return (
                f"{name} of the candidate is {verb} by {harm.estimate:.4g} "
                f"(at least {harm.lower:.4g}), beyond the margin of {margin:.4g}"
            )
        if self._both and self._ceiling(harm) < -margin:
            return (
                f"{name} of the candidate is lower by {-harm.estimate:.4g} "
                f"(at least {-self._ceiling(harm):.4g}), beyond the margin of {margin:.4g}"
            )
        if self.rail.limit is not None and own.lower > self._sign * self.rail.limit:
            bound = self._sign * own.lower
            if self._sign > 0:
                return f"{name} of the candidate is at least {bound:.4g}, above max={self.rail.limit:g}"
            return f"{name} of the candidate is at most {bound:.4g}, below min={self.rail.limit:g}"
        return ""

    def _ceiling(self, harm: Bounds) -> float:
        """Return the upper bound at the level of a breach."""
        return harm.estimate + (harm.estimate - harm.lower)

    def evidence(self, stretches: list[Stretch]) -> GuardrailEvidence:
        """Return what is known now."""
        harm, base = self._bounds()
        margin = self.rail.margin.at(base)
        own = mean_bounds(_settled(self._candidate.moments), lower=self._alpha, upper=SAFE_ALPHA)
        few = own.n < self.rail.min_samples
        capped = self.rail.limit is None or own.upper < self._sign * self.rail.limit
        inside = margin >= NO_MARGIN or (harm.upper < margin and (not self._both or self._floor(harm) > -margin))
        return GuardrailEvidence(
            name=self.rail.name,
            breached=bool(self._breached),
            safe=not self._breached and not few and harm.n >= BURN and capped and inside,
            limit=self.rail.limit,
            harm=_finite(harm.estimate),
            lower=_finite(harm.lower),
            upper=_finite(harm.upper),
            margin=margin if margin < NO_MARGIN else None,
            samples=harm.n,
            error=_finite(harm.error),
            better=harm.n >= BURN and not few and margin < NO_MARGIN and harm.upper < -margin,
            power=mean_power(harm, margin) if margin < NO_MARGIN else None,
            coverage=coverage_of(self._rows, stretches, self._group),
            text=(self._breached or self._text(harm, margin, base, own))
            + no_outcomes(self._rows, stretches, self._group)
            + unusable_text(stretches, self._unjudged),
        )

    def _floor(self, harm: Bounds) -> float:
        return harm.estimate - (harm.upper - harm.estimate)

    def _name(self) -> str:
        if self.rail.kind == "shift":
            return "the mean score"
        return self.rail.name + (f" per {self.rail.over}" if self.rail.over else "")

    def _text(self, harm: Bounds, margin: float, base: float, own: Bounds) -> str:
        name = self._name()
        if harm.n < BURN:
            what = "scores" if self._group == SCORES else "outcomes"
            return f"not enough {what} yet: {harm.n} of {BURN} needed to judge {name}"
        if not math.isfinite(harm.lower):
            return f"{harm.n} {name} values of the candidate, but the control has too few to compare with"
        low, high = sorted((self._sign * harm.lower, self._sign * harm.upper))
        text = f"{name} differs by {self._sign * harm.estimate:+.4g} [{low:+.4g}, {high:+.4g}] from the champion's "
        text += f"{self._sign * base:.4g}"
        if margin < NO_MARGIN:
            text += f"; the margin is {margin:.4g}"
        if self.rail.limit is not None:
            limit = f"{'max' if self._sign > 0 else 'min'}={self.rail.limit:g}"
            text += f"; the candidate's own {self._sign * own.estimate:.4g} is compared with {limit}"
        return text


def coverage_of(rows: int, stretches: list[Stretch], group: int) -> float | None:
    """Return the labelled share of the predictions that are old enough; None where none are waited for."""
    due = sum(sum(s.due.get(group, ())) for s in stretches)
    return min(1.0, rows / due) if due and group != SCORES else None


def no_outcomes(rows: int, stretches: list[Stretch], group: int) -> str:
    """Return what to say when hardly any label has come."""
    covered = coverage_of(rows, stretches, group)
    return "" if covered is None or covered >= 0.5 else f"; {covered:.1%} of the matured predictions have an outcome"


def unusable_text(stretches: list[Stretch], unjudged: list[int]) -> str:
    """Return what to say about values that could not be judged."""
    mine = sum(s.unusable[CANDIDATE] for s in stretches) + unjudged[CANDIDATE]
    theirs = sum(s.unusable[CONTROL] for s in stretches) + unjudged[CONTROL]
    gone = sum(sum(s.crowded) for s in stretches)
    text = f"; {gone} predictions were let go while too many waited for their outcome" if gone else ""
    if not mine + theirs:
        return text
    return (
        f"; {mine} values of the candidate and {theirs} of the control could not be judged (missing, NaN or infinite)"
        + text
    )


def _settled(moments: Moments) -> Moments:
    """Return moments; none while their variance is unknown."""
    return moments if math.isfinite(moments.m2) else replace(moments, n=0, mean=0.0, m2=0.0)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
