"""The faster kernel for boosted trees answers exactly what scikit-learn answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flyball.registry.artifacts import Predictor
from flyball.registry.trees import SMALL, lower


def data(n: int, *, seed: int, nulls: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = np.round(rng.normal(size=(n, 4)) * 3, 1)  # rounded, so that values meet thresholds
    matrix[rng.random(matrix.shape) < nulls] = np.nan
    return matrix


def fitted(**params: Any) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    matrix = data(800, seed=1)
    y = np.abs(np.nan_to_num(matrix[:, 0]) * 2 + np.nan_to_num(matrix[:, 1]) ** 2)
    return HistGradientBoostingRegressor(max_iter=40, random_state=0, **params).fit(matrix, y)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "poisson"])
@pytest.mark.parametrize("rows", [1, 2, 7, SMALL])
def test_answers_are_equal_to_the_bit(loss: str, rows: int) -> None:
    model = fitted(loss=loss)
    small = lower(model)
    assert small is not None
    fresh = data(10 * rows, seed=rows)
    fresh[0] = [np.inf, -np.inf, np.nan, 0.0]
    for k in range(10):
        part = fresh[k * rows : (k + 1) * rows]
        assert np.array_equal(small(part), model.predict(part))


def test_other_models_are_left_to_themselves() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LinearRegression

    matrix = data(200, seed=2, nulls=0.0)
    assert lower(LinearRegression().fit(matrix, matrix[:, 0])) is None
    assert lower(HistGradientBoostingClassifier(max_iter=2).fit(matrix, matrix[:, 0] > 0)) is None
    assert lower(fitted(categorical_features=[2])) is None
    assert lower(object()) is None


def test_a_kernel_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = fitted(), data(10, seed=3)
    right, wrong = Predictor(model, tuple("abcd")), Predictor(model, tuple("abcd"))
    assert right.accelerate(rows)
    monkeypatch.setattr("flyball.registry.predictor.lower", lambda _: lambda m: np.zeros(len(m)))
    assert not wrong.accelerate(rows)
    assert np.array_equal(wrong.predict(rows), right.predict(rows))


def test_a_wrong_number_of_columns_is_refused() -> None:
    small = lower(fitted())
    assert small is not None
    with pytest.raises(ValueError, match="X has 3 features"):
        small(np.zeros((1, 3)))
