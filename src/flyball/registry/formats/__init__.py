"""A fitted model to files and back, in the safest format that can hold it.

The order of trust is that of `types.Kind`: what runs while a file is loaded grows from ONNX, where nothing does, to
pickle, which only this registry's signature opens, and MLflow's folders, which are opened in a process of their own.
The surprise: a booster is kept without its scikit-learn wrapper, and called without it, but only after it answered
the same; see `store`.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flyball.errors import UnknownName, Untrusted
from flyball.registry.formats import pickled, skops
from flyball.registry.formats.signing import ensure_signing_key, require_signature, sign
from flyball.registry.formats.skops import ALLOWED, canonical_zip
from flyball.registry.formats.types import FILE_NAMES, SIGNED, Call, Kind, Scalar, Stored, labels

__all__ = [
    "ALLOWED", "FILE_NAMES", "SIGNED", "Call", "Kind", "Scalar", "Stored", "adapt", "canonical_zip", "deserialize",
    "ensure_signing_key", "labels", "of_file", "serialize", "sign", "store", "stored_digest",
]  # fmt: skip

_HERE = "flyball.registry.formats"
_MAKERS = {"xgboost": "xgboost", "lightgbm": "lightgbm", "catboost": "catboost", "onnx": "onnx", "keras": "keras"}
_LOADERS = {
    "onnx": "onnx", "xgboost": "xgboost", "lightgbm": "lightgbm", "catboost": "catboost", "keras": "keras",
    "safetensors": "torch", "torch_export": "torch",
}  # fmt: skip
_TOLERANCE = 1e-5


def store(model: object, rows: np.ndarray | None = None) -> Stored:
    """Return a fitted model as files in the safest format that can hold it.

    Args:
        model: Whatever `train` returned; a `Stored` is returned as it is.
        rows: float64 (n, k) of training rows. A booster without its wrapper must answer them like the wrapper, else the
            wrapper is kept; PyTorch's exporter needs their number of columns.

    Raises:
        StageFailed: no format can hold the model.
    """
    if isinstance(model, Stored):
        return model
    found = _native(model, rows)
    if found is not None:
        return found
    classes = labels(getattr(model, "classes_", None)) if hasattr(model, "predict_proba") else None
    data = skops.dump(model)
    if data is not None:
        return Stored("skops", {FILE_NAMES["skops"]: data}, classes)
    return Stored("pickle", {FILE_NAMES["pickle"]: pickled.dump(model)}, classes)


def serialize(model: object) -> tuple[Kind, bytes]:
    """Return the safest format that can hold the model, and its bytes.

    Raises:
        StageFailed: no format can hold it.
    """
    stored = store(model)
    return stored.kind, stored.main


def deserialize(
    kind: str,
    data: bytes,
    *,
    signature: str = "",
    key: bytes = b"",
    classes: tuple[Scalar, ...] | None = None,
    package: Callable[[], str] | None = None,
) -> Any:
    """Return the model of a stored file: scikit-learn's or the project's own object, or a `Call`.

    Args:
        kind: Its format.
        data: The main file's content.
        signature: For the formats in `SIGNED`.
        key: The registry's key.
        classes: Labels of the columns, from the manifest.
        package: Returns the name of the package of the version's code snapshot; a safetensors file needs its class.

    Raises:
        Untrusted: a type outside of our list, a file that this registry did not sign, or an unknown format.
        MissingExtra: the library that the format needs is not installed.
    """
    if kind in SIGNED:
        require_signature(kind, data, signature, key)
    if kind == "skops":
        return skops.load(data)
    if kind == "pickle":
        return pickled.load(data)
    if kind not in _LOADERS:
        known = ", ".join(["skops", "pickle", *_LOADERS])
        raise Untrusted(f"model format {kind!r} cannot be loaded by this flyball; known: {known}")
    module = importlib.import_module(f"{_HERE}.{_LOADERS[kind]}")
    call: Call = module.load(data, classes=classes, package=package) if kind == "safetensors" else (
        module.load_export(data, classes=classes) if kind == "torch_export" else module.load(data, classes=classes)
    )  # fmt: skip
    return call


def stored_digest(stored: Stored) -> str:
    """Return the SHA-256 over a stored model: of its file when it has one, else over names and contents."""
    if len(stored.files) == 1:
        return hashlib.sha256(stored.main).hexdigest()
    out = hashlib.sha256()
    for name in sorted(stored.files):
        out.update(f"{name}\0{hashlib.sha256(stored.files[name]).hexdigest()}\n".encode())
    return out.hexdigest()


def adapt(model: object) -> Any:
    """Return a `Call` for a fitted object that has no predict(X) of its own, such as a torch module; else the model."""
    maker = _maker(model)
    found = None if maker is None else maker.adapt(model)
    return model if found is None else found


def of_file(kind: str, files: Mapping[str, bytes], classes: tuple[Scalar, ...] | None = None) -> Stored:
    """Return an outside artifact as `Stored`, after it was opened once and found to hold a model.

    Raises:
        UnknownName: no such format.
        Untrusted: a format whose loading can run code, or content we do not allow.
    """
    if kind not in FILE_NAMES:
        raise UnknownName.of("model format", kind, FILE_NAMES)
    if kind in SIGNED or kind == "safetensors":
        raise Untrusted(
            f"a {kind} file from outside is not imported, because opening it can run whatever its author wanted; "
            f"give ONNX, a booster's own file, skops or an MLflow folder, or train it here"
        )
    if kind == "pyfunc":
        return Stored("pyfunc", dict(files), classes)
    model = deserialize(kind, files[FILE_NAMES[kind]], classes=classes)
    own = model.classes if isinstance(model, Call) else labels(getattr(model, "classes_", None))
    return Stored(kind, dict(files), classes or own)  # type: ignore[arg-type]


def _maker(model: object) -> Any:
    roots = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "torch" in roots and "keras" not in roots:
        return importlib.import_module(f"{_HERE}.torch")
    for root, name in _MAKERS.items():
        if root in roots:
            return importlib.import_module(f"{_HERE}.{name}")
    return None


def _native(model: object, rows: np.ndarray | None) -> Stored | None:
    """Return the library's own format, unless its answers differ from those of the object we were given."""
    maker = _maker(model)
    if maker is None:
        return None
    found: Stored | None = maker.dump(model, rows)
    if found is None or rows is None or not len(rows) or not hasattr(model, "classes_" if found.classes else "predict"):
        return found
    ask = getattr(model, "predict_proba", None) or getattr(model, "predict", None)
    if ask is None or found.kind not in {"xgboost", "lightgbm", "catboost"} or not _wrapped(model):
        return found
    few = np.ascontiguousarray(rows[:1000])
    native = np.asarray(deserialize(found.kind, found.main, classes=found.classes).predict(few))
    wrapped = np.asarray(ask(few), dtype=np.float64)
    return found if native.shape == wrapped.shape and _near(native, wrapped) else None


def _wrapped(model: object) -> bool:
    return hasattr(model, "get_params") and type(model).__name__ != "Booster"


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max() <= _TOLERANCE)
