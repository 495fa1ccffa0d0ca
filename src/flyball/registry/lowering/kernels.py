"""Lowered kernels as bytes and back: linear models in numpy, everything else as ONNX.

The surprise: a linear kernel answers one row without numpy's array arithmetic; for one number, Python's own is faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from flyball.errors import InputError, Untrusted
from flyball.registry.types import Scalar

__all__ = ["FILES", "MOST", "Affine", "Link", "linear_kernel", "open_kernel"]

Predict = Callable[[np.ndarray], np.ndarray]
Link = Literal["identity", "logistic", "softmax", "exp"]
MOST = float(np.finfo(np.float64).max)
FILES = {"linear": "lowered.linear", "onnx": "lowered.onnx"}


@dataclass(frozen=True, slots=True)
class Affine:
    """link(fill(x) @ weights + bias): weights (k, c), bias (c,), `fill` (k,) in place of NaN or None; c = 1 mostly."""

    link: Link
    weights: np.ndarray
    bias: np.ndarray
    fill: np.ndarray | None = None

    def to_bytes(self) -> bytes:
        """Return canonical bytes: numbers only."""
        body = _Body(
            self.link, self.weights.shape, _raw(self.weights), _raw(self.bias),
            b"" if self.fill is None else _raw(self.fill),
        )  # fmt: skip
        return msgspec.msgpack.encode(body)

    @classmethod
    def from_bytes(cls, data: bytes) -> Affine:
        """Read what `to_bytes` wrote; raises Untrusted when it is something else."""
        try:
            body = msgspec.msgpack.decode(data, type=_Body)
            weights = np.frombuffer(body.weights, dtype="<f8").reshape(body.shape)
        except (msgspec.DecodeError, ValueError) as error:
            raise Untrusted(f"the lowered kernel does not read: {error}; train the model again") from error
        fill = np.frombuffer(body.fill, dtype="<f8") if body.fill else None
        return cls(body.link, weights, np.frombuffer(body.bias, dtype="<f8"), fill)


class _Body(msgspec.Struct, array_like=True):
    link: Link
    shape: tuple[int, int]
    weights: bytes
    bias: bytes
    fill: bytes = b""


def open_kernel(
    kind: str,
    data: bytes,
    *,
    classes: tuple[Scalar, ...] | None = None,
    refuses: str = "",
    largest: float = MOST,
) -> Predict:
    """Return the kernel of a lowered file.

    Args:
        kind: "linear" or "onnx".
        data: The file's content.
        classes: Labels of the columns.
        refuses: What the kernel must not take, because the model does not: "infinity", or "null" for NaN as well. A
            linear kernel sees both in its scores.
        largest: What counts as infinity from here on.

    Raises:
        Untrusted: an unknown kind.
        MissingExtra: onnxruntime is not installed.
    """
    if kind == "linear":
        return linear_kernel(Affine.from_bytes(data))
    if kind == "onnx":
        from flyball.registry.formats import onnx

        return _guarded(onnx.load(data, classes=classes).predict, refuses, largest)
    raise Untrusted(f"lowered kind {kind!r} is unknown to this flyball; known: {', '.join(FILES)}")


def _guarded(predict: Predict, refuses: str, largest: float) -> Predict:
    if not refuses:
        return predict
    nulls = refuses == "infinity"

    def guarded(matrix: np.ndarray) -> np.ndarray:
        fits = np.abs(matrix) <= largest  # false for NaN too
        if not fits.all() and not (nulls and (fits | np.isnan(matrix)).all()):
            raise _not_finite()
        return predict(matrix)

    return guarded


def linear_kernel(model: Affine) -> Predict:
    """Return `predict` of an affine model: (n,), or probabilities (n, 2) or (n, c).

    Rows that lead to a score that is not finite (NaN or infinity in the input, an overflow) raise InputError, as
    scikit-learn refuses them.
    """
    if model.link == "softmax":
        return _softmax(model)
    weights, bias = np.ascontiguousarray(model.weights[:, 0]), float(model.bias[0])
    width, fill, link = len(weights), model.fill, model.link
    finite, dot = math.isfinite, weights.dot

    def predict(matrix: np.ndarray) -> np.ndarray:
        rows, columns = matrix.shape
        if columns != width:
            raise InputError(f"X has {columns} features, but the model is expecting {width} features")
        if fill is not None:
            matrix = np.where(np.isnan(matrix), fill, matrix)
        if rows == 1:
            score = float(dot(matrix[0])) + bias
            if not finite(score):
                raise _not_finite()
            return _one(link, score)
        scores = matrix @ weights
        scores += bias
        if not finite(scores.sum()) and not np.isfinite(scores).all():
            raise _not_finite()
        return _many(link, scores)

    return predict


def _one(link: Link, score: float) -> np.ndarray:
    if link == "identity":
        return np.array([score])
    if link == "exp":
        return np.array([math.exp(min(score, 709.0))])
    if score >= 0.0:
        second = 1.0 / (1.0 + math.exp(-score))
    else:
        small = math.exp(score)
        second = small / (1.0 + small)
    return np.array([[1.0 - second, second]])


def _many(link: Link, scores: np.ndarray) -> np.ndarray:
    if link == "identity":
        return scores
    if link == "exp":
        return np.asarray(np.exp(np.minimum(scores, 709.0)))
    small = np.exp(-np.abs(scores))
    out = np.empty((len(scores), 2))
    out[:, 1] = np.where(scores >= 0.0, 1.0, small) / (1.0 + small)
    np.subtract(1.0, out[:, 1], out=out[:, 0])
    return out


def _softmax(model: Affine) -> Predict:
    weights, bias, fill = np.ascontiguousarray(model.weights), model.bias, model.fill

    def predict(matrix: np.ndarray) -> np.ndarray:
        if matrix.shape[1] != len(weights):
            raise InputError(f"X has {matrix.shape[1]} features, but the model is expecting {len(weights)} features")
        if fill is not None:
            matrix = np.where(np.isnan(matrix), fill, matrix)
        scores = matrix @ weights
        scores += bias
        if not np.isfinite(scores).all():
            raise _not_finite()
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))

    return predict


def _not_finite() -> InputError:
    return InputError("a row holds NaN or infinity, or leads to a score that is not finite; this model takes numbers")


def _raw(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, dtype="<f8").tobytes()
