"""What looking early costs, against simulation and the fixed test."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative
from flyball.experiments.power.means import plan_means
from flyball.experiments.power.proportions import plan_proportions
from flyball.experiments.power.sequential import Stopping, plan_group, plan_mixture, simulate_odds
from flyball.experiments.sequential.group import group_design
from flyball.experiments.sequential.mixture import mixture_p, mixture_tau2


def test_a_group_plan_costs_the_published_inflation_and_less_on_average():
    plan = plan_means(sd=1.0, effect=0.1)
    pocock = plan_group(plan, group_design("pocock", looks=5))
    fleming = plan_group(plan, group_design("obrien-fleming", looks=5))
    assert pocock.inflation == pytest.approx(1.229, abs=2e-3)  # Jennison and Turnbull (2000), table 2.2
    assert fleming.inflation == pytest.approx(1.028, abs=2e-3)  # table 2.4
    assert pocock.power == pytest.approx(plan.power, abs=1e-6)
    assert pocock.alarmed[-1] == pytest.approx(0.05, abs=1e-6)
    assert pocock.expected < fleming.expected < plan.total
    assert pocock.expected_null > plan.total


def test_simulated_group_trials_stop_when_the_plan_says():
    plan = plan_means(sd=1.0, effect=0.2)
    design = group_design("lan-demets-obrien-fleming", looks=4)
    cost = plan_group(plan, design)
    rng, runs, n = np.random.default_rng(1), 20_000, np.array(cost.n) / 2  # of each arm
    steps = np.diff(n, prepend=0)
    sums = rng.normal(0.2 * steps, np.sqrt(2 * steps), (runs, 4)).cumsum(axis=1)
    crossed = sums / np.sqrt(2 * n) >= design.boundaries
    assert crossed.any(axis=1).mean() == pytest.approx(cost.power, abs=3.3 * 0.4 / math.sqrt(runs) + 0.002)
    assert crossed[:, :2].any(axis=1).mean() == pytest.approx(cost.power_by(cost.n[1]), abs=3.3 * 0.5 / math.sqrt(runs))


def test_simulated_mixture_sequences_stop_when_the_plan_says():
    plan = plan_means(sd=1.0, effect=0.2)
    cost = plan_mixture(plan, looks=40)
    rng, runs, n = np.random.default_rng(2), 4000, np.array(cost.n) / 2
    steps = np.diff(n, prepend=0)
    tau2 = mixture_tau2(4.0, tuned=float(plan.total), alpha=0.05, alternative=Alternative.TWO_SIDED)
    sums = rng.normal(0.2 * steps, np.sqrt(2 * steps), (runs, 40)).cumsum(axis=1) / n
    edge = []
    for k in n:  # the effect at which the sequence itself says p = 0.05
        low, high = 0.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            p = mixture_p(middle, 2 / k, tau2=tau2, alternative=Alternative.TWO_SIDED)
            low, high = (low, middle) if p <= 0.05 else (middle, high)
        edge.append(high)
    crossed = sums >= edge
    stop = np.where(crossed.any(axis=1), crossed.argmax(axis=1), 39)
    assert crossed.any(axis=1).mean() == pytest.approx(cost.power, abs=3.3 * 0.4 / math.sqrt(runs) + 0.002)
    spent = 2 * n[stop]
    assert spent.mean() == pytest.approx(cost.expected, abs=3.3 * spent.std() / math.sqrt(runs) + 2)
    assert cost.alarmed[-1] < 0.05
    assert (
        cost.median == cost.n[int(np.median(stop))]
        or abs(cost.median - 2 * n[int(np.median(stop))]) <= 2 * steps[0] + 1
    )


def test_a_one_sided_sequence_costs_less_and_more_looks_cost_little():
    plan, one = plan_means(sd=1.0, effect=0.1), plan_means(sd=1.0, effect=0.1, alternative="greater")
    assert plan_mixture(one).horizon < plan_mixture(plan).horizon
    assert plan_mixture(one).power == pytest.approx(one.power, abs=1e-3)
    less = plan_means(sd=1.0, effect=-0.1, alternative="less")
    assert plan_mixture(less).horizon == plan_mixture(one).horizon
    few, many = plan_mixture(plan, looks=20), plan_mixture(plan, looks=60)
    assert 0.9 * few.horizon < many.horizon <= few.horizon  # more chances to cross, at no error


def test_an_msprt_tuned_to_the_effect_beats_one_that_is_not():
    plan = plan_means(sd=1.0, effect=0.1)
    right, wrong = plan_mixture(plan, tau=0.1), plan_mixture(plan, tau=3.0)
    assert right.method == "mSPRT"
    assert right.expected < wrong.expected
    assert right.horizon < wrong.horizon


def test_power_by_horizon_grows():
    plan = plan_proportions(base=0.1, effect=0.02)
    powers = [plan_mixture(plan, horizon=h).power for h in (2000, 8000, 20_000)]
    assert powers == sorted(powers)
    assert powers[-1] > plan.power
    short = plan_mixture(plan, horizon=2000)
    assert short.median is None
    assert short.power_by(10) == 0.0
    assert json.loads(json.dumps(short.to_dict()))["median"] is None
    assert "times the fixed" in str(short)


def test_the_odds_test_is_as_fast_as_told_and_seldom_wrong():
    rng = np.random.default_rng(3)
    worse = simulate_odds(base=0.001, factor=10.0, share=0.05, rng=rng, runs=150, horizon=6000)
    assert worse.found == 1.0
    assert worse.quantile(0.5) <= 600
    equal = simulate_odds(base=0.02, factor=1.0, share=0.1, rng=rng, runs=300, horizon=1500, every=50)
    assert len(equal.sizes) <= stats.binom.ppf(0.999, 300, 0.01)
    assert equal.quantile(0.95) == math.inf
    assert json.loads(json.dumps(equal.to_dict()))["p95"] is None


def test_the_odds_simulation_is_seeded():
    runs = [simulate_odds(base=0.01, factor=8.0, share=0.2, rng=np.random.default_rng(4), runs=20) for _ in range(2)]
    assert runs[0] == runs[1]
    assert Stopping(2, 10, (4,)).quantile(0.5) == 4


def test_plans_that_do_not_fit_are_refused():
    plan = plan_means(sd=1.0, effect=0.1)
    with pytest.raises(InputError, match="make them agree"):
        plan_group(plan, group_design(level=0.9))
    with pytest.raises(InputError, match="make them agree"):
        plan_group(plan, group_design(alternative="greater"))
    with pytest.raises(InputError, match="looks is 0"):
        plan_mixture(plan, looks=0)
    with pytest.raises(InputError, match="horizon is 1"):
        plan_mixture(plan, horizon=1)
    with pytest.raises(InputError, match="tau is 0"):
        plan_mixture(plan, tau=0.0)
    with pytest.raises(InputError, match="needs one between"):
        plan_mixture(plan_means(sd=1.0, effect=10.0, n=1000))
    with pytest.raises(InputError, match="between 0 and 1"):
        simulate_odds(base=0.5, factor=3.0, share=0.1, rng=np.random.default_rng(1))
    with pytest.raises(InputError, match="at least 1"):
        simulate_odds(base=0.1, factor=3.0, share=0.1, rng=np.random.default_rng(1), runs=0)
