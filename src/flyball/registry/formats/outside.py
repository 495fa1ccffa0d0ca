"""Models that were trained elsewhere: read from a path, and kept in a run's folder until the run stores them.

The surprise: the format is told by the name and proved by opening it; a file of a format that can run code when it is
opened is refused by `of_file` before anything is opened.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec

from flyball.disk import sync
from flyball.errors import InputError, UnknownName
from flyball.registry.formats import FILE_NAMES, of_file, stored_digest
from flyball.registry.formats.pyfunc import read_folder
from flyball.registry.formats.types import Stored
from flyball.registry.types import Kind, Scalar

__all__ = ["SUFFIXES", "keep", "kept", "kept_digest", "read_outside"]

SUFFIXES: dict[str, Kind] = {
    ".onnx": "onnx", ".ubj": "xgboost", ".json": "xgboost", ".txt": "lightgbm", ".cbm": "catboost", ".keras": "keras",
    ".skops": "skops", ".pkl": "pickle", ".pickle": "pickle", ".joblib": "pickle", ".pt2": "torch_export",
    ".safetensors": "safetensors",
}  # fmt: skip
_NOTE = "stored.json"


class _Note(msgspec.Struct):
    kind: Kind
    files: list[str]
    classes: tuple[Scalar, ...] | None = None


def read_outside(path: Path, kind: str = "auto", *, classes: tuple[Scalar, ...] | None = None) -> Stored:
    """Return the model at a path.

    Args:
        path: A file, or the folder of an MLflow model.
        kind: Its format; "auto" goes by the name.
        classes: Labels of the columns, for a classifier whose format does not keep them.

    Raises:
        InputError: there is nothing there, or the name says no format.
        Untrusted: a format whose loading can run code, or content we do not allow.
        IntegrityError: it is not what it is said to be.
        MissingExtra: the library that opens it is not installed.
    """
    if not path.exists():
        raise InputError(f"there is no {path.name} to import; give a model's file, or the folder of an MLflow model")
    found = _kind(path) if kind == "auto" else kind
    if found not in FILE_NAMES:
        raise UnknownName.of("model format", found, FILE_NAMES)
    if found == "pyfunc":
        return of_file("pyfunc", read_folder(path), classes)
    data = path.read_bytes()
    if found == "xgboost" and data.lstrip()[:1] == b"{" and path.suffix == ".json":
        data = _as_ubj(data)
    return of_file(found, {FILE_NAMES[found]: data}, classes)


def keep(folder: Path, stored: Stored) -> None:
    """Write a model into a run's folder; its train stage takes it instead of training."""
    for name, data in stored.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        sync(folder / name)
    note = _Note(stored.kind, sorted(stored.files), stored.classes)
    (folder / _NOTE).write_bytes(msgspec.json.encode(note))  # last: without it there is nothing to take
    sync(folder / _NOTE)
    sync(folder)


def kept(folder: Path) -> Stored | None:
    """Return what `keep` wrote, None when it did not finish or never began."""
    if not (folder / _NOTE).is_file():
        return None
    note = msgspec.json.decode((folder / _NOTE).read_bytes(), type=_Note)
    return Stored(note.kind, {name: (folder / name).read_bytes() for name in note.files}, note.classes)


def kept_digest(folder: Path) -> str:
    """Return the digest of what `keep` wrote, "" when there is nothing."""
    stored = kept(folder)
    return "" if stored is None else stored_digest(stored)


def _kind(path: Path) -> str:
    if path.is_dir():
        return "pyfunc"
    found = SUFFIXES.get(path.suffix)
    if found is None:
        known = ", ".join(SUFFIXES)
        raise InputError(f"the name {path.name} does not say its format; give format=, or one of the endings {known}")
    return found


def _as_ubj(data: bytes) -> bytes:
    from flyball.registry.formats import xgboost

    save: Callable[[str], bytes] = xgboost.load(json.dumps(json.loads(data)).encode()).model.save_raw
    return bytes(save("ubj"))
