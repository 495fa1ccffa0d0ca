"""Every format for real: fitted, stored, loaded by its digest, and asked through the gateway."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flyball.testing
from flyball.errors import InputError, IntegrityError, MissingExtra, StageFailed, Untrusted
from flyball.features.spec import FeatureService, InputSpec, ServiceColumn
from flyball.layout import Layout
from flyball.registry.artifacts import LoadedModel, confined, load_version, write_artifact
from flyball.registry.code import load_definitions, snapshot_code
from flyball.registry.formats import (
    FILE_NAMES,
    SIGNED,
    Stored,
    deserialize,
    ensure_signing_key,
    of_file,
    sign,
    store,
    stored_digest,
)  # fmt: skip
from flyball.registry.formats.pyfunc import read_folder
from flyball.registry.predictor import Predictor
from flyball.registry.requirements import requirements_of
from flyball.registry.types import Manifest
from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef
from flyball.serving.gateway import Gateway
from flyball.serving.models.loading import ModelCache

NAMES = ("a", "b", "c")
SERVICE = FeatureService(
    "m", "at", tuple(ServiceColumn(n, "field") for n in NAMES), tuple(InputSpec(n, "float64") for n in NAMES)
)
RNG = np.random.default_rng(7)
X = RNG.normal(size=(400, 3)).round(2)
Y = X[:, 0] * 2 + X[:, 1] ** 2
TWO = (Y > 1).astype(int)
THREE = np.digitize(Y, [0.0, 1.5])
WORDS = np.array(["low", "high"])[TWO]


def keep(folder: Path, stored: Stored, *, code: str = "") -> tuple[Path, str, bytes]:
    layout = Layout(folder, folder / "state")
    key = ensure_signing_key(layout)
    manifest = Manifest(
        "m", "v1", "r", stored.kind, {}, SERVICE, "d", code, datetime(2026, 1, 1, tzinfo=UTC),
        signature=sign(stored.main, key) if stored.kind in SIGNED else "", classes=stored.classes,
    )  # fmt: skip
    path = layout.artifacts / "m" / "v1"
    sample = io.BytesIO()
    np.save(sample, X[:8])
    return path, write_artifact(path, manifest, {**stored.files, "sample.npy": sample.getvalue()})[1], key


def reopen(folder: Path, stored: Stored, **options: Any) -> LoadedModel:
    path, digest, key = keep(folder, stored)
    return load_version(path, digest, signing_key=key, **options)


def served(loaded: LoadedModel, digest: str = "d") -> list[Any]:
    """Return what the gateway answers to the first three rows."""
    from flyball.registry.artifacts import file_digest

    ref = VersionRef("v1", str(loaded.path), file_digest(loaded.path / "manifest.json"), True)
    gateway = Gateway(ModelCache(lambda _: loaded), read_with=Fields)
    table = RoutingTable(1, 1, 0, {"m": ModelRoute("m", "s", ref)})
    rows = [dict(zip(NAMES, map(float, row), strict=True)) for row in X[:3]]
    with flyball.testing.client(gateway) as http:
        http.call(gateway.tables.swap(table))
        return list(http.infer("m", rows)["predictions"])


class Fields:
    def __init__(self, service: FeatureService) -> None:
        self.names = service.names

    def read(self, inputs: Any, n: int, at: int) -> tuple[np.ndarray, np.ndarray]:
        matrix = np.column_stack([np.asarray(inputs[name], dtype=np.float64) for name in self.names])
        return matrix, np.zeros(matrix.shape, dtype=np.uint8)


def xgb(kind: str, y: np.ndarray, **params: Any) -> Any:
    import xgboost

    return getattr(xgboost, kind)(n_estimators=12, max_depth=3, n_jobs=1, random_state=0, **params).fit(X, y)


def lgb(kind: str, y: np.ndarray, **params: Any) -> Any:
    import lightgbm

    made = getattr(lightgbm, kind)(n_estimators=12, num_leaves=7, n_jobs=1, verbose=-1, random_state=0, **params)
    return made.fit(X, y)


def cat(kind: str, y: np.ndarray) -> Any:
    import catboost

    made = getattr(catboost, kind)(iterations=8, depth=3, verbose=False, thread_count=1, allow_writing_files=False)
    return made.fit(X, y)


heavy = pytest.mark.heavy
BOOSTED = [
    ("xgboost", lambda: xgb("XGBRegressor", Y)), ("xgboost", lambda: xgb("XGBClassifier", TWO)),
    ("xgboost", lambda: xgb("XGBClassifier", THREE)), ("xgboost", lambda: xgb("XGBRFRegressor", Y)),
    ("lightgbm", lambda: lgb("LGBMRegressor", Y)), ("lightgbm", lambda: lgb("LGBMClassifier", WORDS)),
    ("lightgbm", lambda: lgb("LGBMClassifier", THREE)),
    pytest.param("catboost", lambda: cat("CatBoostRegressor", Y), marks=heavy),
    pytest.param("catboost", lambda: cat("CatBoostClassifier", WORDS), marks=heavy),
    pytest.param("catboost", lambda: cat("CatBoostClassifier", THREE), marks=heavy),
]  # fmt: skip


@pytest.mark.parametrize("kind,make", BOOSTED)
def test_a_booster_is_stored_without_its_wrapper_and_answers_the_same(
    kind: str, make: Callable[[], Any], tmp_path: Path
) -> None:
    model = make()
    stored = store(model, X)
    assert stored.kind == kind
    loaded = reopen(tmp_path, stored)
    wanted = model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)
    assert loaded.predict(X) == pytest.approx(np.asarray(wanted, dtype=np.float64), abs=1e-6)
    if loaded.classifier:
        assert loaded.predictor.classes == tuple(model.classes_.tolist())
    assert len(served(loaded)) == 3
    with pytest.raises(InputError, match="expecting 3 features"):
        loaded.predict(X[:, :2].copy())


@pytest.mark.parametrize("kind,make", BOOSTED)
def test_equal_boosters_give_equal_bytes(kind: str, make: Callable[[], Any]) -> None:
    assert stored_digest(store(make(), X)) == stored_digest(store(make(), X))


def test_early_stopping_is_kept(tmp_path: Path) -> None:
    import xgboost

    model = xgboost.XGBRegressor(n_estimators=200, early_stopping_rounds=2, n_jobs=1, learning_rate=0.9)
    model.fit(X[:200], Y[:200], eval_set=[(X[200:], Y[200:])], verbose=False)
    assert model.best_iteration < 199
    assert reopen(tmp_path, store(model, X)).predict(X) == pytest.approx(model.predict(X), abs=1e-6)


def test_a_wrapper_whose_null_is_no_nan_stays_a_wrapper() -> None:
    model = xgb("XGBRegressor", Y, missing=0.0)
    assert store(model, X).kind == "pickle"


def test_a_bare_booster_of_two_classes_answers_two_columns(tmp_path: Path) -> None:
    import lightgbm
    import xgboost

    x = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(X, TWO), 5)
    g = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(X, TWO), 5)
    for k, (model, second) in enumerate([(x, x.predict(xgboost.DMatrix(X))), (g, g.predict(X))]):
        assert Predictor(model, NAMES).predict(X)[:, 1] == pytest.approx(second, abs=1e-7)
        loaded = reopen(tmp_path / str(k), store(model, X))
        assert loaded.predict(X)[:, 1] == pytest.approx(second, abs=1e-7)
        assert loaded.predictor.classes == (0, 1)


def onnx_of(model: Any, **options: Any) -> Any:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    return to_onnx(model, initial_types=[("X", FloatTensorType([None, 3]))], **options)


@pytest.mark.parametrize("zipmap", [True, False])
def test_an_onnx_classifier_answers_probabilities(zipmap: bool, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(X, WORDS)
    loaded = reopen(tmp_path, store(onnx_of(model, options=None if zipmap else {id(model): {"zipmap": False}})))
    assert loaded.predict(X) == pytest.approx(model.predict_proba(X), abs=1e-6)
    assert len(served(loaded)) == 3
    if zipmap:
        assert loaded.predictor.classes == ("high", "low")


def test_a_file_that_is_no_model_says_so() -> None:
    for kind in ("onnx", "xgboost", "lightgbm"):
        with pytest.raises(IntegrityError, match="the file is no"):
            deserialize(kind, b"nonsense")
    with pytest.raises(Untrusted, match="cannot be loaded"):
        deserialize("tarball", b"")


def test_what_can_run_code_is_not_taken_from_outside() -> None:
    for kind in ("pickle", "torch_export", "safetensors"):
        with pytest.raises(Untrusted, match="not imported"):
            of_file(kind, {FILE_NAMES[kind]: b""})
    with pytest.raises(Untrusted, match="not signed"):
        deserialize("torch_export", b"x", signature="00", key=b"k" * 32)


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for kind, extra in (("onnxruntime", "onnx"), ("xgboost", "xgboost"), ("lightgbm", "lightgbm")):
        monkeypatch.setitem(sys.modules, kind, None)
        with pytest.raises(MissingExtra, match=rf"flyball\[{extra}\]"):
            deserialize(extra, b"")


def test_classes_keep_their_type(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    for k, y in enumerate([WORDS, TWO.astype(bool), TWO, TWO.astype(float)]):
        loaded = reopen(tmp_path / str(k), store(LogisticRegression().fit(X, y)))
        assert loaded.predictor.classes == tuple(np.unique(y).tolist())
        assert [type(c) for c in loaded.manifest.classes or ()] == [type(c) for c in np.unique(y).tolist()]


def test_requirements_follow_the_format() -> None:
    assert {line.split("==")[0] for line in requirements_of("lightgbm")} == {"flyball", "numpy", "lightgbm"}


MODULE = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.config = {"width": width}
        self.body = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))

    def forward(self, x):
        return self.body(x)
"""


@heavy
def test_a_torch_module_of_the_project_is_weights_and_a_class_of_its_snapshot(tmp_path: Path) -> None:
    import torch

    (tmp_path / "nets.py").write_text(MODULE)
    layout = Layout(tmp_path, tmp_path / "state")
    code = snapshot_code(tmp_path, layout)
    torch.manual_seed(0)
    net = load_definitions(layout.code / code, "nets.py").Net(width=6)
    stored = store(net, X)
    assert stored.kind == "safetensors"
    path, digest, key = keep(tmp_path, stored, code=code)
    loaded = load_version(path, digest, signing_key=key)
    with torch.inference_mode():
        wanted = net(torch.from_numpy(X).float()).numpy()[:, 0]
    assert loaded.predict(X) == pytest.approx(wanted, abs=1e-6)
    assert len(served(loaded)) == 3
    with pytest.raises(Untrusted, match="code snapshot"):
        load_version(path, digest, code=tmp_path / "nowhere")


@heavy
def test_another_torch_module_is_exported_and_signed(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2), torch.nn.Softmax(dim=1))
    net.classes = ("no", "yes")
    stored = store(net, X)
    assert stored.kind == "torch_export"
    loaded = reopen(tmp_path, stored)
    with torch.inference_mode():
        wanted = net(torch.from_numpy(X).float()).numpy()
    for rows in (X[:1], X[:2], X):
        assert loaded.predict(rows) == pytest.approx(wanted[: len(rows)], abs=1e-6)
    assert loaded.predictor.classes == ("no", "yes")
    assert len(served(loaded)) == 3


def keras_net() -> Any:
    import os

    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="relu"), layers.Dense(1, "sigmoid")])


@heavy
def test_a_keras_model_is_stored_and_answers_the_same(tmp_path: Path) -> None:
    net = keras_net()
    import keras

    net.classes = (False, True)
    stored = store(net, X)
    assert stored.kind == "keras"
    loaded = reopen(tmp_path, stored)
    wanted = keras.ops.convert_to_numpy(net(X))[:, 0]
    assert loaded.predict(X)[:, 1] == pytest.approx(wanted, abs=1e-6)
    assert stored_digest(store(net, X)) == stored_digest(stored)
    assert len(served(loaded)) == 3


@heavy
def test_a_keras_file_that_names_another_module_is_refused_before_keras_sees_it() -> None:
    data = store(keras_net()).main
    source, out = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            body = source.read(name)
            if name == "config.json":
                config = json.loads(body)
                config["config"]["layers"][1] |= {"module": "os", "class_name": "system"}
                body = json.dumps(config).encode()
            target.writestr(name, body)
    with pytest.raises(Untrusted, match="os.system"):
        deserialize("keras", out.getvalue())


@heavy
def test_a_keras_lambda_is_not_stored() -> None:
    keras_net()
    import keras

    net = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x * 2)])
    with pytest.raises(StageFailed, match="code of its own"):
        store(net, X)


def pyfunc_folder(folder: Path) -> Path:
    import mlflow.pyfunc

    class Sum(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            print("a model may print")
            return model_input["a"] + 2 * model_input["b"]

    mlflow.pyfunc.save_model(str(folder), python_model=Sum(), pip_requirements=["mlflow-skinny"])
    return folder


def test_an_mlflow_folder_is_answered_by_a_process_of_its_own(tmp_path: Path) -> None:
    files = read_folder(pyfunc_folder(tmp_path / "model"))
    path, digest, _ = keep(tmp_path, of_file("pyfunc", files))
    assert confined(path)
    loaded = load_version(path, digest)
    for rows in (X[:1], X):
        assert loaded.predict(rows) == pytest.approx(rows[:, 0] + 2 * rows[:, 1])
    child = loaded.predictor.model._child
    child.kill()
    child.wait()
    assert loaded.predict(X[:2]) == pytest.approx(X[:2, 0] + 2 * X[:2, 1])  # a dead child is started again
    (path / "pyfunc" / "extra.py").write_text("")
    with pytest.raises(IntegrityError, match="was added"):
        load_version(path, digest)


def test_a_folder_that_is_no_mlflow_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no MLmodel"):
        read_folder(tmp_path)
    (tmp_path / "MLmodel").write_text("")
    (tmp_path / "stray").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="leads out"):
        read_folder(tmp_path)
