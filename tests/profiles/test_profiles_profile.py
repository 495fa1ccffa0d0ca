from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from flyball.errors import IntegrityError, UnknownName
from flyball.profiles.distances import distance, jensen_shannon, ks_statistic, psi, wasserstein
from flyball.profiles.profile import BinMismatch, Profile, edges_of

finite = st.floats(-1e6, 1e6, allow_nan=False) | st.just(math.nan) | st.sampled_from([math.inf, -math.inf, 1e300])


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _same(a: Profile, b: Profile) -> bool:
    return a.n == b.n and all(
        np.array_equal(x.counts, y.counts) and np.array_equal(x.sums, y.sums) and x.nulls == y.nulls
        for x, y in zip(a.columns, b.columns, strict=True)
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(finite, max_size=60), st.lists(st.integers(0, 60), max_size=4), st.randoms(use_true_random=False))
def test_parts_merge_to_the_whole_exactly_in_any_order(values: list[float], cuts: list[int], random) -> None:
    column = np.array(values, dtype=np.float64)
    edges = (edges_of("x", _rng().normal(size=500)), edges_of("k", _rng().integers(0, 5, 500).astype(float)))
    matrix = np.column_stack([column, np.round(np.nan_to_num(column, posinf=3, neginf=3))])
    whole = Profile.fold(edges, matrix)
    parts = [Profile.fold(edges, part) for part in np.split(matrix, sorted(min(c, len(column)) for c in cuts))]
    random.shuffle(parts)
    merged = Profile.empty(edges)
    for part in parts:
        merged = merged.merge(part)
    assert _same(merged, whole)
    assert _same(merged.without(parts[0]).merge(parts[0]), whole)


def test_counts_equal_a_slow_loop_over_right_closed_bins() -> None:
    column = np.round(_rng(1).normal(size=2000), 1)
    edges = edges_of("x", np.round(_rng(2).normal(size=3000), 1) * 1.5)
    profile = Profile.fold((edges,), column[:, None]).columns[0]
    slow = np.zeros(edges.bins, dtype=np.int64)
    for value in column:
        slow[sum(value > e for e in edges.values)] += 1
    assert np.array_equal(profile.counts, slow)


def test_integers_with_few_values_become_categories_and_strange_values_the_last_bin() -> None:
    edges = edges_of("day", np.array([0.0, 1, 2, 6, 6, math.nan]))
    column = Profile.fold((edges,), np.array([[0.0], [6], [7], [1.5], [math.nan]])).columns[0]
    assert edges.kind == "category"
    assert list(edges.values) == [0, 1, 2, 6]
    assert list(column.counts) == [1, 0, 0, 1, 2]
    assert column.nulls == 1


@pytest.mark.parametrize("column", [np.full(10, math.nan), np.full(10, 2.5), np.array([]), np.array([1e-300, 2e-300])])
def test_odd_references_still_give_edges(column: np.ndarray) -> None:
    edges = edges_of("x", column)
    profile = Profile.fold((edges,), np.array([[1.0], [math.nan], [-math.inf]]))
    assert profile.columns[0].n == 2
    assert profile.columns[0].nulls == 1


def test_mean_comes_from_the_sums() -> None:
    column = _rng(3).lognormal(size=5000) + 1e6
    profile = Profile.fold((edges_of("x", column),), column[:, None])
    assert profile.mean("x") == pytest.approx(column.mean(), rel=1e-9)


def test_bytes_come_back_equal_and_damage_is_told() -> None:
    column = _rng(4).normal(size=500)
    profile = Profile.fold((edges_of("x", column),), column[:, None])
    again = Profile.from_bytes(profile.to_bytes())
    assert _same(profile, again)
    assert again.same_edges(profile)
    with pytest.raises(IntegrityError, match="no profile of version 1"):
        Profile.from_bytes(b"XXXX123")
    with pytest.raises(IntegrityError, match="damaged"):
        Profile.from_bytes(profile.to_bytes()[:40])


def test_profiles_of_different_edges_do_not_merge() -> None:
    a = Profile.empty((edges_of("x", _rng().normal(size=50)),))
    b = Profile.empty((edges_of("x", _rng(1).normal(size=50)),))
    with pytest.raises(BinMismatch, match="have different edges"):
        a.merge(b)
    with pytest.raises(UnknownName, match="did you mean"):
        a.column("xx")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("shift", lambda x: x + 0.2),
        ("scale", lambda x: x * 1.5),
        ("beyond the range", lambda x: x + 20),
        ("tail", lambda x: np.where(x > 1, x * 3, x)),
    ],
)
@pytest.mark.parametrize("shape", ["normal", "lognormal"])
def test_wasserstein_is_that_of_the_samples(name: str, change, shape: str) -> None:
    reference = getattr(_rng(5), shape)(size=4000)
    current = change(getattr(_rng(6), shape)(size=1500))
    edges = edges_of("x", reference)
    a, b = (Profile.fold((edges,), v[:, None]).columns[0] for v in (reference, current))
    expected = stats.wasserstein_distance(reference, current)
    assert wasserstein(edges, a, b) == pytest.approx(expected, rel=0.02)
    assert distance(edges, a, b) == pytest.approx(expected / reference.std(), rel=0.02)


def test_a_constant_reference_measures_in_its_own_size() -> None:
    edges = edges_of("x", np.full(300, 2.5))
    a, b = (Profile.fold((edges,), np.full((300, 1), v)).columns[0] for v in (2.5, 5.0))
    assert distance(edges, a, a) == 0.0
    assert distance(edges, a, b) == pytest.approx(1.0)


def test_jensen_shannon_is_scipys() -> None:
    p, q = _rng(7).integers(0, 50, 12), _rng(8).integers(0, 50, 12)
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p / p.sum(), q / q.sum(), base=2), abs=1e-12)
    assert jensen_shannon(np.array([5, 0]), np.array([0, 9])) == pytest.approx(1.0)
    assert math.isnan(jensen_shannon(p, np.zeros(12, dtype=np.int64)))


def test_ks_statistic_is_scipys_where_edges_are_values() -> None:
    reference, current = _rng(9).integers(0, 200, 3000).astype(float), _rng(10).integers(20, 220, 800).astype(float)
    edges = edges_of("x", reference)
    a, b = (Profile.fold((edges,), v[:, None]).columns[0] for v in (reference, current))
    assert ks_statistic(a.counts, b.counts) == pytest.approx(stats.ks_2samp(reference, current).statistic, abs=0.005)


def test_psi_is_its_closed_form_and_symmetric() -> None:
    p, q = np.array([50, 30, 20]), np.array([20, 30, 50])
    assert psi(p, q) == pytest.approx(2 * 0.3 * math.log(2.5))
    assert psi(p, q) == pytest.approx(psi(q, p))
    assert psi(p, np.array([50, 50, 0])) > 0.2
