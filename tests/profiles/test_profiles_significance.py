from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from flyball.profiles.contrast import contrast
from flyball.profiles.profile import Profile, edges_of
from flyball.profiles.significance import benjamini_hochberg, chi2_survival, chi_square_p, ks_p, ks_survival


@pytest.mark.parametrize("x", [0.0, 1e-3, 0.1, 0.3, 0.5, 0.8, 0.99, 1.0, 1.01, 1.36, 2.0, 3.0, 6.0, 30.0])
def test_ks_survival_is_scipys(x: float) -> None:
    assert ks_survival(x) == pytest.approx(stats.kstwobign.sf(x), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("degrees", [1, 2, 3, 10, 32, 255])
@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 0.99, 1.0, 1.01, 1.5, 3.0, 10.0])
def test_chi2_survival_is_scipys(degrees: int, ratio: float) -> None:
    assert chi2_survival(ratio * degrees, degrees) == pytest.approx(stats.chi2.sf(ratio * degrees, degrees), abs=1e-12)


def test_chi_square_is_scipys_contingency_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(1, 60, 9), rng.integers(1, 20, 9)
    expected = stats.chi2_contingency([a, b], correction=False).pvalue
    assert chi_square_p(np.r_[a, 0], np.r_[b, 0]) == pytest.approx(expected, rel=1e-9)


def test_benjamini_hochberg_is_scipys() -> None:
    p = np.random.default_rng(1).random(40) ** 3
    assert benjamini_hochberg(list(p)) == pytest.approx(list(stats.false_discovery_control(p)))
    assert benjamini_hochberg([]) == []


def test_ks_p_of_equal_samples_is_uniform() -> None:
    # 400 repetitions: the rate of p < 0.05 has a standard error of 1.1 percentage points; binning only makes p larger
    rng = np.random.default_rng(2)
    edges = (edges_of("x", rng.normal(size=20_000)),)
    small = 0
    for _ in range(400):
        a, b = (Profile.fold(edges, rng.normal(size=(n, 1))) for n in (3000, 500))
        small += contrast(a, b)[0].p < 0.05
    assert small / 400 <= 0.05 + 3 * 0.011


def test_ks_p_shrinks_with_rows() -> None:
    assert ks_p(0.1, 100, 100) > 0.5 > ks_p(0.1, 1000, 1000) > ks_p(0.1, 10_000, 10_000)


def test_a_null_share_is_its_own_finding() -> None:
    rng = np.random.default_rng(3)
    full = rng.normal(size=(1000, 1))
    edges = (edges_of("x", full[:, 0]),)
    holes = np.where(rng.random((1000, 1)) < 0.3, np.nan, full)
    found = contrast(Profile.fold(edges, full), Profile.fold(edges, holes))
    assert [c.name for c in found] == ["x", "x is null"]
    assert found[0].distance < 0.1
    assert found[1].distance > 0.3
    assert found[1].p < 1e-9
