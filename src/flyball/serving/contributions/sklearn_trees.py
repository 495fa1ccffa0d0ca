"""Tree arrays of scikit-learn's forests and boosted trees.

The surprise: its classic trees compare a value rounded to float32, HistGradientBoosting the float64 itself; a row on a
threshold would otherwise be explained along a path that the model did not take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flyball.serving.contributions.tree import Forest, Tree
from flyball.serving.contributions.types import Space

__all__ = ["TreeModel", "tree_model"]


@dataclass(frozen=True, slots=True)
class TreeModel:
    """An unrolled model: its forest, what it does to a matrix first, and the scale of its margin."""

    forest: Forest
    space: Space
    rounded: bool

    def contributions(self, matrix: np.ndarray) -> np.ndarray:
        """Return contributions (n, k, c)."""
        seen = matrix.astype(np.float32).astype(np.float64) if self.rounded else matrix
        return self.forest.contributions(seen)


def tree_model(model: Any) -> TreeModel | None:
    """Return the unrolled trees of a scikit-learn model, None for another kind or one with categories."""
    if not type(model).__module__.startswith("sklearn."):
        return None
    read = _READERS.get(type(model).__name__)
    try:
        return read(model) if read is not None else None
    except (AttributeError, KeyError, ValueError, TypeError, IndexError):  # another release names its parts differently
        return None


def _histogram(model: Any) -> TreeModel | None:
    if getattr(model, "_preprocessor", None) is not None or getattr(model, "is_categorical_", None) is not None:
        return None
    offset = np.asarray(model._baseline_prediction, dtype=np.float64).ravel()
    trees = [
        _of_nodes(tree.nodes, output, len(offset))
        for iteration in model._predictors
        for output, tree in enumerate(iteration)
    ]
    link = type(model._loss.link).__name__
    space = _SPACES.get(link)
    return None if space is None else TreeModel(Forest.of(trees, k=model.n_features_in_, offset=offset), space, False)


def _of_nodes(nodes: Any, output: int, outputs: int) -> Tree:
    leaf = nodes["is_leaf"].astype(bool)
    value = np.zeros((len(nodes), outputs))
    value[:, output] = nodes["value"]
    return Tree(
        np.where(leaf, -1, nodes["left"].astype(np.intp)), np.where(leaf, -1, nodes["right"].astype(np.intp)),
        nodes["feature_idx"].astype(np.intp), nodes["num_threshold"], nodes["missing_go_to_left"].astype(bool),
        nodes["count"].astype(np.float64), value,
    )  # fmt: skip


def _forest(model: Any) -> TreeModel:
    members = [each.tree_ for each in model.estimators_]
    classes = _classes(model)
    trees = [_of_tree(tree, _values(tree, classes) / len(members)) for tree in members]
    return _averaged(model, trees, classes)


def _single(model: Any) -> TreeModel:
    classes = _classes(model)
    return _averaged(model, [_of_tree(model.tree_, _values(model.tree_, classes))], classes)


def _averaged(model: Any, trees: list[Tree], classes: int) -> TreeModel:
    offset = np.zeros(trees[0].value.shape[1])
    forest = Forest.of(trees, k=model.n_features_in_, offset=offset)
    return TreeModel(forest, "probability" if classes else "prediction", True)


def _boosted(model: Any) -> TreeModel | None:
    k, outputs = model.n_features_in_, model.estimators_.shape[1]
    start = np.asarray(model._raw_predict_init(np.zeros((2, k))), dtype=np.float64)
    other = np.asarray(model._raw_predict_init(np.ones((2, k))), dtype=np.float64)
    if not np.array_equal(start, other):
        return None  # it begins from another model, which is no constant
    trees = []
    for row in model.estimators_:
        for output, each in enumerate(row):
            value = np.zeros((each.tree_.node_count, outputs))
            value[:, output] = model.learning_rate * each.tree_.value[:, 0, 0]
            trees.append(_of_tree(each.tree_, value))
    space: Space = "prediction"
    if hasattr(model, "classes_"):
        space = "log-odds" if outputs == 1 else "score"
    return TreeModel(Forest.of(trees, k=k, offset=start[0].ravel()), space, True)


def _of_tree(tree: Any, value: np.ndarray) -> Tree:
    missing = getattr(tree, "missing_go_to_left", np.zeros(tree.node_count))
    return Tree(
        tree.children_left, tree.children_right, tree.feature, tree.threshold, np.asarray(missing).astype(bool),
        tree.weighted_n_node_samples, value,
    )  # fmt: skip


def _classes(model: Any) -> int:
    return len(model.classes_) if hasattr(model, "classes_") else 0


def _values(tree: Any, classes: int) -> np.ndarray:
    """Return answers by node: the mean of a regressor, the class shares of a classifier."""
    if tree.value.shape[1] != 1:
        raise ValueError("several targets")
    found = np.array(tree.value[:, 0, :], dtype=np.float64)
    return found / found.sum(axis=1, keepdims=True) if classes else found


_SPACES: dict[str, Space] = {
    "IdentityLink": "prediction", "LogLink": "log", "LogitLink": "log-odds", "MultinomialLogit": "score",
}  # fmt: skip
_READERS: dict[str, Callable[[Any], TreeModel | None]] = {
    "HistGradientBoostingRegressor": _histogram, "HistGradientBoostingClassifier": _histogram,
    "RandomForestRegressor": _forest, "RandomForestClassifier": _forest,
    "ExtraTreesRegressor": _forest, "ExtraTreesClassifier": _forest,
    "DecisionTreeRegressor": _single, "DecisionTreeClassifier": _single,
    "ExtraTreeRegressor": _single, "ExtraTreeClassifier": _single,
    "GradientBoostingRegressor": _boosted, "GradientBoostingClassifier": _boosted,
}  # fmt: skip
