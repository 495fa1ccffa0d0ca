"""Group-sequential designs against published tables and simulation."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from flyball.errors import InputError, UnknownName
from flyball.experiments.sequential.group import KINDS, GroupDesign, group_design, spent
from flyball.experiments.sequential.recursion import crossings
from flyball.experiments.sequential.trial import OPEN, GroupTrial


def brownian(rng, runs, times, drift=0.0):
    """Return Z at each look, shape (runs, looks)."""
    t = np.asarray(times)
    steps = np.diff(t, prepend=0.0)
    score = (rng.normal(0, np.sqrt(steps), (runs, len(t))) + drift * steps).cumsum(axis=1)
    return score / np.sqrt(t)


@pytest.mark.parametrize(
    ("kind", "looks", "level", "last"),
    [  # Jennison and Turnbull (2000), tables 2.1 and 2.3
        ("pocock", 2, 0.95, 2.178), ("pocock", 3, 0.95, 2.289), ("pocock", 4, 0.95, 2.361), ("pocock", 5, 0.95, 2.413),
        ("pocock", 10, 0.95, 2.555), ("pocock", 5, 0.90, 2.122), ("pocock", 5, 0.99, 2.986),
        ("obrien-fleming", 2, 0.95, 1.977), ("obrien-fleming", 3, 0.95, 2.004), ("obrien-fleming", 4, 0.95, 2.024),
        ("obrien-fleming", 5, 0.95, 2.040), ("obrien-fleming", 10, 0.95, 2.087), ("pocock", 1, 0.95, 1.960),
    ],
)  # fmt: skip
def test_classical_constants_are_the_published_ones(kind, looks, level, last):
    assert group_design(kind, looks=looks, level=level).boundaries[-1] == pytest.approx(last, abs=6e-4)


def test_obrien_fleming_falls_as_the_root_of_time():
    design = group_design("obrien-fleming", looks=5)
    assert design.boundaries == pytest.approx([2.0400 * math.sqrt(5 / k) for k in range(1, 6)], abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "published"),
    [  # Lan and DeMets (1983); the same figures by ldbounds and by SAS SEQDESIGN
        ("lan-demets-obrien-fleming", [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        ("lan-demets-pocock", [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
    ],
)
def test_spending_boundaries_are_the_published_ones(kind, published):
    assert group_design(kind, looks=5).boundaries == pytest.approx(published, abs=3e-4)


def test_inflation_factors_are_the_published_ones():  # Jennison and Turnbull (2000), tables 2.2 and 2.4
    pocock, fleming = group_design("pocock", looks=5), group_design("obrien-fleming", looks=5)
    assert (pocock.inflation(power=0.8), pocock.inflation(power=0.9)) == pytest.approx((1.229, 1.207), abs=6e-4)
    assert (fleming.inflation(power=0.8), fleming.inflation(power=0.9)) == pytest.approx((1.028, 1.026), abs=6e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_every_design_spends_its_error_and_no_more(kind, alternative):
    looks = [0.15, 0.4, 0.45, 0.8, 1.0]
    design = group_design(kind, looks=looks, alternative=alternative)
    assert design.spent[-1] == pytest.approx(0.05, abs=1e-8)
    z = brownian(np.random.default_rng(1), 40_000, looks)
    z = np.abs(z) if alternative == "two-sided" else z
    alarms = (z >= design.boundaries).any(axis=1).mean()
    assert alarms == pytest.approx(0.05, abs=3.3 * math.sqrt(0.05 * 0.95 / 40_000))


def test_power_and_expected_size_agree_with_simulation():
    design = group_design("lan-demets-pocock", looks=4)
    drift = design.drift(power=0.8)
    z = brownian(np.random.default_rng(2), 40_000, design.times, drift)
    crossed = z >= design.boundaries
    assert crossed.any(axis=1).mean() == pytest.approx(0.8, abs=3.3 * 0.4 / 200)
    stop = np.where((np.abs(z) >= design.boundaries).any(axis=1), (np.abs(z) >= design.boundaries).argmax(axis=1), 3)
    time = np.array(design.times)[stop]
    assert time.mean() == pytest.approx(design.expected_time(drift), abs=3.3 * time.std() / 200)
    assert design.expected_time(drift) * design.inflation(power=0.8) < 0.9  # cheaper than the fixed test on average


def test_the_recursion_agrees_with_a_bivariate_normal():
    low, up = crossings([0.3, 1.0], [-math.inf] * 2, [2.0, 1.8], drift=0.5)
    mean = [0.5 * math.sqrt(0.3), 0.5]
    both = stats.multivariate_normal(mean, [[1, math.sqrt(0.3)], [math.sqrt(0.3), 1]])
    assert up[0] == pytest.approx(stats.norm.sf(2.0 - mean[0]))
    assert up[1] == pytest.approx(stats.norm.cdf(2.0 - mean[0]) - both.cdf([2.0, 1.8]), abs=1e-6)
    assert low == pytest.approx([0.0, 0.0], abs=1e-12)


def test_looks_that_nearly_coincide_and_a_hundred_of_them_are_no_trouble():
    times, ends = [0.5, 0.501], [2.0, 2.1]
    law = stats.multivariate_normal([0, 0], [[1, math.sqrt(0.5 / 0.501)], [math.sqrt(0.5 / 0.501), 1]])
    exact = stats.norm.cdf(2.0) - law.cdf(ends)
    assert crossings(times, [-math.inf] * 2, ends)[1][1] == pytest.approx(exact, abs=1e-6)
    with pytest.raises(InputError, match="nearly coincide"):
        group_design("lan-demets-pocock", looks=[0.5, 0.5 + 1e-9, 1.0])
    many = group_design("lan-demets-pocock", looks=100)
    assert many.spent[-1] == pytest.approx(0.05, abs=1e-7)


def test_futility_boundaries_meet_at_the_end_and_keep_the_power_they_promise():
    design = group_design("lan-demets-obrien-fleming", looks=4, level=0.975, alternative="greater")
    with_futility = design.with_futility(power=0.9)
    assert list(with_futility.futility) == sorted(with_futility.futility)
    assert with_futility.futility[-1] == design.boundaries[-1]
    assert with_futility.boundaries == design.boundaries  # non-binding
    assert with_futility.expected_time(0.0) < 0.8 * design.expected_time(0.0)
    with pytest.raises(InputError, match="one-sided"):
        group_design().with_futility(power=0.9)


def test_a_trial_with_other_times_than_planned_keeps_its_level():
    rng, runs, alarms = np.random.default_rng(3), 1500, 0
    design = group_design("lan-demets-obrien-fleming", looks=3)
    times = [0.21, 0.5, 0.77, 1.0]  # a look more than planned
    boundaries = group_design("lan-demets-obrien-fleming", looks=times).boundaries
    trial = GroupTrial.of(design)
    for time in times:
        trial = trial.look(time, 0.0)
    assert trial.boundaries == pytest.approx(boundaries, abs=1e-9)
    assert trial.finished
    alarms = (np.abs(brownian(rng, runs, times)) >= boundaries).any(axis=1).sum()
    assert alarms <= stats.binom.ppf(0.999, runs, 0.05)


def test_less_mirrors_greater():
    up, down = (GroupTrial.of(group_design(alternative=a)) for a in ("greater", "less"))
    for time, z in ((0.2, 0.5), (0.6, 1.0), (0.8, 2.9)):
        up, down = up.look(time, z), down.look(time, -z)
    assert (up.boundaries, up.p, up.stopped) == (pytest.approx(down.boundaries), pytest.approx(down.p), down.stopped)
    one, other = up.estimate(2.9, 1.0), down.estimate(-2.9, 1.0)
    assert (one.effect, one.lower) == (pytest.approx(-other.effect), pytest.approx(-other.upper))
    assert up.repeated(2.9, 1.0)[0] == pytest.approx(-down.repeated(-2.9, 1.0)[1])


def test_stage_wise_answers_cover_and_are_median_unbiased():
    rng, runs = np.random.default_rng(4), 250
    design = group_design("pocock", looks=3)
    z = brownian(rng, runs, design.times, drift := 2.0)
    covered, below, p_null = 0, 0, []
    for row in z:
        trial = GroupTrial.of(design)
        for time, value in zip(design.times, row, strict=True):
            trial = trial.look(time, float(value))
            if trial.stopped:
                break
        se = 1.0 / math.sqrt(trial.times[-1])
        found = trial.estimate(trial.zs[-1] * se, se)
        covered += found.lower <= drift <= found.upper
        below += found.effect < drift
        assert found.significant == (found.p < 0.05) == trial.stopped
        p_null.append(found.p)
    assert covered >= stats.binom.ppf(0.001, runs, 0.95)
    assert stats.binom.ppf(0.001, runs, 0.5) <= below <= stats.binom.ppf(0.999, runs, 0.5)


def test_stage_wise_p_values_are_uniform_without_an_effect():
    design = group_design("lan-demets-obrien-fleming", looks=3)
    found = []
    for row in brownian(np.random.default_rng(5), 300, design.times):
        trial = GroupTrial.of(design)
        for time, value in zip(design.times, row, strict=True):
            trial = trial.look(time, float(value))
            if trial.stopped:
                break
        found.append(trial.p)
    assert stats.kstest(found, "uniform").pvalue > 0.001


def test_repeated_intervals_hold_at_every_look():
    design = group_design("pocock", looks=5)
    z = brownian(np.random.default_rng(6), 20_000, design.times)
    assert (np.abs(z) > design.boundaries).any(axis=1).mean() <= 0.05 + 3.3 * math.sqrt(0.05 * 0.95 / 20_000)
    lower, upper = GroupTrial.of(design).look(0.2, 1.0).repeated(1.0, 1.0)
    assert (lower, upper) == pytest.approx((1.0 - 2.413, 1.0 + 2.413), abs=1e-3)


def test_a_trial_resumes_bit_for_bit_and_ends_when_it_ends():
    trial = GroupTrial.of(group_design(looks=3)).look(0.3, 0.4)
    again = GroupTrial.from_dict(json.loads(json.dumps(trial.to_dict())))
    assert again == trial
    assert again.look(0.6, 1.0) == trial.look(0.6, 1.0)
    assert OPEN in trial.estimate(0.4, 1.0).notes
    early = trial.finish(0.7, 2.1)
    assert early.finished
    assert early.boundaries[-1] < trial.look(0.7, 2.1).boundaries[-1]  # what is left is spent
    with pytest.raises(InputError, match="ended at its look 2"):
        early.look(0.9, 1.0)
    late = trial.finish(1.2, 2.1)
    assert late.finished


def test_wrong_designs_and_looks_are_refused():
    with pytest.raises(UnknownName, match="pocock"):
        group_design("pococ")
    for looks in (0, [], [0.5, 0.4, 1.0], [0.5, 0.9], [0.0, 1.0]):
        with pytest.raises(InputError, match="looks"):
            group_design(looks=looks)
    with pytest.raises(InputError, match="rho is 0"):
        group_design("power", rho=0.0)
    with pytest.raises(InputError, match="as planned"):
        GroupTrial.of(group_design("pocock", looks=2)).finish(0.7, 1.0)
    with pytest.raises(InputError, match=r"comes at 0\.5"):
        GroupTrial.of(group_design("pocock", looks=2)).look(0.4, 1.0)
    trial = GroupTrial.of(group_design())
    for time, z in ((0.0, 1.0), (0.2, math.nan)):
        with pytest.raises(InputError, match="time grows"):
            trial.look(time, z)
    with pytest.raises(InputError, match="no look yet"):
        trial.estimate(1.0, 1.0)
    with pytest.raises(InputError, match="standard error is 0"):
        trial.look(0.2, 1.0).estimate(1.0, 0.0)
    with pytest.raises(InputError, match="no spending function"):
        spent("pocock", 0.5, alpha=0.05)
    assert isinstance(str(group_design()), str)
    assert GroupDesign.to_dict(group_design(looks=2))["times"] == [0.5, 1.0]
