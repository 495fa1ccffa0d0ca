"""Does the pooled effect say the opposite of its segments?

Pooled and segment effects part when the segments' mix differs between the arms, which a sound assignment forbids: so
the mix is reported beside the reversal. The surprise: a reversal without a different mix is impossible.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from scipy import special

from flyball.errors import InputError
from flyball.experiments.fixed.proportions import chi_square
from flyball.experiments.fixed.shares import Count
from flyball.experiments.stats import Moments
from flyball.experiments.trust.check import Check, Verdict
from flyball.experiments.trust.heterogeneity import GroupEffect, group_effects

__all__ = ["Simpson", "simpson"]

_MIX_ALPHA = 0.001


@dataclass(frozen=True, slots=True)
class Simpson:
    """The pooled effect against the effects of the segments.

    Args:
        pooled: Effect over all units, segments ignored.
        stratified: Effect with the segments weighted alike in both arms, by their share of all units.
        segments: Effect per segment.
        mix: Share of each segment in (treatment, control).
        mix_p: p value of "both arms have the same mix" (chi-square).
        reversed: Whether every segment with an effect says the opposite of the pooled one.
        against: Segments whose own effect is significantly against the pooled one (Bonferroni).
        left_out: Segments without two units per arm, or without any spread.
    """

    pooled: float
    stratified: float
    segments: tuple[GroupEffect, ...]
    mix: Mapping[str, tuple[float, float]]
    mix_p: float
    reversed: bool
    against: tuple[str, ...]
    left_out: int

    @property
    def check(self) -> Check:
        """Fails on a reversal; warns on a different mix, and on segments that are harmed while all in all gain."""
        numbers = {"pooled": self.pooled, "stratified": self.stratified, "mix p": self.mix_p}
        numbers |= {f"effect {group.name}": group.effect for group in self.segments}
        effects = f"pooled {self.pooled:+.3g}, with the same mix in both arms {self.stratified:+.3g}"
        if self.reversed or (self.pooled * self.stratified < 0.0 and self.mix_p < _MIX_ALPHA):
            which = "in every segment" if self.reversed else "once the mix is the same"
            text = f"the effect has the opposite sign {which} ({effects}); the arms hold different units"
            return Check("Simpson", Verdict.FAILED, text, numbers)
        if self.mix_p < _MIX_ALPHA:
            text = f"the arms hold different segments ({self._widest()}, p = {self.mix_p:.2g}); {effects}"
            return Check("Simpson", Verdict.WARNING, text, numbers)
        if self.against:
            text = f"{', '.join(self.against)} moved against the others; {effects}"
            return Check("Simpson", Verdict.WARNING, text, numbers)
        return Check("Simpson", Verdict.PASSING, f"segments and total agree; {effects}", numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        groups = [dataclasses.asdict(g) | {"n": list(g.n)} for g in self.segments]
        return {"pooled": self.pooled, "stratified": self.stratified, "segments": groups,
                "mix": {name: list(shares) for name, shares in self.mix.items()}, "mix_p": self.mix_p,
                "reversed": self.reversed, "against": list(self.against), "left_out": self.left_out,
                "check": self.check.to_dict()}  # fmt: skip

    def __str__(self) -> str:
        return str(self.check)

    def _widest(self) -> str:
        name = max(self.mix, key=lambda segment: abs(self.mix[segment][0] - self.mix[segment][1]))
        return f"{name} is {self.mix[name][0]:.1%} of the treatment and {self.mix[name][1]:.1%} of the control"


def simpson(segments: Mapping[str, tuple[Moments, Moments]], *, alpha: float = 0.05) -> Simpson:
    """Hold the pooled effect against the segments' effects.

    Args:
        segments: (treatment, control) moments per segment; a unit stands in one segment, known before its exposure.
        alpha: Level at which a segment counts as moved, shared among the segments.

    Raises:
        InputError: no segment, or an arm without units.

    Example:
        The kidney stones of Charig et al. (1986): open surgery wins in both sizes and loses in total.

        >>> rate = lambda good, n: Moments(n, good / n, good * (n - good) / n)
        >>> stones = {"small": (rate(81, 87), rate(234, 270)), "large": (rate(192, 263), rate(55, 80))}
        >>> result = simpson(stones)
        >>> round(result.pooled, 3), round(result.stratified, 3), result.reversed, str(result.check.verdict)
        (-0.046, 0.054, True, 'failed')
    """
    effects, left_out = group_effects(segments)
    treatment = reduce(Moments.merge, (t for t, _ in segments.values()), Moments())
    control = reduce(Moments.merge, (c for _, c in segments.values()), Moments())
    if min(treatment.n, control.n) == 0:
        raise InputError(f"{treatment.n} units against {control.n}; both arms need some in {len(segments)} segments")
    pooled = treatment.mean - control.mean
    counted = [(t.mean - c.mean, t.n + c.n) for t, c in segments.values() if min(t.n, c.n) > 0]
    units = sum(n for _, n in counted)
    stratified = math.fsum(effect * n for effect, n in counted) / units if units else pooled
    limit = float(-special.ndtri(alpha / (2.0 * max(len(effects), 1))))
    against = tuple(g.name for g in effects if g.effect * pooled < 0.0 and abs(g.effect) > limit * g.error)
    moved = [effect for effect, _ in counted if effect != 0.0]
    turned = len(moved) > 1 and pooled != 0.0 and all(effect * pooled < 0.0 for effect in moved)
    mix = {name: (t.n / treatment.n, c.n / control.n) for name, (t, c) in segments.items()}
    return Simpson(pooled, stratified, effects, mix, _mix_p(segments), turned, against, left_out)


def _mix_p(segments: Mapping[str, tuple[Moments, Moments]]) -> float:
    """Return the p value of "every segment has the same share of its units in the treatment"."""
    treated = {name: Count(t.n, t.n + c.n) for name, (t, c) in segments.items() if t.n + c.n}
    return chi_square(treated).p if len(treated) > 1 else 1.0
