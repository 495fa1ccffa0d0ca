"""Versions that were trained elsewhere, and versions lowered anew: judged, gated and served like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import project_kit as kit
import pytest

from flyball.cli.app import run as cli
from flyball.errors import InputError, Untrusted
from flyball.project import Project
from flyball.registry import lowering
from flyball.registry.artifacts import read_manifest
from flyball.training.types import RunState


def linear(project: Project) -> tuple[Any, Any]:
    from sklearn.linear_model import LinearRegression

    data = project.data.snapshot("eta")
    return LinearRegression().fit(np.nan_to_num(data.X), data.y), data


def onnx_file(project: Project, folder: Path) -> Path:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType

    model, data = linear(project)
    path = folder / "eta.onnx"
    made = to_onnx(model, initial_types=[("X", DoubleTensorType([None, data.X.shape[1]]))])
    path.write_bytes(made.SerializeToString())
    return path


def test_an_onnx_file_becomes_a_version_that_is_gated_and_serves(temp: Project, tmp_path: Path) -> None:
    temp.apply()
    run = temp.models["eta"].import_(onnx_file(temp, tmp_path))
    assert run.state is RunState.SUCCEEDED
    assert run.cause == "import"
    version = temp.models["eta"].version(run.version)
    manifest = read_manifest(temp.root / version.path, version.digest)
    assert manifest.format == "onnx"
    assert (temp.root / version.path / "model.onnx").read_bytes() == (tmp_path / "eta.onnx").read_bytes()
    temp.models["eta"].promote(run.version)
    ask = kit.caller(temp)
    (value,) = ask.http.infer("eta", [{"zone": 3, "distance": 2.0}])["predictions"]
    ask.http.close()
    assert value == pytest.approx(3 + 3.5 * 2.0 + 3, abs=2.5)


def test_a_lightgbm_text_file_is_told_by_its_name(temp: Project, tmp_path: Path) -> None:
    import lightgbm

    temp.apply()
    data = temp.data.snapshot("eta")
    model = lightgbm.LGBMRegressor(n_estimators=30, n_jobs=1, verbose=-1).fit(data.X, data.y)
    model.booster_.save_model(str(tmp_path / "eta.txt"))
    run = temp.models["eta"].import_(tmp_path / "eta.txt")
    loaded = temp.models["eta"].load(run.version)
    assert loaded.manifest.format == "lightgbm"
    assert loaded.predict(data.X) == pytest.approx(model.predict(data.X), abs=1e-9)


def test_a_pickle_from_outside_is_refused_before_it_is_opened(temp: Project, tmp_path: Path) -> None:
    temp.apply()
    (tmp_path / "eta.pkl").write_bytes(b"cos\nabort\n(tR.")  # would end this process
    with pytest.raises(Untrusted, match="not imported"):
        temp.models["eta"].import_(tmp_path / "eta.pkl")
    with pytest.raises(InputError, match="does not say its format"):
        (tmp_path / "eta.model").write_bytes(b"")
        temp.models["eta"].import_(tmp_path / "eta.model")
    with pytest.raises(InputError, match="there is no"):
        temp.models["eta"].import_(tmp_path / "nothing.onnx")


@pytest.mark.slow
def test_an_mlflow_folder_is_never_trusted_also_as_champion(temp: Project, tmp_path: Path) -> None:
    import mlflow.sklearn

    temp.apply()
    model, data = linear(temp)
    mlflow.sklearn.save_model(
        model, str(tmp_path / "model"), pip_requirements=["scikit-learn"], serialization_format="cloudpickle"
    )
    run = temp.models["eta"].import_(tmp_path / "model")
    assert run.state is RunState.SUCCEEDED
    temp.models["eta"].promote(run.version)
    ref = temp.database.routing.current().models["eta"].champion
    assert not ref.trusted
    loaded = temp.models["eta"].load(run.version)
    assert loaded.predict(np.nan_to_num(data.X)[:5]) == pytest.approx(model.predict(np.nan_to_num(data.X)[:5]))


def test_optimize_registers_another_version_when_a_kernel_is_found(
    temp: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    temp.apply()
    monkeypatch.setattr(lowering, "_WORTH", 1e9)
    handle = temp.models["eta"]
    first = temp.train("eta").version
    assert read_manifest(temp.root / handle.version(first).path, handle.version(first).digest).lowered is None
    same = handle.optimize(first)
    assert (same.before, same.after, same.run) == ("", "", None)
    monkeypatch.setattr(lowering, "_WORTH", 0.0)
    told = handle.optimize(first, dry_run=True)
    assert told.run is None
    if not told.after:
        pytest.fail(f"nothing to lower: {told.tried}")
    found = handle.optimize(first)
    assert found.run is not None
    assert found.run.state is RunState.SUCCEEDED
    second = handle.load(found.run.version)
    rows = second.sample()
    assert second.manifest.lowered is not None
    assert second.predict(rows) == pytest.approx(handle.load(first).predict(rows), abs=1e-5)
    assert handle.optimize(found.run.version).run is None


def test_the_command_line_imports_shows_and_optimizes(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Project.open(trained) as project:
        path = onnx_file(project, tmp_path)
    assert cli(["model", "import", str(path), "-p", str(trained)]) == 0
    capsys.readouterr()
    assert cli(["model", "show", "v3", "--json", "-p", str(trained)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["format"] == "onnx"
    assert cli(["model", "show", "v3", "-p", str(trained)]) == 0
    assert "stored as onnx" in capsys.readouterr().out
    assert cli(["model", "optimize", "v3", "--dry-run", "-p", str(trained)]) == 0
