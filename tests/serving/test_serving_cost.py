from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.serving.models.cost import CostModel


def taught(a: float, b: float, sizes: list[int], *, noise: float = 0.0, first: float = 0.0) -> CostModel:
    rng = np.random.default_rng(5)
    costs = CostModel(first or a + b)
    for n in sizes:
        costs.learn(n, (a + b * n) * (1.0 + noise * rng.normal()))
    return costs


def test_intercept_and_slope_are_those_of_the_newest_batches_least_squares_line() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 64, 400)
    seconds = (90e-6 + 5e-6 * sizes) * (1.0 + 0.05 * rng.normal(size=400))
    costs = CostModel(95e-6)
    for n, t in zip(sizes, seconds, strict=True):
        costs.learn(int(n), float(t))
    weights = np.sqrt(0.95 ** np.arange(399, -1, -1))
    b, a = np.polyfit(sizes, seconds, 1, w=weights)
    assert costs.b == pytest.approx(b, rel=0.01)  # the pull towards the first guess is 1 of about 330 rows squared
    assert costs.a == pytest.approx(a, rel=0.02)


def test_one_size_alone_predicts_that_size() -> None:
    costs = taught(0.002, 0.0, [1] * 50, first=0.0001)
    assert costs.at(1) == pytest.approx(0.002, rel=0.1)


def test_a_single_pause_hardly_moves_the_prediction() -> None:
    costs = taught(50e-6, 1e-6, [1, 4, 9] * 30)
    before = costs.at(1)
    costs.learn(1, 0.2)
    assert costs.at(1) < 0.001
    for n in [1, 4, 9] * 30:
        costs.learn(n, 50e-6 + 1e-6 * n)
    assert costs.at(1) == pytest.approx(before, rel=0.1)


def test_a_model_that_became_slow_is_known_after_few_batches() -> None:
    costs = taught(50e-6, 1e-6, [1] * 100)
    for _ in range(15):
        costs.learn(1, 0.02)
    assert costs.at(1) > 0.005


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.0, 100.0)), max_size=60), st.floats(0.0, 10.0))
def test_predictions_never_fall_with_rows_and_are_never_negative(seen, first) -> None:
    costs = CostModel(first)
    for rows, seconds in seen:
        costs.learn(rows, seconds)
    assert 0.0 <= costs.at(1) <= costs.at(2) <= costs.at(1000) < float("inf")


@given(st.floats(0.0, 0.01), st.floats(1e-7, 0.001), st.floats(0.0, 1.0))
def test_rows_within_a_time_are_the_most_that_fit(a: float, b: float, seconds: float) -> None:
    costs = CostModel()
    costs.a, costs.b = a, b
    n = costs.rows_within(seconds)
    assert n == 0 or costs.at(n) <= seconds * (1 + 1e-9)
    assert costs.at(n + 1) > seconds * (1 - 1e-9)
