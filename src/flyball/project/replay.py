"""`project.replay`: run a version over logged traffic and compare, without touching any traffic.

The surprise: by default the version gets the feature values that were served, column by column, so that a difference is
the model's. With `recompute` they are read from history as-known, which also tries what the version reads anew.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.errors import FlyballError, InputError
from flyball.records.types import Outcome, Prediction, Record
from flyball.serving.log.replay import Replay, compare
from flyball.units import to_micros

if TYPE_CHECKING:
    from flyball.features.spec import FeatureService
    from flyball.project.root import Project
    from flyball.registry.artifacts import LoadedModel

__all__ = ["replay"]

_BATCH = 4096
_TIMED = 300  # single-row calls that are timed
Progress = Callable[[str, int, int], None]


def replay(
    project: Project,
    model: str,
    version: str,
    *,
    log: str | Path = "live",
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100_000,
    tolerance: float = 1e-9,
    recompute: bool = False,
    progress: Progress | None = None,
) -> Replay:
    """Answer logged requests with a version and compare with what was answered; see `Project.replay`."""
    if limit < 1:
        raise InputError(f"limit is {limit}; take at least one request")
    loaded = project.models[model].load(version)
    predictions, outcomes = _read(_records(project, log, since), model, since, until, limit)
    if not predictions:
        raise InputError(f"the log holds no request of {model} in that time; give another --since or --until")
    fitting, matrix = _matrix(project, loaded, predictions, recompute=recompute)
    new, errors = _answers(loaded, matrix, progress or (lambda *_: None))
    logged = _logged(fitting, new.shape[1:])
    return compare(
        model=model, version=version, ids=[p.id for p in fitting], units=[p.unit for p in fitting],
        arms=[p.arm for p in fitting], at=np.array([p.at for p in fitting], dtype=np.int64), logged=logged, new=new,
        errors=errors, logged_failed=sum(p.error is not None for p in fitting), classifier=loaded.classifier,
        tolerance=tolerance, micros=_timed(loaded, matrix),
        logged_micros=np.array([p.stages[3] for p in fitting if p.error is None], dtype=np.float64),
        outcome=np.array([outcomes.get(p.id, float("nan")) for p in fitting]),
        left_out=len(predictions) - len(fitting),
    )  # fmt: skip


def _records(project: Project, log: str | Path, since: datetime | None) -> Iterable[Record]:
    if log == "live":
        return project.log.records(since=since)
    path = Path(log)
    if not path.exists():
        raise InputError(f"there is no log at {path}; give a folder of segments or Parquet, or live")
    return _records_at(path)


def _records_at(path: Path) -> Iterator[Record]:
    import pyarrow.parquet as pq

    from flyball.records.columnar import KINDS, records_of
    from flyball.records.segment import read_frames
    from flyball.records.types import decode

    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in {".seg", ".parquet"})
    for file in files:
        if file.suffix == ".seg":
            for frame in read_frames(file):
                yield from decode(frame.payload)
            continue
        table = pq.read_table(file, partitioning=None)
        kind = next((k for k in KINDS if k in file.parts), "outcomes" if "received" in table.schema.names else "")
        kind = kind or ("predictions" if "features" in table.schema.names else "shadows")
        yield from (each.record for each in records_of(kind, table))


def _read(
    records: Iterable[Record], model: str, since: datetime | None, until: datetime | None, limit: int
) -> tuple[list[Prediction], dict[str, float]]:
    """Return the newest predictions, oldest first, each id once, and the newest outcome of each id."""
    first = to_micros(since) if since is not None else 0
    last = to_micros(until) if until is not None else 1 << 62
    found: dict[str, Prediction] = {}
    outcomes: dict[str, Outcome] = {}
    for record in records:
        match record:
            case Prediction() if record.model == model and first <= record.at < last:
                found[record.id] = record
            case Outcome():
                known = outcomes.get(record.id)
                if known is None or known.revision <= record.revision:
                    outcomes[record.id] = record
            case _:
                pass
    newest = sorted(found.values(), key=lambda p: (p.at, p.id))[-limit:]
    return newest, {name: outcome.value for name, outcome in outcomes.items()}


def _matrix(
    project: Project, loaded: LoadedModel, predictions: Sequence[Prediction], *, recompute: bool
) -> tuple[list[Prediction], np.ndarray]:
    if recompute:
        return list(predictions), _recomputed(project, loaded, predictions)
    wanted = loaded.manifest.service.names
    names = {v: _names(project, predictions[0].model, v) for v in {_assigned(project, p) for p in predictions}}
    fitting: list[Prediction] = []
    rows: list[list[float]] = []
    picks = {v: [n.index(name) for name in wanted] for v, n in names.items() if n and set(wanted) <= set(n)}
    for prediction in predictions:
        pick = picks.get(_assigned(project, prediction))
        if pick is not None and len(prediction.features) > max(pick, default=-1):
            fitting.append(prediction)
            rows.append([prediction.features[k] for k in pick])
    if not fitting:
        raise InputError(
            f"no logged request has all the features that {loaded.manifest.version} reads ({', '.join(wanted)}); "
            f"read them from history with --recompute"
        )
    return fitting, np.array(rows, dtype=np.float64)


def _assigned(project: Project, prediction: Prediction) -> str:
    """Return the version whose columns the logged features are."""
    from flyball.project.skew import assigned_version

    return assigned_version(project, prediction)


def _names(project: Project, model: str, version: str) -> tuple[str, ...]:
    from flyball.project.readers import service_of

    try:
        service = service_of(project, project.database.versions.get(model, version))
    except FlyballError:
        return ()
    return () if service is None else service.names


def _recomputed(project: Project, loaded: LoadedModel, predictions: Sequence[Prediction]) -> np.ndarray:
    from flyball.features.matrix import to_matrix
    from flyball.features.offline import service_history

    service = loaded.manifest.service
    at = np.array([p.at for p in predictions], dtype=np.int64)
    table = service_history(project.engine, _requests(predictions, service), service, at)
    return to_matrix(table, service.names)


def _requests(predictions: Sequence[Prediction], service: FeatureService) -> Any:
    import pyarrow as pa

    from flyball.features.types import to_arrow

    columns = {i.name: pa.array([p.inputs.get(i.name) for p in predictions], type=to_arrow(i.type))
               for i in service.inputs}  # fmt: skip
    return pa.table(columns)


def _answers(loaded: LoadedModel, matrix: np.ndarray, progress: Progress) -> tuple[np.ndarray, dict[str, int]]:
    """Return the answers, NaN for rows the model fails, and the causes; a failing batch is tried row by row."""
    parts: list[np.ndarray | int] = []
    causes: Counter[str] = Counter()
    for start in range(0, len(matrix), _BATCH):
        rows = matrix[start : start + _BATCH]
        parts += _attempt(loaded, rows, causes)
        progress("replay", min(start + _BATCH, len(matrix)), len(matrix))
    width = next((p.shape[1:] for p in parts if not isinstance(p, int)), ())
    filled = [np.full((p, *width), np.nan) if isinstance(p, int) else p for p in parts]
    answers = np.concatenate(filled)
    answers[~np.isfinite(answers).reshape(len(answers), -1).all(axis=1)] = np.nan
    lost = int(np.isnan(answers.reshape(len(answers), -1)).any(axis=1).sum()) - sum(causes.values())
    if lost:
        causes["the model answered a value that is not finite"] += lost
    return answers, dict(causes)


def _attempt(loaded: LoadedModel, rows: np.ndarray, causes: Counter[str]) -> list[np.ndarray | int]:
    try:
        return [loaded.predict(rows)]
    except Exception as error:  # whatever a candidate raises is a finding
        if len(rows) == 1:
            causes[f"{type(error).__name__}: {error}"[:200]] += 1
            return [1]
    return [part for half in np.array_split(rows, 2) for part in _attempt(loaded, half, causes)]


def _logged(predictions: Sequence[Prediction], width: tuple[int, ...]) -> np.ndarray:
    """Return what was answered, in the shape of the new answers; NaN where it was nothing or of another kind."""
    out = np.full((len(predictions), *width), np.nan)
    for row, prediction in enumerate(predictions):
        value = prediction.value
        if value is not None and np.shape(value) == width:
            out[row] = value
    return out


def _timed(loaded: LoadedModel, matrix: np.ndarray) -> np.ndarray:
    """Return µs of single-row calls on rows spread over the traffic."""
    taken = []
    for k in islice(range(0, len(matrix), max(1, len(matrix) // _TIMED)), _TIMED):
        begin = time.perf_counter_ns()
        try:
            loaded.predict(matrix[k : k + 1])
        except Exception:
            continue
        taken.append((time.perf_counter_ns() - begin) / 1000)
    return np.array(taken)
