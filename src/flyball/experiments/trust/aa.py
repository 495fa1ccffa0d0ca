"""The A/A test: run a test many times where there is no effect, and see whether its p values are uniform.

A test that cries wolf here (rows tested where units were assigned, looks that were not paid for) cannot be believed
anywhere. The surprise: a test may also fail by never speaking; p values that crowd at 1 waste units, so they warn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.estimate import Estimate
from flyball.experiments.fixed.clusters import unit_index
from flyball.experiments.fixed.shares import Count, wilson
from flyball.experiments.trust.check import Check, Verdict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["AATest", "aa_split", "aa_test"]

_SURE = 0.001  # an A/A run is repeated often; it should not fail by chance


@dataclass(frozen=True, slots=True)
class AATest:
    """What many tests without an effect said.

    Args:
        p_values: p value of every run, in order.
        alpha: Level at which a run is a false positive.
        false_positives: Runs with p <= alpha.
        lower: Lower end of the false positive rate's Wilson interval.
        upper: Its upper end.
        level: Confidence level of that interval.
        ks: Largest distance of the p values from a uniform distribution (Kolmogorov-Smirnov).
        ks_p: Its p value, both sides.
        eager_p: p value of "p values are not smaller than uniform", one side.
    """

    p_values: tuple[float, ...]
    alpha: float
    false_positives: int
    lower: float
    upper: float
    level: float
    ks: float
    ks_p: float
    eager_p: float

    @property
    def runs(self) -> int:
        """How many tests were run."""
        return len(self.p_values)

    @property
    def rate(self) -> float:
        """Share of false positives."""
        return self.false_positives / self.runs

    @property
    def check(self) -> Check:
        """Fails on too many false positives or p values that are too small; warns on p values that are too large."""
        numbers = {"rate": self.rate, "lower": self.lower, "upper": self.upper, "ks": self.ks, "ks p": self.ks_p,
                   "runs": self.runs}  # fmt: skip
        rate = f"{self.rate:.1%} [{self.lower:.1%}, {self.upper:.1%}] false positives in {self.runs:,} A/A runs"
        if self.lower > self.alpha or self.eager_p < _SURE:
            text = f"{rate} at {self.alpha:.0%}; the test sees effects where there are none"
            return Check(
                "A/A", Verdict.FAILED, f"{text}: test by the unit that is assigned, and look as planned", numbers
            )
        if self.upper < self.alpha or self.ks_p < _SURE:
            return Check("A/A", Verdict.WARNING, f"{rate}; valid, but it needs more units than it should", numbers)
        return Check("A/A", Verdict.PASSING, f"{rate}, as {self.alpha:.0%} promises", numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; of the p values their counts in twenty equal bins."""
        bins = np.histogram(self.p_values, bins=20, range=(0.0, 1.0))[0].tolist()
        return {"runs": self.runs, "alpha": self.alpha, "rate": self.rate, "lower": self.lower, "upper": self.upper,
                "level": self.level, "ks": self.ks, "ks_p": self.ks_p, "bins": bins,
                "check": self.check.to_dict()}  # fmt: skip

    def __str__(self) -> str:
        return str(self.check)


def aa_test(
    run: Callable[[np.random.Generator], Estimate | float], *, rng: np.random.Generator, runs: int = 1000,
    alpha: float = 0.05, level: float = 0.95,
) -> AATest:  # fmt: skip
    """Run a whole test without an effect many times.

    Args:
        run: Draws data in which nothing differs, tests it, and returns an `Estimate` with a p value, or the p value.
        rng: Where the draws come from; each run has a stream of its own.
        runs: How often, >= 20.
        alpha: Level at which a run counts as a false positive.
        level: Confidence level of the false positive rate's interval.

    Raises:
        InputError: too few runs, or a run gave no p value in [0, 1].

    Example:
        >>> result = aa_test(lambda rng: rng.random(), rng=np.random.default_rng(1), runs=500)
        >>> result.runs, result.check.passed
        (500, True)
    """
    if runs < 20:
        raise InputError(f"{runs} runs; false positives need at least 20 to be counted, and 1,000 to be judged")
    values = np.array([_p(run(stream), i) for i, stream in enumerate(rng.spawn(runs))])
    wrong = int((values <= alpha).sum())
    lower, upper = wilson(Count(wrong, runs), level=level).ci
    ks = stats.kstest(values, "uniform")
    eager = stats.kstest(values, "uniform", alternative="greater")  # the distribution runs above: p values too small
    return AATest(tuple(values.tolist()), alpha, wrong, lower, upper, level,
                  float(ks.statistic), float(ks.pvalue), float(eager.pvalue))  # fmt: skip


def aa_split(
    values: ArrayLike, test: Callable[[NDArray[np.float64], NDArray[np.float64]], Estimate | float], *,
    rng: np.random.Generator, units: ArrayLike | None = None, share: float = 0.5, runs: int = 1000,
    alpha: float = 0.05, level: float = 0.95,
) -> AATest:  # fmt: skip
    """Assign real data at random again and again, and test each time where nothing can differ.

    Args:
        values: The metric, one row each, shape (n,) or (n, k).
        test: Takes the treatment's rows and the control's rows.
        rng: Where the assignments come from.
        units: The unit of each row, shape (n,), when units have several rows: they are assigned as a whole.
        share: Share of the units that go to the treatment, in (0, 1).
        runs: How often, >= 20.
        alpha: Level at which a run counts as a false positive.
        level: Confidence level of the false positive rate's interval.

    Raises:
        InputError: the shapes do not fit, the share is not inside (0, 1), or there are fewer than 4 units.
    """
    rows = np.asarray(values, dtype=np.float64)
    owner = np.arange(len(rows)) if units is None else unit_index(units, len(rows))
    count = int(owner.max()) + 1 if len(owner) else 0
    if not 0.0 < share < 1.0 or count < 4:
        raise InputError(f"share {share} of {count} units; a split needs a share inside (0, 1) and 4 units or more")
    treated = min(max(round(share * count), 1), count - 1)

    def once(stream: np.random.Generator) -> Estimate | float:
        chosen = np.zeros(count, dtype=bool)
        chosen[stream.permutation(count)[:treated]] = True
        mine = chosen[owner]
        return test(rows[mine], rows[~mine])

    return aa_test(once, rng=rng, runs=runs, alpha=alpha, level=level)


def _p(answer: Estimate | float, run: int) -> float:
    p = answer.p if isinstance(answer, Estimate) else answer
    if p is None or not 0.0 <= p <= 1.0:
        raise InputError(f"run {run} gave p = {p}; an A/A test needs a test with p values in [0, 1]")
    return float(p)
