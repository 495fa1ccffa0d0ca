"""Answer float64 matrices with float64 arrays, whatever kind of model is inside.

The surprise: a loaded model answers on one thread, whichever thread calls it. OpenMP keeps its thread count per calling
thread, so the limit is set once on each.
"""

from __future__ import annotations

import re
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from flyball.errors import InputError
from flyball.registry.formats import adapt
from flyball.registry.formats.types import Call, labels
from flyball.registry.trees import SMALL, lower
from flyball.registry.types import Scalar

__all__ = ["Predictor"]

_NAMES_WARNING = "X does not have valid feature names"
_PLACEHOLDER = re.compile(r"Column_\d+|\d+")  # what boosters call columns that nobody named
Predict = Callable[[np.ndarray], np.ndarray]


class Predictor:
    """A model ready to be asked.

    `classes` are the labels of a classifier's columns, `kernel` the lowered form that answers in the model's place.
    """

    def __init__(self, model: Any, names: tuple[str, ...], *, classes: tuple[Scalar, ...] | None = None) -> None:
        """Wrap a fitted model whose matrix has the columns `names`.

        Raises:
            InputError: the model cannot predict, or was fitted on columns that are not among `names`.
        """
        found = adapt(model)
        if isinstance(found, Call):
            call, fitted, own = found.predict, found.names, found.classes
            self.classifier = (classes or own) is not None
            self._model = found.model if model is found else model
        else:
            ask = getattr(model, "predict_proba", None) or getattr(model, "predict", None)
            if ask is None:
                raise InputError(
                    f"a {type(model).__name__} has no predict(X); return an object that has one from train()"
                )
            call, fitted = ask, getattr(model, "feature_names_in_", None)
            self.classifier = hasattr(model, "predict_proba")
            own = labels(getattr(model, "classes_", None)) if self.classifier else None
            self.classifier = self.classifier or classes is not None
            self._model = model
        self.classes: tuple[Scalar, ...] | None = classes or own
        self.kernel: Predict | None = None
        self._bring: Callable[[], Any] | None = None
        self._call: Predict = call
        self._order = _order(fitted, names)
        self._small: Predict | None = None
        self._limited = threading.local()
        warnings.filterwarnings("ignore", message=_NAMES_WARNING)  # columns are in the fitted order, by construction

    @classmethod
    def lowered(
        cls,
        kernel: Predict,
        bring: Callable[[], Any],
        *,
        columns: int,
        order: tuple[int, ...] = (),
        classes: tuple[Scalar, ...] | None = None,
    ) -> Predictor:
        """Wrap a lowered kernel; `bring` loads the model itself when somebody asks for it.

        Args:
            kernel: Answers float64 (n, k) with (n,), or (n, columns) for a classifier.
            bring: Returns the native model.
            columns: Columns of the answer, 0 for one number a row.
            order: Positions of the kernel's columns in the service's matrix, empty for all in order.
            classes: Labels of the columns.
        """
        made = cls.__new__(cls)
        made.classifier, made.classes, made.kernel = columns > 0, classes, kernel
        made._bring, made._model, made._small, made._call = bring, None, None, kernel
        made._order = list(order) or None
        made._limited = threading.local()
        return made

    @property
    def model(self) -> Any:
        """The library's own model; that of a lowered version is loaded now."""
        if self._model is None and self._bring is not None:
            found = self._bring()
            self._model = found.model if isinstance(found, Call) else found
        return self._model

    @property
    def order(self) -> list[int] | None:
        """Positions of the model's columns in the service's matrix; None for all in order."""
        return self._order

    @property
    def direct(self) -> Predict:
        """What answers with the fewest steps: the kernel where there is one and columns need no reordering."""
        return self.kernel if self.kernel is not None and self._order is None else self.predict

    def accelerate(self, sample: np.ndarray) -> bool:
        """Answer small batches by a faster kernel, if there is one that equals the model on `sample` to the bit."""
        rows = sample[:SMALL] if self._order is None else sample[:SMALL, self._order]
        small = lower(self.model) if len(rows) else None
        if small is not None and np.array_equal(small(rows), np.asarray(self._call(rows)), equal_nan=True):
            self._small = small
        return self._small is not None

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Return predictions (n,), or a classifier's probabilities (n, c), float64.

        Args:
            matrix: float64 of shape (n, k), columns in the order of the service, null as NaN.

        Raises:
            InputError: the model answered with another number of rows, or with something that is no number.
        """
        ordered = matrix if self._order is None else matrix[:, self._order]
        if self.kernel is not None:
            return self.kernel(ordered)
        if not hasattr(self._limited, "done"):
            self._limited.done = _one_thread()
        if self._small is not None and len(ordered) <= SMALL:
            return self._small(ordered)
        answer = self._call(ordered)
        out = np.asarray(answer, dtype=np.float64)
        if out.ndim == 2 and out.shape[1] == 1:
            out = out[:, 0]
        if out.ndim not in {1, 2} or len(out) != len(matrix):
            raise InputError(f"the model answered {len(matrix)} rows with an array of shape {out.shape}")
        return out


def _order(fitted: Any, names: tuple[str, ...]) -> list[int] | None:
    """Return the positions of the fitted columns among `names`, None when they are the same."""
    if fitted is None or tuple(fitted) == names or all(_PLACEHOLDER.fullmatch(str(name)) for name in fitted):
        return None
    foreign = [str(name) for name in fitted if name not in names]
    if foreign:
        raise InputError(
            f"the model was fitted on {', '.join(foreign)}, which the features do not have; they have {names}"
        )
    return [names.index(name) for name in fitted]


def _one_thread() -> bool:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return False
    threadpool_limits(limits=1)
    return True
