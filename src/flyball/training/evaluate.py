"""Judge candidate and champion on the same rows, which neither trained on.

The surprise: rows from the champion's own training stretch are left out for both, even rows it happened not to see,
because their neighbours in time were seen.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from flyball.datasets.ports import ServedLog
from flyball.datasets.snapshot import holdout_rows
from flyball.datasets.types import DatasetManifest, TrainingSet
from flyball.errors import FlyballError, InputError
from flyball.features.matrix import to_matrix
from flyball.features.ports import OfflineEngine
from flyball.features.spec import digest_of
from flyball.registry.artifacts import LoadedModel, Predictor
from flyball.registry.evaluation import Evaluation, metrics_of
from flyball.registry.types import Scalar
from flyball.training.plan import TrainingPlan
from flyball.units import to_micros

__all__ = ["Champion", "evaluate", "read_evaluation", "write_evaluation"]


@dataclass(frozen=True, slots=True)
class Champion:
    """The present champion: loaded, or the reason why it could not be; and what it was trained on, if known."""

    version: str
    loaded: LoadedModel | None
    dataset: DatasetManifest | None
    reason: str = ""


def evaluate(
    data: TrainingSet,
    candidate: Predictor,
    champion: Champion | None,
    plan: TrainingPlan,
    engine: OfflineEngine,
    log: ServedLog | None = None,
) -> Evaluation:
    """Return the evaluation of a candidate on its holdout, beside the champion if there is one."""
    matrix, truth = data.holdout
    y = _numbered(truth, candidate.classes)
    answer = candidate.predict(matrix)
    metrics = metrics_of(y, answer, classifier=candidate.classifier)
    finite = np.isfinite(answer)
    flat = answer[finite]
    common: dict[str, Any] = {
        "rows": len(y), "metrics": metrics, "classifier": candidate.classifier,
        "low": float(flat.min()) if flat.size else float("nan"),
        "high": float(flat.max()) if flat.size else float("nan"),
        "bad": int((~finite).reshape(len(y), -1).any(axis=1).sum()),
    }  # fmt: skip
    if champion is None:
        return Evaluation(y=y, candidate=answer, **common)
    rows = _unseen(data, champion)
    theirs, reason = _champion_answers(data, champion, plan, engine, rows, log)
    if theirs is not None and (theirs.shape[1:] != answer.shape[1:] or _classes(champion) != candidate.classes):
        theirs, reason = None, "it answers another kind of question: its classes are not the candidate's"
    judged = {} if theirs is None else metrics_of(y[rows], theirs, classifier=candidate.classifier)
    return Evaluation(
        y=y[rows], candidate=answer[rows], champion=theirs, champion_version=champion.version, reason=reason,
        champion_metrics=judged, paired_metrics=metrics_of(y[rows], answer[rows], classifier=candidate.classifier),
        left_out=len(y) - len(rows), **common,
    )  # fmt: skip


def write_evaluation(found: Evaluation, folder: Path) -> None:
    """Write evaluation.json and rows.npz (truth, both answers and their absolute errors, aligned)."""
    arrays = {"y": found.y, "candidate": found.candidate}
    if found.champion is not None:
        arrays["champion"] = found.champion
    if not found.classifier:
        arrays |= {
            f"{name}_error": np.abs(arrays[name] - found.y) for name in ("candidate", "champion") if name in arrays
        }
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    (folder / "rows.npz").write_bytes(out.getvalue())
    (folder / "evaluation.json").write_bytes(msgspec.json.encode(_small(found), order="deterministic"))


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `write_evaluation` wrote."""
    small = msgspec.json.decode((folder / "evaluation.json").read_bytes())
    for name in ("low", "high"):
        small[name] = float("nan") if small[name] is None else small[name]
    for name in ("metrics", "champion_metrics", "paired_metrics"):
        small[name] = {k: float("nan") if v is None else v for k, v in small[name].items()}
    with np.load(folder / "rows.npz", allow_pickle=False) as rows:
        arrays = {name: rows[name] for name in ("y", "candidate", "champion") if name in rows.files}
    return Evaluation(**small, **arrays)


def _numbered(y: np.ndarray, classes: tuple[Scalar, ...] | None) -> np.ndarray:
    """Return class labels as positions among `classes`, other labels unchanged.

    Labels of a training set are numbers; classes that are texts stand for their positions.
    """
    if classes is None:
        return y
    texts = any(isinstance(each, str) for each in classes)
    known = np.arange(len(classes)) if texts else np.array(classes, dtype=np.float64)
    foreign = np.setdiff1d(y, known)
    if len(foreign):
        raise InputError(f"the holdout has label {foreign[0]:g}, which the training part has not; train on more data")
    order = np.argsort(known)
    return np.asarray(order[np.searchsorted(known[order], y)], dtype=np.float64)


def _classes(champion: Champion) -> tuple[Scalar, ...] | None:
    return champion.loaded.predictor.classes if champion.loaded is not None else None


def _small(found: Evaluation) -> dict[str, Any]:
    names = [
        "rows", "metrics", "champion_version", "champion_metrics", "paired_metrics", "left_out", "reason", "low",
        "high", "bad", "classifier",
    ]  # fmt: skip
    return {name: getattr(found, name) for name in names}


def _unseen(data: TrainingSet, champion: Champion) -> np.ndarray:
    """Return the positions of the holdout rows whose T lies outside of the champion's training stretch."""
    import pyarrow.compute as pc

    at = data.table.filter(pc.equal(data.table.column("__part"), 1)).column("__at").to_numpy()
    if champion.dataset is None:
        return np.arange(len(at))
    begin, end = to_micros(champion.dataset.start), to_micros(champion.dataset.holdout_from)
    return np.flatnonzero((at < begin) | (at >= end))


def _champion_answers(
    data: TrainingSet,
    champion: Champion,
    plan: TrainingPlan,
    engine: OfflineEngine,
    rows: np.ndarray,
    log: ServedLog | None,
) -> tuple[np.ndarray | None, str]:
    """Return the champion's answers to these holdout rows, or None and why there are none."""
    if champion.loaded is None:
        return None, champion.reason
    if champion.dataset is None:
        return None, "what it was trained on is unknown, so its own rows cannot be left out"
    if not len(rows):
        return None, "it trained on every row of the holdout"
    service = champion.loaded.manifest.service
    try:
        if digest_of(service) == data.manifest.features:
            matrix = data.holdout[0][rows]
        else:
            table = holdout_rows(engine, data, service, examples=plan.examples, label=plan.label, rows=rows, log=log)
            matrix = to_matrix(table, service.names)
        return champion.loaded.predict(matrix), ""
    except FlyballError as error:
        return None, str(error)
    except Exception as error:  # a model that raises on these rows is evidence, not a failed run
        return None, f"it raised {type(error).__name__}: {error}"
