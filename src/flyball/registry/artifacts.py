"""Artifact folders: written whole or not at all, and loaded only when every byte is what was registered.

The surprise: a loaded model answers on one thread, whichever thread calls it. OpenMP keeps its thread count per calling
thread, so the limit is set once on each.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from flyball.disk import sync
from flyball.errors import ConflictError, InputError, IntegrityError, Untrusted
from flyball.registry.code import PREFIX, install_code
from flyball.registry.formats import FILE_NAMES, deserialize, ensure_signing_key
from flyball.registry.trees import SMALL, lower
from flyball.registry.types import Manifest

__all__ = [
    "LoadedModel",
    "Predictor",
    "ensure_signing_key",
    "file_digest",
    "load_version",
    "read_manifest",
    "requirements",
    "write_artifact",
]

MANIFEST = "manifest.json"
_HOMES = {"sklearn": "scikit-learn"}
_NAMES_WARNING = "X does not have valid feature names"


class Predictor:
    """Answer float64 matrices with float64 arrays, whatever kind of model is inside."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        """Wrap a fitted model whose matrix has the columns `names`.

        Raises:
            InputError: the model cannot predict, or was fitted on columns that are not among `names`.
        """
        call = getattr(model, "predict_proba", None) or getattr(model, "predict", None)
        if call is None:
            raise InputError(f"a {type(model).__name__} has no predict(X); return an object that has one from train()")
        self.model = model
        self.classifier = hasattr(model, "predict_proba")
        self.classes: tuple[float, ...] | None = _classes(model) if self.classifier else None
        self._call = call
        self._order = _order(getattr(model, "feature_names_in_", None), names)
        self._small: Callable[[np.ndarray], np.ndarray] | None = None
        self._limited = threading.local()
        warnings.filterwarnings("ignore", message=_NAMES_WARNING)  # columns are in the fitted order, by construction

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
        if not hasattr(self._limited, "done"):
            self._limited.done = _one_thread()
        ordered = matrix if self._order is None else matrix[:, self._order]
        if self._small is not None and len(ordered) <= SMALL:
            return self._small(ordered)
        answer = self._call(ordered)
        out = np.asarray(answer, dtype=np.float64)
        if out.ndim == 2 and out.shape[1] == 1:
            out = out[:, 0]
        if out.ndim not in {1, 2} or len(out) != len(matrix):
            raise InputError(f"the model answered {len(matrix)} rows with an array of shape {out.shape}")
        return out


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A version ready to answer: where it lies, what it says of itself, and its model."""

    path: Path
    manifest: Manifest
    predictor: Predictor

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Return predictions (n,) or probabilities (n, c) for a float64 matrix (n, k)."""
        return self.predictor.predict(matrix)

    @property
    def classifier(self) -> bool:
        """Whether answers are probabilities."""
        return self.predictor.classifier

    def sample(self) -> np.ndarray:
        """Return up to 256 holdout rows, float64 (n, k), to warm up with and to time calls."""
        return np.asarray(np.load(self.path / "sample.npy", allow_pickle=False), dtype=np.float64)


def write_artifact(
    folder: Path, manifest: Manifest, files: Mapping[str, bytes], *, registered: str | None = None
) -> tuple[Manifest, str]:
    """Write an artifact folder atomically and return its manifest with digests, and the manifest's own digest.

    A folder that already holds exactly this is left alone; another one is replaced, unless it was registered.

    Args:
        folder: layout.artifacts/MODEL/VERSION.
        manifest: Everything but `files`.
        files: Content by name.
        registered: Digest under which this version is registered already.

    Raises:
        ConflictError: the version is registered with other content.
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    full = replace(manifest, files=digests)
    body = full.to_json()
    digest = hashlib.sha256(body).hexdigest()
    if (folder / MANIFEST).exists() and file_digest(folder / MANIFEST) == digest:
        return full, digest
    if registered is not None and registered != digest:
        raise ConflictError(
            f"{manifest.model} {manifest.version} is registered as {registered[:12]}, this run now made {digest[:12]}; "
            f"versions never change, start a new run"
        )
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, data in {**files, MANIFEST: body}.items():
        (draft / name).write_bytes(data)
        sync(draft / name)
    sync(draft)
    if folder.exists():
        shutil.rmtree(folder)
    draft.rename(folder)
    sync(folder.parent)
    return full, digest


def load_version(path: Path, digest: str, *, signing_key: bytes = b"", code: Path | None = None) -> LoadedModel:
    """Load a version after comparing every byte with its digest.

    Args:
        path: The artifact folder.
        digest: SHA-256 of its manifest.json, from the control database.
        signing_key: The registry's key; only a pickle needs it.
        code: Folder of code snapshots; by default STATE/code beside STATE/artifacts/MODEL/VERSION.

    Raises:
        IntegrityError: a file is missing or changed; names the file.
        Untrusted: a pickle that this registry did not sign, or a type outside of our list.
    """
    manifest = read_manifest(path, digest)
    for name, expected in manifest.files.items():
        _require(path / name, expected)
    if manifest.format == "pickle":
        folder = (code or path.parent.parent.parent / "code") / manifest.code
        if manifest.code and folder.is_dir():
            install_code(folder)
    name = FILE_NAMES.get(manifest.format, "")
    if name not in manifest.files:
        raise Untrusted(f"{path.name} has no file of format {manifest.format!r} in its manifest; train the model again")
    model = deserialize(manifest.format, (path / name).read_bytes(), signature=manifest.signature, key=signing_key)
    loaded = LoadedModel(path, manifest, Predictor(model, manifest.service.names))
    if "sample.npy" in manifest.files:
        loaded.predictor.accelerate(loaded.sample())
    return loaded


def read_manifest(path: Path, digest: str) -> Manifest:
    """Return the manifest of an artifact folder after comparing it with its digest.

    Raises:
        IntegrityError: it is missing, changed, or not readable by this flyball.
    """
    _require(path / MANIFEST, digest)
    try:
        return msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise IntegrityError(
            f"{path / MANIFEST} does not read as a manifest: {error}; train the model again"
        ) from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def requirements(model: object, extra: Iterable[str] = ()) -> list[str]:
    """Return pinned requirements of a fitted model: flyball, numpy and the package its class comes from."""
    packages = {"flyball", "numpy", *extra}
    root = type(model).__module__.partition(".")[0]
    if not root.startswith(PREFIX):
        packages |= _distributions(root)
    if "scikit-learn" in packages:
        packages |= {"scipy", "skops"}
    return sorted(f"{name}=={metadata.version(name)}" for name in packages if _installed(name))


def _distributions(root: str) -> set[str]:
    """Return what is installed to provide a top-level module; the general question takes 0.3 s, so guess first."""
    near = {_HOMES.get(root, root), f"{root}-cpu"}
    return {n for n in near if _installed(n)} or set(metadata.packages_distributions().get(root, []))


def _require(path: Path, expected: str) -> None:
    if not path.is_file():
        raise IntegrityError(f"{path.name} of {path.parent} is missing; restore the folder or train the model again")
    if (found := file_digest(path)) != expected:
        raise IntegrityError(
            f"{path.name} of {path.parent} was changed: its SHA-256 is {found[:12]}, registered was {expected[:12]}; "
            f"restore the folder or train the model again"
        )


def _order(fitted: Any, names: tuple[str, ...]) -> list[int] | None:
    """Return the positions of the fitted columns among `names`, None when they are the same."""
    if fitted is None or tuple(fitted) == names:
        return None
    foreign = [str(name) for name in fitted if name not in names]
    if foreign:
        raise InputError(
            f"the model was fitted on {', '.join(foreign)}, which the features do not have; they have {names}"
        )
    return [names.index(name) for name in fitted]


def _classes(model: Any) -> tuple[float, ...] | None:
    """Return the label of each probability column; None when the model does not say or they are no numbers."""
    try:
        return tuple(float(label) for label in getattr(model, "classes_", ())) or None
    except (TypeError, ValueError):
        return None


def _one_thread() -> bool:
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return False
    threadpool_limits(limits=1)
    return True


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
