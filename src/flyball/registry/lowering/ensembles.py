"""scikit-learn's trees as one ONNX TreeEnsemble with double thresholds, which onnxruntime walks in microseconds.

skl2onnx knows no HistGradientBoosting, and its forests compare in single precision. The surprise: a forest's own
trees compare a value rounded to float32 with a double threshold, so its graph rounds too; boosted histograms do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Trees", "thresholds_of", "to_onnx", "trees_of"]

_HIST = "sklearn.ensemble._hist_gradient_boosting.gradient_boosting"
_LINKS = {
    "IdentityLink": "identity", "LogLink": "exp", "LogitLink": "logistic", "HalfLogitLink": "half", "MultinomialLogit":
    "softmax",
}  # fmt: skip


@dataclass(slots=True)
class Trees:
    """Flat trees: inner nodes and leaves numbered apart, as TreeEnsemble wants them; a leaf adds to one target."""

    targets: int
    base: np.ndarray
    link: str
    single: bool = False  # values are rounded to float32 before they are compared
    roots: list[int] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    missing_left: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    left_leaf: list[int] = field(default_factory=list)
    right_leaf: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    target: list[int] = field(default_factory=list)


def trees_of(model: Any) -> Trees | None:
    """Return the trees of a fitted scikit-learn model, or None when it is none of those we know."""
    name, home = type(model).__name__, type(model).__module__
    try:
        if home == _HIST:
            return _boosted_histograms(model)
        if home in {"sklearn.ensemble._forest", "sklearn.tree._classes"}:
            return _forest(model, name)
        if home == "sklearn.ensemble._gb":
            return _boosted(model, name)
    except (AttributeError, KeyError, ValueError, TypeError):  # another release names its parts differently
        return None
    return None


def thresholds_of(model: Any) -> dict[int, np.ndarray]:
    """Return the distinct thresholds of a tree model by column, {} for other models."""
    trees = trees_of(model)
    if trees is None:
        return {}
    feature, threshold = np.array(trees.feature, dtype=np.intp), np.array(trees.threshold)
    return {int(k): np.unique(threshold[feature == k]) for k in np.unique(feature)}


def to_onnx(trees: Trees, width: int) -> bytes:
    """Return an ONNX model of the trees for a double tensor (n, width); ImportError without the onnx package."""
    from onnx import TensorProto, helper

    double, targets = TensorProto.DOUBLE, trees.targets
    nodes, source = [], "X"
    if trees.single:
        nodes += [helper.make_node("Cast", ["X"], ["f"], to=TensorProto.FLOAT),
                  helper.make_node("Cast", ["f"], ["d"], to=double)]  # fmt: skip
        source = "d"
    nodes.append(helper.make_node(
        "TreeEnsemble", [source], ["sums"], domain="ai.onnx.ml", n_targets=targets, aggregate_function=1,
        post_transform=0, tree_roots=trees.roots, nodes_featureids=trees.feature, nodes_truenodeids=trees.left,
        nodes_falsenodeids=trees.right, nodes_trueleafs=trees.left_leaf, nodes_falseleafs=trees.right_leaf,
        nodes_splits=helper.make_tensor("splits", double, [len(trees.threshold)], trees.threshold),
        nodes_modes=helper.make_tensor("modes", TensorProto.UINT8, [len(trees.feature)], [0] * len(trees.feature)),
        nodes_missing_value_tracks_true=trees.missing_left, leaf_targetids=trees.target,
        leaf_weights=helper.make_tensor("weights", double, [len(trees.weight)], trees.weight),
    ))  # fmt: skip
    nodes.append(helper.make_node("Add", ["sums", "base"], ["raw"]))
    constants = [helper.make_tensor("base", double, [1, targets], trees.base.tolist())]
    columns, more = _linked(trees.link, helper, constants, double)
    nodes += more
    graph = helper.make_graph(
        nodes, "trees", [helper.make_tensor_value_info("X", double, [None, width])],
        [helper.make_tensor_value_info("Y", double, [None, columns or targets])], constants,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 5)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))


def _linked(link: str, helper: Any, constants: list[Any], double: int) -> tuple[int, list[Any]]:
    """Return (columns of the answer, 0 for as many as targets) and the nodes from "raw" to "Y"."""
    node = helper.make_node
    if link == "logistic":
        constants.append(helper.make_tensor("one", double, [1], [1.0]))
        return 2, [node("Sigmoid", ["raw"], ["p"]), node("Sub", ["one", "p"], ["q"]),
                   node("Concat", ["q", "p"], ["Y"], axis=1)]  # fmt: skip
    operator = {"identity": "Identity", "exp": "Exp", "softmax": "Softmax"}[link]
    return 0, [node(operator, ["raw"], ["Y"], **({"axis": 1} if link == "softmax" else {}))]


def _boosted_histograms(model: Any) -> Trees | None:
    if model._preprocessor is not None:
        return None
    per_round = len(model._predictors[0])
    base = np.asarray(model._baseline_prediction, dtype=np.float64).ravel()
    trees = Trees(per_round, np.broadcast_to(base, (per_round,)), _LINKS[type(model._loss.link).__name__])
    for each in model._predictors:
        for target, tree in enumerate(each):
            nodes = tree.nodes
            if nodes["is_categorical"].any():
                return None
            leaf = nodes["is_leaf"].astype(bool)
            _add(trees, leaf, nodes["feature_idx"], nodes["num_threshold"], nodes["left"], nodes["right"],
                 nodes["missing_go_to_left"], nodes["value"][:, None], (target,))  # fmt: skip
    return trees if trees.feature else None


def _forest(model: Any, name: str) -> Trees | None:
    if model.n_outputs_ != 1:
        return None
    members = getattr(model, "estimators_", None) or [model]
    classifier = name.endswith("Classifier")
    targets = int(model.n_classes_) if classifier else 1
    trees = Trees(targets, np.zeros(targets), "identity", single=True)
    for member in members:
        values = member.tree_.value[:, 0, :]
        if classifier:
            values = values / values.sum(axis=1, keepdims=True)
        _add_tree(trees, member.tree_, values / len(members), tuple(range(targets)))
    return trees if trees.feature else None


def _boosted(model: Any, name: str) -> Trees | None:
    rounds = model.estimators_
    targets = rounds.shape[1]
    if name == "GradientBoostingClassifier" and model.loss != "log_loss":
        return None
    link = ("logistic" if targets == 1 else "softmax") if name.endswith("Classifier") else "identity"
    width = model.n_features_in_
    start = np.asarray(model._raw_predict_init(np.zeros((1, width))), dtype=np.float64).ravel()
    if not np.array_equal(start, np.asarray(model._raw_predict_init(np.ones((1, width)))).ravel()):
        return None  # it starts from another model's answer
    trees = Trees(targets, start, link, single=True)
    for each in rounds:
        for target, member in enumerate(each):
            _add_tree(trees, member.tree_, member.tree_.value[:, 0, :] * model.learning_rate, (target,))
    return trees if trees.feature else None


def _add_tree(trees: Trees, tree: Any, values: np.ndarray, targets: tuple[int, ...]) -> None:
    leaf = tree.children_left == -1
    missing = getattr(tree, "missing_go_to_left", np.zeros(len(leaf), dtype=np.uint8))
    _add(trees, leaf, tree.feature, tree.threshold, tree.children_left, tree.children_right, missing, values, targets)


def _add(
    trees: Trees, leaf: np.ndarray, feature: Any, threshold: Any, left: Any, right: Any, missing: Any,
    values: np.ndarray, targets: tuple[int, ...],
) -> None:  # fmt: skip
    """Append one tree. A leaf has one target here, so a tree with several is appended once for each."""
    if leaf[0]:  # a stump that never splits adds a constant
        trees.base = trees.base.copy()
        for column, target in enumerate(targets):
            trees.base[target] += float(values[0, column])
        return
    for column, target in enumerate(targets):
        _append(trees, leaf, feature, threshold, left, right, missing, values[:, column], target)


def _append(
    trees: Trees, leaf: np.ndarray, feature: Any, threshold: Any, left: Any, right: Any, missing: Any,
    value: np.ndarray, target: int,
) -> None:  # fmt: skip
    inner = ~leaf
    number = np.where(leaf, len(trees.weight) + np.cumsum(leaf) - 1, len(trees.feature) + np.cumsum(inner) - 1)
    to_left, to_right = np.asarray(left)[inner].astype(np.intp), np.asarray(right)[inner].astype(np.intp)
    trees.roots.append(int(number[0]))
    trees.feature += np.asarray(feature)[inner].astype(int).tolist()
    trees.threshold += np.asarray(threshold, dtype=np.float64)[inner].tolist()
    trees.missing_left += np.asarray(missing)[inner].astype(int).tolist()
    trees.left += number[to_left].tolist()
    trees.right += number[to_right].tolist()
    trees.left_leaf += leaf[to_left].astype(int).tolist()
    trees.right_leaf += leaf[to_right].astype(int).tolist()
    trees.weight += value[leaf].astype(float).tolist()
    trees.target += [target] * int(leaf.sum())
