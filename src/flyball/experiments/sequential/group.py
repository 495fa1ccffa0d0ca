"""Group-sequential boundaries: a few planned looks, each with its own critical value.

Where somebody looks every week and not every second, this costs far fewer units than a test for every look. The
surprise: O'Brien-Fleming's last critical value at five looks is 2.04, hardly more than 1.96, because its first is 4.56.

Pocock (1977); O'Brien and Fleming (1979); Wang and Tsiatis (1987); Lan and DeMets (1983); Hwang, Shih, DeCani (1990);
tables and notation of Jennison and Turnbull (2000). Two-sided spending gives half of alpha to each side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from flyball.errors import InputError, UnknownName
from flyball.experiments.estimate import Alternative, alternative_of, check_level
from flyball.experiments.sequential.recursion import Density, crossings

__all__ = ["KINDS", "GroupDesign", "check_kind", "group_design", "mirrored", "next_boundary", "spent"]

KINDS = ("hwang-shih-decani", "lan-demets-obrien-fleming", "lan-demets-pocock", "obrien-fleming", "pocock", "power")
CLASSICAL = {"pocock": 0.5, "obrien-fleming": 0.0}  # Wang and Tsiatis' exponent
_INFINITE = 38.0  # a critical value whose chance is below the smallest float


@dataclass(frozen=True, slots=True)
class GroupDesign:
    """Critical values of Z at planned information times.

    Args:
        kind: One of `KINDS`.
        level: Confidence of the whole test, in (0, 1).
        alternative: "less" mirrors "greater": boundaries are given for the side that is looked for.
        times: Share of the planned information at each look, increasing, the last 1, shape (k,).
        boundaries: Critical values, shape (k,): stop when Z reaches one (for two-sided, |Z|).
        spent: Error spent until each look, shape (k,).
        rho: Parameter of "power" and "hwang-shih-decani".
        futility: Non-binding lower boundaries, shape (k,): one may stop below; -inf for none.

    Example:
        >>> design = group_design("pocock", looks=5)
        >>> [round(c, 3) for c in design.boundaries], round(design.inflation(power=0.8), 3)
        ([2.413, 2.413, 2.413, 2.413, 2.413], 1.229)
    """

    kind: str
    level: float
    alternative: Alternative
    times: tuple[float, ...]
    boundaries: tuple[float, ...]
    spent: tuple[float, ...]
    rho: float = 1.0
    futility: tuple[float, ...] = ()

    def power(self, drift: float) -> float:
        """Return the chance to reject on the right side; `drift` is the expectation of Z at full information."""
        return math.fsum(crossings(self.times, self._lower(), self.boundaries, drift=abs(drift))[1])

    def drift(self, *, power: float) -> float:
        """Return the drift at which the test has this power, in (alpha, 1)."""
        if not 1.0 - self.level < power < 1.0:
            raise InputError(f"power is {power}; it lies between alpha and 1, such as 0.8")
        return float(brentq(lambda drift: self.power(drift) - power, 0.0, 20.0, xtol=1e-10))

    def inflation(self, *, power: float) -> float:
        """Return the largest sample size relative to the fixed test's of equal power."""
        sides = 2.0 if self.alternative is Alternative.TWO_SIDED else 1.0
        fixed = -ndtri((1.0 - self.level) / sides) + ndtri(power)  # the far tail's power is below 1e-4 and left out
        return float((self.drift(power=power) / fixed) ** 2)

    def expected_time(self, drift: float) -> float:
        """Return the expected share of the largest sample size, stopping at efficacy (and at the futility if any)."""
        lower = self.futility or self._lower()
        down, up = crossings(self.times, lower, self.boundaries, drift=drift)
        stops = [a + b for a, b in zip(down[:-1], up[:-1], strict=True)]
        rest = 1.0 - math.fsum(stops)
        return math.fsum(time * p for time, p in zip(self.times[:-1], stops, strict=True)) + rest * self.times[-1]

    def with_futility(self, *, power: float, rho: float = 2.0) -> GroupDesign:
        """Return the one-sided design with non-binding futility boundaries that spend 1 - power as beta * t**rho.

        Non-binding: going on below a boundary keeps alpha. The drift of the alternative is such that both boundaries
        meet at the last look. Following them costs power, which the drift makes up for.

        Raises:
            InputError: the design is two-sided, or has one look only.
        """
        if self.alternative is Alternative.TWO_SIDED or len(self.times) < 2:
            raise InputError("futility needs a one-sided design with two looks at least; say alternative='greater'")
        if not 1.0 - self.level < power < 1.0:
            raise InputError(f"power is {power}; it lies between alpha and 1, such as 0.8")

        def gap(drift: float) -> float:
            return self._futility(drift, 1.0 - power, rho)[-1] - self.boundaries[-1]

        drift = float(brentq(gap, 0.5, 15.0, xtol=1e-9))
        lower = (*self._futility(drift, 1.0 - power, rho)[:-1], self.boundaries[-1])
        return replace(self, futility=lower)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; a look without a boundary has None."""
        return {"kind": self.kind, "level": self.level, "alternative": str(self.alternative),
                "times": list(self.times), "boundaries": [c if c < _INFINITE else None for c in self.boundaries],
                "spent": list(self.spent), "rho": self.rho,
                "futility": [c if math.isfinite(c) else None for c in self.futility]}  # fmt: skip

    def __str__(self) -> str:
        rows = "\n".join(f"  {time:6.1%}  {c:6.3f}  {alpha:.5f}" for time, c, alpha in
                         zip(self.times, self.boundaries, self.spent, strict=True))  # fmt: skip
        return f"{self.kind}, {self.alternative}, {self.level:.0%}\n  look    |Z| >=  error spent\n{rows}"

    def _lower(self) -> tuple[float, ...]:
        return mirrored(self.boundaries, self.alternative)

    def _futility(self, drift: float, beta: float, rho: float) -> tuple[float, ...]:
        density, lower, used = Density.start(drift), [], 0.0
        for i, time in enumerate(self.times):
            share = beta * time**rho
            floor = _below(density, time, share - used)
            used = share
            lower.append(floor)
            if i + 1 < len(self.times):
                density = density.proceed(time, floor, self.boundaries[i], following=self.times[i + 1])
        return tuple(lower)


def group_design(
    kind: str = "lan-demets-obrien-fleming",
    *,
    looks: int | Sequence[float] = 5,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    rho: float = 1.0,
) -> GroupDesign:
    """Return a group-sequential design.

    Args:
        kind: "pocock" and "obrien-fleming" need looks as planned; "lan-demets-pocock", "lan-demets-obrien-fleming",
            "power" (alpha * t**rho) and "hwang-shih-decani" (gamma = rho) spend the error by the information seen, so
            that times may change on the way.
        looks: Number of equally spaced looks, or their shares of the planned information, increasing, the last 1.
        level: Confidence of the whole test.
        alternative: "two-sided", "greater" or "less".
        rho: Parameter of "power" (> 0) and "hwang-shih-decani".

    Raises:
        UnknownName: there is no such kind.
        InputError: the times do not increase to 1, or rho does not fit.

    Example:
        >>> [round(c, 4) for c in group_design("lan-demets-obrien-fleming", looks=5).boundaries]
        [4.8769, 3.357, 2.6803, 2.2898, 2.031]
    """
    side, times = alternative_of(alternative), _times(looks)
    check_kind(kind, rho)
    alpha = 1.0 - check_level(level)
    boundaries = _classical(kind, times, alpha, side) if kind in CLASSICAL else _spending(kind, times, alpha, side, rho)
    down, up = crossings(times, mirrored(boundaries, side), boundaries)
    total, used = 0.0, []
    for a, b in zip(down, up, strict=True):
        total += a + b
        used.append(total)
    return GroupDesign(kind, level, side, times, tuple(boundaries), tuple(used), rho)


def spent(kind: str, time: float, *, alpha: float, rho: float = 1.0) -> float:
    """Return the one-sided error that a spending function has spent at an information time.

    Args:
        kind: A spending kind of `KINDS`.
        time: Information time, >= 0; from 1 on all is spent.
        alpha: One-sided error in all.
        rho: Parameter of "power" and "hwang-shih-decani".
    """
    if time >= 1.0:
        return alpha
    if time <= 0.0:
        return 0.0
    match kind:
        case "lan-demets-obrien-fleming":
            return float(2.0 * ndtr(ndtri(alpha / 2.0) / math.sqrt(time)))
        case "lan-demets-pocock":
            return alpha * math.log1p((math.e - 1.0) * time)
        case "power":
            return float(alpha * time**rho)
        case "hwang-shih-decani":
            return alpha * time if rho == 0.0 else alpha * math.expm1(-rho * time) / math.expm1(-rho)
    raise InputError(f"{kind} has no spending function; its looks stay as planned")


def next_boundary(density: Density, time: float, error: float) -> float:
    """Return the critical value whose chance to be reached at `time`, and not before, is `error` on one side."""
    if error <= 1e-300:
        return _INFINITE
    if density.above(time, -_INFINITE) <= error:
        return -_INFINITE
    return float(brentq(lambda c: density.above(time, c) - error, -_INFINITE, _INFINITE, xtol=1e-11))


def mirrored(upper: Sequence[float], alternative: Alternative) -> tuple[float, ...]:
    """Return the lower boundaries that go with upper ones, shape (k,): their mirror image, or none when one-sided."""
    return tuple(-c for c in upper) if alternative is Alternative.TWO_SIDED else (-math.inf,) * len(upper)


def check_kind(kind: str, rho: float) -> None:
    """Refuse an unknown kind or a parameter that does not fit it."""
    if kind not in KINDS:
        raise UnknownName.of("kind of boundary", kind, KINDS)
    if not math.isfinite(rho) or (kind == "power" and rho <= 0.0):
        raise InputError(f"rho is {rho}; it is finite, and above 0 for power spending")


def _times(looks: int | Sequence[float]) -> tuple[float, ...]:
    if isinstance(looks, int):
        if looks < 1:
            raise InputError(f"looks is {looks}; plan one at least")
        return tuple((i + 1) / looks for i in range(looks))
    times = tuple(float(time) for time in looks)
    increasing = all(a < b for a, b in zip((0.0, *times), times, strict=False))
    if not times or not increasing or abs(times[-1] - 1.0) > 1e-9:
        raise InputError(f"looks are {list(times)}; they are shares of the planned information that increase to 1")
    return times


def _classical(kind: str, times: tuple[float, ...], alpha: float, side: Alternative) -> list[float]:
    exponent = CLASSICAL[kind] - 0.5
    shape = [time**exponent for time in times]

    def excess(constant: float) -> float:
        upper = [constant * s for s in shape]
        down, up = crossings(times, mirrored(upper, side), upper)
        return math.fsum(down) + math.fsum(up) - alpha

    high = 2.0 - float(ndtri(alpha / (2.0 * len(times))))
    constant = float(brentq(excess, -float(ndtri(min(alpha, 0.499))) * 0.2, high, xtol=1e-11))
    return [constant * s for s in shape]


def _spending(kind: str, times: tuple[float, ...], alpha: float, side: Alternative, rho: float) -> list[float]:
    half = alpha / 2.0 if side is Alternative.TWO_SIDED else alpha
    density, found, used = Density.start(), [], 0.0
    for i, time in enumerate(times):
        total = spent(kind, time, alpha=half, rho=rho)
        critical = next_boundary(density, time, total - used)
        used = total
        found.append(critical)
        if i + 1 < len(times):
            lower = -critical if side is Alternative.TWO_SIDED else -math.inf
            density = density.proceed(time, lower, critical, following=times[i + 1])
    return found


def _below(density: Density, time: float, error: float) -> float:
    if error <= 1e-300:
        return -math.inf
    if density.below(time, _INFINITE) <= error:
        return _INFINITE
    return float(brentq(lambda c: density.below(time, c) - error, -_INFINITE, _INFINITE, xtol=1e-11))
