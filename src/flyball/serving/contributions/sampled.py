"""Contributions of any model by sampling permutations (Štrumbelj and Kononenko 2014, algorithm 2).

From a background row to the explained one, features are exchanged one at a time in random order; what the answer moved
is the feature's share. Each order is walked backwards too: such antithetic pairs cancel much of the noise (Mitchell,
Cooper, Frank and Holmes 2022). The surprise: all rows of a request share the draws, so one base value holds for all,
and base and contributions add up to the answer exactly, however few samples the deadline allowed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from flyball.errors import DeadlineExceeded, FlyballError
from flyball.serving.contributions.types import Explained, Space

__all__ = ["sampled"]

Predict = Callable[[np.ndarray], np.ndarray]
_PAIRS = 2048  # most pairs of walks
_LEAST = 8  # pairs before precision may end the sampling
_PRECISE = 0.005  # standard error, as a share of the answers' spread over the background, that is good enough
_ROWS = 16_384  # rows of one call of the model


def sampled(
    predict: Predict,
    matrix: np.ndarray,
    background: np.ndarray,
    *,
    until: float,
    rng: np.random.Generator,
    space: Space = "prediction",
    most: int = _PAIRS,
    clock: Callable[[], float] = time.monotonic,
) -> Explained:
    """Estimate the contributions to a model's answers until the deadline or until they are precise.

    Args:
        predict: Answers a matrix (n, k) with (n,) or (n, c).
        matrix: Rows to explain, (n, k).
        background: Rows to compare with, (m, k), m >= 1.
        until: When to stop, by `clock`.
        rng: Source of orders and background rows.
        space: What scale the answers are on.
        most: Pairs of walks to draw at most.
        clock: Monotonic seconds.

    Returns:
        Standard errors from the spread between pairs; `samples` counts walks, two per pair.

    Raises:
        DeadlineExceeded: not a single pair was done in time.
        FlyballError: there is no background, or the model answered something else than one answer per row.
    """
    if not len(background):
        raise FlyballError("there are no background rows to compare with; train the version again to store a sample")
    state = _State()
    spread: float | None = None
    longest = 0.0
    while state.pairs < most:
        begin = clock()
        if begin + longest >= until:
            break
        if spread is None:
            spread = float(np.std(_answers(predict, background[: _ROWS // 16]), axis=0).max())
        state.add(*_pair(predict, matrix, background[rng.integers(len(background))], rng))
        longest = max(longest, clock() - begin)
        if state.pairs >= _LEAST and np.max(state.errors, initial=0.0) <= _PRECISE * spread:
            break
    if not state.pairs:
        raise DeadlineExceeded(
            "the deadline passed before one sample of the explanation; ask with a longer deadline_ms"
        )
    return Explained(state.base, state.mean, "sampled", space, state.errors, 2 * state.pairs)


class _State:
    """Running mean and spread of pairs (Welford 1962)."""

    def __init__(self) -> None:
        self.pairs = 0
        self.mean = self._squares = self.base = np.zeros(0)

    def add(self, start: np.ndarray, moved: np.ndarray) -> None:
        self.pairs += 1
        if self.pairs == 1:
            self.mean, self._squares, self.base = moved, np.zeros_like(moved), start
            return
        delta = moved - self.mean
        self.mean = self.mean + delta / self.pairs
        self._squares = self._squares + delta * (moved - self.mean)
        self.base = self.base + (start - self.base) / self.pairs

    @property
    def errors(self) -> np.ndarray:
        if self.pairs < 2:
            return np.full_like(self.mean, np.nan)
        return np.asarray(np.sqrt(self._squares / (self.pairs - 1) / self.pairs))


def _pair(
    predict: Predict, matrix: np.ndarray, start: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the answer to the start row (c,) and the mean move of a walk and its reverse, (n, k, c)."""
    n, k = matrix.shape
    order = rng.permutation(k)
    place = np.empty(k, dtype=np.intp)
    place[order] = np.arange(k)
    step = np.arange(1, k)[:, None]
    forward, backward = place < step, (k - 1 - place) < step  # (k - 1, k): after that many exchanges, which are done
    masks = np.concatenate([forward, backward])
    between = np.where(masks[None], matrix[:, None, :], start).reshape(-1, k)
    rows = np.concatenate([start[None], matrix, between])
    answers = _answers(predict, rows)
    first, last, middle = answers[0], answers[1 : 1 + n], answers[1 + n :].reshape(n, 2, k - 1, answers.shape[1])
    moved = np.empty((n, 2, k, answers.shape[1]))
    path = np.concatenate([np.broadcast_to(first, (n, 2, 1, first.size)), middle,
                           np.repeat(last[:, None, None], 2, axis=1)], axis=2)  # fmt: skip
    steps = np.diff(path, axis=2)
    moved[:, 0, order], moved[:, 1, order[::-1]] = steps[:, 0], steps[:, 1]
    return first, moved.mean(axis=1)


def _answers(predict: Predict, rows: np.ndarray) -> np.ndarray:
    """Return answers (n, c) in calls of bounded size."""
    parts = [np.asarray(predict(rows[i : i + _ROWS]), dtype=np.float64) for i in range(0, len(rows), _ROWS)]
    out = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if out.ndim not in {1, 2} or len(out) != len(rows):
        raise FlyballError(f"the model answered {len(rows)} rows with shape {out.shape}; it cannot be explained")
    return out.reshape(len(rows), -1)
