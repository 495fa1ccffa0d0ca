"""What every fixed test owes: swapped arms flip signs and verdicts, units of measure do not matter, examples run."""

from __future__ import annotations

import doctest
import importlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments_kit import HILLSTROM, needs
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball import experiments
from flyball.experiments import Alternative, Count, Estimate, Rate, Scale, Stats
from flyball.experiments.fixed import __path__ as fixed_path

rng = np.random.default_rng(17)
TURNED = {
    Alternative.TWO_SIDED: Alternative.TWO_SIDED,
    Alternative.GREATER: Alternative.LESS,
    Alternative.LESS: Alternative.GREATER,
}


def rows(n: int, effect: float) -> np.ndarray:
    return effect + rng.gamma(2.0, 2.0, n)


def columns(n: int, effect: float) -> Stats:
    before = rng.gamma(2.0, 2.0, n)
    return Stats.of({"y": before + effect + rng.normal(0, 1, n), "x": before, "views": rng.integers(2, 9, n)})


def strata(n: int, effect: float) -> dict[str, Stats]:
    return {"new": columns(n, effect), "old": columns(2 * n, effect)}


def share(n: int, effect: float) -> Count:
    return Count(int(rng.binomial(n, min(0.2 + effect / 5, 1.0))), n)


def rate(n: int, effect: float) -> Rate:
    return Rate(int(rng.poisson(n * (0.3 + effect / 5))), float(n))


def seeded(test: Callable[..., Estimate]) -> Callable[..., Estimate]:
    return lambda *arms, **options: test(*arms, rng=np.random.default_rng(1), **options)


e = experiments
TESTS: dict[str, tuple[Callable[..., Any], Callable[[int, float], Any]]] = {
    "welch_t": (e.welch_t, rows),
    "pooled_t": (e.pooled_t, rows),
    "two_proportions_z": (e.two_proportions_z, share),
    "newcombe": (e.newcombe, share),
    "fisher_exact": (e.fisher_exact, share),
    "cohens_h": (e.cohens_h, share),
    "poisson_rates": (e.poisson_rates, rate),
    "mann_whitney": (e.mann_whitney, rows),
    "permutation": (seeded(partial(e.permutation, resamples=999)), lambda n, effect: rows(min(n, 6), effect)),
    "quantile_effect": (partial(e.quantile_effect, q=0.5), rows),
    "relative_effect": (e.relative_effect, rows),
    "relative_effect delta": (partial(e.relative_effect, method="delta"), rows),
    "ratio_metric": (partial(e.ratio_metric, numerator="y", denominator="views"), columns),
    "ratio_metric relative": (partial(e.ratio_metric, numerator="y", denominator="views", scale="relative"), columns),
    "cuped": (partial(e.cuped, metric="y", covariates="x"), columns),
    "cuped relative": (partial(e.cuped, metric="y", covariates="x", scale="relative"), columns),
    "post_stratified": (partial(e.post_stratified, metric="y"), strata),
    "cohens_d": (e.cohens_d, rows),
    "hedges_g": (e.hedges_g, rows),
}


def mirrored(value: float, scale: Scale) -> float:
    """Return what an effect is when the arms change places."""
    if scale is Scale.RATIO:
        return math.inf if value == 0 else 1 / value
    if scale is Scale.RELATIVE:
        return math.inf if value == -1 else -value / (1 + value)
    return -value


@pytest.mark.parametrize("alternative", list(Alternative))
@pytest.mark.parametrize("effect", [0.0, 0.4, 2.5])
@pytest.mark.parametrize("name", TESTS)
def test_swapping_the_arms_flips_every_sign_and_verdict(name: str, effect: float, alternative: Alternative) -> None:
    test, make = TESTS[name]
    t, c = make(60, effect), make(45, 0.0)
    there, back = test(t, c, alternative=alternative), test(c, t, alternative=TURNED[alternative])
    assert back.effect == pytest.approx(mirrored(there.effect, there.scale), rel=1e-6, abs=1e-9)
    assert back.p == (None if there.p is None else pytest.approx(there.p, rel=1e-6))
    for end, other in ((there.lower, back.upper), (there.upper, back.lower)):
        if math.isfinite(end) and math.isfinite(other):
            assert other == pytest.approx(mirrored(end, there.scale), rel=1e-5, abs=1e-8)
    if alternative is Alternative.TWO_SIDED:
        assert there.significant == back.significant
    assert (there.n, there.treatment) == (back.n[::-1], pytest.approx(back.control))


@pytest.mark.parametrize("name", [n for n in TESTS if TESTS[n][1] is rows])
@pytest.mark.parametrize("unit", [1e-3, 1e6])
def test_units_of_measure_scale_the_effect_and_nothing_else(name: str, unit: float) -> None:
    test, make = TESTS[name]
    t, c = make(60, 0.4), make(45, 0.0)
    plain, scaled = test(t, c), test(unit * t, unit * c)
    factor = unit if plain.scale is Scale.DIFFERENCE else 1.0
    assert scaled.p == pytest.approx(plain.p, rel=1e-6)
    assert scaled.ci == pytest.approx((factor * plain.lower, factor * plain.upper), rel=1e-6)


@pytest.mark.parametrize("name", TESTS)
def test_every_estimate_prints_and_becomes_json(name: str) -> None:
    test, make = TESTS[name]
    found = test(make(60, 0.4), make(45, 0.0), level=0.9, alternative="greater")
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (data["level"], data["alternative"], data["upper"]) == (0.9, "greater", None)
    assert found.method in str(found)


@settings(max_examples=40)
@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=40), st.integers(2, 38))
def test_arms_merged_from_parts_give_the_answer_of_the_whole(values: list[float], cut: int) -> None:
    values = [*values, 0.0, 1.0]
    cut = min(cut, len(values) - 1)
    whole = Stats.of({"y": values})["y"]
    parts = Stats.of({"y": values[:cut]})["y"].merge(Stats.of({"y": values[cut:]})["y"])
    control = Stats.of({"y": [0.0, 2.0, 5.0]})["y"]
    assert experiments.welch_t(parts, control).p == pytest.approx(
        experiments.welch_t(whole, control).p, rel=1e-6, abs=1e-12
    )


@pytest.mark.parametrize("name", sorted(p.stem for p in Path(next(iter(fixed_path))).glob("*.py")))
def test_the_examples_in_the_docstrings_run(name: str) -> None:
    module = importlib.import_module(
        f"flyball.experiments.fixed.{name}" if name != "__init__" else "flyball.experiments.fixed"
    )
    assert doctest.testmod(module).failed == 0


@needs(HILLSTROM)
def test_both_mails_of_hillstrom_bring_visits_and_agree_over_methods() -> None:
    import pandas as pd

    data = pd.read_parquet(HILLSTROM)
    arms = {str(name): group for name, group in data.groupby("segment")}
    visits = {name: Count(int(group["visit"].sum()), len(group)) for name, group in arms.items()}
    rates = [round(100 * visits[name].share, 2) for name in ("No E-Mail", "Mens E-Mail", "Womens E-Mail")]
    assert rates == [10.62, 18.28, 15.14]
    found = e.compare_arms(visits, "No E-Mail", test=e.two_proportions_z)
    assert found.significant == ("Mens E-Mail", "Womens E-Mail")
    men, none = arms["Mens E-Mail"], arms["No E-Mail"]
    spend = e.welch_t(men["spend"], none["spend"])
    assert spend.effect == pytest.approx(1.4226 - 0.6528, abs=1e-4) and spend.significant
    both = [Stats.of({"spend": arm["spend"], "history": arm["history"]}) for arm in (men, none)]
    adjusted = e.cuped(*both, "spend", "history")
    assert adjusted.effect == pytest.approx(spend.effect, abs=0.05)
    assert e.mann_whitney(men["spend"], none["spend"]).p < 1e-10
    resampled = e.bootstrap(
        men["spend"], none["spend"], rng=np.random.default_rng(1), resamples=999, method="percentile"
    )
    assert resampled.ci == pytest.approx(spend.ci, abs=0.05)
