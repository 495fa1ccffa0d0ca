"""Winsorising: one rule for all arms, and no effect out of nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.fixed.means import welch_t
from flyball.experiments.fixed.winsor import winsorise


def test_limits_move_values_and_count_them() -> None:
    found = winsorise({"t": [-5.0, 1.0, 99.0, 2.0], "c": [1.0, 2.0]}, limits=(0, 50))
    assert (found.arms["t"].tolist(), found.arms["c"].tolist()) == ([0.0, 1.0, 50.0, 2.0], [1.0, 2.0])
    assert found.clipped == {"t": 0.5, "c": 0.0}
    assert found.to_dict() == {"lower": 0.0, "upper": 50.0, "clipped": {"t": 0.5, "c": 0.0}}


def test_quantiles_are_those_of_all_arms_together_in_any_order() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.lognormal(1, 1, 500), rng.lognormal(0, 1, 300)
    found, other = (winsorise(arms, quantiles=(0.01, 0.99)) for arms in ({"t": x, "c": y}, {"c": y, "t": x}))
    assert (found.lower, found.upper) == tuple(np.quantile(np.r_[x, y], [0.01, 0.99]))
    assert (found.lower, found.upper, found.clipped) == (other.lower, other.upper, other.clipped)


def test_an_open_end_stays_open() -> None:
    found = winsorise({"t": [1.0, 2.0, 300.0]}, quantiles=(None, 0.5))
    assert (found.lower, found.upper, found.to_dict()["lower"]) == (-math.inf, 2.0, None)
    assert winsorise({"t": [1.0, 2.0]}, limits=(None, None)).clipped == {"t": 0.0}


def test_heavy_tails_are_tamed_and_the_level_is_kept() -> None:
    rng = np.random.default_rng(2)
    runs, alarms, wide, narrow = 1_000, 0, 0.0, 0.0
    for x, y in zip(rng.pareto(1.5, (runs, 300)), rng.pareto(1.5, (runs, 300)), strict=True):
        clipped = winsorise({"t": x, "c": y}, quantiles=(None, 0.99)).arms
        found, raw = welch_t(clipped["t"], clipped["c"]), welch_t(x, y)
        alarms += found.significant
        narrow, wide = narrow + found.upper - found.lower, wide + raw.upper - raw.lower
    assert alarms <= stats.binom.ppf(0.999, runs, 0.05)
    assert narrow < 0.8 * wide


@pytest.mark.parametrize(
    "rule",
    [{}, {"limits": (0, 1), "quantiles": (0, 1)}, {"limits": (2, 1)}, {"quantiles": (0.9, 0.1)},
     {"quantiles": (0.0, 99)}, {"limits": (math.nan, 1)}],
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused(rule) -> None:
    with pytest.raises(InputError):
        winsorise({"t": [1.0, 2.0]}, **rule)


def test_missing_values_are_refused_or_dropped_and_no_arm_is_nothing() -> None:
    with pytest.raises(InputError, match="t has nan"):
        winsorise({"t": [1.0, math.nan]}, limits=(0, 1))
    assert len(winsorise({"t": [1.0, math.nan]}, limits=(0, 1), missing="drop").arms["t"]) == 1
    with pytest.raises(InputError):
        winsorise({}, limits=(0, 1))
