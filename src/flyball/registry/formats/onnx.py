"""ONNX models, run by onnxruntime on one thread, or on CUDA where it is there.

Loading runs nothing of the file's author: no custom operators are registered, and a model that points to data outside
of its own bytes is refused. The surprise: only onnxruntime is needed to serve; the onnx package only to make a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flyball.errors import InputError, IntegrityError, MissingExtra, StageFailed, first_line
from flyball.registry.formats.types import FILE_NAMES, Call, Scalar, Stored, labels, two_columns

__all__ = ["adapt", "dump", "load"]

_TYPES: dict[str, Any] = {
    "tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
}  # fmt: skip


def dump(model: Any, rows: np.ndarray | None = None) -> Stored | None:
    """Return a ModelProto's bytes with the classes it declares."""
    del rows
    if not hasattr(model, "SerializeToString") or not hasattr(model, "graph"):
        return None
    if any(tensor.data_location for tensor in model.graph.initializer):
        raise StageFailed(
            "the ONNX model keeps tensors in other files; load them into it (onnx.load does) and return that"
        )
    data = model.SerializeToString(deterministic=True)
    return Stored("onnx", {FILE_NAMES["onnx"]: data}, load(data).classes)


def adapt(model: Any) -> Call | None:
    """Return the call of a ModelProto."""
    stored = dump(model)
    return None if stored is None else load(stored.main, classes=stored.classes)


def load(data: bytes, *, classes: tuple[Scalar, ...] | None = None) -> Call:
    """Return a model as a call.

    Its inputs are one tensor (n, k), or k tensors (n,) or (n, 1), one per column in order. Its answer is the output of
    probabilities when there is one (a float tensor with several columns, or scikit-learn's list of maps), else the
    first output.

    Raises:
        IntegrityError: the bytes are no ONNX model, or one with inputs of another kind.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra.of("an ONNX model", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    there = onnxruntime.get_available_providers()
    wanted = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in there]
    try:
        session = onnxruntime.InferenceSession(data, options, providers=wanted)
    except Exception as error:  # onnxruntime has a dozen classes for it
        raise IntegrityError(f"the file is no ONNX model that can be run: {first_line(error)}") from error
    output, maps = _output(session, classes)
    feed = _feeder(session)
    if maps:
        return _from_maps(session, output, feed, classes)
    return _call(session, output, feed, classes or _declared(session))


def _call(session: Any, output: Any, feed: Any, classes: tuple[Scalar, ...] | None) -> Call:
    run, wanted = session.run, [output.name]
    pair = classes is not None and len(classes) == 2

    def predict(matrix: np.ndarray) -> np.ndarray:
        out = run(wanted, feed(matrix))[0]
        if out.ndim == 2 and out.shape[1] == 1:
            out = out[:, 0]
        if pair and out.ndim == 1:
            return two_columns(out)
        return out if out.dtype == np.float64 else np.asarray(out, dtype=np.float64)

    return Call(session, predict, classes)


def _from_maps(session: Any, output: Any, feed: Any, classes: tuple[Scalar, ...] | None) -> Call:
    """Return the call of a classifier that answers a map of label to probability per row, as skl2onnx has it."""
    run, wanted = session.run, [output.name]
    width = len(session.get_inputs()) if len(session.get_inputs()) > 1 else int(session.get_inputs()[0].shape[1])
    order = list(run(wanted, feed(np.zeros((1, width))))[0][0])

    def predict(matrix: np.ndarray) -> np.ndarray:
        return np.array([[row[label] for label in order] for row in run(wanted, feed(matrix))[0]], dtype=np.float64)

    return Call(session, predict, classes or labels(order))


def _output(session: Any, classes: tuple[Scalar, ...] | None) -> tuple[Any, bool]:
    """Return the output to answer with, and whether it is a list of maps."""
    outputs = session.get_outputs()
    for found in outputs:
        if found.type.startswith("seq(map("):
            return found, True
    floats = [o for o in outputs if o.type in {"tensor(float)", "tensor(double)", "tensor(float16)"}]
    wide = [o for o in floats if len(o.shape) == 2 and o.shape[1] != 1]
    if not floats:
        raise IntegrityError(f"the ONNX model answers {outputs[0].type}; an output of floating numbers is needed")
    return (wide or floats)[0], False


def _feeder(session: Any) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    inputs = session.get_inputs()
    foreign = [each for each in inputs if each.type not in _TYPES]
    if foreign:
        raise IntegrityError(f"input {foreign[0].name} of the ONNX model is a {foreign[0].type}; numbers are needed")
    if len(inputs) == 1 and len(inputs[0].shape) == 2:
        return _one(inputs[0])
    if any(len(each.shape) > 2 or (len(each.shape) == 2 and each.shape[1] not in {1, None}) for each in inputs):
        raise IntegrityError("the ONNX model must take one tensor (rows, columns), or one tensor (rows,) per column")
    return _several(inputs)


def _one(only: Any) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    name, kind, width = only.name, _TYPES[only.type], only.shape[1]
    fixed = width if isinstance(width, int) else None

    def feed(matrix: np.ndarray) -> dict[str, np.ndarray]:
        if fixed is not None and matrix.shape[1] != fixed:
            raise InputError(f"X has {matrix.shape[1]} features, but the model is expecting {fixed} features")
        return {name: matrix if matrix.dtype == kind else matrix.astype(kind)}

    return feed


def _several(inputs: list[Any]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    shapes = [(each.name, _TYPES[each.type], len(each.shape)) for each in inputs]

    def feed(matrix: np.ndarray) -> dict[str, np.ndarray]:
        if matrix.shape[1] != len(shapes):
            raise InputError(f"X has {matrix.shape[1]} features, but the model is expecting {len(shapes)} features")
        return {
            name: matrix[:, k : k + 1].astype(kind) if rank == 2 else matrix[:, k].astype(kind)
            for k, (name, kind, rank) in enumerate(shapes)
        }

    return feed


def _declared(session: Any) -> tuple[Scalar, ...] | None:
    """Return the classes that the model's own metadata names ("classes", JSON), if any."""
    import json

    text = session.get_modelmeta().custom_metadata_map.get("classes")
    return labels(json.loads(text)) if text else None
