"""Twyman's law: any figure that looks interesting is usually wrong.

An effect beyond what its team called plausible, or an overwhelming one from a handful of units, is more often a broken
log than a discovery. The surprise: this check can only warn; some figures are interesting and right.
"""

from __future__ import annotations

import math

from scipy import special

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, Scale
from flyball.experiments.trust.check import Check, Verdict

__all__ = ["twyman"]


def twyman(
    estimate: Estimate, *, plausible: float | None = None, relative: float = 0.5, few: int = 1000, z: float = 10.0
) -> Check:
    """Warn of an effect that is too good, or too bad, to be believed at once.

    Args:
        estimate: What the test said.
        plausible: Largest effect, either way, that was thought possible before the test, on the estimate's scale (for
            a ratio: its distance from 1); None when nobody said.
        relative: Largest plausible effect as a share of the control's value, where nothing was declared and the
            estimate has a control's value above 0.
        few: Units per arm below which a |z| above `z` warns.
        z: Standard errors from "no effect" that few units hardly ever show.

    Raises:
        InputError: `plausible` is not positive.

    Example:
        >>> found = Estimate(0.5, 0.4, 0.6, 1e-9, 9.8, (5000, 5000), "Welch's t")
        >>> print(twyman(found, plausible=0.1))
        Twyman: warning; an effect of +0.5 is beyond the ±0.1 that was thought plausible; look for a fault first
    """
    if plausible is not None and not plausible > 0.0:
        raise InputError(f"plausible is {plausible}; it is the largest effect thought possible, above 0")
    off, distance = estimate.effect - estimate.null, _z(estimate)
    share = _share(estimate, off)
    numbers = {"effect": estimate.effect, "z": distance, "plausible": plausible, "relative": share}
    reasons = []
    if plausible is not None and abs(off) > plausible:
        reasons.append(f"an effect of {estimate.effect:+.4g} is beyond the ±{plausible:g} that was thought plausible")
    if plausible is None and share is not None and abs(share) > relative:
        reasons.append(f"an effect of {share:+.0%} of the control is larger than changes usually are")
    if math.isinf(distance) and off:
        reasons.append(f"an effect of {estimate.effect:+.4g} without any spread is hardly measured")
    elif abs(distance) > z and min(estimate.n) < few:
        reasons.append(f"{abs(distance):.0f} standard errors from {min(estimate.n):,} units are hardly ever real")
    if reasons:
        return Check("Twyman", Verdict.WARNING, f"{'; '.join(reasons)}; look for a fault first", numbers)
    return Check("Twyman", Verdict.PASSING, f"an effect of {estimate.effect:+.4g} is not too good to be true", numbers)


def _share(estimate: Estimate, off: float) -> float | None:
    if estimate.scale in (Scale.RELATIVE, Scale.RATIO):
        return off
    if estimate.scale is Scale.STANDARDISED or estimate.control is None or estimate.control <= 0.0:
        return None
    return off / estimate.control


def _z(estimate: Estimate) -> float:
    """Distance from "no effect" in standard errors, read off the interval, as statistics differ by test."""
    one_sided = estimate.alternative is not Alternative.TWO_SIDED
    quantile = -float(special.ndtri((1.0 - estimate.level) / (1.0 if one_sided else 2.0)))
    sides = [abs(estimate.effect - end) for end in estimate.ci if math.isfinite(end)]
    off = estimate.effect - estimate.null
    if not sides or quantile <= 0.0:
        return 0.0
    error = max(sides) / quantile
    return off / error if error > 0.0 else math.copysign(math.inf, off) if off else 0.0
