"""Betting sequences: exact at every look for bounded values, adaptive, and careful about their bounds."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.sequential.betting import Betting, betting_difference
from flyball.experiments.sequential.randomised import RandomisedBetting


def capital(x, m, alpha, sign):
    """Return the capital after all values, bet by bet as the paper writes it."""
    total, spread, log = 0.0, 0.0, 0.0
    for t, value in enumerate(x, 1):
        variance = (0.25 + spread) / t
        stake = math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(t + 1)))
        room = m if sign > 0 else 1 - m
        log += math.log1p(sign * min(stake, 0.5 / room) * (value - m))
        total += value
        spread += (value - (0.5 + total) / (t + 1)) ** 2
    return log


def test_the_capital_is_that_of_bet_after_bet():
    x = np.random.default_rng(1).beta(2, 5, 300)
    bet = Betting.of(0.0, 1.0).update(x)
    for i in (5, 200, 700):
        assert bet.above[i] == pytest.approx(capital(x, bet.grid[i], 0.05, +1))
        assert bet.below[i] == pytest.approx(capital(x, bet.grid[i], 0.05, -1))


def test_the_capital_is_monotone_in_the_mean_so_bounds_are_whole_sides():
    bet = Betting.of(0.0, 1.0).update(np.random.default_rng(2).random(700))
    assert np.all(np.diff(bet.above) <= 1e-9)
    assert np.all(np.diff(bet.below) >= -1e-9)


@pytest.mark.parametrize(
    ("name", "mean", "draw"),
    [
        ("rare", 0.02, lambda rng, n: (rng.random(n) < 0.02).astype(float)),
        ("even", 0.5, lambda rng, n: (rng.random(n) < 0.5).astype(float)),
        ("skewed", 2 / 7, lambda rng, n: rng.beta(2, 5, n)),
    ],
)
def test_the_true_mean_is_kept_at_all_looks(name, mean, draw):
    rng, runs, alpha = np.random.default_rng(3), 1000, 0.1
    missed = sum(
        Betting.of(0.0, 1.0, level=1 - alpha, points=10, null=mean).update(draw(rng, 1000)).p(mean) <= alpha
        for _ in range(runs)
    )
    assert missed <= stats.binom.ppf(0.999, runs, alpha)  # 131 of 1000


def test_it_is_nearer_than_hoeffding_when_the_values_vary_little():
    x = np.random.default_rng(4).beta(50, 50, 1000)
    lower, upper = Betting.of(0.0, 1.0).update(x).bounds()
    hoeffding = math.sqrt(math.log(2 / 0.05) / (2 * 1000))  # at a single look, even
    assert lower < 0.5 < upper
    assert upper - lower < hoeffding
    t = stats.t.interval(0.95, 999, x.mean(), x.std(ddof=1) / math.sqrt(1000))
    assert lower < t[0] < t[1] < upper


@given(cut=st.integers(0, 60), values=st.lists(st.floats(-2.0, 3.0), min_size=60, max_size=60))
@settings(max_examples=25, deadline=None)
def test_pieces_and_a_stop_on_the_way_give_the_same(cut, values):
    whole = Betting.of(-2.0, 3.0, points=50).update(values)
    half = Betting.of(-2.0, 3.0, points=50).update(values[:cut])
    resumed = Betting.from_dict(json.loads(json.dumps(half.to_dict())))
    assert resumed == half
    rest = resumed.update(values[cut:])
    assert rest == half.update(values[cut:])
    assert rest.n == whole.n
    assert np.allclose(rest.above, whole.above, atol=1e-9)
    assert np.allclose(rest.peak_below, whole.peak_below, atol=1e-9)


@given(low=st.floats(-1e3, 1e3), width=st.floats(0.1, 1e4))
@settings(max_examples=25, deadline=None)
def test_a_change_of_unit_changes_nothing_but_the_unit(low, width):
    x = np.random.default_rng(5).random(200)
    plain = Betting.of(0.0, 1.0, points=100).update(x).bounds()
    moved = Betting.of(low, low + width, points=100).update(np.clip(low + width * x, low, low + width)).bounds()
    assert np.allclose(moved, [low + width * b for b in plain], atol=width * 1e-2)


def test_turning_the_values_round_turns_the_bounds_round():
    x = np.random.default_rng(6).beta(2, 5, 400)
    lower, upper = Betting.of(0.0, 1.0).update(x).bounds()
    below, above = Betting.of(0.0, 1.0).update(1 - x).bounds()
    assert (below, above) == (pytest.approx(1 - upper, abs=2e-3), pytest.approx(1 - lower, abs=2e-3))


def test_merged_shards_cover_and_are_nearer_than_one():
    rng, runs, alpha = np.random.default_rng(7), 400, 0.1
    missed = 0
    for _ in range(runs):
        shards = [Betting.of(0.0, 1.0, level=0.9, points=10, null=0.3).update(rng.random(200) < 0.3) for _ in range(3)]
        missed += shards[0].merge(shards[1]).merge(shards[2]).p(0.3) <= alpha
    assert missed <= stats.binom.ppf(0.999, runs, alpha)
    one, other = (Betting.of(0.0, 1.0).update(rng.random(2000) < 0.3) for _ in range(2))
    width = np.diff(one.merge(other).bounds())[0]
    assert width < np.diff(one.bounds())[0]
    assert one.merge(other).bounds() == other.merge(one).bounds()


def test_the_p_value_belongs_to_the_interval():
    bet = Betting.of(0.0, 1.0, null=0.5).update(np.random.default_rng(8).beta(4, 3, 300))
    found = bet.estimate(null=0.5)
    assert found.significant == (found.p <= 0.05)
    assert bet.p(0.5, alternative="greater") == pytest.approx(found.p / 2)
    assert bet.estimate(null=0.5, alternative="greater").upper == math.inf
    assert bet.bounds(alternative="greater")[0] >= bet.bounds()[0]


@pytest.mark.parametrize("values", [[], [0.0], [0.0] * 2000, [1.0] * 2000])
def test_nothing_one_none_and_all_have_bounds_that_hold_the_mean(values):
    bet = Betting.of(0.0, 1.0).update(values)
    lower, upper = bet.bounds()
    mean = np.mean(values) if values else 0.5
    assert 0.0 <= lower <= mean <= upper <= 1.0
    if len(values) > 1000:
        assert upper - lower < 0.02


def test_a_difference_of_two_arms_holds_whatever_their_sizes():
    rng, runs, missed = np.random.default_rng(9), 120, 0
    for _ in range(runs):
        one = Betting.of(0.0, 1.0, level=0.95, points=100).update(rng.random(300) < 0.1)
        other = Betting.of(0.0, 1.0, level=0.95, points=100).update(rng.random(900) < 0.1)
        missed += betting_difference(one, other, level=0.9).significant
    assert missed <= stats.binom.ppf(0.999, runs, 0.1)
    worse = Betting.of(0.0, 1.0).update(rng.random(3000) < 0.3)
    base = Betting.of(0.0, 1.0).update(rng.random(3000) < 0.1)
    there, back = betting_difference(worse, base), betting_difference(base, worse)
    assert there.lower > 0
    assert there.p < 0.001
    assert (there.effect, there.lower, there.upper) == (-back.effect, -back.upper, -back.lower)
    assert betting_difference(base, worse, alternative="greater").p > 0.5


def test_a_joint_bet_of_drawn_units_seldom_alarms_while_shares_and_levels_change():
    rng, runs, alpha, missed = np.random.default_rng(10), 1000, 0.1, 0
    share = np.where(np.arange(600) < 300, 0.2, 0.5)
    level = np.where(np.arange(600) < 300, 0.1, 0.5)  # Simpson's trap: a bad day with more treatment
    for _ in range(runs):
        arm, y = rng.random(600) < share, rng.random(600) < level
        bet = RandomisedBetting.of(0.0, 1.0, least=0.2, level=1 - alpha, points=10).update(arm, y, share=share)
        missed += bet.estimate().p <= alpha
    assert missed <= stats.binom.ppf(0.999, runs, alpha)


def test_the_joint_bet_is_nearer_than_two_intervals():
    rng = np.random.default_rng(11)
    arm = rng.random(6000) < 0.5
    y = (rng.random(6000) < np.where(arm, 0.35, 0.3)).astype(float)
    joint = RandomisedBetting.of(0.0, 1.0).update(arm, y, share=0.5)
    two = betting_difference(*(Betting.of(0.0, 1.0).update(y[arm == a]) for a in (True, False)))
    found = joint.estimate()
    assert found.upper - found.lower < two.upper - two.lower
    assert found.lower <= 0.05 <= found.upper
    again = RandomisedBetting.from_dict(json.loads(json.dumps(joint.to_dict())))
    assert again == joint
    parts = RandomisedBetting.of(0.0, 1.0).update(arm[:99], y[:99], share=0.5).update(arm[99:], y[99:], share=0.5)
    assert np.allclose(parts.bet.above, joint.bet.above, atol=1e-7)
    assert parts.n == joint.n


def test_wrong_values_are_refused():
    bet = Betting.of(0.0, 1.0)
    for value in (1.2, -0.1, math.nan, math.inf):
        with pytest.raises(InputError, match="lies outside"):
            bet.update([0.5, value])
    with pytest.raises(InputError, match="lower one first"):
        Betting.of(1.0, 0.0)
    with pytest.raises(InputError, match="10 at least"):
        Betting.of(0.0, 1.0, points=3)
    with pytest.raises(InputError, match="null is 2"):
        bet.p(2.0)
    with pytest.raises(InputError, match="same Betting"):
        bet.merge(Betting.of(0.0, 2.0))
    joint = RandomisedBetting.of(0.0, 1.0, least=0.3)
    with pytest.raises(InputError, match="smaller least"):
        joint.update([1], [0.5], share=0.1)
    with pytest.raises(InputError, match="besides 0 and 1"):
        joint.update([2], [0.5], share=0.5)
    with pytest.raises(InputError, match="one of each"):
        joint.update([1, 0], [0.5], share=0.5)
    with pytest.raises(InputError, match="lies outside"):
        joint.update([1], [math.nan], share=0.5)
