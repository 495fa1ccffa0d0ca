"""The difference of two arms of bounded values by one joint bet, when units are drawn with known shares.

Each unit gives (a / share - (1 - a) / (1 - share)) * (value - centre), whose expectation is the difference of the arms
whatever the centre, as long as the centre is known before the unit (Waudby-Smith, Wu, Ramdas, Karampatziakis, Mineiro
2024, on off-policy bets). So one bet on these numbers gives an exact interval of the difference. The surprise: the
share is allowed to change from unit to unit, and the common level may drift over the day: the arms are compared by the
draw, not by the calendar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate
from flyball.experiments.sequential.betting import Betting

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["RandomisedBetting"]


@dataclass(frozen=True, slots=True)
class RandomisedBetting:
    """A running bet on mean(treatment) - mean(control); begin with `RandomisedBetting.of`.

    Args:
        low: Smallest possible value.
        high: Largest possible value.
        least: The smallest share either arm may ever get: it bounds the weights.
        bet: The bet on the weighted values.
        n: Units of (treatment, control).
        totals: Sums of the scaled values of (treatment, control).

    Example:
        >>> bet = RandomisedBetting.of(0.0, 1.0, least=0.5).update([1, 0] * 400, [1.0, 0.0] * 400, share=0.5)
        >>> found = bet.estimate()
        >>> found.effect, found.lower > 0.5, found.n
        (1.0, True, (400, 400))
    """

    low: float
    high: float
    least: float
    bet: Betting
    n: tuple[int, int] = (0, 0)
    totals: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, low: float, high: float, *, least: float = 0.5, level: float = 0.95, points: int = 1000) -> Self:
        """Return a bet that has seen nothing.

        Args:
            low: Smallest possible value.
            high: Largest possible value.
            least: The smallest share either arm may ever get, in (0, 0.5]; 0.5 for an equal split, 0.1 for 10 to 90 %.
            level: Confidence that the bets are made for.
            points: Size of the grid of differences, finest about 0.
        """
        if not 0.0 < least <= 0.5:
            raise InputError(f"least is {least}; it is the smallest share of either arm, above 0 and at most 0.5")
        return cls(low, high, least, Betting.of(-1.0 / least, 1.0 / least, level=level, points=points, null=0.0))

    def update(self, treated: ArrayLike, values: ArrayLike, *, share: ArrayLike) -> Self:
        """Return the bet after more units, in the order they came.

        Args:
            treated: 1 for units of the treatment, 0 for the control, shape (n,).
            values: Their values, shape (n,), each in [low, high].
            share: Probability of the treatment with which each unit was drawn, one or shape (n,), in
                [least, 1 - least].

        Raises:
            InputError: shapes differ, or a value lies outside its range.
        """
        import numpy as np

        arm, raw = np.atleast_1d(np.asarray(treated, float)), np.atleast_1d(np.asarray(values, float))
        shares = np.broadcast_to(np.asarray(share, float), arm.shape)
        if arm.shape != raw.shape or arm.ndim != 1:
            raise InputError(f"treated has shape {arm.shape} and values {raw.shape}; give one of each per unit")
        if not np.isin(arm, (0.0, 1.0)).all():
            raise InputError("treated has values besides 0 and 1; say 1 for the treatment and 0 for the control")
        if not ((raw >= self.low) & (raw <= self.high)).all():
            raise InputError(f"a value lies outside [{self.low}, {self.high}]; widen the bounds at the start")
        if not ((shares >= self.least - 1e-12) & (shares <= 1.0 - self.least + 1e-12)).all():
            raise InputError(f"a share lies outside [{self.least}, {1.0 - self.least}]; begin with a smaller least")
        x = (raw - self.low) / (self.high - self.low)
        before = [_running(arm == a, x, n, t) for a, n, t in ((1, self.n[0], self.totals[0]),
                                                             (0, self.n[1], self.totals[1]))]  # fmt: skip
        centre = (1.0 - shares) * before[0] + shares * before[1]  # the centre of least variance, as known so far
        weighted = (arm / shares - (1.0 - arm) / (1.0 - shares)) * (x - centre)
        bound = 1.0 / self.least
        ones, zeros = x[arm == 1.0], x[arm == 0.0]
        return replace(
            self, bet=self.bet.update(np.clip(weighted, -bound, bound)),
            n=(self.n[0] + len(ones), self.n[1] + len(zeros)),
            totals=(self.totals[0] + float(ones.sum()), self.totals[1] + float(zeros.sum())),
        )  # fmt: skip

    def estimate(
        self, *, level: float | None = None, alternative: Alternative | str = Alternative.TWO_SIDED
    ) -> Estimate:
        """Return the difference of the arms' means; interval and p value hold at every look.

        The interval is of the bet; the effect is the plain difference of means, moved into the interval if need be.
        """
        width = self.high - self.low
        means = [self.low + width * (t / n if n else 0.5) for n, t in zip(self.n, self.totals, strict=True)]
        found = self.bet.estimate(level=level, alternative=alternative)
        lower, upper = width * found.lower, width * found.upper
        lower = lower if found.alternative is Alternative.LESS else max(lower, -width)
        upper = upper if found.alternative is Alternative.GREATER else min(upper, width)
        effect = min(max(means[0] - means[1], lower), upper)
        return replace(found, effect=effect, lower=lower, upper=upper, n=self.n, treatment=means[0], control=means[1],
                       method="randomised betting sequence")  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal bet."""
        return {"low": self.low, "high": self.high, "least": self.least, "bet": self.bet.to_dict(), "n": list(self.n),
                "totals": list(self.totals)}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        n, totals = (tuple(data[name]) for name in ("n", "totals"))
        return cls(data["low"], data["high"], data["least"], Betting.from_dict(data["bet"]), n, totals)


def _running(mine: Any, x: Any, n: int, total: float) -> Any:
    """Return the arm's mean as known before each unit, shrunk towards one half."""
    import numpy as np

    counts = n + np.cumsum(mine) - mine
    sums = total + np.cumsum(np.where(mine, x, 0.0)) - np.where(mine, x, 0.0)
    return np.clip((0.5 + sums) / (1.0 + counts), 0.0, 1.0)
