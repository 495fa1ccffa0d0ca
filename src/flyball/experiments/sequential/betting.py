"""Intervals for bounded values by betting: exact at every look, without a word about the values' distribution.

For each possible mean m a gambler bets on values above m and another on values below it; if m is the mean, neither can
expect to win, and whoever multiplies the stake by 1 / alpha refutes m. What survives is the confidence set. The
surprise: the stakes adapt to the variance seen so far, so for rare failures the interval is far narrower than
Hoeffding's, and yet it is exact from the first value on.

Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting": hedged capital (theorem 3)
with the predictable plug-in bets of equation 26. Where we differ: capital is kept on a fixed grid of means, and since
it is monotone in m, a bound is the last *refuted* grid point, which is never too near; and the capital's peak is kept,
so the interval is the running intersection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, alternative_of, check_level

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["Betting", "betting_difference"]

_MOST = 0.5  # largest share of the stake that one value may take
_CHUNK = 500  # values at a time, so that (values, grid) stays near 4 MB
METHOD = "betting sequence"


@dataclass(frozen=True, slots=True)
class Betting:
    """A running bet on the mean of values in [low, high]; begin with `Betting.of`.

    Two streams of the same mean merge: their gamblers' stakes multiply, each having bet on its own past only.

    Args:
        low: Smallest possible value.
        high: Largest possible value.
        level: Confidence that the bets are made for; the interval may be asked at another.
        grid: Means considered, scaled to [0, 1], increasing, shape (k,).
        n: Values so far.
        total: Their sum, scaled to [0, 1].
        spread: Sum of their squared distances from the mean known at the time, scaled.
        above: Log capital of the bets on larger values, shape (k,), decreasing in the mean.
        below: Log capital of the bets on smaller values, shape (k,), increasing in the mean.
        peak_above: Largest `above` so far.
        peak_below: Largest `below` so far.

    Example:
        >>> bet = Betting.of(0.0, 1.0).update([0.0, 1.0, 0.0, 0.0] * 100)
        >>> tuple(round(bound, 2) for bound in bet.bounds())
        (0.18, 0.33)
    """

    low: float
    high: float
    level: float
    grid: tuple[float, ...]
    n: int
    total: float
    spread: float
    above: tuple[float, ...]
    below: tuple[float, ...]
    peak_above: tuple[float, ...]
    peak_below: tuple[float, ...]

    @classmethod
    def of(cls, low: float, high: float, *, level: float = 0.95, points: int = 1000, null: float | None = None) -> Self:
        """Return a bet that has seen nothing.

        Args:
            low: Smallest possible value.
            high: Largest possible value, above `low`.
            level: Confidence that the bets are made for.
            points: Size of the grid, which is the size of the state; >= 10.
            null: A mean of special interest, in (low, high): the grid is finest about it. By default it is finest
                about both ends, as rates near 0 or 1 need.

        Raises:
            InputError: an argument is out of its range.
        """
        check_level(level)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"the values lie in [{low}, {high}]; give finite bounds, the lower one first")
        if points < 10:
            raise InputError(f"points is {points}; the grid needs 10 at least, and 1000 is usual")
        grid = _ends(points) if null is None else _about(points, _scaled_null(null, low, high))
        none = (0.0,) * len(grid)
        return cls(low, high, level, grid, 0, 0.0, 0.0, none, none, none, none)

    def update(self, values: ArrayLike) -> Self:
        """Return the bet after more values, in the order they came.

        Args:
            values: Shape (n,), each in [low, high]; give many at a time.

        Raises:
            InputError: a value is missing or outside [low, high].
        """
        import numpy as np

        given = np.atleast_1d(np.asarray(values, dtype=np.float64))
        if given.ndim != 1:
            raise InputError(f"values have shape {given.shape}; give one dimension")
        wrong = ~((given >= self.low) & (given <= self.high))
        if wrong.any():
            raise InputError(f"value {given[wrong][0]} lies outside [{self.low}, {self.high}]; widen the bounds at the "
                             "start, or clip by a rule declared beforehand")  # fmt: skip
        scaled = np.clip((given - self.low) / (self.high - self.low), 0.0, 1.0)
        bet = self
        for start in range(0, len(scaled), _CHUNK):
            bet = bet._settle(scaled[start : start + _CHUNK])
        return bet

    def bounds(
        self, *, level: float | None = None, alternative: Alternative | str = Alternative.TWO_SIDED
    ) -> tuple[float, float]:
        """Return bounds on the mean that hold at every look.

        Args:
            level: Confidence; what the bets were made for by default.
            alternative: "two-sided", or "greater" for a lower and "less" for an upper bound alone.
        """
        side = alternative_of(alternative)
        alpha = 1.0 - check_level(self.level if level is None else level)
        return self.reach(math.log((2.0 if side is Alternative.TWO_SIDED else 1.0) / alpha), side)

    def reach(self, limit: float, side: Alternative) -> tuple[float, float]:
        """Return the means that no bet of that side has refuted by a log capital of `limit` at any time."""
        lower, upper = 0.0, 1.0
        if side is not Alternative.LESS:
            lower = max((m for m, log in zip(self.grid, self.peak_above, strict=True) if log >= limit), default=0.0)
        if side is not Alternative.GREATER:
            upper = min((m for m, log in zip(self.grid, self.peak_below, strict=True) if log >= limit), default=1.0)
        width = self.high - self.low
        return self.low + width * lower, self.low + width * upper

    def p(self, null: float, *, alternative: Alternative | str = Alternative.TWO_SIDED) -> float:
        """Return the always-valid p value of "the mean is `null`", from the nearest grid points, never too small.

        Args:
            null: In [low, high].
            alternative: "two-sided", "greater" (against "at most null") or "less".
        """
        side, at = alternative_of(alternative), _scaled_null(null, self.low, self.high)
        upper = max((k for k, m in zip(self.peak_above, self.grid, strict=True) if m >= at - 1e-12), default=0.0)
        lower = max((k for k, m in zip(self.peak_below, self.grid, strict=True) if m <= at + 1e-12), default=0.0)
        if side is Alternative.TWO_SIDED:
            return min(1.0, 2.0 * math.exp(-max(upper, lower)))
        return min(1.0, math.exp(-(upper if side is Alternative.GREATER else lower)))

    def estimate(
        self, *, null: float = 0.0, level: float | None = None, alternative: Alternative | str = Alternative.TWO_SIDED
    ) -> Estimate:
        """Return the mean's distance from `null`, in [low, high], with its interval and always-valid p value."""
        lower, upper = self.bounds(level=level, alternative=alternative)
        mean = self.low + (self.high - self.low) * (self.total / self.n if self.n else 0.5)
        side = alternative_of(alternative)
        p = self.p(null, alternative=alternative)
        return Estimate(mean - null, *side.ends(lower - null, upper - null), p, None, (self.n, 0), METHOD,
                        self.level if level is None else level, side, treatment=mean, control=null)  # fmt: skip

    def merge(self, other: Betting) -> Self:
        """Return the bet on both streams: two shards of the same mean, each in its own order.

        The peaks start anew at the merged capital, as nobody saw both at once before; so merge shards at a look, and
        go on with the shards.

        Raises:
            InputError: the two do not share bounds, level and grid.
        """
        if (self.low, self.high, self.level, self.grid) != (other.low, other.high, other.level, other.grid):
            raise InputError("the two bets have other bounds, levels or grids; begin both by the same Betting.of(...)")
        above = tuple(a + b for a, b in zip(self.above, other.above, strict=True))
        below = tuple(a + b for a, b in zip(self.below, other.below, strict=True))
        return replace(self, n=self.n + other.n, total=self.total + other.total, spread=self.spread + other.spread,
                       above=above, below=below, peak_above=tuple(max(a, 0.0) for a in above),
                       peak_below=tuple(max(b, 0.0) for b in below))  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal bet."""
        return {"low": self.low, "high": self.high, "level": self.level, "n": self.n, "total": self.total,
                "spread": self.spread, "grid": list(self.grid), "above": list(self.above), "below": list(self.below),
                "peak_above": list(self.peak_above), "peak_below": list(self.peak_below)}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        lists = (tuple(data[name]) for name in ("above", "below", "peak_above", "peak_below"))
        return cls(data["low"], data["high"], data["level"], tuple(data["grid"]), data["n"], data["total"],
                   data["spread"], *lists)  # fmt: skip

    def _settle(self, x: Floats) -> Self:
        import numpy as np

        count = np.arange(self.n + 1, self.n + len(x) + 1, dtype=np.float64)
        totals = np.cumsum(np.concatenate([[self.total], x]))
        means = (0.5 + totals[1:]) / (count + 1.0)
        spreads = np.cumsum(np.concatenate([[self.spread], (x - means) ** 2]))
        variance = (0.25 + spreads[:-1]) / count  # known before each value: equation 26
        stakes = np.sqrt(2.0 * math.log(2.0 / (1.0 - self.level)) / (variance * count * np.log1p(count)))
        m = np.array(self.grid)
        up, down = (_capital(x, stakes, m, sign) for sign in (1.0, -1.0))
        above, below = np.array(self.above) + up, np.array(self.below) + down
        return replace(
            self, n=self.n + len(x), total=float(totals[-1]), spread=float(spreads[-1]),
            above=tuple(above[-1].tolist()), below=tuple(below[-1].tolist()),
            peak_above=tuple(np.maximum(self.peak_above, above.max(axis=0)).tolist()),
            peak_below=tuple(np.maximum(self.peak_below, below.max(axis=0)).tolist()),
        )  # fmt: skip


def betting_difference(
    treatment: Betting,
    control: Betting,
    *,
    level: float | None = None,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return mean(treatment) - mean(control) with an interval that holds at every look, whatever the allocation.

    Half of the error goes to each arm's own interval. That is exact for any sizes, shares and orders, and wider than
    one joint bet would be, by about 40 % for equal arms; `RandomisedBetting` makes that bet when shares are known.

    Args:
        treatment: The treatment's bet.
        control: The control's bet.
        level: Confidence over all looks; the treatment's by default.
        alternative: "two-sided", "greater" or "less".

    Example:
        >>> one, other = (Betting.of(0.0, 1.0).update([0.0, 1.0] * n) for n in (100, 100))
        >>> found = betting_difference(one, other)
        >>> found.effect, found.significant
        (0.0, False)
    """
    asked = check_level(treatment.level if level is None else level)
    side = alternative_of(alternative)
    bets = 4.0 if side is Alternative.TWO_SIDED else 2.0  # two arms, each with one or two bounds
    lower, upper = _apart(treatment, control, math.log(bets / (1.0 - asked)), side)
    ours, theirs = treatment.estimate(), control.estimate()
    p = min(1.0, bets * math.exp(-_strongest(treatment, control, side)))
    return Estimate(ours.effect - theirs.effect, lower, upper, p, None, (treatment.n, control.n), METHOD, asked, side,
                    treatment=ours.effect, control=theirs.effect)  # fmt: skip


def _apart(one: Betting, other: Betting, limit: float, side: Alternative) -> tuple[float, float]:
    (a, b), (c, d) = one.reach(limit, side), other.reach(limit, side.swapped)
    return side.ends(a - d, b - c)


def _strongest(one: Betting, other: Betting, side: Alternative) -> float:
    """Return the largest log capital by which the two arms' intervals still leave "no difference" out."""
    low, high = 0.0, max(*one.peak_above, *one.peak_below, *other.peak_above, *other.peak_below)
    for _ in range(50):
        middle = (low + high) / 2.0
        lower, upper = _apart(one, other, middle, side)
        low, high = (middle, high) if lower > 0.0 or upper < 0.0 else (low, middle)
    return low


def _capital(x: Floats, stakes: Floats, m: Floats, sign: float) -> Floats:
    """Return the growth of the log capital after each value, shape (values, grid)."""
    import numpy as np

    room = m if sign > 0 else 1.0 - m
    with np.errstate(divide="ignore"):
        bets = np.minimum(stakes[:, None], _MOST / room[None, :])
    growth = np.log1p(sign * bets * (x[:, None] - m[None, :]))
    return np.cumsum(growth, axis=0, out=growth)


def _ends(points: int) -> tuple[float, ...]:
    return (*(math.sin(math.pi * i / (2 * points)) ** 2 for i in range(points)), 1.0)


def _about(points: int, null: float) -> tuple[float, ...]:
    half = max(points // 2, 5)
    steps = [(i / half) ** 3 for i in range(1, half + 1)]
    lower = [null * (1.0 - step) for step in reversed(steps)]
    upper = [null + (1.0 - null) * step for step in steps]
    return (*lower, null, *upper)


def _scaled_null(null: float, low: float, high: float) -> float:
    if not low <= null <= high:
        raise InputError(f"null is {null}, outside [{low}, {high}]; the mean of such values is never there")
    return (null - low) / (high - low)
