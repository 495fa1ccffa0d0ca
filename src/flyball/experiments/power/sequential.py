"""What looking early costs: the sequential plan beside the fixed one.

Group designs and normal-mixture sequences have boundaries of Z, so their power and expected size come from numerical
integration, not from luck; the conditional odds test of rare failures is simulated by running it. The surprise: the
*largest* size grows by looking, and the *expected* size with a real effect mostly falls below the fixed test's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative
from flyball.experiments.power.means import z_power
from flyball.experiments.power.plan import PowerPlan
from flyball.experiments.sequential.group import GroupDesign, mirrored
from flyball.experiments.sequential.mixture import mixture_radius, mixture_tau2
from flyball.experiments.sequential.odds import OddsProcess, odds
from flyball.experiments.sequential.recursion import crossings

__all__ = ["SequentialPlan", "Stopping", "plan_group", "plan_mixture", "simulate_odds"]

_WORST = 64.0  # times the fixed size: the longest horizon tried


@dataclass(frozen=True, slots=True)
class SequentialPlan:
    """A sequential test of the same effect, level and power as a fixed plan.

    Args:
        method: The sequential method.
        fixed: Units of the fixed plan, all arms.
        n: Units at each look, all arms, increasing; the last is the worst case.
        found: Chance to have found the effect by each look.
        alarmed: Chance of an alarm by each look if there is no effect.
        expected: Expected units with the effect.
        expected_null: Expected units without one.
    """

    method: str
    fixed: int
    n: tuple[int, ...]
    found: tuple[float, ...]
    alarmed: tuple[float, ...]
    expected: float
    expected_null: float

    @property
    def horizon(self) -> int:
        """The largest size."""
        return self.n[-1]

    @property
    def power(self) -> float:
        """The chance to find the effect by the last look."""
        return self.found[-1]

    @property
    def inflation(self) -> float:
        """The largest size relative to the fixed plan's."""
        return self.horizon / self.fixed

    @property
    def median(self) -> int | None:
        """Units at the first look by which half of such effects are found; None if the horizon is too short."""
        return next((n for n, chance in zip(self.n, self.found, strict=True) if chance >= 0.5), None)

    def power_by(self, units: int) -> float:
        """Return the chance to have found the effect by so many units, all arms: that of the last look before."""
        return max((p for n, p in zip(self.n, self.found, strict=True) if n <= units), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"method": self.method, "fixed": self.fixed, "horizon": self.horizon, "power": self.power,
                "expected": self.expected, "expected_null": self.expected_null, "median": self.median,
                "n": list(self.n), "found": list(self.found), "alarmed": list(self.alarmed)}  # fmt: skip

    def __str__(self) -> str:
        worst = f"at most {self.horizon:,} units ({self.inflation:.2f} times the fixed {self.fixed:,})"
        return (f"{self.method}: {worst}, {self.expected:,.0f} expected with the effect, power {self.power:.1%}, "
                f"{len(self.n)} looks")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stopping:
    """When simulated runs alarmed.

    Args:
        runs: Number of runs.
        horizon: Candidate requests after which a run was given up.
        sizes: Candidate requests at each alarm, increasing; fewer than `runs` if some never alarmed.
    """

    runs: int
    horizon: int
    sizes: tuple[int, ...]

    @property
    def found(self) -> float:
        """Share of the runs that alarmed."""
        return len(self.sizes) / self.runs

    def quantile(self, q: float) -> float:
        """Return the candidate requests within which a share q of all runs alarmed; inf if fewer did."""
        at = max(math.ceil(q * self.runs - 1e-9), 1) - 1
        return float(self.sizes[at]) if at < len(self.sizes) else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        median, p95 = (value if math.isfinite(value) else None for value in (self.quantile(0.5), self.quantile(0.95)))
        return {"runs": self.runs, "horizon": self.horizon, "found": self.found, "median": median, "p95": p95}

    def __str__(self) -> str:
        return (f"{self.found:.1%} of {self.runs} runs alarmed within {self.horizon:,} candidate requests, "
                f"half of them all by {self.quantile(0.5):,.0f} and 95 % by {self.quantile(0.95):,.0f}")  # fmt: skip


def plan_group(plan: PowerPlan, design: GroupDesign) -> SequentialPlan:
    """Return what a group-sequential design costs beside a fixed plan.

    Args:
        plan: The fixed plan.
        design: The design, of the plan's level (per comparison) and alternative.

    Raises:
        InputError: level or alternative differ.

    Example:
        >>> from flyball.experiments.power.means import plan_means
        >>> from flyball.experiments.sequential.group import group_design
        >>> cost = plan_group(plan_means(sd=1.0, effect=0.1), group_design("obrien-fleming", looks=5))
        >>> cost.fixed, cost.horizon, round(cost.expected)
        (3142, 3232, 2569)
    """
    if abs(1.0 - design.level - plan.alpha) > 1e-9 or design.alternative is not plan.alternative:
        raise InputError(f"the design is {design.alternative} at {design.level}, the plan {plan.alternative} at "
                         f"{1.0 - plan.alpha} for each comparison; make them agree")  # fmt: skip
    drift = design.drift(power=plan.power)
    full = design.inflation(power=plan.power)
    lower = design.futility or mirrored(design.boundaries, design.alternative)
    sizes = [full * time for time in design.times]
    name = f"{design.kind}, {len(sizes)} looks"
    return _cost(name, plan, sizes, lower, design.boundaries, drift / math.sqrt(full))


def plan_mixture(
    plan: PowerPlan,
    *,
    looks: int = 50,
    horizon: int | None = None,
    tau: float | None = None,
    tuned: int | None = None,
) -> SequentialPlan:
    """Return what a normal-mixture sequence (or an mSPRT, if tau is given) costs beside a fixed plan.

    Args:
        plan: The fixed plan.
        looks: Number of equally spaced looks until the horizon, in [1, 200]. More looks, down to one after every unit,
            change little: the boundary allows for all of them.
        horizon: Units of all arms at which the test is given up; by default as many as the plan's power needs.
        tau: Deviation of likely effects of an mSPRT, in the metric's unit.
        tuned: Units of all arms at which the sequence is tightest; those of the fixed plan by default.

    Raises:
        InputError: an argument is out of its range.

    Example:
        >>> from flyball.experiments.power.means import plan_means
        >>> cost = plan_mixture(plan_means(sd=1.0, effect=0.1))
        >>> round(cost.inflation, 2), cost.expected < 1.15 * cost.fixed, cost.alarmed[-1] < 0.05
        (1.7, True, True)
    """
    if not 1 <= looks <= 200:
        raise InputError(f"looks is {looks}; give 1 to 200")
    drift = _drift(plan)
    alpha, side = plan.alpha, plan.alternative
    grown = mixture_tau2(1.0, tuned=float(tuned or plan.total) / plan.total, alpha=alpha, alternative=side)
    if tau is not None:
        if not 0.0 < tau < math.inf:
            raise InputError(f"tau is {tau}; it is the deviation of likely effects, in the metric's unit, above 0")
        grown = (tau / plan.effect * drift) ** 2  # tau² over the squared standard error at the fixed size

    def boundary(size: float) -> float:
        return mixture_radius(1.0, tau2=grown * size, alpha=alpha, alternative=side)

    def cost(full: float) -> SequentialPlan:
        sizes = [full * (i + 1) / looks for i in range(looks)]
        upper = [boundary(size) for size in sizes]
        name = "normal-mixture sequence" if tau is None else "mSPRT"
        return _cost(name, plan, sizes, mirrored(upper, side), upper, drift)

    if horizon is not None:
        if horizon < 4:
            raise InputError(f"horizon is {horizon}; give the units of all arms at which the test is given up")
        return cost(horizon / plan.total)
    return cost(_horizon(plan, boundary, drift, looks))


def simulate_odds(
    *,
    base: float,
    factor: float,
    share: float,
    rng: np.random.Generator,
    horizon: int = 10_000,
    alpha: float = 0.01,
    margin: float = 0.0,
    runs: int = 200,
    every: int = 10,
) -> Stopping:
    """Return when the conditional odds test alarms, by running it on simulated requests.

    Args:
        base: Failure rate of the control, in (0, 1).
        factor: The candidate's failure rate over the control's; 1 simulates false alarms.
        share: Share of requests that the candidate gets, in (0, 1).
        rng: Source of randomness.
        horizon: Candidate requests after which a run is given up.
        alpha: Error of the test over all looks.
        margin: Accepted relative harm.
        runs: Number of runs.
        every: Requests of both arms between looks.

    Raises:
        InputError: an argument is out of its range.

    Example:
        >>> stopping = simulate_odds(base=0.001, factor=50.0, share=0.1, rng=np.random.default_rng(1), runs=50)
        >>> stopping.found, stopping.quantile(0.5) < 100
        (1.0, True)
    """
    if not (0.0 < base < 1.0 and 0.0 <= base * factor <= 1.0 and 0.0 < share < 1.0 and 0.0 < alpha < 1.0):
        raise InputError(f"base {base}, factor {factor}, share {share}, alpha {alpha}: rates, shares and errors lie "
                         "between 0 and 1")  # fmt: skip
    if min(horizon, runs, every) < 1:
        raise InputError(f"horizon {horizon}, runs {runs}, every {every}; each is at least 1")
    sizes = [_run(base, factor, share, rng, horizon, alpha, margin, every) for _ in range(runs)]
    return Stopping(runs, horizon, tuple(sorted(size for size in sizes if size is not None)))


def _run(
    base: float, factor: float, share: float, rng: np.random.Generator, horizon: int, alpha: float, margin: float,
    every: int,
) -> int | None:  # fmt: skip
    process, known, seen, count = OddsProcess(margin=margin), share / (1.0 - share), 0, 0
    while seen < horizon:
        bins = min(max(math.ceil((horizon - seen) / (share * every)), 1), 10_000)
        mine = rng.binomial(every, share, bins)
        failed, others = rng.binomial(mine, base * factor), rng.binomial(every - mine, base)
        ours = seen + np.cumsum(mine)
        theirs = count - seen + np.cumsum(every - mine)
        for i in np.nonzero(failed + others)[0]:
            if ours[i] > horizon:
                return None
            process = process.fail(candidate=int(failed[i]), control=int(others[i]),
                                   odds=odds((int(ours[i]), int(theirs[i])), known=known))  # fmt: skip
            if process.breached(alpha):
                return int(ours[i])
        seen, count = int(ours[-1]), count + every * bins
    return None


def _cost(
    name: str, plan: PowerPlan, sizes: Sequence[float], lower: Sequence[float], upper: Sequence[float], drift: float
) -> SequentialPlan:
    """Return the cost of boundaries at sizes relative to the fixed plan's, where the drift is that at size 1."""
    expected, found = _course(sizes, lower, upper, drift)
    idle, alarms = _course(sizes, lower, upper, 0.0)
    n = tuple(math.ceil(size * plan.total - 1e-6) for size in sizes)
    return SequentialPlan(name, plan.total, n, found[1], _both(alarms, plan.alternative), expected * plan.total,
                          idle * plan.total)  # fmt: skip


def _course(
    sizes: Sequence[float], lower: Sequence[float], upper: Sequence[float], drift: float
) -> tuple[float, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Return (expected size, chances to have crossed below and above by each look)."""
    down, up = crossings(sizes, lower, upper, drift=drift)
    stops = [a + b for a, b in zip(down[:-1], up[:-1], strict=True)]
    early = math.fsum(size * stop for size, stop in zip(sizes, stops, strict=False))
    expected = early + sizes[-1] * (1.0 - math.fsum(stops))
    return expected, (tuple(np.cumsum(down).tolist()), tuple(np.cumsum(up).tolist()))


def _both(alarms: tuple[tuple[float, ...], tuple[float, ...]], side: Alternative) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(*alarms, strict=True)) if side is Alternative.TWO_SIDED else alarms[1]


def _drift(plan: PowerPlan) -> float:
    """Return the expectation of Z with the fixed plan's units, from its power."""

    def lacking(shift: float) -> float:
        one = Alternative.GREATER if plan.alternative is Alternative.LESS else plan.alternative
        return z_power(shift, alpha=plan.alpha, alternative=one) - plan.power

    if not plan.alpha < plan.power < 1.0 - 1e-12:
        raise InputError(f"the plan's power is {plan.power}; a sequential plan needs one between alpha and 1")
    return float(brentq(lacking, 0.0, 20.0, xtol=1e-10))


def _horizon(plan: PowerPlan, boundary: Any, drift: float, looks: int) -> float:
    """Return the horizon, relative to the fixed size, at which the power is the plan's."""

    def lacking(full: float) -> float:
        sizes = [full * (i + 1) / looks for i in range(looks)]
        upper = [boundary(size) for size in sizes]
        return math.fsum(crossings(sizes, mirrored(upper, plan.alternative), upper, drift=drift)[1]) - plan.power

    high = 1.5
    while lacking(high) < 0.0:
        high *= 2.0
        if high > _WORST:
            raise InputError(f"even {_WORST:.0f} times the fixed size does not reach a power of {plan.power}; choose "
                             "tau or tuned nearer to the effect")  # fmt: skip
    return float(brentq(lacking, high / 4.0, high, xtol=1e-4))
