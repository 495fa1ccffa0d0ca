"""Several treatments against one control: adjusted p values decide, and the intervals hold together.

The surprise: an arm can be significant by Holm while its simultaneous interval still touches zero, since Holm spends
less on later arms than any interval can; the adjusted p value is the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from numpy.typing import ArrayLike

from flyball.errors import InputError, UnknownName
from flyball.experiments.estimate import Alternative, Estimate, alternative_of
from flyball.experiments.fixed.dunnett import Contrasts
from flyball.experiments.fixed.margins import Test
from flyball.experiments.fixed.means import welch_t
from flyball.experiments.fixed.multiple import CORRECTIONS, Correction, adjusted
from flyball.experiments.fixed.pivots import ArmValue, pivot, refuse_constant, tail_of
from flyball.experiments.stats import Moments, Sample, moments

__all__ = ["ArmComparison", "ArmComparisons", "compare_arms", "dunnett"]


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """One treatment against the control, among others.

    Args:
        arm: The treatment's name.
        estimate: The effect; its interval holds together with those of the other arms, its p value is by itself.
        p_adjusted: The p value that decides.
        significant: Whether p_adjusted is at most 1 - level.
    """

    arm: str
    estimate: Estimate
    p_adjusted: float
    significant: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"estimate": self.estimate.to_dict()}


@dataclass(frozen=True, slots=True)
class ArmComparisons:
    """All treatments against one control.

    Args:
        control: The control's name.
        correction: How p values and intervals were adjusted.
        level: Confidence in all answers together (with Benjamini-Hochberg: 1 less the false share among findings).
        comparisons: One per treatment, in the order given.
    """

    control: str
    correction: str
    level: float
    comparisons: tuple[ArmComparison, ...]

    @property
    def significant(self) -> tuple[str, ...]:
        """The treatments that differ from the control."""
        return tuple(c.arm for c in self.comparisons if c.significant)

    def __getitem__(self, arm: str) -> ArmComparison:
        """Return one treatment's comparison; raises UnknownName."""
        for comparison in self.comparisons:
            if comparison.arm == arm:
                return comparison
        raise UnknownName.of("treatment", arm, [c.arm for c in self.comparisons])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"control": self.control, "correction": self.correction, "level": self.level,
                "comparisons": [c.to_dict() for c in self.comparisons]}  # fmt: skip

    def __str__(self) -> str:
        lines = [f"against {self.control}, {self.correction} at {self.level:.0%}:"]
        for c in self.comparisons:
            e = c.estimate
            found = "differs" if c.significant else "no difference shown"
            lines.append(
                f"  {c.arm}: {e.effect:+.4g} [{e.lower:+.4g}, {e.upper:+.4g}], adjusted p = {c.p_adjusted:.3g}, {found}"
            )
        return "\n".join(lines)


def compare_arms(
    arms: Mapping[str, Any],
    control: str,
    *,
    test: Test = welch_t,
    correction: Correction | str = Correction.HOLM,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> ArmComparisons:
    """Return every treatment's effect against one control, corrected for their number.

    Intervals are Bonferroni's with Holm and Bonferroni; with Benjamini-Hochberg they are those of Benjamini and
    Yekutieli (2005), in which R findings out of k widen to level 1 - (1 - level) R / k; "none" leaves them.

    Args:
        arms: What `test` takes, by arm, the control among them.
        control: The control's name.
        test: Any fixed test with a p value; bind further arguments by functools.partial.
        correction: "holm", "bonferroni", "benjamini-hochberg" or "none"; for "dunnett" (means) see `dunnett`.
        level: Confidence in all answers together.
        alternative: "two-sided", "greater" or "less", for every treatment.

    Raises:
        UnknownName: the control is not among the arms, or there is no such correction.
        InputError: no treatment, or a test without p values.

    Example:
        >>> from flyball.experiments.fixed.proportions import two_proportions_z
        >>> from flyball.experiments.fixed.shares import Count
        >>> visits = {"none": Count(2262, 21306), "mens": Count(3894, 21307), "womens": Count(3238, 21387)}
        >>> compare_arms(visits, "none", test=two_proportions_z).significant
        ('mens', 'womens')
    """
    if correction == Correction.DUNNETT:
        return dunnett(arms, control, level=level, alternative=alternative)
    if correction not in CORRECTIONS:
        raise UnknownName.of("correction", correction, [str(c) for c in Correction])
    names = _treatments(arms, control)
    side = alternative_of(alternative)
    first = {name: test(arms[name], arms[control], level=level, alternative=side) for name in names}
    ps = adjusted([_p_of(estimate) for estimate in first.values()], correction)
    wide = _each(correction, level, ps)
    comparisons = []
    for name, p in zip(names, ps, strict=True):
        estimate = first[name] if wide == level else test(arms[name], arms[control], level=wide, alternative=side)
        comparisons.append(ArmComparison(name, estimate, p, p <= 1.0 - level))
    return ArmComparisons(control, str(correction), level, tuple(comparisons))


def dunnett(
    arms: Mapping[str, Sample | ArrayLike],
    control: str,
    *,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> ArmComparisons:
    """Return every treatment's mean against one control by Dunnett's test, for equal variances.

    Reference: Dunnett (1955), "A multiple comparison procedure for comparing several treatments with a control". The
    joint law of the t statistics is integrated (a double integral, since all share the control and the pooled
    variance), so moments suffice and no dice are thrown.

    Args:
        arms: Moments, or values of shape (n,), by arm, the control among them.
        control: The control's name.
        level: Confidence in all answers together; the intervals are simultaneous.
        alternative: "two-sided", "greater" or "less", for every treatment.

    Raises:
        UnknownName: the control is not among the arms.
        InputError: no treatment, an empty arm, too few units for a variance, or no arm varies.

    Example:
        >>> bloods = {"control": [7.40, 8.50, 7.20, 8.24, 9.84, 8.32], "a": [9.76, 8.80, 7.68, 9.36],
        ...           "b": [12.80, 9.68, 12.16, 9.20, 10.55]}
        >>> [round(c.p_adjusted, 4) for c in dunnett(bloods, "control").comparisons]
        [0.6201, 0.0058]
    """
    names, side = _treatments(arms, control), alternative_of(alternative)
    tail_of(level, side)
    values = _pooled({name: moments(arms[name]) for name in (control, *names)})
    base = values[control]
    contrasts = Contrasts.of(base.n, [values[name].n for name in names], base.df, side is Alternative.TWO_SIDED)
    reach = contrasts.critical(1.0 - level)
    comparisons = []
    for name in names:
        estimate = _single(values[name], base, level, side, reach)
        assert estimate.statistic is not None
        p = contrasts.beyond(side.toward(estimate.statistic))
        comparisons.append(ArmComparison(name, estimate, p, p <= 1.0 - level))
    return ArmComparisons(control, str(Correction.DUNNETT), level, tuple(comparisons))


def _single(t: ArmValue, c: ArmValue, level: float, side: Alternative, reach: float) -> Estimate:
    """Return Student's comparison from the variance of all arms, with the simultaneous interval."""
    effect, se = t.value - c.value, (t.variance + c.variance) ** 0.5
    estimate = pivot(effect, se, t.df, t, c, "Dunnett's t", 0.0, level, side)
    lower, upper = side.ends(effect - reach * se, effect + reach * se)
    return replace(estimate, lower=lower, upper=upper)


def _pooled(arms: Mapping[str, Moments]) -> dict[str, ArmValue]:
    df = sum(m.n for m in arms.values()) - len(arms)
    empty = [name for name, m in arms.items() if m.n < 1]
    if empty or df < 1:
        raise InputError(f"the arms have {[m.n for m in arms.values()]} units; each needs one and one needs a second")
    variance = sum(m.m2 for m in arms.values()) / df
    values = {name: ArmValue(m.mean, variance / m.n, m.n, df) for name, m in arms.items()}
    refuse_constant(*values.values())
    return values


def _treatments(arms: Mapping[str, Any], control: str) -> list[str]:
    if control not in arms:
        raise UnknownName.of("arm", control, arms)
    names = [name for name in arms if name != control]
    if not names:
        raise InputError(f"{control!r} is the only arm; a comparison needs a treatment beside it")
    return names


def _each(correction: str, level: float, ps: tuple[float, ...]) -> float:
    """Return the level of each interval that makes them hold together."""
    if correction == Correction.NONE or len(ps) == 1:
        return level
    found = max(1, sum(p <= 1.0 - level for p in ps)) if correction == Correction.BENJAMINI_HOCHBERG else 1
    return level if found == len(ps) else 1.0 - (1.0 - level) * found / len(ps)


def _p_of(estimate: Estimate) -> float:
    if estimate.p is None:
        raise InputError(f"{estimate.method} has no p value to adjust; use a test that has one, such as welch_t")
    return estimate.p
