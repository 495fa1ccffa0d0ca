"""Artifact folders: written whole or not at all, and loaded only when every byte is what was registered.

The surprise: a lowered version is served without its model. What answers is the kernel beside it, which needs neither
the library that trained it nor its memory; the model itself is opened when somebody asks for it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from flyball.disk import sync
from flyball.errors import ConflictError, IntegrityError, MissingExtra, Untrusted
from flyball.registry.apart import Apart
from flyball.registry.code import install_code
from flyball.registry.formats import FILE_NAMES, deserialize, ensure_signing_key, pyfunc
from flyball.registry.lowering.kernels import open_kernel
from flyball.registry.predictor import Predictor
from flyball.registry.requirements import requirements
from flyball.registry.rows import read_rows
from flyball.registry.types import Lowered, Manifest, Scalar

__all__ = [
    "LoadedModel",
    "Predictor",
    "confined",
    "ensure_signing_key",
    "file_digest",
    "load_version",
    "read_manifest",
    "requirements",
    "write_artifact",
]

MANIFEST = "manifest.json"
EXPECTED, SAMPLE = "expected.npy", "sample.npy"


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
        return np.asarray(read_rows(self.path / SAMPLE), dtype=np.float64)

    def expected(self) -> np.ndarray | None:
        """Return the answers to `sample()` when the version was registered, None for a version without them."""
        if EXPECTED not in self.manifest.files:
            return None
        return np.asarray(read_rows(self.path / EXPECTED), dtype=np.float64)

    @property
    def direct(self) -> Callable[[np.ndarray], np.ndarray]:
        """`predict` with the fewest steps between, for those who call it very often."""
        return self.predictor.direct


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
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        (draft / name).write_bytes(data)
        sync(draft / name)
    for below in sorted({(draft / name).parent for name in files} | {draft}, reverse=True):
        sync(below)
    if folder.exists():
        shutil.rmtree(folder)
    draft.rename(folder)
    sync(folder.parent)
    return full, digest


def load_version(
    path: Path,
    digest: str,
    *,
    signing_key: bytes = b"",
    code: Path | None = None,
    isolated: bool = False,
    native: bool = False,
) -> LoadedModel:
    """Load a version after comparing every byte with its digest.

    Args:
        path: The artifact folder.
        digest: SHA-256 of its manifest.json, from the control database.
        signing_key: The registry's key; a pickle and an exported PyTorch program need it.
        code: Folder of code snapshots; by default STATE/code beside STATE/artifacts/MODEL/VERSION.
        isolated: Whether this process serves nothing but this version, as a host does. Elsewhere an MLflow folder is
            opened in a child process, which answers in its place.
        native: Whether to answer with the model itself where a lowered kernel would.

    Raises:
        IntegrityError: a file is missing or changed; names the file.
        Untrusted: a file that this registry did not sign, or a type outside of our list.
        MissingExtra: the library that the format needs is not installed.
    """
    manifest = read_manifest(path, digest)
    for name, expected in manifest.files.items():
        _require(path / name, expected)
    name = FILE_NAMES.get(manifest.format, "")
    if name not in manifest.files:
        raise Untrusted(f"{path.name} has no file of format {manifest.format!r} in its manifest; train the model again")
    names = manifest.service.names
    if manifest.format == "pyfunc":
        _require_no_more(path / "pyfunc", {n.removeprefix("pyfunc/") for n in manifest.files})
        made = (
            pyfunc.load(path / "pyfunc", names, classes=manifest.classes) if isolated else Apart(path / "pyfunc", names)
        )
        return LoadedModel(path, manifest, Predictor(made, names, classes=manifest.classes))
    snapshot = (code or path.parent.parent.parent / "code") / manifest.code

    def bring() -> Any:
        """Return the model itself; what it was checked against may have changed since, so it is checked again."""
        _require(path / name, manifest.files[name])
        package = (lambda: install_code(snapshot)) if manifest.code and snapshot.is_dir() else None
        if manifest.format == "pickle" and package is not None:
            package()
        return deserialize(
            manifest.format, (path / name).read_bytes(),
            signature=manifest.signature, key=signing_key, classes=manifest.classes, package=package,
        )  # fmt: skip

    low = manifest.lowered
    kernel = None
    if low is not None and not native and low.file in manifest.files:
        kernel = _kernel(low, (path / low.file).read_bytes(), manifest.classes)
    if low is not None and kernel is not None:
        predictor = Predictor.lowered(
            kernel, bring, columns=low.columns, order=low.order, classes=manifest.classes
        )  # fmt: skip
        return LoadedModel(path, manifest, predictor)
    loaded = LoadedModel(path, manifest, Predictor(bring(), names, classes=manifest.classes))
    if SAMPLE in manifest.files and not native:
        loaded.predictor.accelerate(loaded.sample())
    return loaded


def _kernel(low: Lowered, data: bytes, classes: tuple[Scalar, ...] | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return a lowered kernel; None where what runs it is not installed, for then the model answers itself."""
    try:
        return open_kernel(low.kind, data, classes=classes, refuses=low.refuses, largest=low.largest)
    except MissingExtra:
        return None


def confined(folder: Path) -> bool:
    """Return whether a version may only be loaded in a process of its own, as champion too.

    It reads the manifest without checking it: whoever loads the version does that.
    """
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Format).format == "pyfunc"
    except (OSError, msgspec.DecodeError):
        return False


class _Format(msgspec.Struct):
    format: str = ""


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


def _require_no_more(folder: Path, known: set[str]) -> None:
    foreign = sorted({p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - known)
    if foreign:
        raise IntegrityError(f"{foreign[0]} was added to {folder.parent} after it was registered; remove it")


def _require(path: Path, expected: str) -> None:
    if not path.is_file():
        raise IntegrityError(f"{path.name} of {path.parent} is missing; restore the folder or train the model again")
    if (found := file_digest(path)) != expected:
        raise IntegrityError(
            f"{path.name} of {path.parent} was changed: its SHA-256 is {found[:12]}, registered was {expected[:12]}; "
            f"restore the folder or train the model again"
        )
