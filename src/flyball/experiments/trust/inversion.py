"""Swap the arms: does every sign and verdict flip?

A test or a metric that treats the arms differently, such as a filter that only the treatment passes, is found by this.
The surprise: an effect in per cent of the control does not merely change its sign; +25 % becomes -20 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from flyball.errors import InputError
from flyball.experiments.estimate import Estimate, Scale, alternative_of
from flyball.experiments.trust.check import Check, Verdict

__all__ = ["inverted"]


def inverted(
    test: Callable[..., Estimate], treatment: Any, control: Any, *, tolerance: float = 1e-6, **options: Any
) -> Check:
    """Run a test both ways round, and tell whether effect, sign and verdict flip.

    Args:
        test: Any test of (treatment, control) that returns an `Estimate`.
        treatment: What the test takes for the treatment.
        control: What the test takes for the control.
        tolerance: Relative difference of the flipped effect that counts as rounding; larger for tests that draw.
        **options: Given to the test both times; `alternative` is turned round with the arms.

    Returns:
        A check that fails when sign or verdict stay, and warns when only the size of the effect does not fit.

    Raises:
        InputError: the test returned something else.

    Example:
        >>> from flyball.experiments.stats import moments
        >>> def gap(new, old):
        ...     effect = moments(new).mean - moments(old).mean
        ...     return Estimate(effect, effect - 1, effect + 1, None, None, (len(new), len(old)), "gap")
        >>> inverted(gap, [5.0, 6.0], [1.0, 2.0]).passed
        True
    """
    straight = _run(test, treatment, control, options)
    if "alternative" in options:
        options = options | {"alternative": alternative_of(str(options["alternative"])).swapped}
    turned = _run(test, control, treatment, options)
    wanted = _flip(straight.scale, straight.effect)
    numbers = {"effect": straight.effect, "swapped": turned.effect, "wanted": wanted, "p": straight.p,
               "p swapped": turned.p}  # fmt: skip
    if _side(straight, straight.effect) != -_side(turned, turned.effect):
        text = f"with the arms swapped the effect goes from {straight.effect:+.4g} to {turned.effect:+.4g}: its sign"
        return Check("inverted arms", Verdict.FAILED, f"{text} should turn; the arms are not treated alike", numbers)
    if _verdict(straight) != -_verdict(turned):
        text = "with the arms swapped the verdict is not the opposite; the arms are not treated alike"
        return Check("inverted arms", Verdict.FAILED, text, numbers)
    if not math.isclose(turned.effect, wanted, rel_tol=tolerance, abs_tol=tolerance * max(1.0, abs(wanted))):
        text = f"with the arms swapped the effect is {turned.effect:+.6g} where {wanted:+.6g} was expected"
        return Check("inverted arms", Verdict.WARNING, text, numbers)
    return Check("inverted arms", Verdict.PASSING, "swapping the arms turns effect and verdict round", numbers)


def _run(test: Callable[..., Estimate], one: Any, other: Any, options: dict[str, Any]) -> Estimate:
    answer = test(one, other, **options)
    if not isinstance(answer, Estimate):
        raise InputError(f"the test returned {type(answer).__name__}; only tests that return an Estimate can be turned")
    return answer


def _flip(scale: Scale, effect: float) -> float:
    match scale:
        case Scale.RATIO:
            return 1.0 / effect if effect else math.inf
        case Scale.RELATIVE:
            return -effect / (1.0 + effect) if effect != -1.0 else math.inf
        case _:
            return -effect


def _side(estimate: Estimate, value: float) -> int:
    off = value - estimate.null
    return 0 if abs(off) <= 1e-12 * max(1.0, abs(value)) else int(math.copysign(1, off))


def _verdict(estimate: Estimate) -> int:
    return int(estimate.lower > estimate.null) - int(estimate.upper < estimate.null)
