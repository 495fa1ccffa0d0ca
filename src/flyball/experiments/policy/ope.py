"""What would another policy have earned? Off-policy estimates from a log with propensities.

IPS and SNIPS weigh rewards; the direct method trusts a reward model; doubly robust and switch take the model where
weights are bad and the log where the model is. The surprise: the interval of an estimate with a handful of effective
rows looks narrow and is wrong, so read `warnings` before `value`.

References: Horvitz and Thompson (1952); Swaminathan and Joachims (2015), SNIPS; Dudík, Langford and Li (2011), doubly
robust; Wang, Agarwal and Dudík (2017), switch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, check_level
from flyball.experiments.fixed.pivots import critical
from flyball.experiments.policy.logs import Diagnostics, PolicyLog

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Bootstrap", "PolicyValue", "clipped_ips", "direct_method", "doubly_robust", "evaluate_policy", "ips",
           "reward_table", "snips", "switch_dr"]  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Bootstrap:
    """Intervals by resampling units instead of the normal law: `rng` draws `resamples` times."""

    rng: np.random.Generator
    resamples: int = 2000

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise InputError(f"{self.resamples} resamples; percentiles need 100 at the least")


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """The target policy's mean reward.

    Args:
        value: The estimate.
        lower: Lower end of its interval.
        upper: Upper end.
        error: Standard error.
        level: Confidence level.
        method: The estimator.
        interval: "normal" or "bootstrap".
        diagnostics: How the weights lie.
        notes: What the reader must know of this estimator.
    """

    value: float
    lower: float
    upper: float
    error: float
    level: float
    method: str
    interval: str
    diagnostics: Diagnostics
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against the estimate; the direct method uses no weights, so weights cannot speak against it."""
        return () if self.method == "DM" else self.diagnostics.warnings

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"value": self.value, "lower": self.lower, "upper": self.upper, "error": self.error,
                "level": self.level, "method": self.method, "interval": self.interval,
                "diagnostics": self.diagnostics.to_dict(), "notes": list(self.notes),
                "warnings": list(self.warnings)}  # fmt: skip

    def __str__(self) -> str:
        text = f"{self.method}: {self.value:.4g} [{self.lower:.4g}, {self.upper:.4g}] at {self.level:.0%}"
        text += f", {self.diagnostics.n:,} rows worth {self.diagnostics.effective:,.4g}"
        return text + "".join(f"\n  {line}" for line in (*self.notes, *self.warnings))


def ips(log: PolicyLog, *, level: float = 0.95, bootstrap: Bootstrap | None = None) -> PolicyValue:
    """Return the mean of weight times reward: unbiased, and as wild as its largest weight.

    Example:
        >>> log = PolicyLog.of(actions=[0, 1, 0, 1], rewards=[1.0, 0.0, 1.0, 1.0], propensities=[0.5] * 4,
        ...                    policy=[0.75, 0.25])
        >>> ips(log).value, round(snips(log).value, 4)
        (0.875, 0.875)
    """
    return _told(log, "IPS", _weights(log) * log.rewards, None, level, bootstrap)


def snips(log: PolicyLog, *, level: float = 0.95, bootstrap: Bootstrap | None = None) -> PolicyValue:
    """Return weighted rewards over the sum of weights: a little biased, steadier, and within the rewards' range."""
    w = _weights(log)
    return _told(log, "SNIPS", w * log.rewards, w, level, bootstrap)


def clipped_ips(
    log: PolicyLog, *, limit: float = 10.0, normalise: bool = True, level: float = 0.95,
    bootstrap: Bootstrap | None = None,
) -> PolicyValue:  # fmt: skip
    """Return IPS (or SNIPS, when `normalise`) with weights cut at `limit`: biased, and tame.

    Raises:
        InputError: the limit is not above 0.
    """
    if not limit > 0.0:
        raise InputError(f"limit is {limit}; weights are cut at a number above 0, such as 10")
    w = np.minimum(_weights(log), limit)
    name = "clipped SNIPS" if normalise else "clipped IPS"
    note = f"weights above {limit:g} are cut: the interval does not cover the bias"
    return _told(log, name, w * log.rewards, w if normalise else None, level, bootstrap, limit=limit, notes=(note,))


def direct_method(
    log: PolicyLog, predicted: ArrayLike, *, level: float = 0.95, bootstrap: Bootstrap | None = None
) -> PolicyValue:
    """Return what a reward model promises of the policy's choices.

    Args:
        log: The log; its rewards are not used.
        predicted: Predicted reward of every action, shape (n, k) or (k,), of a model not fitted on these rows.
        level: Confidence level.
        bootstrap: Resample instead of the normal law.
    """
    rows = (log.policy * _predictions(log, predicted)).sum(axis=1)
    note = "the interval knows nothing of the reward model's error"
    return _told(log, "DM", rows, None, level, bootstrap, notes=(note,))


def doubly_robust(
    log: PolicyLog, predicted: ArrayLike, *, limit: float = math.inf, level: float = 0.95,
    bootstrap: Bootstrap | None = None,
) -> PolicyValue:  # fmt: skip
    """Return the direct method plus the weighted residuals: right when either model or propensities are.

    Args:
        log: The log.
        predicted: Predicted reward of every action, shape (n, k) or (k,), of a model not fitted on these rows.
        limit: Weights are cut here; inf for the unbiased form.
        level: Confidence level.
        bootstrap: Resample instead of the normal law.
    """
    return _residual(log, predicted, np.minimum(log.weights, limit), "DR", limit, level, bootstrap)


def switch_dr(
    log: PolicyLog, predicted: ArrayLike, *, limit: float = 10.0, level: float = 0.95,
    bootstrap: Bootstrap | None = None,
) -> PolicyValue:  # fmt: skip
    """Return doubly robust where the weight is at most `limit`, and the model alone elsewhere (Wang et al. 2017)."""
    w = np.where(log.weights <= limit, log.weights, 0.0)
    return _residual(log, predicted, w, "switch-DR", limit, level, bootstrap)


def evaluate_policy(
    log: PolicyLog, *, predicted: ArrayLike | None = None, limit: float = 10.0, level: float = 0.95,
    bootstrap: Bootstrap | None = None,
) -> tuple[PolicyValue, ...]:  # fmt: skip
    """Return every estimate that the log allows; those with a reward model when `predicted` is given."""
    values = [
        ips(log, level=level, bootstrap=bootstrap),
        snips(log, level=level, bootstrap=bootstrap),
        clipped_ips(log, limit=limit, level=level, bootstrap=bootstrap),
    ]
    if predicted is not None:
        values += [
            direct_method(log, predicted, level=level, bootstrap=bootstrap),
            doubly_robust(log, predicted, level=level, bootstrap=bootstrap),
            switch_dr(log, predicted, limit=limit, level=level, bootstrap=bootstrap),
        ]
    return tuple(values)


def reward_table(
    log: PolicyLog, *, rng: np.random.Generator, groups: ArrayLike | None = None, folds: int = 5,
    strength: float = 10.0,
) -> NDArray[np.float64]:  # fmt: skip
    """Fit the simplest reward model, cross-fitted: the mean reward of (group, action), drawn to the overall mean.

    Each row is predicted from the other folds only, so doubly robust estimates stay honest.

    Args:
        log: The log.
        rng: Assigns rows (or whole clusters) to folds.
        groups: Context of each row as an index from 0, shape (n,); None for no context.
        folds: Number of folds, >= 2.
        strength: Rows that the overall mean weighs.

    Returns:
        Predicted reward, shape (n, k).
    """
    owner = np.arange(log.n) if log.clusters is None else log.clusters
    count = int(owner.max()) + 1
    if not 2 <= folds <= count or not strength > 0.0:
        raise InputError(f"{folds} folds of {count} units with strength {strength}; 2 to {count} folds, strength > 0")
    group = np.zeros(log.n, dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
    if group.shape != (log.n,) or group.min() < 0:
        raise InputError(f"groups of shape {group.shape} from {group.min()} for {log.n} rows; an index >= 0 for each")
    k, fold = log.policy.shape[1], (rng.permutation(count) % folds)[owner]
    cell, cells = group * k + log.actions, (int(group.max()) + 1) * k
    predicted = np.empty((log.n, k))
    for i in range(folds):
        rest = fold != i
        level = float(log.rewards[rest].mean())
        sums = np.bincount(cell[rest], weights=log.rewards[rest], minlength=cells)
        table = (sums + strength * level) / (np.bincount(cell[rest], minlength=cells) + strength)
        predicted[~rest] = table.reshape(-1, k)[group[~rest]]
    return predicted


def _weights(log: PolicyLog) -> NDArray[np.float64]:
    w = log.weights
    if not w.any():
        raise InputError("no logged action is one the policy would take; all weights are 0 and say nothing of it")
    return w


def _residual(
    log: PolicyLog, predicted: ArrayLike, w: NDArray[np.float64], name: str, limit: float, level: float,
    bootstrap: Bootstrap | None,
) -> PolicyValue:  # fmt: skip
    table = _predictions(log, predicted)
    taken = table[np.arange(log.n), log.actions]
    rows = (log.policy * table).sum(axis=1) + w * (log.rewards - taken)
    notes = () if math.isinf(limit) else (f"weights above {limit:g} are left to the reward model",)
    return _told(log, name, rows, None, level, bootstrap, limit=limit, notes=notes)


def _predictions(log: PolicyLog, predicted: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(predicted, dtype=np.float64)
    if table.shape not in (log.policy.shape, log.policy.shape[1:]) or not np.isfinite(table).all():
        raise InputError(f"predicted has shape {table.shape}; a finite reward for each of {log.policy.shape} is needed")
    return np.broadcast_to(table, log.policy.shape)


def _told(
    log: PolicyLog, method: str, top: NDArray[np.float64], bottom: NDArray[np.float64] | None, level: float,
    bootstrap: Bootstrap | None, *, limit: float = math.inf, notes: Sequence[str] = (),
) -> PolicyValue:  # fmt: skip
    """Tell an estimate that is sum(top) / sum(bottom), or the mean of `top` where there is no bottom."""
    check_level(level)
    rows = np.ones(log.n) if bottom is None else bottom
    if log.clusters is not None:
        top = np.asarray(np.bincount(log.clusters, weights=top), dtype=np.float64)
        rows = np.asarray(np.bincount(log.clusters, weights=rows), dtype=np.float64)
    total = float(rows.sum())
    value, n = float(top.sum()) / total, len(top)
    spread = float(((top - value * rows) ** 2).sum()) * (n / (n - 1.0) if n > 1 else math.inf)
    error = math.sqrt(spread) / total if n > 1 else math.inf
    if bootstrap is not None:
        lower, upper = _percentiles(top, rows, level, bootstrap)
    else:
        reach = critical(level, Alternative.TWO_SIDED) * error
        lower, upper = value - reach, value + reach
    return PolicyValue(value, lower, upper, error, level, method,
                       "normal" if bootstrap is None else "bootstrap", log.diagnostics(limit=limit),
                       tuple(notes))  # fmt: skip


def _percentiles(
    top: NDArray[np.float64], bottom: NDArray[np.float64], level: float, bootstrap: Bootstrap
) -> tuple[float, float]:
    n, draws = len(top), np.empty(bootstrap.resamples)
    for i in range(bootstrap.resamples):
        times = np.bincount(bootstrap.rng.integers(0, n, n), minlength=n)
        below = float(times @ bottom)
        draws[i] = float(times @ top) / below if below > 0.0 else np.nan
    lower, upper = np.nanquantile(draws, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(lower), float(upper)
