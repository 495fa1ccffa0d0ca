"""What each of the seven stages does, and what it depends on.

The surprise: a stage never hands objects to the next one directly. Each writes files into its folder and small JSON
into the journal; what a later stage needs is read from there (or kept from before, when the same process made it), so a
run goes on after kill -9 exactly as if nothing had happened.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from flyball.datasets.files import open_dataset
from flyball.datasets.snapshot import build
from flyball.datasets.types import DatasetManifest, TrainingSet
from flyball.disk import sync
from flyball.errors import FlyballError, StageFailed, UnknownName
from flyball.features.spec import digest_of
from flyball.profiles.reference import build_reference
from flyball.registry.apart import Apart
from flyball.registry.artifacts import (
    LoadedModel,
    Predictor,
    ensure_signing_key,
    file_digest,
    load_version,
    write_artifact,
)
from flyball.registry.code import PREFIX, install_code
from flyball.registry.evaluation import Evaluation
from flyball.registry.formats import FILE_NAMES, SIGNED, Stored, deserialize, sign, store, stored_digest
from flyball.registry.formats.outside import kept, kept_digest
from flyball.registry.lowering import Lowering, find_lowering
from flyball.registry.requirements import requirements_of
from flyball.registry.types import Lifecycle, Manifest, ModelVersion, Version
from flyball.training.check import feature_checks, problems
from flyball.training.context import StageContext
from flyball.training.evaluate import Champion, evaluate, read_evaluation, write_evaluation
from flyball.training.limits import limited
from flyball.training.plan import TrainingPlan
from flyball.training.types import Run
from flyball.units import duration, to_micros

__all__ = ["WORK", "Work", "stage_inputs"]

_SAMPLE = 256  # holdout rows kept with a version, to warm up with and to time calls


@dataclass(slots=True)
class Work:
    """One run under way: what is wanted, where it happens, what earlier stages put out, objects still at hand."""

    run: Run
    plan: TrainingPlan
    context: StageContext
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept_data: TrainingSet | None = None
    kept_predictor: Predictor | None = None
    kept_evaluation: Evaluation | None = None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.context.layout.runs / self.run.id

    @property
    def params(self) -> dict[str, Any]:
        """The model's parameters with the run's own over them."""
        return {**self.plan.params, **self.run.params}

    def data(self) -> TrainingSet:
        """The training set of the snapshot stage."""
        if self.kept_data is None:
            body = (self.folder / "snapshot" / "manifest.json").read_bytes()
            manifest = msgspec.json.decode(body, type=DatasetManifest)
            self.kept_data = open_dataset(manifest, self.context.layout)
        return self.kept_data

    def predictor(self) -> Predictor:
        """The model of the train stage."""
        if self.kept_predictor is None:
            trained = self.outputs["train"]
            data = (self.folder / "train" / trained["file"]).read_bytes()
            key = ensure_signing_key(self.context.layout)
            self.kept_predictor = self._reopened(trained, data, key)
        return self.kept_predictor

    def _reopened(self, trained: dict[str, Any], data: bytes, key: bytes) -> Predictor:
        names, kind = self.plan.service.names, trained["format"]
        classes = tuple(trained.get("classes") or ()) or None
        if kind == "pyfunc":
            return Predictor(Apart(self.folder / "train" / "pyfunc", names), names, classes=classes)
        snapshot = self.context.layout.code / self.run.code
        package = (lambda: install_code(snapshot)) if snapshot.is_dir() else None
        model = deserialize(
            kind, data, signature=trained["signature"], key=key, classes=classes, package=package
        )  # fmt: skip
        return Predictor(model, names, classes=classes)

    def evaluation(self) -> Evaluation:
        """What the evaluate stage found."""
        if self.kept_evaluation is None:
            self.kept_evaluation = read_evaluation(self.folder / "evaluate")
        return self.kept_evaluation

    def artifact(self) -> Path:
        """The artifact folder of the package stage."""
        return self.context.layout.artifacts / self.run.model / str(self.outputs["package"]["version"])


def stage_inputs(stage: str, work: Work) -> str:
    """Return the digest of everything a stage reads: its own settings and the outputs of the stages before it."""
    run, plan, context = work.run, work.plan, work.context
    own: dict[str, Any] = {}
    match stage:
        case "snapshot":
            examples = plan.examples
            own = {
                "source": examples.source and examples.source.spec, "at": examples.at, "unit": examples.unit,
                "where": examples.where, "derive": examples.derive, "label": plan.label.column,
                "matures": plan.label.matures, "service": plan.service, "train_on": _train_on(work),
                "holdout": plan.holdout, "until": run.until, "code": run.code,
                "poisoned": context.datasets.poisoned(plan.model),
                **({} if examples.log is None else {"log": examples.log}),  # runs begun before keep their digest
            }  # fmt: skip
        case "train":
            own = {"params": work.params, "code": run.code, "seed": plan.seed, "threads": context.settings.threads}
            if imported := kept_digest(work.folder / "import"):
                own["import"] = imported
        case "evaluate":
            champion = _champion(work)
            own = {"champion": champion.version if champion else None}
        case "package":
            own = {"service": plan.service, "window": plan.window}
        case "gate":
            own = {"gates": plan.gates}
    before = {name: _stable(work.outputs[name]) for name in work.outputs}
    return digest_of({"stage": stage, "run": run.id, "own": own, "before": before})


def snapshot(work: Work, folder: Path) -> dict[str, Any]:
    """Build the training set and record its manifest."""
    run = work.run
    data = build(work.plan, work.context, until=run.until, code=run.code, train_on=_train_on(work))
    manifest = data.manifest
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest, order="deterministic"))
    work.kept_data = data
    return {"dataset": manifest.digest, "rows": manifest.rows, "train_rows": manifest.train_rows,
            "holdout_rows": manifest.holdout_rows, "immature": manifest.immature}  # fmt: skip


def check(work: Work, folder: Path) -> dict[str, Any]:
    """Refuse a training set that nobody can learn from."""
    failed, warned = feature_checks(work.data(), work.plan.service, to_micros(work.run.until))
    found = [*problems(work.data()), *failed]
    warned = [*work.data().manifest.warnings, *warned]
    (folder / "checks.json").write_bytes(msgspec.json.encode({"problems": found, "warnings": warned}))
    if found:
        raise StageFailed(f"the training set {work.data().manifest.digest[:12]} is unusable: {'; '.join(found)}")
    return {"problems": 0}


def train(work: Work, folder: Path) -> dict[str, Any]:
    """Let the user's function fit a model, under limits, and write it down; an import brings it along instead."""
    data, settings = work.data(), work.context.settings
    begun = work.context.clock.monotonic()
    try:
        with limited(settings, work.plan.seed):
            model: Any = kept(work.folder / "import") or work.plan.train(data, work.params)
    except MemoryError as error:
        raise StageFailed(
            f"train() ran out of memory (limit {settings.memory / 1e9:.3g} GB); raise training.memory or train on less"
        ) from error
    if model is None:
        raise StageFailed("train() returned None; return the fitted model")
    asked = None if isinstance(model, Stored) else Predictor(model, work.plan.service.names)
    stored = store(model, data.X)
    kind, body = stored.kind, stored.main
    work.kept_predictor = asked if kind in {"skops", "pickle"} else None  # else what the file answers is judged
    for name, content in stored.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        sync(folder / name)
    pinned = requirements_of(kind, model)
    (folder / "requirements.txt").write_text("\n".join(pinned) + "\n")
    signature = sign(body, ensure_signing_key(work.context.layout)) if kind in SIGNED else ""
    seconds = round(work.context.clock.monotonic() - begun, 3)
    return {"format": kind, "file": FILE_NAMES[kind], "signature": signature, "bytes": len(body), "seconds_": seconds,
            "model": stored_digest(stored), "class": kind if asked is None else class_name(model),
            "files": sorted(stored.files), "classes": list(stored.classes or ())}  # fmt: skip


def evaluate_stage(work: Work, folder: Path) -> dict[str, Any]:
    """Judge candidate and champion on the same holdout rows."""
    champion = _champion(work)
    with limited(work.context.settings, work.plan.seed):
        context = work.context
        found = evaluate(
            work.data(), work.predictor(), _open(champion, work), work.plan, context.engine, context.served
        )
    write_evaluation(found, folder)
    work.kept_evaluation = found
    return {"metrics": _finite(found.metrics), "champion": found.champion_version, "paired": found.paired,
            "champion_metrics": _finite(found.champion_metrics), "paired_metrics": _finite(found.paired_metrics),
            "rows": file_digest(folder / "rows.npz")}  # fmt: skip


def package(work: Work, folder: Path) -> dict[str, Any]:
    """Write the artifact folder: model, requirements, reference profile, sample, manifest."""
    run, plan, context = work.run, work.plan, work.context
    trained, data = work.outputs["train"], work.data()
    version = context.versions.reserve(run.model, run.id)
    labels, predictor, sample = data.y, work.predictor(), _sample(data)
    lowering = find_lowering(predictor, sample)
    (folder / "lowering.json").write_bytes(msgspec.json.encode(lowering.tried))
    manifest = Manifest(
        model=run.model, version=version, run=run.id, format=trained["format"], files={}, service=plan.service,
        dataset=data.manifest.digest, code=run.code, created=run.created, signature=trained["signature"],
        label=plan.label.column, label_min=float(labels.min()), label_max=float(labels.max()),
        classes=predictor.classes, lowered=lowering.chosen, model_class=trained.get("class", ""),
    )  # fmt: skip
    made = work.folder / "train"
    files = {
        **{name: (made / name).read_bytes() for name in trained.get("files", [trained["file"]])},
        "requirements.txt": _requirements(made, lowering),
        "reference.bin": _reference(data, plan),
        "sample.npy": _npy(sample),
        "expected.npy": _npy(predictor.predict(sample)),
    }
    if lowering.chosen is not None:
        files[lowering.chosen.file] = lowering.data
    target = context.layout.artifacts / run.model / version
    known = _known(work, version)
    _, digest = write_artifact(target, manifest, files, registered=known.digest if known else None)
    (folder / "artifact.json").write_bytes(msgspec.json.encode({"path": str(target), "digest": digest}))
    return {"version": version, "digest": digest, "bytes": sum(map(len, files.values())),
            "lowered": lowering.chosen.kind if lowering.chosen else ""}  # fmt: skip


def register(work: Work, folder: Path) -> dict[str, Any]:
    """Record the version, and mirror it to the tracker; a tracker that fails is noted, it decides nothing."""
    run, context = work.run, work.context
    packed, found = work.outputs["package"], work.outputs["evaluate"]
    version, artifact = str(packed["version"]), work.artifact()
    manifest = work.data().manifest
    known = _known(work, version)
    if known is None:
        tracked, problem = _track(work, version, artifact, manifest)
        known = Version(
            model=run.model, version=ModelVersion(version), run=run.id, lifecycle=Lifecycle.CANDIDATE,
            path=_below(context.layout.root, artifact), digest=packed["digest"], dataset=manifest.digest,
            code=run.code, created=run.created,
            cause=run.cause, parent=found["champion"], trained_from=manifest.start, trained_until=manifest.end,
            metrics=found["metrics"], mlflow=tracked,
        )  # fmt: skip
        context.versions.add(known)
        (folder / "tracking.json").write_bytes(msgspec.json.encode({"mlflow": tracked, "problem": problem}))
        if problem:
            context.runs.note(run.id, tracking=problem)
    return {"version": version, "mlflow": known.mlflow}


def gate(work: Work, folder: Path) -> dict[str, Any]:
    """Load the artifact as a server would, judge it, record the verdict."""
    run, context = work.run, work.context
    version = str(work.outputs["package"]["version"])
    loaded = load_version(
        work.artifact(), work.outputs["package"]["digest"], signing_key=ensure_signing_key(context.layout)
    )
    report = context.gate(work.plan.gates, loaded, work.evaluation())
    (folder / "report.json").write_bytes(report.to_json())
    context.versions.set_gate(run.model, version, str(report.verdict))
    return {"verdict": str(report.verdict)}


WORK: dict[str, Callable[[Work, Path], dict[str, Any]]] = {
    "snapshot": snapshot, "check": check, "train": train, "evaluate": evaluate_stage, "package": package,
    "register": register, "gate": gate,
}  # fmt: skip


def _below(root: Path, path: Path) -> str:
    """Return a path relative to the project's root where it can be, so that the folder may be moved."""
    here, there = root.resolve(), path.resolve()
    return str(there.relative_to(here) if there.is_relative_to(here) else there)


def _train_on(work: Work) -> timedelta:
    return work.plan.train_on if work.run.train_on is None else duration(work.run.train_on)


def _stable(outputs: dict[str, Any]) -> dict[str, Any]:
    """Return outputs without measurements of time, whose names end in an underscore."""
    return {name: value for name, value in outputs.items() if not name.endswith("_")}


def _champion(work: Work) -> Version | None:
    """Return the champion to be beaten; a run's own version, promoted meanwhile, does not judge itself."""
    champion = work.context.versions.champion(work.plan.model)
    return None if champion is None or champion.run == work.run.id else champion


def _open(version: Version | None, work: Work) -> Champion | None:
    if version is None:
        return None
    context = work.context
    try:
        dataset = context.datasets.get(version.dataset)
    except UnknownName:
        dataset = None
    try:
        key = ensure_signing_key(context.layout)
        loaded: LoadedModel | None = load_version(context.layout.root / version.path, version.digest, signing_key=key)
        return Champion(version.version, loaded, dataset)
    except FlyballError as error:
        return Champion(version.version, None, dataset, str(error))
    except Exception as error:  # its code may not import here; the gate then says so instead of passing
        return Champion(version.version, None, dataset, f"it cannot be loaded: {type(error).__name__}: {error}")


def _known(work: Work, version: str) -> Version | None:
    try:
        return work.context.versions.get(work.run.model, version)
    except UnknownName:
        return None


def _reference(data: TrainingSet, plan: TrainingPlan) -> bytes:
    held, _ = data.holdout
    at = data.table.column("__at").to_numpy()
    matrix = np.empty((len(at), len(data.feature_names)))
    part = data.table.column("__part").to_numpy()
    matrix[part == 0], matrix[part == 1] = data.X, held
    zone = plan.examples.timezone
    return build_reference(matrix, data.feature_names, at, window=plan.window, timezone=zone).to_bytes()


def class_name(model: object) -> str:
    """Return the class of a model with its module, without the name of a code snapshot."""
    kind = type(model)
    home = kind.__module__
    return f"{home.partition('.')[2] if home.startswith(PREFIX) else home}.{kind.__qualname__}"


def _requirements(made: Path, lowering: Lowering) -> bytes:
    """Return the pinned requirements, with those of a lowered kernel."""
    lines = set((made / "requirements.txt").read_text().splitlines())
    if lowering.chosen is not None and lowering.chosen.kind == "onnx":
        lines |= set(requirements_of("onnx"))
    return ("\n".join(sorted(lines)) + "\n").encode()


def _sample(data: TrainingSet) -> np.ndarray:
    """Return up to `_SAMPLE` holdout rows, evenly spread over its time."""
    held, _ = data.holdout
    rows = np.unique(np.linspace(0, len(held) - 1, min(_SAMPLE, len(held))).astype(np.int64))
    return np.ascontiguousarray(held[rows])


def _npy(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=False)
    return out.getvalue()


def _track(work: Work, version: str, artifact: Path, manifest: DatasetManifest) -> tuple[str, str]:
    """Return the tracker's run id and what went wrong, one of them empty."""
    run, tracker = work.run, work.context.tracker
    if tracker is None:
        return "", ""
    tags = {
        "flyball.digest": str(work.outputs["package"]["digest"]), "flyball.dataset": manifest.digest,
        "flyball.code": run.code, "flyball.cause": run.cause,
    }  # fmt: skip
    try:
        return tracker.log_run(
            model=run.model, run=run.id, version=version, params=work.params,
            metrics=work.outputs["evaluate"]["metrics"], tags=tags, folder=artifact,
            requirements=(artifact / "requirements.txt").read_text().split(),
            columns=[(name, "double") for name in work.plan.service.names],
        ), ""  # fmt: skip
    except Exception as error:
        return "", f"{type(error).__name__}: {error}"


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if np.isfinite(value)}
