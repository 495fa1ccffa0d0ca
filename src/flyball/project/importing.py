"""Versions that were not trained here: an outside artifact, or a version lowered anew.

The surprise: both are ordinary runs. The files wait in the run's folder, the train stage takes them instead of calling
`train`, and all that follows is the same: judged on the same holdout, packaged, registered, gated, resumable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball.project.runs import new_run, resume, signing_key

if TYPE_CHECKING:
    from flyball.project.root import Project
    from flyball.registry.formats.types import Stored
    from flyball.registry.lowering import Lowering
    from flyball.registry.types import Scalar
    from flyball.training.types import Run

__all__ = ["Optimized", "import_artifact", "lowering_report", "optimize"]

Progress = Callable[["Run"], None]


@dataclass(frozen=True, slots=True)
class Optimized:
    """What lowering a version anew found; `run` made the version that has it, None when nothing changes."""

    version: str
    before: str  # kind of the lowered form it has, "" for none
    after: str
    tried: tuple[dict[str, Any], ...]
    run: Run | None = None


def import_artifact(
    project: Project,
    model: str,
    path: str | Path,
    *,
    format: str = "auto",
    classes: Sequence[Scalar] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Register an outside artifact as a version of a declared model and gate it; see `ModelHandle.import_`."""
    from flyball.registry.formats.outside import read_outside

    project.applied.model(model)
    stored = read_outside(Path(path), format, classes=tuple(classes) if classes else None)
    return _register(project, model, stored, "import", progress)


def optimize(project: Project, model: str, version: str, *, dry_run: bool, progress: Progress | None) -> Optimized:
    """Lower a version anew and register the outcome when it is another one; see `ModelHandle.optimize`."""
    from flyball.registry.artifacts import load_version
    from flyball.registry.formats.types import FILE_NAMES, Stored
    from flyball.registry.lowering import find_lowering

    found = project.models[model].version(version)
    loaded = load_version(
        project.root / found.path, found.digest, signing_key=signing_key(project), native=True
    )  # fmt: skip
    manifest = loaded.manifest
    names = [n for n in manifest.files if n == FILE_NAMES[manifest.format] or n.startswith("pyfunc/")]
    stored = Stored(manifest.format, {n: (loaded.path / n).read_bytes() for n in names}, manifest.classes)
    lowering = find_lowering(loaded.predictor, loaded.sample())
    before = manifest.lowered.kind if manifest.lowered else ""
    after = lowering.chosen.kind if lowering.chosen else ""
    same = before == after and (lowering.chosen is None or _same(loaded.path / lowering.chosen.file, lowering.data))
    run = None if same or dry_run else _register(project, model, stored, "optimize", progress)
    return Optimized(version, before, after, _told(lowering), run)


def lowering_report(project: Project, run: str) -> list[dict[str, Any]]:
    """Return what the package stage of a run tried, [] for a run of an older flyball."""
    import msgspec

    path = project.layout.runs / run / "package" / "lowering.json"
    return msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]]) if path.is_file() else []


def _register(project: Project, model: str, stored: Stored, cause: str, progress: Progress | None) -> Run:
    from flyball.registry.formats.outside import keep

    run = new_run(project, model, {}, cause=cause)
    keep(project.layout.runs / run.id / "import", stored)
    return resume(project, run.id, progress=progress)


def _same(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _told(lowering: Lowering) -> tuple[dict[str, Any], ...]:
    import msgspec

    return tuple(msgspec.to_builtins(each) for each in lowering.tried)
