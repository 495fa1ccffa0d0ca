"""Novelty, weekdays, Simpson, exposure, outliers: against statsmodels, scipy and brute force."""

import json
import math

import numpy as np
import pytest
from experiments_kit import rate
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import WLS
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.tools import add_constant

from flyball.errors import InputError
from flyball.experiments.stats import Moments, moments
from flyball.experiments.trust.check import Verdict
from flyball.experiments.trust.exposure import exposure, exposure_of
from flyball.experiments.trust.heterogeneity import heterogeneity, weekday_effects
from flyball.experiments.trust.novelty import novelty, novelty_panel
from flyball.experiments.trust.outliers import influence
from flyball.experiments.trust.simpson import simpson


def drawn(rng, effects, n=400):
    return {i: (moments(rng.normal(e, 1, n)), moments(rng.normal(0, 1, n + 50))) for i, e in enumerate(effects)}


def test_cochrans_q_is_that_of_statsmodels():
    groups = drawn(np.random.default_rng(1), [0.1, 0.3, 0.0, 0.6])
    ours = heterogeneity({str(k): v for k, v in groups.items()})
    effects = np.array([g.effect for g in ours.groups])
    theirs = combine_effects(effects, np.array([g.error**2 for g in ours.groups]))
    assert ours.q == pytest.approx(theirs.q)
    assert ours.pooled == pytest.approx(theirs.mean_effect_fe)
    assert ours.error == pytest.approx(theirs.sd_eff_w_fe)
    assert ours.p == pytest.approx(stats.chi2.sf(theirs.q, 3))
    assert ours.i2 == pytest.approx(max(0.0, theirs.i2))


def test_q_cries_wolf_as_often_as_alpha_says():
    rng, runs = np.random.default_rng(2), 700
    wrong = sum(not weekday_effects(drawn(rng, [0.2] * 7, 200), alpha=0.05).check.passed for _ in range(runs))
    assert abs(wrong / runs - 0.05) < 4 * math.sqrt(0.05 * 0.95 / runs) + 0.005  # + the errors being estimated


def test_a_weekend_effect_warns_and_names_the_days():
    check = weekday_effects(drawn(np.random.default_rng(3), [0.0] * 5 + [1.0, 1.0])).check
    assert check.verdict is Verdict.WARNING
    assert "day)" in check.sentence
    with pytest.raises(InputError, match="no weekday"):
        weekday_effects({7: (Moments(), Moments())})


def test_groups_without_spread_are_left_out_and_counted():
    groups = {"a": (rate(5, 50), rate(9, 50)), "none": (rate(0, 50), rate(0, 50)), "one": (Moments(1, 1.0), rate(5, 9))}
    result = heterogeneity(groups)
    assert (len(result.groups), result.left_out, result.p) == (1, 2, 1.0)
    assert heterogeneity({"x": (Moments(), Moments())}).check.passed
    with pytest.raises(InputError):
        heterogeneity({})
    with pytest.raises(InputError, match="not finite"):
        heterogeneity({"x": (Moments(5, math.nan, 4.0), rate(5, 9))})


def test_the_trend_is_weighted_least_squares_with_known_errors():
    days = drawn(np.random.default_rng(4), [0.8, 0.5, 0.4, 0.3, 0.3])
    ours = novelty(days)
    y, w = [g.effect for g in ours.effects], [g.error**-2 for g in ours.effects]
    fit = WLS(y, add_constant(np.arange(5.0)), weights=w).fit(cov_type="fixed scale")
    assert ours.slope == pytest.approx(fit.params[1])
    assert ours.error == pytest.approx(fit.bse[1])
    assert ours.p == pytest.approx(fit.pvalues[1])
    assert ours.start == pytest.approx(fit.params[0])
    assert ours.check.verdict is Verdict.WARNING
    assert "fades" in ours.check.sentence


def test_a_growing_effect_is_told_from_a_fading_one():
    assert "grows" in novelty(drawn(np.random.default_rng(5), [0.1, 0.5, 1.0, 1.5])).check.sentence
    assert novelty(drawn(np.random.default_rng(5), [0.5] * 4)).check.passed
    assert "needs 3" in novelty({0: (rate(1, 9), rate(2, 9))}).check.sentence


def panels(rng, n, slope=0.0):
    days = np.arange(7.0)
    units = rng.normal(0, 3, (2, n, 1))  # a unit's days are alike
    noise = rng.normal(0, 1, (2, n, 7)).cumsum(axis=2)
    treatment, control = units + noise
    return treatment + 0.5 + slope * days, control


def test_a_panel_is_welchs_test_of_slopes_per_unit():
    treatment, control = panels(np.random.default_rng(6), 60, slope=-0.1)
    slopes = [np.polyfit(np.arange(7), panel.T, 1)[0] for panel in (treatment, control)]
    reference = stats.ttest_ind(*slopes, equal_var=False)
    ours = novelty_panel(treatment, control)
    assert ours.slope == pytest.approx(slopes[0].mean() - slopes[1].mean())
    assert ours.p == pytest.approx(reference.pvalue)
    far = novelty_panel(treatment + 1e9, control + 1e9)
    assert far.p == pytest.approx(ours.p, rel=1e-4)


def test_a_panel_keeps_its_level_where_days_taken_for_independent_would_not():
    rng, runs = np.random.default_rng(7), 600
    wrong = naive = 0
    for _ in range(runs):
        treatment, control = panels(rng, 40)
        wrong += novelty_panel(treatment, control, alpha=0.05).p < 0.05
        naive += novelty({d: (moments(treatment[:, d]), moments(control[:, d])) for d in range(7)}).p < 0.05
    assert abs(wrong / runs - 0.05) < 4 * math.sqrt(0.05 * 0.95 / runs)
    assert abs(naive / runs - 0.05) > 0.02


@pytest.mark.parametrize("shape", [((5, 2), (5, 2)), ((5, 4), (5, 3)), ((5,), (5,))])
def test_a_panel_of_another_shape_is_refused(shape):
    with pytest.raises(InputError):
        novelty_panel(np.ones(shape[0]), np.ones(shape[1]))


def test_a_panel_without_spread_is_refused():
    with pytest.raises(InputError, match="do not vary"):
        novelty_panel(np.ones((5, 4)), np.ones((6, 4)))


def test_berkeley_admissions_of_1973_turn_round():
    # Bickel, Hammel, O'Connell (1975): women (here the treatment) and men, departments A to F
    women = {"A": (89, 108), "B": (17, 25), "C": (202, 593), "D": (131, 375), "E": (94, 393), "F": (24, 341)}
    men = {"A": (512, 825), "B": (353, 560), "C": (120, 325), "D": (138, 417), "E": (53, 191), "F": (22, 373)}
    result = simpson({d: (rate(*women[d]), rate(*men[d])) for d in women})
    assert result.pooled == pytest.approx(557 / 1835 - 1198 / 2691)
    assert result.pooled < 0 < result.stratified
    assert result.check.verdict is Verdict.FAILED
    table = [[women[d][1] for d in women], [men[d][1] for d in men]]
    assert result.mix_p == pytest.approx(stats.chi2_contingency(table).pvalue)


def test_the_same_mix_never_reverses():
    rng = np.random.default_rng(8)
    for _ in range(200):
        sizes = rng.integers(20, 200, 3)
        groups = {i: (rate(rng.binomial(n, 0.3), n), rate(rng.binomial(n, 0.3), n)) for i, n in enumerate(sizes)}
        result = simpson(groups)
        assert not result.reversed
        assert result.pooled == pytest.approx(result.stratified)


def test_a_different_mix_warns_and_names_the_segment():
    groups = {"web": (rate(300, 1000), rate(280, 1000)), "app": (rate(300, 1000), rate(20, 100))}
    check = simpson(groups).check
    assert check.verdict is Verdict.WARNING
    assert "of the treatment" in check.sentence


def test_a_segment_that_is_harmed_while_the_rest_gain_is_named():
    groups = {"nl": (rate(700, 1000), rate(500, 1000)), "de": (rate(400, 1000), rate(500, 1000))}
    result = simpson(groups)
    assert result.against == ("de",)
    assert result.check.verdict is Verdict.WARNING


def test_simpson_refuses_an_empty_arm_and_bears_a_segment_with_one_arm():
    with pytest.raises(InputError):
        simpson({})
    with pytest.raises(InputError):
        simpson({"a": (rate(1, 5), Moments())})
    assert simpson({"a": (rate(1, 5), Moments()), "b": (rate(3, 9), rate(2, 9))}).left_out == 1


def test_exposure_is_compared_by_chi_square():
    ours = exposure({"a": 1000, "b": 1100}, {"a": 850, "b": 900})
    reference = stats.chi2_contingency([[850, 900], [150, 200]], correction=False)
    assert ours.p == pytest.approx(reference.pvalue)
    assert ours.check.passed
    assert json.dumps(ours.to_dict())


def test_units_that_met_two_arms_fail_beyond_what_is_tolerated():
    whole = {"assigned": {"a": 1000, "b": 1000}, "exposed": {"a": 900, "b": 900}}
    assert exposure(**whole, crossed=1).check.verdict is Verdict.PASSING
    assert exposure(**whole, crossed=5).check.verdict is Verdict.WARNING
    assert exposure(**whole, crossed=50).check.verdict is Verdict.FAILED


def test_exposure_needs_assigned_units():
    assert exposure({"a": 0, "b": 0}, {}).check.passed
    for wrong in ({"x": 1}, {"a": 11}, {"a": -1}):
        with pytest.raises(InputError):
            exposure({"a": 10}, wrong)
    with pytest.raises(InputError):
        exposure({"a": 10}, {"a": 1}, crossed=-1)


@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from("ab")), max_size=30))
def test_units_are_counted_once_whatever_comes_again(exposures):
    assigned = {unit: "ab"[unit % 2] for unit in range(6)}
    once, twice = exposure_of(assigned, exposures), exposure_of(assigned, exposures * 2)
    assert once == twice
    met = {u: {a for v, a in exposures if v == u} for u, _ in exposures}
    assert once.crossed == sum(arms == {"a", "b"} for arms in met.values())
    assert once.exposed["a"] == sum("a" in met.get(u, ()) for u in (0, 2, 4))


def brute_fewest(new, old, effect, most):
    a, b = np.sort(new)[::-1], np.sort(old)
    if effect < 0:
        a, b = a[::-1], b[::-1]
    for total in range(most + 1):
        for j in range(total + 1):
            gap = a[j:].mean() - b[total - j :].mean()
            if (gap <= 0) if effect > 0 else (gap >= 0):
                return total
    return None


@given(st.integers(0, 10_000))
def test_influence_equals_taking_units_away_one_by_one(seed):
    rng = np.random.default_rng(seed)
    new, old = rng.standard_t(2, 30), rng.standard_t(2, 25) + 0.1
    ours = influence(new, old)
    left = [np.delete(new, i).mean() - old.mean() for i in range(30)]
    left += [new.mean() - np.delete(old, i).mean() for i in range(25)]
    assert (ours.low, ours.high) == (pytest.approx(min(left)), pytest.approx(max(left)))
    assert ours.p == pytest.approx(stats.ttest_ind(new, old, equal_var=False).pvalue)
    assert ours.tried == 10
    assert ours.fewest == brute_fewest(new, old, ours.effect, 10)
    turned = influence(old, new)
    assert (turned.effect, turned.fewest) == (pytest.approx(-ours.effect), ours.fewest)


def test_one_whale_makes_the_verdict_and_warns():
    rng = np.random.default_rng(9)
    new, old = rng.normal(0.0, 1, 500), rng.normal(0, 1, 500)
    new += old.mean() - new.mean() + 0.12
    new[0] += 6.0
    result = influence(new, old, fragile=0.05)
    assert result.check.verdict is Verdict.WARNING
    assert influence(rng.normal(1, 1, 500), old).check.passed
    with pytest.raises(InputError):
        influence([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(InputError):
        influence([1.0, 2.0, math.nan], [1.0, 2.0, 3.0])


def test_influence_bears_no_spread_and_a_far_offset():
    assert influence([1.0] * 5, [1.0] * 5).fewest == 0
    flat = influence([2.0] * 5, [1.0] * 5)
    assert (flat.p, flat.without, flat.fewest) == (0.0, 0.0, None)
    rng = np.random.default_rng(10)
    new, old = rng.normal(0.2, 1, 300), rng.normal(0, 1, 300)
    near, far = influence(new, old), influence(new + 1e9, old + 1e9)
    assert far.fewest == near.fewest
    assert far.carries == pytest.approx(near.carries, rel=1e-4)
