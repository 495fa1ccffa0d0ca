"""The law of the release, by simulation through the real ledger: harmless candidates stay, bad ones go soon."""

import numpy as np
import pytest
from scipy.stats import binom

from flyball import Rollout, guard
from flyball.testing.trials import Arm, Stage, trial

RAILS = [
    guard.errors(weight=3),
    guard.latency(p99="50ms"),
    guard.metric("mae", margin="1%"),
    guard.metric("mse", margin="1%"),
]
SPEC = Rollout(steps=["1%", "10%", "50%"], bake="12h", guardrails=RAILS)
METRICS = {"mae": (1.0, 0.8), "mse": (2.0, 3.0)}
HEALTHY = Arm({"errors": 0.001, "latency": 0.01}, METRICS)
SHORT = (Stage(0.01, 300, 5), Stage(0.1, 300, 50), Stage(0.5, 300, 200))  # 76,500 canary requests
LONG = (Stage(0.01, 500, 20), Stage(0.1, 500, 180), Stage(0.5, 1800, 500))  # a million


def rolled_back(runs, plan, arm, seed):
    return sum(
        bool(trial(SPEC, plan, arm, arm, np.random.default_rng((seed, k)), stop=False).guardrail) for k in range(runs)
    )


def waits(runs, share, bad, seed):
    found = [
        trial(SPEC, [Stage(share, 8000, 1.0)], Arm(bad), Arm(HEALTHY.rates), np.random.default_rng((seed, k)))
        for k in range(runs)
    ]
    return [v.requests for v in found], {v.guardrail for v in found}


def most(runs):
    """Return the number of false rollbacks that 1 % would exceed once in 10,000 times."""
    return binom.isf(1e-4, runs, 0.01)


def upper(sample, quantile):
    """Return a bound on a quantile's estimate: the order statistic four standard errors below its rank."""
    rank = quantile * len(sample) - 4 * np.sqrt(len(sample) * quantile * (1 - quantile))
    return sorted(sample)[max(0, int(rank))]


def test_equal_versions_are_left_alone_at_every_look():
    assert rolled_back(40, SHORT, HEALTHY, 1) <= most(40)


def test_users_who_try_five_times_do_not_make_a_harmless_candidate_look_bad():
    tries = Arm({"errors": 0.001, "latency": 0.01}, METRICS, repeats=5)
    assert rolled_back(40, SHORT, tries, 2) <= most(40)


@pytest.mark.parametrize(
    ("share", "rate", "median", "p95"),
    [(0.01, 0.01, 600, 1700), (0.1, 0.01, 600, 1700), (0.01, 0.05, 70, 170), (0.05, 0.05, 70, 170)],
)
def test_failing_candidates_are_found_after_few_requests(share, rate, median, p95):
    took, by = waits(50, share, {"errors": rate, "latency": 0.01}, 3)
    assert by == {"errors"}
    assert upper(took, 0.5) <= median
    assert upper(took, 0.95) <= p95


def test_slower_candidates_are_found_after_few_requests():  # log-normal, p99 twice the median, times 1.5
    took, by = waits(50, 0.01, {"errors": 0.001, "latency": 0.165}, 4)
    assert by == {"latency"}
    assert upper(took, 0.5) <= 130
    assert upper(took, 0.95) <= 350


def test_half_as_many_errors_again_are_caught_before_half_of_the_traffic():
    usual, worse = Arm({"errors": 0.01, "latency": 0.01}), Arm({"errors": 0.015, "latency": 0.01})
    plan = (Stage(0.01, 100, 50), Stage(0.1, 250, 200))  # 12 h a step at 1M requests a day
    runs = 40
    caught = sum(
        trial(SPEC, plan, worse, usual, np.random.default_rng((5, k)), stop=False).guardrail == "errors"
        for k in range(runs)
    )
    assert runs - caught <= binom.isf(1e-4, runs, 0.02)


def test_a_worse_metric_is_named():
    worse = Arm(HEALTHY.rates, {"mae": (1.3, 0.8), "mse": (2.0, 3.0)})
    assert trial(SPEC, SHORT, worse, HEALTHY, np.random.default_rng(6)).guardrail == "mae"


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 5])
def test_at_most_one_in_a_hundred_is_rolled_back_over_a_million_requests(repeats):
    arm = Arm({"errors": 0.001, "latency": 0.01}, METRICS, repeats=repeats)
    assert rolled_back(400, LONG, arm, 10 + repeats) / 400 <= 0.025  # the bound at 400 runs


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 0.02, 0.05, 0.1])
@pytest.mark.parametrize(("rate", "median", "p95"), [(0.01, 600, 1700), (0.05, 80, 200)])  # 70 / 170 at 1 %
def test_failing_candidates_are_found_after_few_requests_in_many_runs(share, rate, median, p95):
    took, _ = waits(1000, share, {"errors": rate, "latency": 0.01}, 20)
    assert upper(took, 0.5) <= median
    assert upper(took, 0.95) <= p95
