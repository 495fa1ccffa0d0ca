"""A lowered model equals its model on a thousand rows and more, or it is not used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.errors import InputError, Untrusted
from flyball.registry import lowering
from flyball.registry.lowering import Lowering, find_lowering
from flyball.registry.lowering.kernels import Affine, open_kernel
from flyball.registry.lowering.parity import FEWEST, compare, probe_rows
from flyball.registry.predictor import Predictor

RNG = np.random.default_rng(3)
X = RNG.normal(size=(500, 4)).round(1)
HOLES = np.where(RNG.random(X.shape) < 0.15, np.nan, X)
Y = X[:, 0] * 2 + X[:, 1] ** 2
TWO, THREE = Y > 1, np.array(["a", "b", "c"])[np.digitize(Y, [0.0, 1.5])]
NAMES = tuple("wxyz")


@pytest.fixture(autouse=True)
def any_gain_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings on a busy machine decide nothing here, except where a test says so."""
    monkeypatch.setattr(lowering, "_WORTH", 0.0)
    monkeypatch.setattr(lowering, "_BUDGET", 0.0)


def pipeline(*steps: Any) -> Any:
    from sklearn.pipeline import make_pipeline

    return make_pipeline(*steps)


def models() -> list[Any]:
    from sklearn import ensemble, impute, linear_model, preprocessing, tree

    logistic = linear_model.LogisticRegression
    return [
        ("linear", logistic(), X, TWO), ("linear", logistic(), X, THREE),
        ("linear", linear_model.Ridge(), X, Y), ("linear", linear_model.PoissonRegressor(), X, np.abs(Y)),
        ("linear", linear_model.SGDClassifier(loss="log_loss", random_state=0), X, TWO),
        ("linear", pipeline(impute.SimpleImputer(), preprocessing.StandardScaler(), logistic()), HOLES, TWO),
        ("linear", pipeline(preprocessing.RobustScaler(), preprocessing.MinMaxScaler(), linear_model.Lasso(0.01)), X, Y),
        ("onnx", ensemble.HistGradientBoostingRegressor(max_iter=20), HOLES, Y),
        ("onnx", ensemble.HistGradientBoostingRegressor(max_iter=20, loss="poisson"), HOLES, np.abs(Y)),
        ("onnx", ensemble.HistGradientBoostingClassifier(max_iter=10), HOLES, TWO),
        ("onnx", ensemble.HistGradientBoostingClassifier(max_iter=10), HOLES, THREE),
        ("onnx", ensemble.RandomForestClassifier(8, random_state=0), HOLES, THREE),
        ("onnx", ensemble.RandomForestRegressor(8, random_state=0), X, Y),
        ("onnx", ensemble.ExtraTreesRegressor(8, max_depth=6, random_state=0), X, Y),
        ("onnx", tree.DecisionTreeClassifier(max_depth=4), X, TWO),
        ("onnx", ensemble.GradientBoostingClassifier(n_estimators=10), X, TWO),
        ("onnx", ensemble.GradientBoostingClassifier(n_estimators=10), X, THREE),
        ("onnx", ensemble.GradientBoostingRegressor(n_estimators=10), X, Y),
    ]  # fmt: skip


@pytest.mark.parametrize("place", range(18))
def test_a_lowered_model_equals_the_model_also_at_its_edges(place: int) -> None:
    kind, model, rows, y = models()[place]
    model.fit(rows, y)
    found = find_lowering(Predictor(model, NAMES), rows[:100])
    assert found.chosen is not None, found.tried
    assert found.chosen.kind == kind
    assert found.chosen.rows >= FEWEST
    assert found.chosen.gap <= 1e-9
    classes = tuple(np.unique(y).tolist()) if hasattr(model, "predict_proba") else None
    kernel = open_kernel(kind, found.data, classes=classes, refuses=found.chosen.refuses, largest=found.chosen.largest)
    fresh = RNG.normal(size=(700, 4)).round(3)  # rows it was not compared on
    wanted = model.predict_proba(fresh) if classes else model.predict(fresh)
    for part in (slice(0, 1), slice(0, 33), slice(0, 700)):
        assert kernel(fresh[part]) == pytest.approx(wanted[part], abs=1e-9)
    assert find_lowering(Predictor(model, NAMES), rows[:100]).data == found.data


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_the_model_refuses_are_refused_by_the_kernel(value: float, rows: int) -> None:
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression

    refusing = [GradientBoostingRegressor(n_estimators=3).fit(X, Y)]
    if not np.isnan(value):
        refusing.append(RandomForestRegressor(3).fit(HOLES, Y))
    if value != 1e300:
        refusing.append(LogisticRegression().fit(X, TWO))
    for model in refusing:
        found = find_lowering(Predictor(model, NAMES), X[:100])
        assert found.chosen is not None
        kernel = open_kernel(found.chosen.kind, found.data, refuses=found.chosen.refuses, largest=found.chosen.largest)
        bad = X[:rows].copy()
        bad[-1, 2] = value
        with pytest.raises(ValueError):
            model.predict(bad)
        with pytest.raises(InputError, match="NaN or infinity"):
            kernel(bad)
        assert len(kernel(X[:rows])) == rows


def test_columns_in_another_order_than_the_service_are_handed_over_in_the_models() -> None:
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(pd.DataFrame(X[:, ::-1], columns=list("zyxw")), Y)
    found = find_lowering(Predictor(model, NAMES), X[:50])
    assert found.chosen is not None
    assert found.chosen.order == (3, 2, 1, 0)
    kernel = open_kernel("linear", found.data)
    made = Predictor.lowered(kernel, lambda: model, columns=0, order=found.chosen.order)
    assert made.predict(X) == pytest.approx(Predictor(model, NAMES).predict(X), abs=1e-12)
    assert made.model is model


def judged(monkeypatch: pytest.MonkeyPatch, harm: Callable[[np.ndarray], np.ndarray]) -> Lowering:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(X, TWO)
    real = lowering.open_kernel

    def harmed(*given: Any, **more: Any) -> Callable[[np.ndarray], np.ndarray]:
        ask = real(*given, **more)
        return lambda rows: harm(ask(rows))

    monkeypatch.setattr(lowering, "open_kernel", harmed)
    monkeypatch.setattr(lowering, "_skl2onnx", lambda *_: None)
    return find_lowering(Predictor(model, NAMES), X[:100])


def test_a_kernel_that_differs_a_little_too_much_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch, lambda out: out + 2e-5)
    assert found.chosen is None
    assert "answers differ by 2e-05" in found.tried[0].problem


def test_a_kernel_that_is_not_faster_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "_WORTH", 1e9)
    found = judged(monkeypatch, lambda out: out)
    assert found.chosen is None
    assert "no gain" in found.tried[0].problem
    assert [t.rows for t in found.tried[0].timings] == [1, 32]


def test_a_decision_that_flips_within_the_tolerance_is_listed() -> None:
    rows = np.zeros((3, 1))
    tie = compare(
        lambda m: np.tile([0.5, 0.5], (len(m), 1)), lambda m: np.tile([0.499999, 0.500001], (len(m), 1)),
        rows, ("no", "yes"), classifier=True,
    )  # fmt: skip
    assert not tie.problem
    assert [(f.before, f.after) for f in tie.flips] == [("no", "yes")] * 3
    many = compare(
        lambda m: np.tile([0.5, 0.5], (len(m), 1)), lambda m: np.tile([0.499999, 0.500001], (len(m), 1)),
        np.zeros((11, 1)), None, classifier=True,
    )  # fmt: skip
    assert "11 decisions flip" in many.problem


def test_probe_rows_meet_each_threshold_from_both_sides() -> None:
    rows = probe_rows(X[:20], {1: np.array([0.25])})
    column = rows[:, 1]
    assert len(rows) >= FEWEST
    assert {0.25, np.nextafter(0.25, 1), np.nextafter(0.25, 0)} <= set(column.tolist())
    assert np.isnan(column).any()
    assert np.isinf(column).any()
    assert (rows == 0).any()
    assert np.array_equal(rows, probe_rows(X[:20], {1: np.array([0.25])}), equal_nan=True)


def test_models_without_an_equal_form_answer_themselves() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    class Own:
        def predict(self, matrix: np.ndarray) -> np.ndarray:
            return matrix[:, 0]

    assert find_lowering(Predictor(Own(), NAMES), X).chosen is None
    categories = HistGradientBoostingRegressor(categorical_features=[0], max_iter=3).fit(np.abs(X).round(), Y)
    assert find_lowering(Predictor(categories, NAMES), np.abs(X).round()[:50]).chosen is None
    assert find_lowering(Predictor(Own(), NAMES), X[:0]).tried == ()


def test_a_changed_kernel_does_not_open() -> None:
    data = Affine("identity", np.ones((2, 1)), np.zeros(1)).to_bytes()
    assert open_kernel("linear", data)(np.ones((1, 2))) == pytest.approx([2.0])
    for harm in (b"", data[:-4], b"\xc1"):
        with pytest.raises(Untrusted):
            open_kernel("linear", harm)
    with pytest.raises(Untrusted, match="unknown"):
        open_kernel("c", data)


def test_a_lowered_version_is_served_without_scikit_learn(tmp_path: Path) -> None:
    import subprocess
    import sys

    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(X, TWO)
    found = find_lowering(Predictor(model, NAMES), X[:100])
    path, digest = lowered_artifact(tmp_path, model, found)
    script = (
        "import sys, numpy as np; from pathlib import Path; from flyball.registry.artifacts import load_version\n"
        f"m = load_version(Path({str(path)!r}), {digest!r}); m.predict(np.zeros((1, 4)))\n"
        "assert not {'sklearn', 'skops', 'pandas', 'torch', 'scipy'} & set(sys.modules), sorted(sys.modules)\n"
        "print(type(m.predictor.model).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.split() == ["LogisticRegression"], done.stderr


def lowered_artifact(folder: Path, model: Any, found: Lowering) -> tuple[Path, str]:
    from datetime import UTC, datetime

    from flyball.features.spec import FeatureService, InputSpec, ServiceColumn
    from flyball.registry.artifacts import write_artifact
    from flyball.registry.formats import store
    from flyball.registry.types import Manifest

    service = FeatureService(
        "m", "at", tuple(ServiceColumn(n, "field") for n in NAMES), tuple(InputSpec(n, "float64") for n in NAMES)
    )
    stored = store(model)
    assert found.chosen is not None
    manifest = Manifest("m", "v1", "r", stored.kind, {}, service, "d", "", datetime(2026, 1, 1, tzinfo=UTC),
                        classes=stored.classes, lowered=found.chosen)  # fmt: skip
    path = folder / "artifacts" / "m" / "v1"
    return path, write_artifact(path, manifest, {**stored.files, found.chosen.file: found.data})[1]
