"""The MLflow tracker: runs once, registered with alias and signature, nothing dropped where we stand."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.adapters.mlflow import MLflowTracker
from flyball.features.spec import FeatureService, InputSpec, ServiceColumn
from flyball.registry.artifacts import write_artifact
from flyball.registry.formats import FILE_NAMES, serialize
from flyball.registry.types import Manifest

SERVICE = FeatureService("eta", "at", (ServiceColumn("a", "field"),), (InputSpec("a", "float64"),))


def tracker(folder: Path) -> MLflowTracker:
    return MLflowTracker(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}", folder / "mlflow" / "artifacts")


def artifact(folder: Path) -> tuple[Path, np.ndarray]:
    from sklearn.linear_model import LinearRegression

    rows = np.arange(10.0)[:, None]
    kind, body = serialize(LinearRegression().fit(rows, rows[:, 0] * 3))
    manifest = Manifest("eta", "v1", "r1", kind, {}, SERVICE, "d", "", datetime(2020, 1, 1, tzinfo=UTC))
    path = folder / "artifacts" / "eta" / "v1"
    write_artifact(path, manifest, {FILE_NAMES[kind]: body})
    return path, rows


def log(track: MLflowTracker, path: Path, **changes: Any) -> str:
    given = {
        "model": "eta", "run": "r1", "version": "v1", "params": {"max_iter": 5}, "metrics": {"mae": 1.5},
        "tags": {"flyball.digest": "abc"}, "folder": path, "requirements": ["numpy==2.0"], "columns": [("a", "double")],
        **changes,
    }  # fmt: skip
    return track.log_run(**given)


def test_a_run_is_logged_once_and_its_version_answers_through_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "cwd"
    here.mkdir()
    monkeypatch.chdir(here)
    path, rows = artifact(tmp_path)
    track = tracker(tmp_path)
    run = log(track, path)
    assert log(track, path) == run
    track.set_alias("eta", "champion", "v1")
    log(track, path, run="r2", version="v2")

    import mlflow
    import pandas as pd
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    assert client.get_run(run).data.metrics == {"mae": 1.5}
    assert client.get_run(run).data.params == {"max_iter": "5"}
    assert {v.tags["flyball.version"] for v in client.search_model_versions("name = 'eta'")} == {"v1", "v2"}
    assert client.get_model_version_by_alias("eta", "champion").run_id == run
    assert client.get_run(run).info.artifact_uri.startswith(f"file://{tmp_path}/mlflow/artifacts/eta")
    mlflow.set_registry_uri(uri)
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/eta@champion")
    assert model.predict(pd.DataFrame(rows, columns=["a"])) == pytest.approx(rows[:, 0] * 3)
    assert model.metadata.get_input_schema().input_names() == ["a"]
    assert list(here.iterdir()) == []
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_an_interrupted_run_is_completed_not_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = artifact(tmp_path)
    track = tracker(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(MLflowTracker, "_register", _fail)
        with pytest.raises(OSError, match="gone"):
            log(track, path)
    run = log(track, path)
    client = track._client()
    assert len(client.search_runs([client.get_experiment_by_name("eta").experiment_id])) == 1
    assert client.get_run(run).info.status == "FINISHED"


def test_an_alias_for_an_unknown_version_changes_nothing(tmp_path: Path) -> None:
    track = tracker(tmp_path)
    track.set_alias("eta", "champion", "v9")
    assert track._client().search_registered_models() == []


@pytest.mark.slow
def test_two_processes_may_create_the_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flyball.adapters.mlflow import MLflowTracker as T\n"
        "p = Path(sys.argv[1]); T(f'sqlite:///{p}/mlflow.db', p / 'artifacts')._client()"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in started] == [0, 0, 0]


def _fail(*_: object) -> None:
    raise OSError("gone")
