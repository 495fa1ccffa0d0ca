"""What the formats exchange: a model as files, and a model as a plain call.

The surprise: classes travel beside the model, in the version's manifest, because native formats keep numbers of classes
where scikit-learn's wrappers keep labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flyball.registry.types import Kind, Scalar

__all__ = ["FILE_NAMES", "SIGNED", "Call", "Kind", "Scalar", "Stored", "labels", "two_columns"]

FILE_NAMES: dict[str, str] = {
    "onnx": "model.onnx", "xgboost": "model.ubj", "lightgbm": "model.lgb.txt", "catboost": "model.cbm",
    "safetensors": "model.safetensors", "keras": "model.keras", "skops": "model.skops",
    "torch_export": "model.pt2", "pickle": "model.pkl", "pyfunc": "pyfunc/MLmodel",
}  # fmt: skip
SIGNED = frozenset({"pickle", "torch_export"})  # loading these can run code: only what this registry wrote


@dataclass(frozen=True, slots=True)
class Stored:
    """A model as files: `files` by name, one of them FILE_NAMES[kind]; `classes` are the labels of its columns."""

    kind: Kind
    files: dict[str, bytes]
    classes: tuple[Scalar, ...] | None = None

    @property
    def main(self) -> bytes:
        """The content of the file that every version of this kind has."""
        return self.files[FILE_NAMES[self.kind]]


@dataclass(frozen=True, slots=True)
class Call:
    """A model as a plain call of float64 (n, k) that returns (n,) or, with `classes`, probabilities (n, c).

    `names` are the columns it was fitted on, None when it does not say; `model` is the library's own object.
    """

    model: Any
    predict: Callable[[np.ndarray], np.ndarray]
    classes: tuple[Scalar, ...] | None = None
    names: tuple[str, ...] | None = None


def labels(values: Iterable[Any] | None) -> tuple[Scalar, ...] | None:
    """Return class labels as plain Python scalars; None when there are none or one is of another type."""
    if values is None:
        return None
    found = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
    return found if found and all(isinstance(value, Scalar) for value in found) else None


def two_columns(second: np.ndarray) -> np.ndarray:
    """Return both classes' probabilities, (n, 2), for the second one's, (n,) or (n, 1)."""
    out = np.empty((len(second), 2))
    out[:, 1] = second.reshape(len(second))
    np.subtract(1.0, out[:, 1], out=out[:, 0])
    return out
