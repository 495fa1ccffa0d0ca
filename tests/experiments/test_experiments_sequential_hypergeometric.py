"""The conditional odds-ratio test against scipy's law, by enumeration, at rates of 5 to 50 %, and beside the rare one."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.sequential.hypergeometric import _GRID, _WEIGHTS, Hypergeometric, _block
from flyball.experiments.sequential.odds import OddsProcess, odds

counts = st.integers(0, 12)
ONE = len(_GRID) // 2


def arms(rng, runs, blocks, size, rate, factor=1.0):
    """Return failures of both arms in every block; the rate of a block wanders, as a day's does."""
    wander = rate * rng.uniform(0.6, 1.4, (runs, blocks))
    return rng.binomial(size, np.minimum(wander * factor, 1.0)), rng.binomial(size, wander)


def evidence(failed, others, size):
    """Return log e-values of "greater" after every block, shape (runs, blocks), from the code's own block table."""
    table = np.array([[_block(a, size, b, size) for b in range(size + 1)] for a in range(size + 1)])[:, :, ONE:]
    gains = table[:, :, 1:] - table[:, :, :1]
    weights = np.array(_WEIGHTS)[: len(_GRID) - ONE - 1]
    norm = np.log(np.exp(_WEIGHTS).sum())
    logs, found = np.zeros((len(failed), gains.shape[2])), []
    for i in range(failed.shape[1]):
        logs += gains[failed[:, i], others[:, i]]
        both = logs + weights
        top = both.max(axis=1)
        found.append(top + np.log(np.exp(both - top[:, None]).sum(axis=1)) - norm)
    return np.array(found).T


def test_a_block_has_the_likelihood_of_fishers_law():
    gained = _block(7, 30, 4, 50)
    for i in (60, 95, 100, 120, 150):
        law = stats.nchypergeom_fisher(80, 30, 11, math.exp(_GRID[i]))
        null = stats.nchypergeom_fisher(80, 30, 11, 1.0)
        assert gained[i] == pytest.approx(law.logpmf(7) - null.logpmf(7), abs=1e-9)


def test_large_and_small_blocks_are_judged_alike():
    large = _block(150, 1000, 130, 900)  # by arrays
    for i in (80, 110, 140):
        law, null = (stats.nchypergeom_fisher(1900, 1000, 280, r) for r in (math.exp(_GRID[i]), 1.0))
        assert large[i] == pytest.approx(law.logpmf(150) - null.logpmf(150), abs=1e-6)


@pytest.mark.parametrize("side", ["greater", "less", "two-sided"])
@pytest.mark.parametrize(("m", "n", "failures"), [(5, 9, 4), (20, 20, 19), (3, 40, 20)])
def test_the_expectation_over_all_tables_is_at_most_one(side, m, n, failures):
    for factor in (1.0, 0.7 if side == "greater" else 1.4 if side == "less" else 1.0):
        law = stats.nchypergeom_fisher(m + n, m, failures, factor)
        total = 0.0
        for a in range(max(0, failures - n), min(m, failures) + 1):
            state = Hypergeometric(block=1).add((a, m), (failures - a, n))
            total += law.pmf(a) * math.exp(state.log_e(alternative=side))
        assert total <= 1.0 + 1e-9
        if factor == 1.0 and side != "two-sided":
            assert total > 0.97  # exactly 1, but for weights beyond the grid


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_looks_after_every_block_seldom_alarm_between_equal_arms_at_any_rate(rate):
    rng, runs, alpha = np.random.default_rng(1), 1000, 0.05
    failed, others = arms(rng, runs, 300, 20, rate)
    log_e = evidence(failed, others, 20)
    state = Hypergeometric()
    for a, b in zip(failed[0, :30], others[0, :30], strict=True):
        state = state.add((int(a), 20), (int(b), 20))
    assert state.log_e() == pytest.approx(log_e[0, 29], abs=1e-9)  # the array is the code's own answer
    alarms = (log_e.max(axis=1) >= -math.log(alpha)).sum()
    assert alarms <= stats.binom.ppf(0.999, runs, alpha)


def test_common_failures_are_found_sooner_than_by_the_odds_of_rare_ones():
    rng = np.random.default_rng(2)
    size, rate, runs = 20, 0.3, 60
    failed, others = arms(rng, runs, 300, size, rate, factor=1.25)
    crossed = evidence(failed, others, size) >= math.log(20)
    exact = np.where(crossed.any(axis=1), crossed.argmax(axis=1), 300)
    rare = []
    for one, other in zip(failed, others, strict=True):
        process, stop = OddsProcess(), 300
        for i, (a, b) in enumerate(zip(one.tolist(), other.tolist(), strict=True)):
            process = process.fail(candidate=a, control=b, odds=odds((size * (i + 1), size * (i + 1)), known=1.0))
            if process.breached(0.05):
                stop = i
                break
        rare.append(stop)
    assert np.median(exact) < 0.75 * np.median(rare)
    assert crossed.any(axis=1).mean() > 0.95
    n = 2 * size * (np.median(exact) + 1)  # both arms
    fixed = 2 * (1.645 + 0.0) ** 2 * (0.375 * 0.625 + 0.3 * 0.7) / 0.075**2  # half of the fixed tests would find it
    assert n < 4 * fixed


def test_the_odds_ratio_lies_in_its_interval_at_all_looks():
    rng, runs, missed, truth = np.random.default_rng(3), 100, 0, 0.3 / 0.7 / (0.2 / 0.8)
    for _ in range(runs):
        state, out = Hypergeometric(), False
        for _ in range(20):
            state = state.add((int(rng.binomial(40, 0.3)), 40), (int(rng.binomial(60, 0.2)), 60))
            found = state.estimate(level=0.9)
            out |= not found.lower <= truth <= found.upper
        missed += out
    assert missed <= stats.binom.ppf(0.999, runs, 0.1)


@given(a=counts, b=counts, c=counts, d=counts)
@settings(max_examples=40, deadline=None)
def test_merging_is_exact_in_any_order_and_survives_its_dictionary(a, b, c, d):
    one = Hypergeometric(block=1).add((a, 12), (b, 15))
    other = Hypergeometric(block=1).add((c, 20), (d, 12))
    both = Hypergeometric(block=1).add((a, 12), (b, 15)).add((c, 20), (d, 12))
    assert one.merge(other) == other.merge(one) == both
    assert Hypergeometric.from_dict(json.loads(json.dumps(both.to_dict()))) == both


@given(a=counts, b=counts)
@settings(max_examples=40, deadline=None)
def test_swapping_the_arms_turns_the_ratio_over(a, b):
    there = Hypergeometric(block=1).add((a, 12), (b, 30))
    back = Hypergeometric(block=1).add((b, 30), (a, 12))
    assert there.log_e(alternative="greater") == pytest.approx(back.log_e(alternative="less"), abs=1e-9)
    one, other = there.estimate(), back.estimate()
    assert one.effect == pytest.approx(1 / other.effect)
    assert one.p == pytest.approx(other.p)
    if other.upper < math.inf:
        assert one.lower == pytest.approx(1 / other.upper)


def test_blocks_wait_until_both_arms_are_large_enough():
    state = Hypergeometric(block=20).add((5, 19), (9, 90))
    assert state.pending == (5, 19, 9, 90)
    assert state.log_e() == pytest.approx(0.0, abs=1e-9)
    assert state.add((0, 1), (0, 0)).treatment == (5, 20)
    assert state.close().treatment == (5, 19)
    assert Hypergeometric().close() == Hypergeometric()
    with pytest.raises(InputError, match="still pending"):
        state.merge(Hypergeometric())


@pytest.mark.parametrize(
    ("one", "other"), [((0, 0), (0, 0)), ((0, 50), (0, 50)), ((50, 50), (50, 50)), ((1, 1), (0, 0)), ((0, 1), (0, 1))]
)
def test_none_all_and_nothing_say_nothing(one, other):
    found = Hypergeometric(block=1).add(one, other).close().estimate()
    assert found.p == pytest.approx(1.0, abs=1e-9)
    assert (found.lower, found.upper) == (0.0, math.inf)


def test_a_margin_accepts_some_harm():
    state = Hypergeometric()
    for _ in range(100):
        state = state.add((24, 100), (20, 100))
    assert state.log_e() > math.log(100)
    assert state.log_e(margin=0.5) < 0.0
    assert state.log_e(margin=0.5, alternative="less") > state.log_e(margin=0.5)


def test_wrong_counts_and_margins_are_refused():
    for bad in ((3, 2), (-1, 5)):
        with pytest.raises(InputError, match="between 0 and the units"):
            Hypergeometric().add(bad, (0, 1))
    with pytest.raises(InputError, match="close blocks sooner"):
        Hypergeometric().add((10**11, 10**12), (10**11, 10**12))
    with pytest.raises(InputError, match="margin is -1"):
        Hypergeometric().log_e(margin=-1.0)
    with pytest.raises(InputError, match="beyond the odds ratios"):
        Hypergeometric().log_e(margin=1000.0)


def test_the_odds_of_two_streams_multiply_and_seldom_alarm():
    rng, runs, alpha = np.random.default_rng(5), 1000, 0.05
    alarms = 0
    for _ in range(runs):
        streams = []
        for share in (0.1, 0.5):
            process, at = OddsProcess(), odds((0, 0), known=share / (1 - share))
            whose = int(rng.binomial(60, share))  # of 60 failures, by whose they are
            streams.append(process.fail(candidate=whose, control=60 - whose, odds=at))
        one, other = streams
        merged = one.merge(other)
        assert merged.logs == other.merge(one).logs
        alarms += merged.breached(alpha)
    assert merged.logs == pytest.approx([a + b for a, b in zip(one.logs, other.logs, strict=True)])
    assert alarms <= stats.binom.ppf(0.999, runs, alpha)
    with pytest.raises(InputError, match="margins"):
        OddsProcess().merge(OddsProcess(margin=0.1))
