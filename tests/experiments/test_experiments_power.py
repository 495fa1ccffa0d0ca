"""Power, units and smallest effects: statsmodels, published tables, and simulation."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import NormalIndPower, TTestIndPower
from statsmodels.stats.proportion import power_proportions_2indep, proportion_effectsize

from flyball.errors import InputError, Refused, UnknownName
from flyball.experiments.power.clusters import Clusters
from flyball.experiments.power.duration import arrived, duration, duration_table
from flyball.experiments.power.means import plan_means, r_squared
from flyball.experiments.power.proportions import exact_power, plan_proportions
from flyball.experiments.power.ratios import linearised, plan_ratios
from flyball.experiments.stats import Stats

SIDES = {"two-sided": "two-sided", "greater": "larger", "less": "smaller"}


def close(share, chance, runs):
    """Tell whether a simulated share is within 3.3 deviations (one in a thousand) of its chance."""
    return abs(share - chance) <= 3.3 * math.sqrt(chance * (1 - chance) / runs)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("n", "ratio", "effect"), [(20, 1.0, 0.5), (64, 2.0, 0.4), (300, 0.25, 0.2), (30_000, 1.0, 0.02)]
)
def test_the_power_of_means_is_statsmodels(side, n, ratio, effect):
    effect = -effect if side == "less" else effect
    want = TTestIndPower().power(effect, n, 0.05, ratio=ratio, alternative=SIDES[side])
    got = plan_means(sd=1.0, effect=effect, n=(int(n * ratio), n), alternative=side).power
    tolerance = 1e-3 if n < 20_000 else 1e-5  # Welch's degrees of freedom are not the pooled test's when sizes differ
    assert got == pytest.approx(want, abs=1e-9 if ratio == 1.0 and n < 20_000 else 12 * tolerance)


@pytest.mark.parametrize(
    ("d", "level", "power", "units"),
    [(0.5, 0.95, 0.8, 64), (0.2, 0.95, 0.8, 394), (0.8, 0.95, 0.8, 26), (0.5, 0.99, 0.8, 96), (0.5, 0.95, 0.9, 86)],
)
def test_units_are_those_of_cohens_table(d, level, power, units):  # Cohen (1988), table 2.4.1; G*Power for 0.9
    found = plan_means(sd=10.0, effect=10.0 * d, level=level, power=power)
    assert abs(found.n[0] - units) <= 1
    assert found.standardised == pytest.approx(d)
    want = math.ceil(TTestIndPower().solve_power(d, power=power, alpha=1 - level))
    assert found.n == (want, want)


@given(
    effect=st.floats(0.01, 3.0), power=st.floats(0.3, 0.99), ratio=st.floats(0.1, 10.0),
    side=st.sampled_from(["two-sided", "greater"]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_units_effect_and_power_agree_with_each_other(effect, power, ratio, side):
    plan = plan_means(sd=2.0, effect=effect, power=power, ratio=ratio, alternative=side)
    assert plan.power >= power
    assert plan_means(sd=2.0, effect=effect, n=plan.n, alternative=side).power == plan.power
    if min(plan.n) > 2:
        fewer = (math.ceil((plan.n[1] - 1) * ratio - 1e-9), plan.n[1] - 1)
        if min(fewer) >= 2:
            assert plan_means(sd=2.0, effect=effect, n=fewer, alternative=side).power < power
        smallest = plan_means(sd=2.0, n=plan.n, power=power, alternative=side).effect
        assert smallest <= effect * (1 + 1e-9)
        assert plan.power_at(smallest) == pytest.approx(power, abs=1e-6)


def test_simulated_t_tests_find_the_effect_as_often_as_planned():
    rng, runs = np.random.default_rng(1), 8000
    plan = plan_means(sd=(3.0, 1.0), effect=1.0, ratio=0.5)
    t, c = rng.normal(1.0, 3.0, (runs, plan.n[0])), rng.normal(0.0, 1.0, (runs, plan.n[1]))
    found = (stats.ttest_ind(t, c, axis=1, equal_var=False).pvalue < 0.05).mean()
    assert close(found, plan.power, runs)


def test_swapping_direction_changes_signs_only():
    up, down = (
        plan_means(sd=1.0, effect=0.3, alternative="greater"),
        plan_means(sd=1.0, effect=-0.3, alternative="less"),
    )
    assert (up.n, up.power) == (down.n, pytest.approx(down.power))
    assert (
        plan_means(sd=1.0, n=500, alternative="less").effect == -plan_means(sd=1.0, n=500, alternative="greater").effect
    )


def test_a_covariate_saves_its_share_of_the_units():
    rng = np.random.default_rng(2)
    x = rng.normal(size=20_000)
    y = 0.8 * x + 0.6 * rng.normal(size=20_000)
    r2 = r_squared(Stats.of({"y": y, "x": x}), "y", "x")
    assert r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    with_it, without = plan_means(sd=1.0, effect=0.05, r2=r2), plan_means(sd=1.0, effect=0.05)
    assert with_it.total == pytest.approx((1 - r2) * without.total, rel=1e-3)
    z = rng.normal(size=20_000)
    two = r_squared(Stats.of({"y": y, "x": x, "z": z}), "y", "x", "z")
    assert two == pytest.approx(
        1
        - (y - np.c_[np.ones_like(x), x, z] @ np.linalg.lstsq(np.c_[np.ones_like(x), x, z], y, rcond=None)[0]).var()
        / y.var()
    )


def test_clusters_need_the_design_effect_and_simulated_ones_agree():
    clusters = Clusters(20, 0.1)
    assert clusters.design_effect == pytest.approx(2.9)
    assert Clusters(20, 0.1, cv=0.5).design_effect == pytest.approx(1 + (1.25 * 20 - 1) * 0.1)
    plan = plan_means(sd=1.0, effect=0.25, clusters=clusters)
    assert plan.total > 2.85 * plan_means(sd=1.0, effect=0.25).total
    assert "2.90" in str(plan)
    rng, runs, m = np.random.default_rng(3), 4000, round(plan.n[0] / 20)
    arms = [
        rng.normal(shift, math.sqrt(0.1 + 0.9 / 20), (runs, m))  # means of clusters, between and within
        for shift in (0.25, 0.0)
    ]
    found = (stats.ttest_ind(*arms, axis=1).pvalue < 0.05).mean()
    assert close(found, plan.power, runs) or abs(found - plan.power) < 0.012  # m is rounded to whole clusters


def test_more_arms_pay_for_more_comparisons():
    one, three = plan_means(sd=1.0, effect=0.1), plan_means(sd=1.0, effect=0.1, comparisons=3)
    assert three.n[0] == plan_means(sd=1.0, effect=0.1, level=1 - 0.05 / 3).n[0] > one.n[0]
    assert three.total == 4 * three.n[0]
    assert three.alpha == pytest.approx(0.05 / 3)


@pytest.mark.parametrize("side", SIDES)
def test_the_power_of_proportions_is_statsmodels(side):
    effect = -0.02 if side == "less" else 0.02
    for ratio, n in ((1.0, 3000), (0.5, 8000)):
        sizes = (int(n * ratio), n)
        kw = {"base": 0.1, "effect": effect, "n": sizes, "alternative": side}
        pooled = power_proportions_2indep(
            effect, 0.1, sizes[0], ratio=1 / ratio, alpha=0.05, alternative=SIDES[side], return_results=False
        )
        assert plan_proportions(**kw, test="pooled").power == pytest.approx(pooled, abs=3e-4)
        h = proportion_effectsize(0.1 + effect, 0.1)
        want = NormalIndPower().power(h, n, 0.05, ratio=ratio, alternative=SIDES[side])
        assert plan_proportions(**kw, test="arcsine").power == pytest.approx(want, abs=1e-9)
        assert plan_proportions(**kw).power == pytest.approx(pooled, abs=0.01)


def test_units_of_proportions_are_the_closed_form():
    z = stats.norm.isf(0.025) + stats.norm.isf(0.2)
    n = z**2 * (0.1 * 0.9 + 0.12 * 0.88) / 0.02**2
    assert plan_proportions(base=0.1, effect=0.02).n == (math.ceil(n), math.ceil(n))
    assert plan_proportions(base=0.1, relative=0.2).n == (math.ceil(n), math.ceil(n))


def test_exact_power_is_that_of_simulated_tables():
    rng, runs = np.random.default_rng(4), 40_000
    a, b = rng.binomial(60, 0.3, runs), rng.binomial(80, 0.15, runs)
    pooled = (a + b) / 140
    se = np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / 60 + 1 / 80), 1e-12))
    found = (np.abs((a / 60 - b / 80) / se) >= stats.norm.isf(0.025)).mean()
    assert close(found, exact_power(0.3, 0.15, (60, 80)), runs)
    assert exact_power(0.0, 0.0, (10, 10)) == 0.0
    assert exact_power(0.3, 0.1, (50, 60), alternative="greater") == pytest.approx(
        exact_power(0.1, 0.3, (60, 50), alternative="less")
    )
    assert "exactly" in plan_proportions(base=0.2, effect=0.15).notes[0]


def test_simulated_proportions_are_found_as_often_as_planned():
    rng, runs = np.random.default_rng(5), 20_000
    plan = plan_proportions(base=0.05, relative=0.2, ratio=0.5)
    a, b = rng.binomial(plan.n[0], 0.06, runs), rng.binomial(plan.n[1], 0.05, runs)
    p, q = a / plan.n[0], b / plan.n[1]
    z = (p - q) / np.sqrt(p * (1 - p) / plan.n[0] + q * (1 - q) / plan.n[1])
    assert abs((np.abs(z) > stats.norm.isf(0.025)).mean() - plan.power) < 3.3 * 0.4 / math.sqrt(runs) + 0.003


def test_ratios_are_planned_with_the_noise_of_users_and_found_as_often():
    rng, runs = np.random.default_rng(6), 500

    def users(n, lift):  # views of a user vary, and so does the taste
        views = rng.poisson(rng.gamma(2.0, 3.0, n)) + 1
        return rng.binomial(views, np.clip(rng.beta(2, 18, n) * lift, 0, 1)).astype(float), views.astype(float)

    clicks, views = users(100_000, 1.0)
    past = Stats.of({"clicks": clicks, "views": views})
    ratio, sd = linearised(past, "clicks", "views")
    assert ratio == pytest.approx(clicks.sum() / views.sum())
    assert sd == pytest.approx(((clicks - ratio * views) / views.mean()).std(ddof=1))
    plan = plan_ratios(past, "clicks", "views", relative=0.1)
    assert plan.problem.kind == "ratios"
    found = 0
    for _ in range(runs):
        t, c = (Stats.of(dict(zip(("x", "y"), users(plan.n[0], lift), strict=True))) for lift in (1.1, 1.0))
        (r, s), (q, u) = (linearised(arm, "x", "y") for arm in (t, c))
        found += abs(r - q) / math.sqrt(s * s / t.n + u * u / c.n) > stats.norm.isf(0.025)
    assert abs(found / runs - plan.power) <= 3.3 * 0.4 / math.sqrt(runs) + 0.02  # the lift raises the noise a little


def test_days_follow_from_new_units_in_whole_weeks():
    plan = plan_proportions(base=0.1, effect=0.02)
    assert duration(plan, arrivals=1000.0).days == 14  # 7,678 units
    assert duration(plan, arrivals=1000.0, step=1).days == 8
    assert duration(plan, arrivals=1000.0, share=0.1).days == 77
    first = [2000.0] * 3 + [500.0] * 7  # returning visitors are not new
    assert arrived(first, 3) == 6000
    assert arrived(first, 17) == 6000 + 14 * 500
    assert arrived([700.0, 100.0], 5) == 700 + 100 + 700 + 100 + 700
    assert duration(plan, arrivals=first, step=1).days == 7
    with pytest.raises(Refused, match="ten years"):
        duration(10**9, arrivals=10.0)


def test_the_table_of_weeks_gives_the_effect_of_each():
    plan = plan_proportions(base=0.1, effect=0.02)
    rows = duration_table(plan, arrivals=1000.0, weeks=(1, 2, 4))
    assert [row.units for row in rows] == [7000, 14_000, 28_000]
    for row in rows:
        assert row.effect == pytest.approx(
            plan_proportions(base=0.1, n=row.units // 2, power=plan.power).effect, rel=1e-3
        )
    assert rows[0].effect > rows[1].effect > rows[2].effect
    assert duration_table(plan, arrivals=0.5, weeks=(1,))[0].effect is None
    assert json.loads(json.dumps([row.to_dict() for row in rows]))[0]["weeks"] == 1


def test_plans_print_and_become_plain_data():
    plan = plan_means(sd=2.0, effect=0.1, clusters=Clusters(5, 0.1), comparisons=2)
    data = json.loads(json.dumps(plan.to_dict()))
    assert (data["kind"], data["total"], data["comparisons"]) == ("means", plan.total, 2)
    assert data["clusters"]["design_effect"] == pytest.approx(1.4)
    assert "each treatment" in str(plan)
    assert str(duration(plan, arrivals=1000.0)).startswith(f"{duration(plan, arrivals=1000.0).days} days")


def test_huge_tiny_and_negative_effects_have_plans():
    assert plan_means(sd=1.0, effect=1e-5).n[0] == pytest.approx(2 * 7.849e10, rel=1e-3)
    assert plan_means(sd=1.0, effect=50.0).n == (2, 2)
    assert plan_means(sd=1.0, effect=-0.1).n == plan_means(sd=1.0, effect=0.1).n
    assert plan_means(sd=1e9, effect=1e8).n == plan_means(sd=1.0, effect=0.1).n
    assert plan_proportions(base=1e-6, relative=1.0).n[0] == pytest.approx(2.35e7, rel=0.01)
    assert plan_proportions(base=0.5, effect=0.5).power > 0.8
    assert plan_means(sd=1.0, effect=0.001, n=10**12).power == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plan_means(sd=1.0), "give two"),
        (lambda: plan_means(sd=1.0, effect=0.1, n=10, power=0.8), "give two"),
        (lambda: plan_means(sd=0.0, effect=0.1), "sd is"),
        (lambda: plan_means(sd=1.0, effect=0.0), "other than 0"),
        (lambda: plan_means(sd=1.0, effect=math.nan), "other than 0"),
        (lambda: plan_means(sd=1.0, effect=1e-9), "larger one"),
        (lambda: plan_means(sd=1.0, effect=-0.1, alternative="greater"), "one direction"),
        (lambda: plan_means(sd=1.0, effect=0.1, power=1.0), "power is 1"),
        (lambda: plan_means(sd=1.0, n=100, power=0.04), "not above alpha"),
        (lambda: plan_means(sd=1.0, n=1), "2 units at least"),
        (lambda: plan_means(sd=1.0, effect=0.1, ratio=0.0), "ratio is 0"),
        (lambda: plan_means(sd=1.0, effect=0.1, comparisons=0), "comparisons is 0"),
        (lambda: plan_means(sd=1.0, effect=0.1, r2=1.0), "r2 is 1"),
        (lambda: plan_means(sd=1.0, relative=0.1), "needs a base"),
        (lambda: plan_means(sd=1.0, relative=0.1, base=0.0), "needs a base"),
        (lambda: plan_proportions(base=0.0, effect=0.1), "base is 0"),
        (lambda: plan_proportions(base=0.95, effect=0.1), "no proportion"),
        (lambda: plan_proportions(base=0.98, n=10), "take more units"),
        (lambda: exact_power(0.1, 0.2, (10, 10**6)), "sizes"),
        (lambda: Clusters(0.5, 0.1), "clusters have size"),
        (lambda: duration(10, arrivals=0.0), "arrivals"),
        (lambda: duration(10, arrivals=5.0, share=0.0), "share is 0"),
        (lambda: r_squared(Stats.of({"y": [1.0, 1.0, 1.0], "x": [1.0, 2.0, 3.0]}), "y", "x"), "tell no"),
        (lambda: plan_ratios(Stats.of({"x": [1.0, 2.0], "y": [-1.0, 1.1]}), "x", "y", relative=0.1), "errors from zero"),
        (lambda: plan_ratios(Stats.of({"x": [1.0, 2.0] * 50, "y": [1.0, 2.0] * 50}), "x", "y", relative=0.1), "no noise"),
    ],
)  # fmt: skip
def test_impossible_plans_say_why(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_unknown_tests_name_the_known():
    with pytest.raises(UnknownName, match="arcsine"):
        plan_proportions(base=0.1, effect=0.1, test="arcsin")
