"""Rows on which a lowered model must answer like the model itself, and the comparison.

The surprise: most rows are made, not drawn. Trees differ at their thresholds, so each threshold is met from both sides;
linear models differ at extremes, so those are there too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flyball.registry.types import Flip, Scalar

__all__ = ["FEWEST", "TOLERANCE", "Parity", "compare", "probe_rows", "refused_by"]

FEWEST = 1000  # rows
TOLERANCE = 1e-5
_MOST = 3000  # rows made of thresholds, over all columns
_LISTED = 10  # flips beyond which a kernel is refused however small they are
_BATCH = 256
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Parity:
    """What the comparison found; `problem` is empty when the lowered model may answer in the model's place."""

    rows: int
    gap: float
    flips: tuple[Flip, ...]
    problem: str = ""


def probe_rows(sample: np.ndarray, thresholds: Mapping[int, np.ndarray], *, seed: int = 0) -> np.ndarray:
    """Return at least `FEWEST` rows, float64 (n, k): the sample, its columns shuffled, and edge values.

    Edge values are each column's minimum, maximum, zero, one beyond either, NaN, both infinities, and its thresholds (a
    seeded choice where there are many) with the next number on both sides, in double and in single precision.
    Rows that a model may refuse come last, so that asking for them one by one stays cheap.

    Args:
        sample: Real rows, float64 (n, k), n >= 1.
        thresholds: Of a tree model, by column.
        seed: Of the shuffle.
    """
    rng = np.random.default_rng(seed)
    plain, odd = _edges(sample, thresholds, rng)
    parts = [sample, plain]
    while sum(map(len, parts)) + len(odd) < FEWEST:
        parts.append(rng.permuted(sample, axis=0))
    parts.append(odd)
    return np.ascontiguousarray(np.concatenate(parts), dtype=np.float64)


def compare(
    native: Predict, lowered: Predict, rows: np.ndarray, classes: tuple[Scalar, ...] | None, *, classifier: bool
) -> Parity:
    """Ask both about the same rows; rows that one refuses, the other must refuse too."""
    ours, theirs = _ask(lowered, rows), _ask(native, rows)
    refused = np.array([a is None for a in theirs])
    wrong = np.flatnonzero(refused != np.array([a is None for a in ours]))
    if len(wrong):
        who = "the model" if refused[wrong[0]] else "the lowered kernel"
        return Parity(len(rows), float("inf"), (), f"{who} alone refuses row {wrong[0]} of the rows compared")
    kept = np.flatnonzero(~refused)
    if not len(kept):
        return Parity(len(rows), float("inf"), (), "the model refuses every row")
    a, b = np.array([theirs[k] for k in kept]), np.array([ours[k] for k in kept])
    if a.shape != b.shape or not np.isfinite(a).all():
        return Parity(len(rows), float("inf"), (), f"answers have shapes {a.shape} and {b.shape}")
    gap = float(np.abs(a - b).max())
    flips = _flips(a, b, kept, classes) if classifier and a.ndim == 2 else ()
    if not gap <= TOLERANCE:
        return Parity(len(rows), gap, flips[:_LISTED], f"answers differ by {gap:.3g}, allowed are {TOLERANCE:g}")
    if len(flips) > _LISTED:
        return Parity(len(rows), gap, flips[:_LISTED], f"{len(flips)} decisions flip, at most {_LISTED} are listed")
    return Parity(len(rows), gap, flips)


def refused_by(native: Predict, row: np.ndarray) -> tuple[Literal["", "infinity", "null"], float]:
    """Return what a model refuses, and the largest number it takes, asked with one row (k,) whose values it takes."""
    made = np.where(np.isfinite(row), row, 0.0)[None, :]

    def refuses(value: float) -> bool:
        answers = [_try(native, _put(made, column, value)) for column in range(made.shape[1])]
        return any(answer is None or not np.isfinite(answer).all() for answer in answers)

    largest = float(np.finfo(np.float32).max if refuses(1e300) else np.finfo(np.float64).max)
    if refuses(np.nan):
        return "null", largest
    return ("infinity" if refuses(np.inf) else ""), largest


def _put(row: np.ndarray, column: int, value: float) -> np.ndarray:
    made = row.copy()
    made[0, column] = value
    return made


def _edges(
    sample: np.ndarray, thresholds: Mapping[int, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows of finite edge values, rows with NaN or infinity in them)."""
    known = np.where(np.isfinite(sample), sample, np.nan)
    known = np.where(np.isnan(known).all(axis=0), 0.0, known)
    low, high = np.nanmin(known, axis=0), np.nanmax(known, axis=0)
    zero = np.zeros(len(low))
    plain = [np.array([low, high, zero, low - 1.0, high + 1.0])]
    odd = [np.array([zero + np.nan, zero + np.inf])]
    most = max(_MOST // (5 * max(len(thresholds), 1)), 4)
    for column in range(sample.shape[1]):
        values = [low[column], high[column], 0.0, low[column] - 1.0, high[column] + 1.0]
        plain.append(_with(sample, column, values + _around(thresholds.get(column, np.empty(0)), most, rng), rng))
        odd.append(_with(sample, column, [np.nan, np.inf, -np.inf], rng))
    return np.concatenate(plain), np.concatenate(odd)


def _with(sample: np.ndarray, column: int, values: list[float], rng: np.random.Generator) -> np.ndarray:
    made = sample[rng.integers(0, len(sample), len(values))].copy()
    made[:, column] = values
    return made


def _around(found: np.ndarray, most: int, rng: np.random.Generator) -> list[float]:
    found = found[np.isfinite(found)]
    if len(found) > most:
        found = rng.choice(found, most, replace=False)
    single = found.astype(np.float32)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    near = [found, np.nextafter(found, np.inf), np.nextafter(found, -np.inf),
            np.nextafter(single, up).astype(np.float64), np.nextafter(single, down).astype(np.float64)]  # fmt: skip
    return [float(value) for value in np.concatenate(near)]


def _ask(predict: Predict, rows: np.ndarray) -> list[np.ndarray | None]:
    """Return each row's answer, None where it was refused; a refused batch is halved until the row is found."""
    out: list[np.ndarray | None] = [None] * len(rows)
    parts = [(start, min(start + _BATCH, len(rows))) for start in range(0, len(rows), _BATCH)]
    while parts:
        start, end = parts.pop()
        answer = _try(predict, rows[start:end])
        if answer is not None and np.isfinite(answer).all():
            out[start:end] = list(answer)
        elif end - start > 1:
            middle = (start + end) // 2
            parts += [(start, middle), (middle, end)]
    return out


def _try(predict: Predict, rows: np.ndarray) -> np.ndarray | None:
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = np.asarray(predict(rows), dtype=np.float64)
    except Exception:  # whatever a model raises is a refusal
        return None
    return answer if len(answer) == len(rows) else None


def _flips(a: np.ndarray, b: np.ndarray, kept: np.ndarray, classes: tuple[Scalar, ...] | None) -> tuple[Flip, ...]:
    before, after = a.argmax(axis=1), b.argmax(axis=1)
    names: tuple[Scalar, ...] = classes or tuple(range(a.shape[1]))
    return tuple(
        Flip(int(kept[k]), names[before[k]], names[after[k]], float(a[k, before[k]]), float(b[k, before[k]]))
        for k in np.flatnonzero(before != after)
    )
