"""How far apart two versions stand on the same rows, with a 95 % interval.

The surprise: metrics that are no mean over rows get their interval by linearising (rmse, r2) or, for auc, by a
seeded bootstrap over rows, so the same rows always give the same interval.
"""

from __future__ import annotations

import math

import numpy as np

from flyball.registry.evaluation import ROW_LOSSES, metrics_of, row_loss

__all__ = ["paired_difference"]

_Z = 1.959963984540054  # two-sided 95 % of the normal distribution
_RESAMPLES = 200


def paired_difference(
    metric: str, y: np.ndarray, candidate: np.ndarray, champion: np.ndarray, *, classifier: bool
) -> tuple[float, float]:
    """Return the 95 % interval of metric(candidate) - metric(champion) on the same rows.

    Args:
        metric: A name of `registry.evaluation.METRICS`.
        y: True values, shape (n,), n >= 2.
        candidate: Its answers, aligned with `y`.
        champion: Its answers, aligned with `y`.
        classifier: Whether the answers are probabilities.

    Returns:
        (low, high) in the metric's unit; for rmse by the delta method.
    """
    if metric in ROW_LOSSES:
        return _normal(row_loss(metric, y, candidate) - row_loss(metric, y, champion))
    if metric == "rmse":
        mine, theirs = row_loss("mse", y, candidate), row_loss("mse", y, champion)
        a, b = math.sqrt(mine.mean()) or 1.0, math.sqrt(theirs.mean()) or 1.0
        return _normal(_linear(mine, a) - _linear(theirs, b))
    if metric == "r2":
        low, high = _normal(row_loss("mse", y, champion) - row_loss("mse", y, candidate))
        spread = float(np.var(y)) or 1.0
        return low / spread, high / spread
    return _bootstrap(metric, y, candidate, champion, classifier=classifier)


def _normal(differences: np.ndarray) -> tuple[float, float]:
    mean = float(differences.mean())
    half = _Z * float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return mean - half, mean + half


def _linear(squares: np.ndarray, root: float) -> np.ndarray:
    """Return each row's part of sqrt(mean(squares)), linearised around its value `root`."""
    return root + (squares - root**2) / (2.0 * root)


def _bootstrap(
    metric: str, y: np.ndarray, candidate: np.ndarray, champion: np.ndarray, *, classifier: bool
) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_RESAMPLES):
        rows = rng.integers(0, len(y), len(y))
        mine = metrics_of(y[rows], candidate[rows], classifier=classifier)[metric]
        found.append(mine - metrics_of(y[rows], champion[rows], classifier=classifier)[metric])
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)
