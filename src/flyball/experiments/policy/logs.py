"""A log of actions, rewards and propensities, with the policy that is to be judged by it.

Without the probability with which each action was drawn, nothing can be said about another policy: such logs are
refused. The surprise: weights average 1 when all is well, so a mean weight far from 1 tells of wrong propensities or of
actions the log never took.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from flyball.errors import InputError, Refused
from flyball.experiments.fixed.clusters import unit_index

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Diagnostics", "PolicyLog"]

_UNSEEN = 0.05  # share of the target policy's choices that the log may miss
_FEW = 100.0  # effective rows below which an estimate is not to be believed
_HEAVY = 0.1  # share of all weight on one row


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """How far a log can speak about another policy.

    Args:
        n: Rows.
        effective: Effective sample size, (sum of w)² / sum of w² (Kish).
        mean_weight: Mean weight; 1 is expected.
        max_weight: Largest weight.
        heaviest: Share of all weight on that row.
        clipped: Share of the rows whose weight was cut.
        unseen: Share of the target policy's choices that the log never took, or could not take.
        error: Standard error of the mean weight.
    """

    n: int
    effective: float
    mean_weight: float
    max_weight: float
    heaviest: float
    clipped: float
    unseen: float
    error: float = 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against the estimate, in sentences; empty when nothing does."""
        found = []
        if self.effective < _FEW:
            found.append(f"{self.n:,} rows weigh as much as {self.effective:.3g}: the log hardly speaks of this policy")
        if self.heaviest > _HEAVY:
            found.append(f"one row of weight {self.max_weight:,.5g} carries {self.heaviest:.0%} of all weight")
        if not self.clipped and abs(self.mean_weight - 1.0) > max(4.0 * self.error, 0.01):
            found.append(f"weights average {self.mean_weight:.3g} instead of 1: propensities are wrong or actions lack")
        if self.unseen > 0.0:
            found.append(f"the log lacks {self.unseen:.1%} of what the policy would do; their reward counts as 0")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"n": self.n, "effective": self.effective, "mean_weight": self.mean_weight,
                "max_weight": self.max_weight, "heaviest": self.heaviest, "clipped": self.clipped,
                "unseen": self.unseen, "warnings": list(self.warnings)}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class PolicyLog:
    """A checked log; built by `of`.

    Args:
        actions: Index of the action taken, shape (n,).
        rewards: Its reward, shape (n,).
        propensities: Probability with which it was taken, shape (n,), in (0, 1].
        policy: The target policy's probability of every action, shape (n, k), rows summing to 1.
        clusters: Cluster of each row, shape (n,), from 0; rows of one unit are not independent.
        unseen: Share of the target policy's choices that the log cannot speak of.
    """

    actions: NDArray[np.int64]
    rewards: NDArray[np.float64]
    propensities: NDArray[np.float64]
    policy: NDArray[np.float64]
    clusters: NDArray[np.int64] | None
    unseen: float

    @classmethod
    def of(
        cls, *, actions: ArrayLike, rewards: ArrayLike, propensities: ArrayLike | None, policy: ArrayLike,
        logging: ArrayLike | None = None, clusters: ArrayLike | None = None, unseen: float = _UNSEEN,
    ) -> Self:  # fmt: skip
        """Check a log and the policy to be judged.

        Args:
            actions: Index of the action taken, shape (n,), in 0..k-1.
            rewards: Its reward, shape (n,), finite.
            propensities: Probability with which the log's policy took it, shape (n,), in (0, 1].
            policy: The target policy's probabilities, shape (n, k), or (k,) when it looks at nothing.
            logging: The log's policy in full, shape (n, k) or (k,), if known: overlap is then checked exactly.
            clusters: The unit of each row, shape (n,), when units have several rows.
            unseen: Largest share of the target's choices that the log may never take.

        Raises:
            Refused: no propensities, or too little overlap.
            InputError: shapes that do not fit, or values out of bounds.

        Example:
            >>> log = PolicyLog.of(actions=[0, 1], rewards=[1.0, 0.0], propensities=[0.5, 0.5], policy=[0.8, 0.2])
            >>> log.weights.tolist()
            [1.6, 0.4]
        """
        if propensities is None:
            raise Refused(
                "the log has no propensities; without the probability of each action taken another policy cannot be "
                "judged from it: log them from now on, or run an experiment"
            )
        taken, reward = np.asarray(actions), np.asarray(rewards, dtype=np.float64)
        p, target = np.asarray(propensities, dtype=np.float64), np.asarray(policy, dtype=np.float64)
        n = len(reward)
        target = _probabilities("the policy", target, n)
        _check_rows(taken, reward, p, target.shape[1])
        index = taken.astype(np.int64)
        full = None if logging is None else _probabilities("the logging policy", np.asarray(logging, dtype=float), n)
        if full is not None and full.shape != target.shape:
            raise InputError(f"the logging policy knows {full.shape[1]} actions and the policy {target.shape[1]}")
        lacking = _lacking(index, target, full)
        if lacking > unseen:
            raise Refused(
                f"the log never takes {lacking:.1%} of what the policy would do, {unseen:.0%} is the most that may "
                "lack; judge a policy closer to the logged one, or log with a floor under every action"
            )
        owner = None if clusters is None else unit_index(clusters, n)
        return cls(index, reward, p, target, owner, lacking)

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.rewards)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Importance weights, target over logged probability of the action taken, shape (n,)."""
        return np.asarray(self.policy[np.arange(self.n), self.actions] / self.propensities)

    def diagnostics(self, *, limit: float = math.inf) -> Diagnostics:
        """Tell how the weights, cut at `limit`, lie."""
        raw = self.weights
        w = np.minimum(raw, limit)
        total, squares = float(w.sum()), float((w * w).sum())
        effective = total * total / squares if squares else 0.0
        error = float(w.std(ddof=1)) / math.sqrt(self.n) if self.n > 1 else math.inf
        heaviest = float(w.max()) / total if total else 0.0
        clipped = float((raw > limit).mean())
        return Diagnostics(self.n, effective, total / self.n, float(w.max()), heaviest, clipped, self.unseen, error)


def _probabilities(what: str, table: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    table = np.broadcast_to(table, (n, len(table))) if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != n or table.shape[1] == 0:
        raise InputError(f"{what} has shape {table.shape} for {n} rows; one probability per row and action is needed")
    if not (np.isfinite(table).all() and (table >= 0.0).all()):
        raise InputError(f"{what} has probabilities that are negative or missing")
    wrong = np.abs(table.sum(axis=1) - 1.0) > 1e-6
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{what} sums to {table[row].sum():.6g} in row {row}; the actions' probabilities sum to 1")
    return table


def _check_rows(actions: NDArray[Any], rewards: NDArray[np.float64], p: NDArray[np.float64], k: int) -> None:
    n = len(rewards)
    if n == 0:
        raise InputError("the log has no rows")
    if actions.shape != (n,) or p.shape != (n,) or rewards.ndim != 1:
        raise InputError(f"actions {actions.shape}, rewards {rewards.shape}, propensities {p.shape}; one of each a row")
    if not np.issubdtype(actions.dtype, np.integer):
        raise InputError(f"actions are of type {actions.dtype}; give the index of the action, 0 to {k - 1}")
    for what, bad, need in (
        ("action", (actions < 0) | (actions >= k), f"0 to {k - 1}"),
        ("reward", ~np.isfinite(rewards), "a finite number"),
        ("propensity", ~((p > 0.0) & (p <= 1.0)), "above 0 and at most 1"),
    ):
        if bad.any():
            row = int(bad.argmax())
            value = {"action": actions, "reward": rewards, "propensity": p}[what][row]
            raise InputError(f"row {row} has {what} {value:g} ({int(bad.sum()):,} rows like it); it must be {need}")


def _lacking(actions: NDArray[np.int64], target: NDArray[np.float64], full: NDArray[np.float64] | None) -> float:
    if full is not None:
        return float(np.where(full > 0.0, 0.0, target).sum() / len(target))
    seen = np.bincount(actions, minlength=target.shape[1]) > 0
    return float(target[:, ~seen].sum() / len(target))
