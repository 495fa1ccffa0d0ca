"""A small project on disk for the training tests; also the child process that the crash tests kill.

Run as `python training_world.py FOLDER RUN POINT`, it executes the run and kills itself at POINT, such as
"train:started" (its record says so, nothing is done) or "train:finished" (its folder is there, its record is not).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import flyball as fb
from flyball.adapters.duckdb import DuckDBEngine
from flyball.clock import ManualClock
from flyball.control import connect
from flyball.features.service import compile_service
from flyball.gates.run import run_gate
from flyball.layout import Layout
from flyball.training.context import StageContext
from flyball.training.pipeline import run_stages
from flyball.training.plan import TrainingPlan
from flyball.training.types import Run, RunState, StageRecord

START = datetime(2020, 3, 1, tzinfo=UTC)
UNTIL = START + timedelta(days=6)


class MeanModel:
    """Answer with least squares on the columns; plain numpy, so the children start fast."""

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        return np.c_[np.ones(len(matrix)), np.nan_to_num(matrix)] @ self.weights


def least_squares(data: Any, params: dict[str, Any]) -> MeanModel:
    design = np.c_[np.ones(len(data.X)), np.nan_to_num(data.X)]
    ridge = params.get("ridge", 1e-6) * np.eye(design.shape[1])
    return MeanModel(np.linalg.solve(design.T @ design + ridge, design.T @ data.y))


def write_trips(folder: Path, rows: int = 3000, *, seed: int = 0, days: float = 6.0) -> Path:
    """Write trips sorted by drop-off: zone, distance, pickup, drop-off."""
    rng = np.random.default_rng(seed)
    pickup = np.sort(rng.uniform(0, days * 86400, rows))
    distance = rng.gamma(2.0, 1.5, rows).round(2)
    minutes = np.clip(3 + 3.5 * distance + rng.normal(scale=2.0, size=rows), 1.0, 60.0)
    micros = (START.timestamp() * 1e6 + pickup * 1e6).astype(np.int64)
    end = micros + (minutes * 6e7).astype(np.int64)
    stamp = pa.timestamp("us")
    table = pa.table({
        "zone": rng.integers(1, 6, rows), "distance": distance, "pickup_at": pa.array(micros).cast(stamp),
        "dropoff_at": pa.array(end).cast(stamp),
    })  # fmt: skip
    (folder / "data").mkdir(parents=True, exist_ok=True)
    path = folder / "data" / "trips.parquet"
    pq.write_table(table.sort_by("dropoff_at"), path)
    return path


def trips(**changes: Any) -> fb.ParquetSource:
    given = {"event_time": "dropoff_at", "derive": {"minutes": "(dropoff_at - pickup_at) / 1m"}, **changes}
    return fb.ParquetSource("trips", "data/trips.parquet", **given)


def plan_of(
    source: fb.ParquetSource | None = None,
    *,
    train: Callable[..., Any] = least_squares,
    gates: Sequence[Any] = (),
    examples: fb.Examples | None = None,
    fields: Sequence[fb.Field] = (),
    **changes: Any,
) -> TrainingPlan:
    source = source or trips()
    zone = fb.Entity("zone", keys={"zone": int})
    traffic = fb.FeatureView(
        "traffic", entity=zone, source=source,
        features=[fb.count("trips_1h", window="1h"), fb.mean("minutes_24h", of="minutes", window="24h")],
    )  # fmt: skip
    features = [traffic, fb.Field("distance", float), fb.hour_of_day("pickup_at"), *fields]
    plan = TrainingPlan(
        model="eta", examples=examples or fb.Examples(source, at="pickup_at"), label=fb.Label("minutes", matures="2h"),
        service=compile_service("eta", "pickup_at", features, source.spec), train=train, train_on=timedelta(days=5),
        gates=tuple(gates),
    )  # fmt: skip
    return replace(plan, **changes)


@dataclass
class World:
    """A project folder with its stores open."""

    context: StageContext
    folder: Path

    def new_run(self, name: str = "r1", **changes: Any) -> str:
        base = Run(id=name, model="eta", cause="manual", state=RunState.PENDING, created=UNTIL, until=UNTIL, code="")
        self.context.runs.create(replace(base, **changes))
        return name

    def run(self, plan: TrainingPlan, name: str = "r1", **changes: Any) -> Run:
        return run_stages(self.new_run(name, **changes), plan, self.context)


def open_world(folder: Path, **changes: Any) -> World:
    layout = Layout(folder, folder / "state")
    layout.state.mkdir(parents=True, exist_ok=True)
    database = connect(f"sqlite:///{layout.state / 'control.db'}")
    context = StageContext(
        layout=layout, engine=DuckDBEngine(folder), runs=database.runs, versions=database.versions,
        datasets=database.datasets, clock=ManualClock(UNTIL), gate=run_gate,
    )  # fmt: skip
    return World(replace(context, **changes), folder)


class DeadlyRuns:
    """A run store whose process dies instead of recording that one stage is done."""

    def __init__(self, inner: Any, stage: str) -> None:
        self._inner = inner
        self._stage = stage

    def record_stage(self, run: str, stage: StageRecord) -> None:
        if (stage.stage, stage.state) == (self._stage, "done"):
            os.kill(os.getpid(), signal.SIGKILL)
        self._inner.record_stage(run, stage)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def main(folder: Path, run: str, point: str) -> None:
    stage, _, when = point.partition(":")

    def progress(name: str, state: str) -> None:
        if when == state and name == stage:
            os.kill(os.getpid(), signal.SIGKILL)

    world = open_world(folder, progress=progress)
    context = world.context
    if when == "finished":
        context = replace(context, runs=DeadlyRuns(context.runs, stage))
    run_stages(run, plan_of(gates=[fb.gate.metric("mae", max=10)]), context)


if __name__ == "__main__":
    import training_world  # so that the pickled model's class has a name that the tests know

    training_world.main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
