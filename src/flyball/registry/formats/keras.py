"""Keras models in the .keras format, on the torch backend unless another one is chosen.

The surprise: a .keras file names the Python classes it is made of, and Keras imports what it names. Besides Keras' own
safe mode we read the file's configuration first and refuse every module that is not Keras', and code in Lambda layers.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flyball.errors import IntegrityError, MissingExtra, StageFailed, Untrusted, first_line
from flyball.registry.formats.types import FILE_NAMES, Call, Scalar, Stored, labels, two_columns

__all__ = ["adapt", "dump", "load"]

_EPOCH = (1980, 1, 1, 0, 0, 0)


def dump(model: Any, rows: np.ndarray | None = None) -> Stored | None:
    """Return a model's .keras file without the date; raises StageFailed when it needs classes beyond Keras' own."""
    del rows
    if not hasattr(model, "save"):
        return None
    with tempfile.TemporaryDirectory(prefix="flyball-") as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        data = _canonical(path.read_bytes())
    try:
        _require_plain(data)
    except Untrusted as error:
        raise StageFailed(f"{error}; build it of Keras' own layers") from error
    return Stored("keras", {FILE_NAMES["keras"]: data}, labels(getattr(model, "classes", None)))


def adapt(model: Any) -> Call | None:
    """Return the call of a model; its own predict() writes a progress bar and takes 10 ms."""
    return _call(model, labels(getattr(model, "classes", None))) if hasattr(model, "get_config") else None


def load(data: bytes, *, classes: tuple[Scalar, ...] | None = None) -> Call:
    """Return a model as a call.

    Raises:
        Untrusted: it names a class that is not Keras' own, or carries code.
        IntegrityError: it is no .keras file.
    """
    _require_plain(data)
    keras = _keras()
    with tempfile.TemporaryDirectory(prefix="flyball-") as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(data)
        try:
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except (ValueError, TypeError, OSError, KeyError) as error:
            raise IntegrityError(f"the file is no Keras model: {first_line(error)}") from error
    return _call(model, classes)


def _call(model: Any, classes: tuple[Scalar, ...] | None) -> Call:
    keras = _keras()
    to_numpy, guard = keras.ops.convert_to_numpy, _no_gradient(keras)
    pair = classes is not None and len(classes) == 2

    def predict(matrix: np.ndarray) -> np.ndarray:
        with guard():
            values = np.asarray(to_numpy(model(matrix, training=False)), dtype=np.float64)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        return two_columns(values) if pair and values.ndim == 1 else values

    return Call(model, predict, classes)


def _no_gradient(keras: Any) -> Any:
    import contextlib

    if keras.backend.backend() != "torch":
        return contextlib.nullcontext
    import torch

    return torch.inference_mode


def _require_plain(data: bytes) -> None:
    try:
        config = json.loads(zipfile.ZipFile(io.BytesIO(data)).read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise IntegrityError("the file is no .keras file: it has no config.json") from error
    for node in _nodes(config):
        module, name = node.get("module"), node.get("class_name")
        if name is None:
            continue
        if module is not None and module != "builtins" and module.partition(".")[0] != "keras":
            raise Untrusted(f"the Keras model uses {module}.{name}, which is not Keras' own")
        if name in {"Lambda", "__lambda__", "function"} or (module == "builtins" and node.get("registered_name")):
            raise Untrusted(f"the Keras model carries code of its own ({name})")
        if node.get("registered_name") and ">" in str(node["registered_name"]):
            raise Untrusted(f"the Keras model uses {node['registered_name']}, a class registered elsewhere")


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for each in node.values():
            yield from _nodes(each)
    elif isinstance(node, list):
        for each in node:
            yield from _nodes(each)


def _canonical(data: bytes) -> bytes:
    """Return the archive with fixed times and without the date it was saved."""
    source, out = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(source.namelist()):
            body = source.read(name)
            if name == "metadata.json":
                body = json.dumps({**json.loads(body), "date_saved": ""}).encode()
            if name == "config.json":
                body = json.dumps(_unshared(json.loads(body), {})).encode()
            target.writestr(zipfile.ZipInfo(name, _EPOCH), body)
    return out.getvalue()


def _unshared(node: Any, numbers: dict[int, int]) -> Any:
    """Return the configuration with object addresses numbered in order of appearance."""
    if isinstance(node, list):
        return [_unshared(each, numbers) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        name: numbers.setdefault(value, len(numbers) + 1) if name == "shared_object_id" else _unshared(value, numbers)
        for name, value in node.items()
    }


def _keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import keras
    except ImportError as error:
        raise MissingExtra.of("a Keras model", "keras") from error
    return keras
