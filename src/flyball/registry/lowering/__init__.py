"""Find an equal, faster form of a fitted model, prove that it is equal, and measure that it is faster.

Candidates are tried in order: the linear kernel, our trees in ONNX, skl2onnx. The surprise: a candidate that is faster
but not equal on more than a thousand rows is dropped with the reason, and one that is equal but not faster as well;
then the model answers itself.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from flyball.errors import FlyballError, first_line
from flyball.registry.lowering.ensembles import thresholds_of, to_onnx, trees_of
from flyball.registry.lowering.kernels import FILES, MOST, open_kernel
from flyball.registry.lowering.linear import affine_of
from flyball.registry.lowering.parity import compare, probe_rows, refused_by
from flyball.registry.predictor import Predictor
from flyball.registry.types import Lowered

__all__ = ["Lowering", "Timing", "Tried", "find_lowering"]

_WORTH = 1.1  # how much faster, at 1 and at 32 rows
_ROUNDS, _BUDGET = 31, 0.25  # interleaved timings at most, and seconds for one batch size
Predict = Callable[[np.ndarray], np.ndarray]
Form = Literal["linear", "onnx"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Median seconds of a call of `rows` rows, model and kernel interleaved."""

    rows: int
    native: float
    lowered: float

    @property
    def gain(self) -> float:
        """How many times faster the kernel is."""
        return self.native / self.lowered


@dataclass(frozen=True, slots=True)
class Tried:
    """One candidate: what it is, how near it came, how fast it was; `problem` is empty for the one that was taken."""

    kind: str
    rows: int = 0
    gap: float = 0.0
    timings: tuple[Timing, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Lowering:
    """The outcome: what goes into the manifest and its file, or None; and everything that was tried."""

    chosen: Lowered | None
    data: bytes
    tried: tuple[Tried, ...]


def find_lowering(predictor: Predictor, sample: np.ndarray) -> Lowering:
    """Return the fastest equal form of a fitted scikit-learn model, with what was tried.

    Args:
        predictor: The model; its library's object is read, never changed.
        sample: Real rows in the service's order, float64 (n, k); without rows nothing can be proved, so nothing is
            lowered.
    """
    model = predictor.model
    if not len(sample) or not type(model).__module__.startswith("sklearn."):
        return Lowering(None, b"", ())
    order = tuple(predictor.order or ())
    few = sample[:, list(order)] if order else sample
    names = tuple(getattr(model, "feature_names_in_", ())) or tuple(f"c{k}" for k in range(few.shape[1]))
    native = Predictor(model, names, classes=predictor.classes)  # asked in the model's own order of columns
    native.accelerate(few)  # what it would answer with otherwise
    rows = probe_rows(few, thresholds_of(model))
    tried: list[Tried] = []
    for kind, make in _candidates(model, few.shape[1]):
        found, data = _judge(kind, make, native, few, rows)
        tried.append(found[1])
        if found[0] is not None:
            return Lowering(replace(found[0], order=order), data, tuple(tried))
    return Lowering(None, b"", tuple(tried))


def _candidates(model: Any, width: int) -> Iterator[tuple[Form, Callable[[], bytes | None]]]:
    def linear() -> bytes | None:
        found = affine_of(model)
        return None if found is None else found.to_bytes()

    yield "linear", linear
    if (ensemble := trees_of(model)) is not None:
        yield "onnx", lambda: to_onnx(ensemble, width)
    else:
        yield "onnx", lambda: _skl2onnx(model, width)


def _judge(
    kind: Form, make: Callable[[], bytes | None], native: Predictor, few: np.ndarray, rows: np.ndarray
) -> tuple[tuple[Lowered | None, Tried], bytes]:
    try:
        data = make()
        if data is None:
            return (None, Tried(kind, problem="the model has no such form")), b""
        refuses: Literal["", "infinity", "null"] = ""
        largest = MOST
        if kind != "linear":
            refuses, largest = refused_by(native.predict, few[0])
        kernel = open_kernel(kind, data, classes=native.classes, refuses=refuses, largest=largest)
    except ImportError as error:
        return (None, Tried(kind, problem=f"{error}")), b""
    except FlyballError as error:
        return (None, Tried(kind, problem=f"{error}")), b""
    except Exception as error:  # converters raise whatever they like
        return (None, Tried(kind, problem=f"{type(error).__name__}: {first_line(error, most=200)}")), b""
    found = compare(native.predict, kernel, rows, native.classes, classifier=native.classifier)
    if found.problem:
        return (None, Tried(kind, found.rows, found.gap, (), found.problem)), b""
    timings = tuple(_time(native.predict, kernel, few, n) for n in (1, 32))
    tried = Tried(kind, found.rows, found.gap, timings)
    if min(t.gain for t in timings) < _WORTH:
        worst = min(timings, key=lambda t: t.gain)
        slow = f"no gain: {worst.gain:.2f} times the speed at {worst.rows} rows, wanted are {_WORTH}"
        return (None, replace(tried, problem=slow)), b""
    columns = kernel(few[:1])
    chosen = Lowered(
        kind,
        FILES[kind],
        found.rows,
        found.gap,
        columns.shape[1] if columns.ndim == 2 else 0,
        flips=found.flips,
        refuses=refuses,
        largest=largest,
    )
    return (chosen, tried), data


def _time(native: Predict, kernel: Predict, few: np.ndarray, n: int) -> Timing:
    rows = np.ascontiguousarray(few[np.arange(n) % len(few)])
    took: tuple[list[float], list[float]] = ([], [])
    for call in (native, kernel):
        call(rows)
    until = time.perf_counter() + _BUDGET
    while len(took[0]) < _ROUNDS and (len(took[0]) < 3 or time.perf_counter() < until):
        for call, kept in zip((native, kernel), took, strict=True):
            start = time.perf_counter()
            call(rows)
            kept.append(time.perf_counter() - start)
    return Timing(n, float(np.median(took[0])), float(np.median(took[1])))


def _skl2onnx(model: Any, width: int) -> bytes | None:
    from skl2onnx import to_onnx as convert
    from skl2onnx.common.data_types import DoubleTensorType

    options = {"zipmap": False} if hasattr(model, "predict_proba") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = convert(
            model, initial_types=[("X", DoubleTensorType([None, width]))],
            options=None if options is None else {id(model): options},
        )  # fmt: skip
    return bytes(made.SerializeToString(deterministic=True))
