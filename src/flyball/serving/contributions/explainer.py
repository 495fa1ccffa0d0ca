"""Which way a loaded version is explained: exactly if we can read it, by sampling if not.

The surprise: an exact way is not trusted by its name. On the version's own sample, what base and contributions add up
to must give the model's answers; another release of a library that changed its parts is then sampled, never misread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, Self

import numpy as np

from flyball.errors import FlyballError, InputError
from flyball.serving.contributions.boosters import booster
from flyball.serving.contributions.linear import linear_model, unwrap
from flyball.serving.contributions.sampled import sampled
from flyball.serving.contributions.sklearn_trees import tree_model
from flyball.serving.contributions.types import Explained, Method, Space

__all__ = ["Explainer", "Version"]

Predict = Callable[[np.ndarray], np.ndarray]
Exact = Callable[[np.ndarray], Explained]
_SEED = 20_140_101
_CHECKED = 32  # rows of the sample that an exact way must reproduce


class _Predictor(Protocol):
    @property
    def model(self) -> Any: ...


class Version(Protocol):
    """What is needed of a loaded version (registry.artifacts.LoadedModel)."""

    @property
    def predictor(self) -> _Predictor:
        """What holds the fitted model."""
        ...

    @property
    def manifest(self) -> Any:
        """What the version says of itself; `service.names` are its columns."""
        ...

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Answer a matrix."""
        ...

    def sample(self) -> np.ndarray:
        """Return rows of the holdout."""
        ...


class Explainer:
    """Explain the answers of one version; built once, called from one thread.

    Args:
        predict: The version's predict.
        background: Rows (m, k) to compare with, usually the version's sample.
        exact: Contributions without sampling, None to sample.
        space: The scale of `predict`, on which samples are drawn.
    """

    def __init__(
        self, predict: Predict, background: np.ndarray, exact: Exact | None = None, *, space: Space = "prediction"
    ) -> None:
        self._predict = predict
        self._space = space
        self._background = background
        self._exact = exact

    @classmethod
    def of(cls, version: Version) -> Self:
        """Build the explainer of a loaded version."""
        try:
            background = version.sample()
        except OSError:
            background = np.zeros((0, len(version.manifest.service.names)))
        model = version.predictor.model
        exact = _exact(model, background, version.manifest.service.names)
        if exact is not None:
            exact = _proved(exact, version.predict, background[:_CHECKED])
        space: Space = "probability" if getattr(version.predictor, "classifier", False) else "prediction"
        return cls(version.predict, background, exact, space=space)

    def explain(self, matrix: np.ndarray, until: float) -> Explained:
        """Return the contributions to the answers of a matrix (n, k) before `until` (monotonic seconds).

        Exact methods do not look at the clock: they take about as long as some hundred predictions.

        Raises:
            DeadlineExceeded: not one sample was drawn in time.
            InputError: the matrix has another width than the model's columns.
            FlyballError: there is nothing to compare with, or the model failed.
        """
        if self._background.size and matrix.shape[1] != self._background.shape[1]:
            raise InputError(f"the rows have {matrix.shape[1]} columns, the model {self._background.shape[1]}")
        if self._exact is not None:
            return self._exact(matrix)
        # The same rows are explained alike each time; nothing here needs to be hard to guess.
        rng = np.random.default_rng(_SEED)
        return sampled(self._predict, matrix, self._background, until=until, rng=rng, space=self._space)


def _exact(model: Any, background: np.ndarray, names: tuple[str, ...]) -> Exact | None:
    order = _order(model, names)
    rows = background if order is None else background[:, order]
    native = booster(model)
    if native is not None:
        return _in_order(_native(native), order)
    found = unwrap(model)
    if found is None:
        return None
    steps, last = found
    transform = _transform(steps)
    linear = linear_model(last, transform(rows)) if len(rows) else None
    if linear is not None:
        return _in_order(_of(linear.contributions, linear.base, "linear", linear.space, transform), order)
    trees = tree_model(last)
    if trees is not None:
        return _in_order(_of(trees.contributions, trees.forest.base, "tree", trees.space, transform), order)
    return None


def _of(call: Predict, base: np.ndarray, method: Method, space: Space, transform: Predict) -> Exact:
    return lambda matrix: Explained(base, call(transform(matrix)), method, space)


def _native(call: Predict) -> Exact:
    def exact(matrix: np.ndarray) -> Explained:
        found = call(matrix)
        base = found[0, -1] if len(found) else np.zeros(found.shape[2])
        return Explained(base, found[:, :-1], "tree", "score")

    return exact


def _transform(steps: list[Any]) -> Predict:
    def transform(matrix: np.ndarray) -> np.ndarray:
        for step in steps:
            matrix = np.asarray(step.transform(matrix), dtype=np.float64)
        return matrix

    return transform


def _in_order(exact: Exact, order: list[int] | None) -> Exact:
    """Have an exact way that knows the fitted columns take and return the service's order of columns."""
    if order is None:
        return exact

    def ordered(matrix: np.ndarray) -> Explained:
        found = exact(matrix[:, order])
        values = np.zeros((*matrix.shape, found.values.shape[2]))
        values[:, order] = found.values
        return replace(found, values=values)

    return ordered


def _order(model: Any, names: tuple[str, ...]) -> list[int] | None:
    fitted = getattr(model, "feature_names_in_", None)
    if fitted is None or tuple(fitted) == names or not set(fitted) <= set(names):
        return None
    return [names.index(name) for name in fitted]


def _proved(exact: Exact, predict: Predict, rows: np.ndarray) -> Exact | None:
    """Return an exact way, on the scale it was found to be on, if it gives the model's answers to sample rows."""
    if not len(rows):
        return None
    try:
        answers = np.asarray(predict(rows), dtype=np.float64).reshape(len(rows), -1)
        space = _space_of(exact(rows), answers)
    except (FlyballError, ValueError, TypeError, IndexError, AttributeError):
        return None
    return None if space is None else lambda matrix: replace(exact(matrix), space=space)


def _space_of(found: Explained, answers: np.ndarray) -> Space | None:
    """Return the scale on which the margin gives these answers (n, c), None when there is none."""
    margin = found.margin
    spaces: tuple[Space, ...] = ("prediction", "probability", "log-odds", "log", "score")
    for space in (found.space, *spaces):
        made = _answer(margin, space)
        if made is not None and made.shape == answers.shape and np.allclose(made, answers, rtol=1e-4, atol=1e-5):
            return space
    return None


def _answer(margin: np.ndarray, space: Space) -> np.ndarray | None:
    """Return the answers that a margin (n, c) stands for."""
    with np.errstate(over="ignore"):
        match space:
            case "prediction" | "probability":
                return margin
            case "log":
                return np.asarray(np.exp(margin))
            case "log-odds" if margin.shape[1] == 1:
                p = 1.0 / (1.0 + np.exp(-margin))
                return np.concatenate([1.0 - p, p], axis=1)
            case "score":
                raised = np.exp(margin - margin.max(axis=1, keepdims=True))
                return np.asarray(raised / raised.sum(axis=1, keepdims=True))
            case _:
                return None
