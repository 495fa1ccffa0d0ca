"""Distinct and quantile: exact while small, within their papers' bounds beyond, whatever the order of merges."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from flyball.features.kernel import distinct, quantiles, slots
from flyball.features.kernel.slots import Slot


def _hashes(values: np.ndarray) -> np.ndarray:
    slot = Slot("x", None, "hash")
    return slots.columns([slot], pa.table({"x": values}))[slot.name][0]


@pytest.mark.parametrize("n", [0, 1, 254, 255])
def test_few_distinct_values_are_counted_exactly(n: int) -> None:
    state = distinct.of_hashes(_hashes(np.repeat(np.arange(n), 3)))
    assert distinct.estimate(state) == n
    assert len(distinct.to_bytes(state)) == 8 * n


def test_many_distinct_values_are_within_the_standard_error_of_the_paper() -> None:
    rng = np.random.default_rng(1)
    sigma = 1.04 / math.sqrt(2048)
    for n in (300, 2_000, 5_000, 20_000, 200_000):
        errors = []
        for _ in range(30):
            values = rng.integers(-(2**63), 2**63 - 1, n)
            errors.append(distinct.estimate(distinct.of_hashes(_hashes(values))) / len(np.unique(values)) - 1)
        assert abs(np.mean(errors)) < 3 * sigma / math.sqrt(30), n  # unbiased
        assert np.sqrt(np.mean(np.square(errors))) < 1.4 * sigma, n


def test_states_are_the_same_bytes_in_any_order_and_grouping() -> None:
    rng = np.random.default_rng(2)
    for n in (100, 255, 256, 400, 3000):
        hashes = _hashes(rng.integers(0, 10**12, n))
        whole = distinct.to_bytes(distinct.of_hashes(hashes))
        for _ in range(5):
            parts = np.split(rng.permutation(np.concatenate([hashes, hashes[:50]])), sorted(rng.integers(0, n, 4)))
            state = distinct.of_hashes(parts[0])
            for part in parts[1:]:
                stored = distinct.from_bytes(distinct.to_bytes(state))
                state = distinct.merge([distinct.of_hashes(part), stored])
            assert distinct.to_bytes(state) == whole


def test_equal_numbers_hash_alike_and_types_differ() -> None:
    slot = Slot("x", None, "hash")

    def hashed(values: pa.Array) -> list[int]:
        return slots.columns([slot], pa.table({"x": values}))[slot.name][0].tolist()

    assert (
        hashed(pa.array([1, 0, -7])) == hashed(pa.array([1.0, -0.0, -7.0])) == hashed(pa.array([1, 0, -7], pa.int8()))
    )
    assert not set(hashed(pa.array([1, 2]))) & set(hashed(pa.array(["1", "2"])))
    assert len(set(hashed(pa.array([0.5, 0.25, 1e300, 2.0**63, -math.inf, math.inf])))) == 6
    assert hashed(pa.array(["a", None, "a"]).dictionary_encode())[0] == hashed(pa.array(["a"]))[0]


def test_few_values_give_exact_quantiles() -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 7, quantiles.K):
        values = rng.normal(size=n)
        state = quantiles.of_values(values)
        for q in (0.001, 0.25, 0.5, 0.9, 0.999):
            assert quantiles.quantiles([state], [q]) == [np.sort(values)[max(1, math.ceil(q * n)) - 1]]
    assert math.isnan(quantiles.quantiles([], [0.5])[0])


@pytest.mark.parametrize("parts", [1, 56])
def test_the_rank_of_a_quantile_is_within_its_bound_in_99_of_100_cases(parts: int) -> None:
    rng = np.random.default_rng(4)
    qs = [0.01, 0.1, 0.5, 0.9, 0.99]
    outside = 0
    for trial in range(60):
        n = int(rng.integers(2_000, 40_000))
        values = rng.lognormal(size=n) if trial % 2 else np.sort(rng.normal(size=n))
        states = []
        for part in np.array_split(values, parts):
            state = quantiles.of_values(part[:100])
            for chunk in np.array_split(part[100:], 7):
                stored = quantiles.from_bytes(quantiles.to_bytes(state))
                state = quantiles.merge([stored, quantiles.of_values(chunk)])
            states.append(state)
            assert sum(len(level) * 2**h for h, level in enumerate(state)) == len(part)  # no value is lost
        ordered = np.sort(values)
        for q, found in zip(qs, quantiles.quantiles(states, qs), strict=True):
            rank = np.searchsorted(ordered, found, "right") / n
            outside += abs(rank - q) > quantiles.BOUND
    assert outside <= 0.01 * 60 * len(qs) + 3  # three above 1 % of 300 would be chance


def test_a_state_stays_small() -> None:
    state = quantiles.of_values(np.random.default_rng(5).normal(size=1_000_000))
    assert sum(map(len, state)) <= 3 * quantiles.K + 8 * len(state)


def test_the_same_merges_give_the_same_bytes() -> None:
    values = np.random.default_rng(6).normal(size=5_000)
    first, second = (quantiles.merge([quantiles.of_values(values[:3000]), quantiles.of_values(values[3000:])])
                     for _ in range(2))  # fmt: skip
    assert quantiles.to_bytes(first) == quantiles.to_bytes(second)
