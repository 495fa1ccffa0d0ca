"""Contributions against brute force over all coalitions, against the shap package, and by their own laws."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import DeadlineExceeded, FlyballError, InputError, IntegrityError
from flyball.serving.contributions import Explained, Explainer
from flyball.serving.contributions.sampled import sampled
from flyball.serving.contributions.sklearn_trees import tree_model
from flyball.serving.contributions.tree import Forest, Tree


@dataclass
class Version:
    predictor: Any
    manifest: Any
    rows: np.ndarray

    def predict(self, matrix):
        return self.predictor.predict(matrix)

    def sample(self):
        return self.rows


def version(model, rows, names=None) -> Version:
    from flyball.registry.artifacts import Predictor

    names = names or tuple(f"f{i}" for i in range(rows.shape[1]))
    return Version(Predictor(model, names), SimpleNamespace(service=SimpleNamespace(names=names)), rows)


def data(k=5, n=300, seed=3, missing=0.1):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k))
    y = 2 * X[:, 0] - X[:, 1] * X[:, 2] + np.where(X[:, 3 % k] > 0.3, 1.5, 0.0)
    X[rng.random(X.shape) < missing] = np.nan
    return X, y


def shapley(value, k: int) -> np.ndarray:
    """Return Shapley values by their definition: the weighted sum over all coalitions."""
    out = []
    for i in range(k):
        others = [j for j in range(k) if j != i]
        total = 0.0
        for size in range(k):
            weight = math.factorial(size) * math.factorial(k - size - 1) / math.factorial(k)
            for group in itertools.combinations(others, size):
                total = total + weight * (value({*group, i}) - value(set(group)))
        out.append(total)
    return np.array(out)


def descend(tree: Tree, x: np.ndarray, known: set[int], node: int = 0):
    """Return a tree's answer when only `known` features are known: both branches by cover where one is not."""
    if tree.left[node] < 0:
        return tree.value[node]
    feature, left, right = tree.feature[node], tree.left[node], tree.right[node]
    if feature in known:
        v = x[feature]
        goes = tree.missing_left[node] if np.isnan(v) else v <= tree.threshold[node]
        return descend(tree, x, known, left if goes else right)
    parts = [tree.cover[c] / tree.cover[node] * descend(tree, x, known, c) for c in (left, right)]
    return parts[0] + parts[1]


def random_tree(rng: np.random.Generator, k: int, depth: int, outputs: int) -> Tree:
    nodes: list[list[Any]] = []

    def grow(cover: float, level: int) -> int:
        at = len(nodes)
        nodes.append([-1, -1, 0, 0.0, False, cover, rng.normal(size=outputs)])
        if level < depth and rng.random() < 0.85:
            share = rng.uniform(0.05, 0.95)
            nodes[at][2], nodes[at][3] = int(rng.integers(k)), float(rng.normal())
            nodes[at][4] = bool(rng.random() < 0.5)
            nodes[at][0] = grow(cover * share, level + 1)
            nodes[at][1] = grow(cover * (1 - share), level + 1)
        return at

    grow(1000.0, 0)
    left, right, feature, threshold, missing, cover, value = (np.array(part) for part in zip(*nodes, strict=True))
    return Tree(left, right, feature, threshold, missing, cover, value)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), depth=st.integers(0, 7), outputs=st.integers(1, 2))
def test_trees_get_the_shapley_values_of_their_definition(seed, k, depth, outputs):
    rng = np.random.default_rng(seed)
    trees = [random_tree(rng, k, depth, outputs) for _ in range(2)]
    forest = Forest.of(trees, k=k, offset=np.full(outputs, 0.25))
    X = rng.normal(size=(3, k))
    X[0, 0] = np.nan
    found = forest.contributions(X)
    for row, x in enumerate(X):
        wanted = shapley(lambda known, x=x: sum(descend(tree, x, known) for tree in trees), k)
        np.testing.assert_allclose(found[row], wanted, rtol=0, atol=1e-11)
        whole = 0.25 + sum(descend(tree, x, set(range(k))) for tree in trees)
        np.testing.assert_allclose(forest.base + found[row].sum(axis=0), whole, atol=1e-11)


def test_a_split_that_no_training_row_passed_contributes_without_dividing_by_it():
    tree = Tree(
        np.array([1, -1, -1]), np.array([2, -1, -1]), np.array([0, 0, 0]), np.array([0.0, 0, 0]),
        np.array([False] * 3), np.array([10.0, 10.0, 0.0]), np.array([[0.0], [1.0], [5.0]]),
    )  # fmt: skip
    forest = Forest.of([tree], k=2, offset=np.zeros(1))
    assert forest.base.tolist() == [1.0]
    np.testing.assert_allclose(forest.contributions(np.array([[1.0, 0.0]]))[0, :, 0], [4.0, 0.0])


def test_blocks_of_rows_and_leaves_change_nothing(monkeypatch):
    import flyball.serving.contributions.tree as module

    rng = np.random.default_rng(5)
    forest = Forest.of([random_tree(rng, 4, 6, 2) for _ in range(4)], k=4, offset=np.zeros(2))
    X = rng.normal(size=(17, 4))
    whole = forest.contributions(X)
    monkeypatch.setattr(module, "_BLOCK", 200)
    np.testing.assert_allclose(forest.contributions(X), whole, atol=1e-12)


def models():
    from sklearn import ensemble, tree

    return {
        "histogram": ensemble.HistGradientBoostingRegressor(max_iter=20, max_leaf_nodes=8),
        "histogram poisson": ensemble.HistGradientBoostingRegressor(loss="poisson", max_iter=15),
        "histogram classes": ensemble.HistGradientBoostingClassifier(max_iter=15, max_leaf_nodes=8),
        "histogram three": ensemble.HistGradientBoostingClassifier(max_iter=8, max_leaf_nodes=6),
        "forest": ensemble.RandomForestRegressor(n_estimators=8, max_depth=7, random_state=0),
        "forest classes": ensemble.RandomForestClassifier(n_estimators=8, random_state=0),
        "extra": ensemble.ExtraTreesRegressor(n_estimators=5, max_depth=6, random_state=0),
        "tree": tree.DecisionTreeRegressor(max_depth=6),
        "boosted": ensemble.GradientBoostingRegressor(n_estimators=15),
        "boosted classes": ensemble.GradientBoostingClassifier(n_estimators=10),
        "boosted three": ensemble.GradientBoostingClassifier(n_estimators=6),
    }


def target(name, y):
    if "poisson" in name:
        return np.exp(y / 3)
    if "three" in name:
        return np.digitize(y, [-1, 1])
    return (y > 0).astype(int) if "classes" in name else y


@pytest.mark.parametrize("name", list(models()))
def test_every_tree_model_adds_up_to_its_margin(name):
    X, y = data(missing=0.1 if "histogram" in name else 0.0)
    model = models()[name].fit(X, target(name, y))
    found = Explainer.of(version(model, X[:40])).explain(X[:60], math.inf)
    assert found.method == "tree" and found.errors is None
    if found.space == "prediction":
        wanted = model.predict(X[:60])[:, None]
    elif found.space == "log":
        wanted = np.log(model.predict(X[:60]))[:, None]
    elif found.space == "probability":
        wanted = model.predict_proba(X[:60])
    else:
        wanted = model.decision_function(X[:60]).reshape(60, -1)
    np.testing.assert_allclose(found.margin, wanted, rtol=0, atol=1e-9)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["histogram", "forest", "boosted"])
def test_trees_of_scikit_learn_agree_with_shap(name):
    import shap

    X, y = data(missing=0.0)
    model = models()[name].fit(X, y)
    wanted = shap.TreeExplainer(model, feature_perturbation="tree_path_dependent").shap_values(X[:30])
    found = Explainer.of(version(model, X[:40])).explain(X[:30], math.inf)
    np.testing.assert_allclose(found.values[:, :, 0], wanted, atol=1e-5)


def test_trees_of_scikit_learn_agree_with_brute_force():
    from sklearn.ensemble import RandomForestRegressor

    X, y = data(k=4, missing=0.0)
    model = RandomForestRegressor(n_estimators=3, max_depth=5, random_state=1).fit(X, y)
    trees = [each.tree_ for each in model.estimators_]
    found = tree_model(model).contributions(X[:5])
    for row in range(5):
        x = X[row].astype(np.float32).astype(np.float64)

        def answer(known, x=x):
            plain = [
                Tree(t.children_left, t.children_right, t.feature, t.threshold, np.zeros(t.node_count, bool),
                     t.weighted_n_node_samples, t.value[:, 0, :]) for t in trees
            ]  # fmt: skip
            return sum(descend(t, x, known) for t in plain) / len(plain)

        np.testing.assert_allclose(found[row], shapley(answer, 4), atol=1e-12)


def test_a_model_with_categories_is_sampled_not_misread():
    from sklearn.ensemble import HistGradientBoostingRegressor

    X, y = data(missing=0.0)
    X[:, 4] = np.random.default_rng(0).integers(0, 4, len(X))
    model = HistGradientBoostingRegressor(max_iter=5, categorical_features=[4]).fit(X, y + X[:, 4])
    assert Explainer.of(version(model, X[:40])).explain(X[:2], time.monotonic() + 5).method == "sampled"


@pytest.mark.parametrize("kind", ["regression", "binary", "three", "scaled", "poisson"])
def test_linear_models_get_the_shapley_values_of_independent_features(kind):
    from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = data(k=4, missing=0.0)
    background, rows = X[:30], X[30:36]
    model, label = {
        "regression": (LinearRegression(), y),
        "binary": (LogisticRegression(), y > 0),
        "three": (LogisticRegression(), np.digitize(y, [-1, 1])),
        "scaled": (make_pipeline(StandardScaler(), LinearRegression()), y),
        "poisson": (PoissonRegressor(), np.exp(y / 4)),
    }[kind]
    model.fit(X, label)
    found = Explainer.of(version(model, background)).explain(rows, math.inf)
    assert (found.method, found.space) == (
        "linear",
        {"binary": "log-odds", "three": "score", "poisson": "log"}.get(kind, "prediction"),
    )

    def margin(M):
        if kind == "poisson":
            return np.log(model.predict(M))[:, None]
        return (model.predict(M) if kind in {"regression", "scaled"} else model.decision_function(M)).reshape(
            len(M), -1
        )

    for row, x in enumerate(rows):

        def value(known, x=x):
            mixed = np.where([j in known for j in range(4)], x, background)
            return margin(mixed).mean(axis=0)

        np.testing.assert_allclose(found.values[row], shapley(value, 4), atol=1e-9)
    np.testing.assert_allclose(found.margin, margin(rows), atol=1e-9)


def test_columns_fitted_in_another_order_are_told_in_the_order_of_the_service():
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    X, y = data(k=3, missing=0.0)
    model = LinearRegression().fit(pd.DataFrame(X[:, [2, 0, 1]], columns=["c", "a", "b"]), y)
    found = Explainer.of(version(model, X[:20], ("a", "b", "c"))).explain(X[:4], math.inf)
    wanted = (X[:4] - X[:20].mean(axis=0)) * model.coef_[[1, 2, 0]]
    np.testing.assert_allclose(found.values[:, :, 0], wanted, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    ["xgboost", "xgboost classes", "lightgbm", "lightgbm three", pytest.param("catboost", marks=pytest.mark.heavy)],
)
def test_boosters_answer_by_their_own_contributions(name):
    X, y = data(missing=0.05)
    label = target(name, y)
    if name.startswith("xgboost"):
        import xgboost

        kind = xgboost.XGBClassifier if "classes" in name else xgboost.XGBRegressor
        model = kind(n_estimators=12, max_depth=3, nthread=1).fit(X, label)
        margin = model.predict(X[:20], output_margin=True).reshape(20, -1)
    elif name.startswith("lightgbm"):
        import lightgbm

        kind = lightgbm.LGBMClassifier if "three" in name else lightgbm.LGBMRegressor
        model = kind(n_estimators=12, num_leaves=6, verbose=-1, n_jobs=1).fit(X, label)
        margin = model.predict(X[:20], raw_score=True).reshape(20, -1)
    else:
        import catboost

        model = catboost.CatBoostRegressor(iterations=12, depth=3, verbose=False, thread_count=1,
                                           allow_writing_files=False).fit(X, label)  # fmt: skip
        margin = model.predict(X[:20]).reshape(20, -1)
    found = Explainer.of(version(model, X[:40])).explain(X[:20], math.inf)
    assert found.method == "tree"
    assert found.space == {"xgboost classes": "log-odds", "lightgbm three": "score"}.get(name, "prediction")
    np.testing.assert_allclose(found.margin, margin, atol=2e-5 if "xgboost" in name else 1e-9)


def nonlinear(M):
    return M[:, 0] * M[:, 1] + np.sin(M[:, 2]) + np.maximum(M[:, 3], 0)


def exact_of(predict, x, background):
    def value(known):
        return predict(np.where([j in known for j in range(len(x))], x, background)).mean()

    return shapley(value, len(x))


def test_sampled_contributions_lie_within_four_standard_errors_of_brute_force():
    rng = np.random.default_rng(11)
    background, rows = rng.normal(size=(64, 4)), rng.normal(size=(3, 4))
    found = sampled(nonlinear, rows, background, until=math.inf, rng=np.random.default_rng(2), most=1500)
    wanted = np.array([exact_of(nonlinear, x, background) for x in rows])
    assert found.samples >= 16 and found.errors is not None
    assert (np.abs(found.values[:, :, 0] - wanted) <= 4 * found.errors[:, :, 0] + 1e-12).all()


def test_standard_errors_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    background, row = rng.normal(size=(32, 4)), rng.normal(size=(1, 4))
    wanted = exact_of(nonlinear, row[0], background)
    inside = []
    for seed in range(150):
        found = sampled(nonlinear, row, background, until=math.inf, rng=np.random.default_rng(seed), most=60)
        inside.append(np.abs(found.values[0, :, 0] - wanted) <= 1.96 * found.errors[0, :, 0] + 1e-12)
    share = np.mean(inside)
    assert 0.91 <= share <= 0.98  # 600 intervals of nominal 95 %, 4 sd of a share are 0.036


def test_sampled_contributions_add_up_exactly_however_few():
    rng = np.random.default_rng(0)
    background, rows = rng.normal(size=(20, 4)), rng.normal(size=(5, 4))
    found = sampled(nonlinear, rows, background, until=math.inf, rng=np.random.default_rng(2), most=1)
    np.testing.assert_allclose(found.margin[:, 0], nonlinear(rows), atol=1e-9)
    assert found.samples == 2 and np.isnan(found.errors).all()


def test_sampling_ends_at_the_deadline_and_says_how_many_samples_it_has():
    now = iter(np.arange(0.0, 1000.0, 0.5))
    rng = np.random.default_rng(0)
    found = sampled(nonlinear, rng.normal(size=(1, 4)), rng.normal(size=(9, 4)), until=3.0, rng=rng,
                    clock=lambda: float(next(now)))  # fmt: skip
    assert found.samples == 6  # a pair takes 0.5 s, and one is not begun when it would end after 3.0 s


def test_no_sample_in_time_is_a_deadline_error():
    rng = np.random.default_rng(0)
    with pytest.raises(DeadlineExceeded, match="deadline_ms"):
        sampled(nonlinear, rng.normal(size=(1, 4)), rng.normal(size=(9, 4)), until=0.0, rng=rng)


def test_one_feature_and_no_rows_are_explained_too():
    rng = np.random.default_rng(0)
    found = sampled(lambda M: M[:, 0] * 2, np.array([[3.0]]), np.array([[1.0]]), until=math.inf, rng=rng, most=4)
    assert found.values.tolist() == [[[4.0]]] and found.base.tolist() == [2.0]
    none = sampled(nonlinear, np.zeros((0, 4)), np.ones((2, 4)), until=math.inf, rng=rng, most=2)
    assert none.values.shape == (0, 4, 1)


def test_a_version_without_background_says_so():
    explainer = Explainer(nonlinear, np.zeros((0, 4)))
    with pytest.raises(FlyballError, match="background"):
        explainer.explain(np.ones((1, 4)), math.inf)


def test_rows_of_another_width_are_refused():
    with pytest.raises(InputError, match="3 columns, the model 4"):
        Explainer(nonlinear, np.ones((2, 4))).explain(np.ones((1, 3)), math.inf)


def test_an_explanation_survives_the_socket_and_garbage_does_not():
    made = Explained(np.array([1.0]), np.arange(6.0).reshape(2, 3, 1), "sampled", "prediction", np.ones((2, 3, 1)), 8)
    back = Explained.unpack(made.pack())
    assert back.values.tolist() == made.values.tolist() and back.samples == 8 and back.errors is not None
    with pytest.raises(IntegrityError):
        Explained.unpack(["tree", "prediction", 0, [2, 3, 1], b"", b"123", None])
