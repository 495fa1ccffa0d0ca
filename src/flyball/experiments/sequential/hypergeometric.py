"""Compare failures of two arms at every look when failures are not rare: Fisher's non-central hypergeometric law.

Within a block, given how many of the n_c + n_b requests failed, the number of the candidate's failures depends on the
odds ratio alone: the block's failure rate cancels, whatever it is, and may change from block to block. So the product
of likelihood ratios over blocks is exact at 50 % as at 5 %, where the odds of `OddsProcess` (exact for failures that
come one at a time) are too cautious. The surprise: the state is the log likelihood on a fixed grid of odds ratios, so
shards, days and nodes simply add up.

A block must be closed without a look at its outcomes: by the clock or by its sizes. Blocks of one request tell
nothing; from about 20 an arm on, little is lost.

References: Fisher (1935); Turner, Ly, Grünwald (2024), safe tests of 2x2 tables; Ville (1939).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, Scale, alternative_of, check_level

__all__ = ["Hypergeometric"]

_STEPS = 20  # grid points for each factor of e
_GRID = tuple(i / _STEPS for i in range(-5 * _STEPS, 5 * _STEPS + 1))  # log odds ratios from 1/148 to 148
_WIDE = 0.7  # deviation of the mixture over log odds ratios: most of its weight between 1/4 and 4
_WEIGHTS = tuple(-0.5 * (i / _STEPS / _WIDE) ** 2 for i in range(1, len(_GRID)))  # logarithms, by distance
_LOG_WEIGHT = math.log(math.fsum(math.exp(weight) for weight in _WEIGHTS))
_LARGEST = 200_000  # failures (or successes) of one block
_FEW = 100  # outcomes up to which 148**y is a float
_CELLS = 1_000_000  # of a table of odds ratios by possible outcomes


@dataclass(frozen=True, slots=True)
class Hypergeometric:
    """Evidence on the odds ratio of failures, treatment against control.

    Args:
        block: Units that each arm must have before a pending block is closed; 1 judges every `add` by itself.
        logs: Log likelihood of the closed blocks at each odds ratio of the grid, less that at an odds ratio of 1.
        treatment: (failures, units) in closed blocks.
        control: (failures, units) in closed blocks.
        pending: (failures, units, failures, units) of treatment and control, not yet judged.

    Example:
        >>> state = Hypergeometric()
        >>> for _ in range(20):
        ...     state = state.add((30, 100), (20, 100))
        >>> found = state.estimate()
        >>> found.significant, round(found.effect, 2), found.p < 0.001
        (True, 1.71, True)
    """

    block: int = 20
    logs: tuple[float, ...] = (0.0,) * len(_GRID)
    treatment: tuple[int, int] = (0, 0)
    control: tuple[int, int] = (0, 0)
    pending: tuple[int, int, int, int] = (0, 0, 0, 0)

    def add(self, treatment: tuple[int, int], control: tuple[int, int]) -> Self:
        """Return the state after more units of one allocation.

        Args:
            treatment: (failures, units) of the treatment.
            control: (failures, units) of the control in the same time.

        Raises:
            InputError: counts are negative, more failures than units, or a block too large to be judged exactly.
        """
        for name, (failures, n) in (("treatment", treatment), ("control", control)):
            if not 0 <= failures <= n:
                raise InputError(f"the {name} has {failures} failures of {n} units; they are between 0 and the units")
        a, m, b, n = self.pending
        waiting = (a + treatment[0], m + treatment[1], b + control[0], n + control[1])
        after = replace(self, pending=waiting)
        return after.close() if min(waiting[1], waiting[3]) >= self.block else after

    def close(self) -> Self:
        """Return the state with the pending block judged; for a change of allocation, or the end.

        Never call it because of what the block's outcomes look like.
        """
        a, m, b, n = self.pending
        if m + n == 0:
            return self
        gained = _block(a, m, b, n)
        logs = tuple(log + gain for log, gain in zip(self.logs, gained, strict=True))
        return replace(self, logs=logs, treatment=(self.treatment[0] + a, self.treatment[1] + m),
                       control=(self.control[0] + b, self.control[1] + n), pending=(0, 0, 0, 0))  # fmt: skip

    def log_e(self, *, margin: float = 0.0, alternative: Alternative | str = Alternative.GREATER) -> float:
        """Return the log e-value now against "the odds of failure are at most (1 + margin) times the control's".

        Args:
            margin: Accepted relative harm of the odds, > -1; about that of the rates while those are small. The
                next larger (for "less": smaller) odds ratio of the grid is judged, 5 % apart; 0 is on the grid.
            alternative: "greater", "less" (against "at least ..."), or "two-sided" (against "exactly ...").
        """
        if not -1.0 < margin < math.inf:
            raise InputError(f"margin is {margin}; it is a relative change of the odds above -1, such as 0.1")
        side, at = alternative_of(alternative), math.log1p(margin) * _STEPS + 5 * _STEPS
        index = math.floor(at + 1e-9) if side is Alternative.LESS else math.ceil(at - 1e-9)
        if not 0 <= index < len(_GRID):
            raise InputError(f"margin is {margin}, beyond the odds ratios considered ({1 / 148:.3f} to 148)")
        if side is not Alternative.TWO_SIDED:
            return _beyond(self.logs, index, side)
        return max(_beyond(self.logs, index, one) for one in (Alternative.GREATER, Alternative.LESS)) - math.log(2.0)

    def estimate(self, *, level: float = 0.95, alternative: Alternative | str = Alternative.TWO_SIDED) -> Estimate:
        """Return the odds ratio with an interval that holds at every look; p is that of this look's e-value.

        The e-value's running maximum (see `AlwaysValid`) gives the p value of all looks. The effect is the likeliest
        odds ratio on the grid, refined by a parabola; bounds are grid points outside the set, never too near.

        Args:
            level: Confidence over all looks.
            alternative: "two-sided", "greater" or "less".
        """
        side, limit = alternative_of(alternative), -math.log(1.0 - check_level(level))
        limit += math.log(2.0) if side is Alternative.TWO_SIDED else 0.0
        lower = None if side is Alternative.LESS else _edge(self.logs, limit, Alternative.GREATER)
        upper = None if side is Alternative.GREATER else _edge(self.logs, limit, Alternative.LESS)
        p = math.exp(min(-self.log_e(alternative=alternative), 0.0))
        peak = max(range(len(_GRID)), key=self.logs.__getitem__)
        rates = [k / n if n else None for k, n in (self.treatment, self.control)]
        return Estimate(
            math.exp(_vertex(self.logs, peak)), -math.inf if side is Alternative.LESS else _odds(lower, 0.0),
            _odds(upper, math.inf), p, None, (self.treatment[1], self.control[1]), "conditional odds-ratio sequence",
            level, side, Scale.RATIO, treatment=rates[0], control=rates[1],
            notes=("a ratio of odds, failures / (1 - failures)",),
        )  # fmt: skip

    def merge(self, other: Hypergeometric) -> Self:
        """Return the evidence of both, exactly and in any order; close pending blocks before.

        Raises:
            InputError: a block is pending.
        """
        if any(self.pending) or any(other.pending):
            raise InputError("a block is still pending; call close() on both before merging, at a time fixed before")
        logs = tuple(a + b for a, b in zip(self.logs, other.logs, strict=True))
        (a, m), (b, n), (c, p), (d, q) = self.treatment, self.control, other.treatment, other.control
        return replace(self, logs=logs, treatment=(a + c, m + p), control=(b + d, n + q))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal state."""
        return {"block": self.block, "logs": list(self.logs), "treatment": list(self.treatment),
                "control": list(self.control), "pending": list(self.pending)}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        a, m, b, n = data["pending"]
        logs, one, other = tuple(data["logs"]), tuple(data["treatment"]), tuple(data["control"])
        return cls(data["block"], logs, one, other, (a, m, b, n))


def _beyond(logs: tuple[float, ...], null: int, side: Alternative) -> float:
    """Return the log e-value of the odds ratios beyond a null, weighted by their distance from it (half a normal).

    The likelihood is log-concave, so this falls in the null for "greater" and rises for "less": what is refuted is a
    whole side, and off-grid odds ratios lie between their neighbours.
    """
    if side is Alternative.GREATER:
        gains = [log - logs[null] + weight for log, weight in zip(logs[null + 1 :], _WEIGHTS, strict=False)]
    else:
        gains = [log - logs[null] + weight for log, weight in zip(logs[:null][::-1], _WEIGHTS, strict=False)]
    if not gains:
        return 0.0
    top = max(gains)
    return top + math.log(math.fsum(math.exp(gain - top) for gain in gains)) - _LOG_WEIGHT


def _edge(logs: tuple[float, ...], limit: float, side: Alternative) -> int | None:
    """Return the refuted grid point nearest to the interval, None if not even the outermost one is refuted."""
    step, outer = (1, 0) if side is Alternative.GREATER else (-1, len(_GRID) - 1)
    refuted, kept = 0, len(_GRID) - 1  # in steps from the outermost point
    if _beyond(logs, outer, side) < limit:
        return None
    while kept - refuted > 1:
        middle = (refuted + kept) // 2
        if _beyond(logs, outer + step * middle, side) >= limit:
            refuted = middle
        else:
            kept = middle
    return outer + step * refuted


def _odds(index: int | None, open_end: float) -> float:
    return open_end if index is None else math.exp(_GRID[index])


def _block(a: int, m: int, b: int, n: int) -> list[float]:
    """Return log P(a of the failures are the treatment's) at each odds ratio, less that at 1."""
    total = a + b
    low, high = max(0, total - n), min(m, total)
    if low == high:
        return [0.0] * len(_GRID)
    if high - low > _LARGEST:
        raise InputError(f"a block of {m} and {n} units with {total} failures is too large to be judged exactly; "
                         f"close blocks sooner, below {_LARGEST:,} failures")  # fmt: skip
    sums = _few(a, m, n, total, low, high) if high - low < _FEW else _many(a, m, n, total, low, high)
    return [sums[len(_GRID) // 2] - value for value in sums]


def _few(a: int, m: int, n: int, total: int, low: int, high: int) -> list[float]:
    """Return log sum of w(y) ratio**(y - a) over outcomes y, by Horner's rule: floats that are the same everywhere."""
    logs = [0.0]
    for y in range(low, high):
        logs.append(logs[-1] + math.log((m - y) / (y + 1.0)) + math.log((total - y) / (n - total + y + 1.0)))
    top = max(logs)
    weights = [math.exp(log - top) for log in reversed(logs)]
    sums = []
    for at in _GRID:
        ratio, value = math.exp(at), 0.0
        for weight in weights:
            value = value * ratio + weight
        sums.append(math.log(value) + top + at * (low - a))
    return sums


def _many(a: int, m: int, n: int, total: int, low: int, high: int) -> list[float]:
    """Return the same as `_few`, for outcomes so many that powers of the ratio overflow."""
    import numpy as np

    y = np.arange(low, high, dtype=np.float64)
    ratios = np.log((m - y) / (y + 1.0)) + np.log((total - y) / (n - total + y + 1.0))
    weights = np.concatenate([[0.0], np.cumsum(ratios)])
    support = np.arange(low, high + 1, dtype=np.float64) - a  # centred: only differences of exponents matter
    grid, rows = np.array(_GRID), max(1, _CELLS // len(support))
    sums: list[float] = []
    for i in range(0, len(grid), rows):
        values = weights + np.outer(grid[i : i + rows], support)
        top = values.max(axis=1, keepdims=True)
        sums.extend((np.log(np.exp(values - top).sum(axis=1)) + top[:, 0]).tolist())
    return sums


def _vertex(logs: tuple[float, ...], peak: int) -> float:
    """Return the log odds ratio at the top of the parabola through the peak and its neighbours."""
    if peak in (0, len(logs) - 1) or max(logs) == min(logs):
        return 0.0 if max(logs) == min(logs) else _GRID[peak]
    before, at, after = logs[peak - 1 : peak + 2]
    curve = before - 2.0 * at + after
    return _GRID[peak] + (0.5 * (before - after) / curve / _STEPS if curve < 0.0 else 0.0)
